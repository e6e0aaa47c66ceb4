"""From an error of the core to a gRPC status: the one place where that is decided.

The status carries google.rpc.ErrorInfo with the stable reason, BadRequest for the fields that are
wrong, and RetryInfo where trying again may help.
"""

from typing import NamedTuple

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from auth_service import errors

__all__ = ["INTERNAL", "Status", "of"]

DOMAIN = "authn"
DETAILS = "grpc-status-details-bin"
INTERNAL = errors.AuthError("internal error; the service's log has the cause")

_CODES: dict[type[errors.AuthError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidScope: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.RateLimited: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
}


class Status(NamedTuple):
    """What a client gets to see of an error."""

    code: grpc.StatusCode
    text: str
    trailers: tuple[tuple[str, str | bytes], ...]


def of(error: errors.AuthError) -> Status:
    """Return the status of an error; one of no known class is INTERNAL and says nothing."""
    for kind in type(error).__mro__:
        if (code := _CODES.get(kind)) is not None:
            break
    else:
        error, code = INTERNAL, grpc.StatusCode.INTERNAL
    status = status_pb2.Status(code=code.value[0], message=error.text, details=_details(error))
    trailers: tuple[tuple[str, str | bytes], ...] = ((DETAILS, status.SerializeToString()),)
    if isinstance(error, errors.InvalidToken):  # RFC 6750 section 3
        trailers += (("www-authenticate", 'Bearer error="invalid_token"'),)
    return Status(code, error.text, trailers)


def _details(error: errors.AuthError) -> list[any_pb2.Any]:
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    if isinstance(error, errors.InvalidArgument):
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=violation.field, description=violation.description
                    )
                    for violation in error.violations
                ]
            )
        )
    if isinstance(error, errors.Retryable):
        delay = duration_pb2.Duration()
        delay.FromTimedelta(error.retry_after)
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = [any_pb2.Any() for _ in details]
    for box, detail in zip(packed, details, strict=True):
        box.Pack(detail)
    return packed
