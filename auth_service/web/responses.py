"""Maps an error to its HTTP response; the only place where this is decided.

Bodies are those of OAuth (RFC 6749 section 5.2, RFC 6750 section 3): {"error": …,
"error_description": …}, and the stable `reason` that gRPC clients get in ErrorInfo.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from auth_service import errors
from auth_service.authz import step_up
from auth_service.authz.admission import Refused

__all__ = [
    "HANDLERS",
    "Problem",
    "error_response",
    "internal_error",
    "no_store",
    "refusal",
]

_CODES: dict[type[errors.AuthError], tuple[int, str]] = {
    errors.InvalidArgument: (400, "invalid_request"),
    errors.InvalidScope: (400, "invalid_scope"),
    errors.InvalidTarget: (400, "invalid_target"),
    errors.InvalidSubjectToken: (400, "invalid_request"),
    errors.CertificateRequired: (400, "invalid_request"),
    errors.PasswordChangeRequired: (403, "password_change_required"),
    errors.InvalidCredentials: (401, "invalid_credentials"),
    errors.InvalidGrant: (401, "invalid_grant"),
    errors.InvalidToken: (401, "invalid_token"),
    errors.InsufficientUserAuthentication: (401, step_up.ERROR),
    errors.PermissionDenied: (403, "access_denied"),
    errors.NotFound: (404, "not_found"),
    errors.RateLimited: (429, "temporarily_unavailable"),
    errors.Unavailable: (503, "temporarily_unavailable"),
}
_UNSPEAKABLE = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]")
"""Characters that error_description must not contain (RFC 6749 section 5.2)."""
_ERRORS = {404: "not_found", 405: "method_not_allowed"}


class Problem(Exception):
    """An error that only an HTTP client can make: its status, error code, and how to fix it.

    `reason` is that of the error class to which it corresponds.
    """

    def __init__(
        self,
        status: int,
        error: str,
        text: str,
        reason: str = errors.InvalidArgument.reason,
        **headers: str,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.error = error
        self.text = text
        self.reason = reason
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def no_store(content: Any, status: int = 200) -> Response:
    """Return a JSON response that no cache may keep."""
    headers = {"cache-control": "no-store", "pragma": "no-cache"}
    return Response(json.dumps(content), status, headers, "application/json")


def error_response(error: errors.AuthError) -> Response:
    """Return the response for an error; raises the error if its class has no status."""
    for kind in type(error).__mro__:
        if (known := _CODES.get(kind)) is not None:
            break
    else:
        raise error  # a fault of the service, which is logged
    headers = {}
    if known[0] == 401:  # RFC 9110 section 15.5.2 requires a challenge
        headers["www-authenticate"] = _challenge(error)
    if isinstance(error, errors.Retryable):
        headers["retry-after"] = str(math.ceil(error.retry_after.total_seconds()))
    return _response(*known, error.text, error.reason, headers)


def _challenge(error: errors.AuthError) -> str:
    if isinstance(error, errors.InsufficientUserAuthentication):
        return step_up.challenge(error)
    return 'Bearer error="invalid_token"' if isinstance(error, errors.InvalidToken) else "Bearer"


def refusal(refused: Refused) -> Response:
    """Return the response for a refused caller."""
    return _response(refused.status, refused.error, refused.text, refused.reason, refused.headers())


def internal_error() -> Response:
    """Return the response for a fault of the service, which reveals nothing."""
    text = "internal error; the service's log has the cause"
    return _response(500, "server_error", text, errors.AuthError.reason)


async def _auth_error(_request: Request, error: Any) -> Response:
    return error_response(error)


async def _problem(_request: Request, error: Any) -> Response:
    return _response(error.status, error.error, error.text, error.reason, error.headers)


async def _refused(_request: Request, error: Any) -> Response:
    return refusal(error)


async def _unexpected(_request: Request, _error: Any) -> Response:
    return internal_error()


async def _http_exception(request: Request, error: Any) -> Response:
    texts = {
        404: f"there is no {request.scope['path']}; docs/http.md lists the endpoints",
        405: f"{request.method} is not a method of {request.scope['path']}",
    }
    text = texts.get(error.status_code, str(error.detail))
    code = _ERRORS.get(error.status_code, "invalid_request")
    kind = errors.NotFound if error.status_code == 404 else errors.InvalidArgument
    return _response(error.status_code, code, text, kind.reason, error.headers or {})


def _response(
    status: int, error: str, text: str, reason: str, headers: Mapping[str, str] | None = None
) -> Response:
    described = _UNSPEAKABLE.sub("'", text)
    response = no_store({"error": error, "error_description": described, "reason": reason}, status)
    response.headers.update(headers or {})
    return response


HANDLERS: dict[Any, Any] = {
    errors.AuthError: _auth_error,
    HTTPException: _http_exception,
    Problem: _problem,
    Refused: _refused,
    Exception: _unexpected,
}
"""The handler of each class of exception, for Starlette."""
