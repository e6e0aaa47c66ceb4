"""Writes and reads errors as gRPC statuses, for the service and the client library.

Owns the form: google.rpc.ErrorInfo with the stable reason, BadRequest for invalid fields, and
RetryInfo if a retry may succeed.
"""

import contextlib
from collections.abc import Iterable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from auth_service.authz.admission import Refused
from auth_service.errors import FieldViolation

__all__ = ["Details", "Status", "make_status", "read_details", "status_of"]

DOMAIN = "authn"
DETAILS = "grpc-status-details-bin"

_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}


class Details(NamedTuple):
    """The details of a status; all are empty in the status of a proxy."""

    reason: str = ""
    violations: tuple[FieldViolation, ...] = ()
    retry_after: timedelta | None = None
    metadata: Mapping[str, str] = MappingProxyType({})


class Status(NamedTuple):
    """What a gRPC client receives."""

    code: grpc.StatusCode
    text: str
    trailers: tuple[tuple[str, str | bytes], ...]


def status_of(refused: Refused) -> Status:
    """Return the status for a refused caller."""
    return make_status(
        _CODES[refused.status],
        refused.text,
        refused.reason,
        retry_after=refused.retry_after,
        challenge=refused.challenge,
        metadata=refused.metadata,
    )


def make_status(
    code: grpc.StatusCode,
    text: str,
    reason: str,
    *,
    violations: Iterable[FieldViolation] = (),
    retry_after: timedelta | None = None,
    challenge: str = "",
    metadata: Mapping[str, str] | None = None,
) -> Status:
    """Return a status. Its trailers hold the details and www-authenticate (RFC 6750 section 3).

    `metadata` is that of ErrorInfo.
    """
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)
    ]
    if violations:
        fields = [
            error_details_pb2.BadRequest.FieldViolation(
                field=violation.field, description=violation.description
            )
            for violation in violations
        ]
        details.append(error_details_pb2.BadRequest(field_violations=fields))
    if retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromTimedelta(retry_after)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code.value[0], message=text)
    for detail in details:
        box: any_pb2.Any = status.details.add()
        box.Pack(detail)
    trailers: tuple[tuple[str, str | bytes], ...] = ((DETAILS, status.SerializeToString()),)
    if challenge:
        trailers += (("www-authenticate", challenge),)
    return Status(code, text, trailers)


def read_details(error: grpc.RpcError) -> Details:
    """Return the details of a status that a gRPC client received.

    Details that cannot be parsed count as absent, and so does the reason of another domain.
    """
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    bad = error_details_pb2.BadRequest()
    reason, retry_after, metadata = "", None, {}
    trailers: Any = error.trailing_metadata() or ()  # a tuple, or on asyncio a Metadata
    with contextlib.suppress(DecodeError, OverflowError, ValueError):
        for name, value in trailers:
            if name == DETAILS:
                for detail in status_pb2.Status.FromString(value).details:
                    if detail.Unpack(info) and info.domain == DOMAIN:
                        reason, metadata = info.reason, dict(info.metadata)
                    elif detail.Unpack(retry):
                        retry_after = retry.retry_delay.ToTimedelta()
                    else:
                        detail.Unpack(bad)
    violations = (FieldViolation(each.field, each.description) for each in bad.field_violations)
    return Details(reason, tuple(violations), retry_after, metadata)
