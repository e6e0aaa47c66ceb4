"""The answers of Validate, as they are on the wire.

Owns their bytes. Protobuf messages that follow one another are read as one, so that the part which
a token always has is made once for each token, and the time of the last poll once for each poll.
"""

from datetime import datetime
from functools import lru_cache
from typing import Any

from authn.v1 import auth_service_pb2 as pb
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from auth_service.errors import InactiveReason
from auth_service.tokens import AccessClaims
from auth_service.validation import Validation, Verdict

__all__ = ["Batch", "Verdicts"]

REMEMBERED = 10_000  # tokens; some 300 bytes each
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
    """Makes the answers, and remembers what they have in common."""

    def __init__(self, validation: Validation) -> None:
        self._validation = validation
        self._active: dict[str, tuple[AccessClaims, bytes]] = {}  # by token id
        self._repeated: dict[bytes, tuple[AccessClaims, int, bytes]] = {}  # by request

    def again(self, request: bytes) -> bytes | None:
        """Return the answer to a request that was remembered, if its claims hold still.

        Raises RevocationsStale.
        """
        known = self._repeated.get(request)
        if known is None:
            return None
        claims, revision, encoded = known
        as_of = self._validation.still_holds(claims, revision)
        return None if as_of is None else encoded + _as_of(as_of)

    def remember(self, request: bytes, claims: AccessClaims) -> None:
        """Take note that these claims answer a request, which must not bound their staleness.

        The same bytes ask the same, so that they need not be read again. Long requests are.
        """
        if len(request) > LONGEST_REPEATED or not self._validation.cache_size:
            return
        if len(self._repeated) >= self._validation.cache_size:
            self._repeated.clear()
        self._repeated[request] = claims, self._validation.revision, self._encoded(claims)

    def response(self, verdict: Verdict) -> bytes:
        """Return a ValidateResponse in bytes."""
        as_of = _as_of(verdict.revocations_as_of)
        if verdict.claims is None:
            return _inactive(verdict.inactive_reason) + as_of
        return self._encoded(verdict.claims) + as_of

    def _encoded(self, claims: AccessClaims) -> bytes:
        known = self._active.get(claims.token_id)
        if known is not None and known[0] is claims:
            return known[1]
        if len(self._active) >= REMEMBERED:
            self._active.clear()
        encoded = _encode(claims)
        self._active[claims.token_id] = claims, encoded
        return encoded


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
