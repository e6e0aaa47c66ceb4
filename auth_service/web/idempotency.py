"""The header `idempotency-key`, which names a request so that its retry gets the same answer.

Accepts the value as it is, and in the quotes of a structured string (RFC 8941 section 3.3.3), which
the IETF draft of the header asks for.
"""

from starlette.requests import Request

from auth_service.core import fields
from auth_service.errors import InvalidArgument

__all__ = ["IDEMPOTENCY_HEADER", "request_id"]

IDEMPOTENCY_HEADER = "idempotency-key"


def request_id(request: Request) -> str:
    """Return the key that a request names, "" if it names none. Raises InvalidArgument."""
    given = request.headers.getlist(IDEMPOTENCY_HEADER)
    if len(given) > 1:
        raise InvalidArgument(IDEMPOTENCY_HEADER, "is there more than once")
    key = given[0].strip() if given else ""
    if len(key) > 2 and key[0] == key[-1] == '"':
        key = key[1:-1]
    return fields.request_id(key, IDEMPOTENCY_HEADER) or ""
