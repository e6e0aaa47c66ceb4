"""The answers of Validate in the form that they have on the wire.

A parser reads concatenated protobuf messages as one message. The time of the last poll is therefore
encoded once for each poll, and appended to each answer.
"""

from collections import OrderedDict
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from authn.v1 import auth_service_pb2 as pb
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from auth_service.core.validation import Validation, Verdict
from auth_service.errors import InactiveReason
from auth_service.tokens.access import AccessClaims

__all__ = ["Batch", "Verdicts", "fill_claims"]

REMEMBERED = 10_000  # answers
LONGEST_REMEMBERED = 4096  # bytes of a request


def _batch_message() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="batch.proto")
    file.message_type.add(name="Batch").field.add(
        name="members",
        number=1,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
        label=descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Batch"))


Batch = _batch_message()
"""BatchValidateRequest and BatchValidateResponse with each member left in bytes, which is what an
embedded message is on the wire."""


class Verdicts:
    """Encodes verdicts, and remembers the answers to requests that come often."""

    def __init__(self, validation: Validation) -> None:
        self._validation = validation
        self._known: OrderedDict[bytes, tuple[str, str, timedelta | None, bytes]] = OrderedDict()

    def again(self, request: bytes) -> bytes | None:
        """Return the answer to a request that is remembered, if its token is still active.

        Raises RevocationsStale.
        """
        known = self._known.get(request)
        if known is None:
            return None
        token, certificate_thumbprint, max_age, encoded = known
        as_of = self._validation.recall(token, certificate_thumbprint, max_age)
        return None if as_of is None else encoded + _as_of(as_of)

    def response(
        self,
        verdict: Verdict,
        token: str = "",
        request: bytes = b"",
        certificate_thumbprint: str = "",
        max_age: timedelta | None = None,
    ) -> bytes:
        """Return a ValidateResponse in bytes.

        An active verdict on a token that the verifier remembers is remembered by `request`, if
        given: the same bytes ask the same question, with the same certificate and `max_age`.
        Requests longer than 4 KiB are not cached, which bounds the memory that one valid token can
        consume.
        """
        as_of = _as_of(verdict.revocations_as_of)
        if verdict.claims is None:
            return _inactive(verdict.inactive_reason) + as_of + _unmet(verdict.unmet)
        encoded = _active(verdict.claims)
        if 0 < len(request) <= LONGEST_REMEMBERED and self._validation.recall(
            token, certificate_thumbprint, max_age
        ):
            self._known[request] = token, certificate_thumbprint, max_age, encoded
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return encoded + as_of


def _active(claims: AccessClaims) -> bytes:
    response = pb.ValidateResponse(active=True)
    fill_claims(response.claims, claims)
    return response.SerializeToString()


def fill_claims(message: pb.Claims, claims: AccessClaims) -> None:
    """Set the fields of an empty message to the claims of a token."""
    message.issuer = claims.issuer
    message.subject = claims.subject
    message.audience.extend(claims.audience)
    message.expires_at.seconds = claims.expires_at
    message.issued_at.seconds = claims.issued_at
    message.token_id = claims.token_id
    message.session_id = claims.session_id
    message.client_id = claims.client_id
    if claims.scope:  # to extend by nothing takes as long as by one
        message.scope.extend(claims.scope)
    if claims.roles:
        message.roles.extend(claims.roles)
    message.auth_time.seconds = claims.auth_time
    message.authentication_methods.extend(claims.amr)
    if claims.acr:
        message.acr = claims.acr
    if claims.certificate_thumbprint:
        message.certificate_thumbprint = claims.certificate_thumbprint
    bearer: Any = message
    for link in claims.chain:
        bearer = bearer.actor
        bearer.subject = link.actor


@lru_cache
def _inactive(reason: InactiveReason | None) -> bytes:
    assert reason is not None  # noqa: S101 - a verdict has claims or a reason
    name = f"INACTIVE_REASON_{reason.name}"
    encoded: bytes = pb.ValidateResponse(inactive_reason=name).SerializeToString()
    return encoded


@lru_cache
def _unmet(names: tuple[str, ...]) -> bytes:
    encoded: bytes = pb.ValidateResponse(unmet=names).SerializeToString()
    return encoded


@lru_cache(maxsize=1)  # all calls share it until the feed's next poll
def _as_of(moment: datetime) -> bytes:
    response: Any = pb.ValidateResponse()
    response.revocations_as_of.FromDatetime(moment)
    encoded: bytes = response.SerializeToString()
    return encoded
