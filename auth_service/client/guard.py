"""What guards one gRPC method, whichever way its handler runs.

Owns reading the metadata, when a stream's token is looked at again, and the status of a refusal.
"""

import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from auth_service.admission import Admission, Refused, Rule, Verifier, admit

__all__ = ["Guard", "Status", "status_of"]

_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}


@dataclass(frozen=True, slots=True)
class Guard:
    """The guard of one method; `recheck_interval` is in seconds, None to let streams go on."""

    verifier: Verifier
    rule: Rule
    recheck_interval: float | None

    def admit(self, context: Any) -> Admission:
        """Let the caller of this call in; raises Refused."""
        metadata = context.invocation_metadata() or ()
        return admit(
            self.verifier, self.rule, [value for key, value in metadata if key == "authorization"]
        )

    def pause(self, admission: Admission) -> float | None:
        """Return the seconds until the token is to be looked at again; None for never.

        At its expiry, or after the interval if that is sooner. This machine's clock only says when
        to look: what the verifier finds decides.
        """
        if self.recheck_interval is None or self.rule.public or admission.claims is None:
            return None
        left = admission.claims.expires_at - time.time()
        return left if 0 < left < self.recheck_interval else self.recheck_interval


class Status(NamedTuple):
    """What a gRPC client gets to see of a refusal."""

    code: grpc.StatusCode
    text: str
    trailers: tuple[tuple[str, str | bytes], ...]


def status_of(refused: Refused) -> Status:
    """Return the status, with google.rpc.ErrorInfo, RetryInfo and www-authenticate as trailers."""
    code = _CODES[refused.status]
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=refused.reason, domain="authn")]
    if refused.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromTimedelta(refused.retry_after)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code.value[0], message=refused.text)
    for detail in details:
        box: any_pb2.Any = status.details.add()
        box.Pack(detail)
    trailers: tuple[tuple[str, str | bytes], ...] = (
        ("grpc-status-details-bin", status.SerializeToString()),
    )
    if refused.challenge:
        trailers += (("www-authenticate", refused.challenge),)
    return Status(code, refused.text, trailers)
