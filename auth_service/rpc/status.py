"""Maps an error to its gRPC status; the only place where this is decided."""

import grpc

from auth_service import errors
from auth_service.authz import step_up
from auth_service.authz.admission import Refused
from auth_service.authz.status import Status, make_status, status_of

__all__ = ["INTERNAL", "Status", "of"]

INTERNAL = errors.AuthError("internal error; the service's log has the cause")

_STEP_UP = errors.InsufficientUserAuthentication
_CODES: dict[type[errors.AuthError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidScope: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidTarget: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.InvalidSubjectToken: grpc.StatusCode.INVALID_ARGUMENT,
    errors.CertificateRequired: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.LastIdentifier: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PasswordChangeRequired: grpc.StatusCode.FAILED_PRECONDITION,
    errors.TooManySecrets: grpc.StatusCode.FAILED_PRECONDITION,
    errors.TooManyFactors: grpc.StatusCode.FAILED_PRECONDITION,
    errors.RateLimited: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
}


def of(error: errors.AuthError | Refused) -> Status:
    """Return the status of an error. An error of an unlisted class is INTERNAL without its text."""
    if isinstance(error, Refused):
        return status_of(error)
    for kind in type(error).__mro__:
        if (code := _CODES.get(kind)) is not None:
            break
    else:
        error, code = INTERNAL, grpc.StatusCode.INTERNAL
    return make_status(
        code,
        error.text,
        error.reason,
        violations=error.violations if isinstance(error, errors.InvalidArgument) else (),
        retry_after=error.retry_after if isinstance(error, errors.Retryable) else None,
        challenge=_challenge(error),
        metadata=step_up.demands(error) if isinstance(error, _STEP_UP) else None,
    )


def _challenge(error: errors.AuthError) -> str:
    """Return the value of www-authenticate (RFC 6750 section 3), empty if no token would help."""
    if isinstance(error, _STEP_UP):
        return step_up.challenge(error)
    return 'Bearer error="invalid_token"' if isinstance(error, errors.InvalidToken) else ""
