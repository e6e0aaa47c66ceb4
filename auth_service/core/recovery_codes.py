"""Recovery codes: how they are made, read and kept.

A code has 120 random bits. It cannot be guessed, so a fast hash without a salt is enough (NIST SP
800-63B-4 section 3.1.2.2 asks for 112).
"""

import hashlib
import secrets

from auth_service.errors import InvalidArgument

__all__ = ["code_hash", "new_codes"]

COUNT = 10
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"  # 32 characters, without those that look alike
_GROUPS, _GROUP = 4, 6


def new_codes() -> list[str]:
    """Return ten codes, each of four groups of six characters."""
    return [
        "-".join("".join(secrets.choice(_ALPHABET) for _ in range(_GROUP)) for _ in range(_GROUPS))
        for _ in range(COUNT)
    ]


def code_hash(text: str, field: str = "recovery_code") -> bytes:
    """Return what is kept of a code; case, spaces and hyphens do not matter.

    Raises InvalidArgument for what cannot be a code.
    """
    code = "".join(text.split()).replace("-", "").lower()
    if len(code) != _GROUPS * _GROUP or not set(code) <= set(_ALPHABET):
        raise InvalidArgument(
            field, f"must be one of the codes that were shown: {_GROUPS} groups of {_GROUP}"
        )
    return hashlib.sha256(code.encode()).digest()
