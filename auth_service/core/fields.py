"""What the fields of a request may contain; anything else is refused with the field's name.

PostgreSQL and protobuf refuse some text that Python accepts (NUL, lone surrogates). They also
distinguish what people do not (case, Unicode forms). Both are settled here, before any work.
"""

import re
import unicodedata
from collections.abc import Sequence
from uuid import UUID

from auth_service.errors import InvalidArgument
from auth_service.tokens import assurance
from auth_service.tokens.access import SCOPE_TOKEN, THUMBPRINT

MAX_IDENTIFIER_LENGTH = 254  # an e-mail address, RFC 5321 section 4.5.3.1.3
MAX_LABEL_LENGTH = 256
MAX_ITEMS = 64
MAX_SCOPE_LENGTH = 128

_REQUEST_ID = re.compile(r"[\x21-\x7E]{8,128}")


def identifier(value: str, field: str = "identifier") -> str:
    """Return the one normal form of an identifier: NFKC, case folded, trimmed."""
    if len(value) > 4 * MAX_IDENTIFIER_LENGTH:  # normalisation takes quadratic time
        raise InvalidArgument(field, f"must have 1 to {MAX_IDENTIFIER_LENGTH} characters")
    normal = unicodedata.normalize("NFKC", value).strip()
    # Folding may undo NFKC, so normalise again (Unicode section 3.13, D146).
    normal = unicodedata.normalize("NFKC", normal.casefold())
    if not normal or len(normal) > MAX_IDENTIFIER_LENGTH:
        raise InvalidArgument(field, f"must have 1 to {MAX_IDENTIFIER_LENGTH} characters")
    if not normal.isprintable():
        raise InvalidArgument(field, "must not contain control or other unprintable characters")
    return normal


def identifiers(values: Sequence[str], field: str = "identifiers") -> tuple[str, ...]:
    """Return the normal forms of a user's identifiers, without duplicates; at least one."""
    if not values:
        raise InvalidArgument(field, "at least one is required")
    if len(values) > MAX_ITEMS:
        raise InvalidArgument(field, f"must have at most {MAX_ITEMS} items")
    normal = [identifier(value, f"{field}[{index}]") for index, value in enumerate(values)]
    return tuple(dict.fromkeys(normal))


def label(value: str, field: str) -> str:
    """Return text for display; it may be empty."""
    if len(value) > MAX_LABEL_LENGTH:
        raise InvalidArgument(field, f"must have at most {MAX_LABEL_LENGTH} characters")
    if not value.isprintable():
        raise InvalidArgument(field, "must not contain control or other unprintable characters")
    return value


def labels(values: Sequence[str], field: str) -> tuple[str, ...]:
    """Return names such as audiences or roles: printable, not empty, without duplicates."""
    if len(values) > MAX_ITEMS:
        raise InvalidArgument(field, f"must have at most {MAX_ITEMS} items")
    for index, value in enumerate(values):
        if not label(value, f"{field}[{index}]"):
            raise InvalidArgument(f"{field}[{index}]", "must not be empty")
    return tuple(dict.fromkeys(values))


def scope(values: Sequence[str], field: str = "scope") -> tuple[str, ...]:
    """Return scope tokens (RFC 6749 section 3.3), without duplicates."""
    if len(values) > MAX_ITEMS:
        raise InvalidArgument(field, f"must have at most {MAX_ITEMS} items")
    for index, value in enumerate(values):
        if len(value) > MAX_SCOPE_LENGTH or SCOPE_TOKEN.fullmatch(value) is None:
            raise InvalidArgument(
                f"{field}[{index}]",
                'must have 1 to 128 printable ASCII characters other than space, " and \\',
            )
    return tuple(dict.fromkeys(values))


def request_id(value: str, field: str = "request_id") -> str | None:
    """Return the id that a client gave its request, or None."""
    if value and _REQUEST_ID.fullmatch(value) is None:
        raise InvalidArgument(field, "must have 8 to 128 printable ASCII characters without spaces")
    return value or None


def thumbprint(value: str, field: str) -> str:
    """Return the thumbprint of a certificate (RFC 8705 section 3.1), or empty."""
    if value and THUMBPRINT.fullmatch(value) is None:
        raise InvalidArgument(
            field, "must be the SHA-256 of the certificate in DER, as 43 characters of base64url"
        )
    return value


def acr_values(values: Sequence[str], field: str = "acr_values") -> tuple[str, ...]:
    """Return values of `acr`. One that no token has would refuse every user, whatever they do."""
    for index, value in enumerate(values):
        if value not in assurance.SUPPORTED:
            raise InvalidArgument(
                f"{field}[{index}]", f"must be one of {', '.join(assurance.SUPPORTED)}"
            )
    return tuple(dict.fromkeys(values))


def uuid(value: str, field: str) -> UUID:
    """Return the UUID in a field."""
    try:
        return UUID(value)
    except ValueError as error:
        raise InvalidArgument(
            field, "must be a UUID, for example 0192f0c1-7f2e-4c1b-9c57-0d7b2f1f4a10"
        ) from error
