"""The answers of Validate, as they are on the wire.

Owns their bytes. Protobuf messages that follow one another are read as one, so that the part which
a request always gets is made once, and the time of the last poll once for each poll.
"""

from collections import OrderedDict
from datetime import datetime
from functools import lru_cache
from typing import Any

from authn.v1 import auth_service_pb2 as pb
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from auth_service.core.validation import Validation, Verdict
from auth_service.errors import InactiveReason
from auth_service.tokens.access import AccessClaims

__all__ = ["Batch", "Verdicts"]

LONGEST_REPEATED = 4096  # bytes; or who has one good token could fill the memory with requests


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
"""BatchValidateRequest and BatchValidateResponse as they are on the wire, where a message in a
message is no more than its bytes."""


class Verdicts:
    """Makes the answers, and remembers those that may be asked for again."""

    def __init__(self, validation: Validation) -> None:
        self._validation = validation
        self._known: OrderedDict[bytes, tuple[AccessClaims, int, bytes]] = OrderedDict()

    def again(self, request: bytes) -> bytes | None:
        """Return the answer to a request that was remembered, if its claims hold still.

        Raises RevocationsStale.
        """
        known = self._known.get(request)
        if known is None:
            return None
        claims, revision, encoded = known
        as_of = self._validation.still_holds(claims, revision)
        return None if as_of is None else encoded + _as_of(as_of)

    def response(self, verdict: Verdict, request: bytes = b"") -> bytes:
        """Return a ValidateResponse in bytes.

        A yes is remembered by the request, if any: the same bytes ask the same, so that they need
        not be read again. Long requests are; and a request must not bound its staleness.
        """
        as_of = _as_of(verdict.revocations_as_of)
        if verdict.claims is None:
            return _inactive(verdict.inactive_reason) + as_of
        encoded = _encode(verdict.claims)
        if 0 < len(request) <= LONGEST_REPEATED:
            self._remember(request, verdict.claims, encoded)
        return encoded + as_of

    def _remember(self, request: bytes, claims: AccessClaims, encoded: bytes) -> None:
        self._known[request] = claims, self._validation.revision, encoded
        if len(self._known) > self._validation.cache_size:
            self._known.popitem(last=False)


def _encode(claims: AccessClaims) -> bytes:
    response: Any = pb.ValidateResponse(active=True)
    message = response.claims
    message.issuer = claims.issuer
    message.subject = claims.subject
    message.audience.extend(claims.audience)
    message.expires_at.seconds = claims.expires_at
    message.issued_at.seconds = claims.issued_at
    message.token_id = claims.token_id
    message.session_id = claims.session_id
    message.client_id = claims.client_id
    message.scope.extend(claims.scope)
    message.roles.extend(claims.roles)
    message.auth_time.seconds = claims.auth_time
    message.authentication_methods.extend(claims.amr)
    encoded: bytes = response.SerializeToString()
    return encoded


@lru_cache
def _inactive(reason: InactiveReason | None) -> bytes:
    assert reason is not None  # noqa: S101 - a verdict has claims or a reason
    name = f"INACTIVE_REASON_{reason.name}"
    encoded: bytes = pb.ValidateResponse(inactive_reason=name).SerializeToString()
    return encoded


@lru_cache(maxsize=1)  # it is the same for all calls until the feed's next poll
def _as_of(moment: datetime) -> bytes:
    response: Any = pb.ValidateResponse()
    response.revocations_as_of.FromDatetime(moment)
    encoded: bytes = response.SerializeToString()
    return encoded
