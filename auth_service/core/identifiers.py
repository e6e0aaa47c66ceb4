"""What the identifiers of new users may contain (RFC 8265, UsernameCaseMapped).

Login takes what earlier releases took, since users with such identifiers exist. Which identifiers
look alike, the database knows.
"""

from collections.abc import Sequence

from precis_i18n import get_profile

from auth_service.core import fields
from auth_service.errors import InvalidArgument

__all__ = ["new_identifier", "new_identifiers"]

_PROFILE = get_profile("UsernameCaseMapped")


def new_identifier(value: str, field: str = "identifier") -> str:
    """Return the normal form of an identifier that a user is to have."""
    normal = fields.identifier(value, field)
    try:
        _PROFILE.enforce(value.strip())
    except UnicodeEncodeError as error:
        refused = f"U+{ord(error.object[error.start]):04X}"
        raise InvalidArgument(
            field, f"must not contain {refused}: neither spaces nor symbols (RFC 8265 section 3.3)"
        ) from error
    return normal


def new_identifiers(values: Sequence[str], field: str = "identifiers") -> tuple[str, ...]:
    """Return the normal forms of a new user's identifiers, without duplicates; at least one."""
    fields.identifiers(values, field)
    normal = [new_identifier(value, f"{field}[{index}]") for index, value in enumerate(values)]
    return tuple(dict.fromkeys(normal))
