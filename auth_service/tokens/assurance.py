"""How strongly a user was authenticated: the values of the claim `acr` (OpenID Connect, RFC 9470).

Owns their names and their form. A login sets the one that it reached. Who demands one lists all
values that suffice, and the token must have one of them: they are names, and nothing compares them.
"""

import re
from collections.abc import Collection
from typing import Final

__all__ = [
    "FORM",
    "MFA",
    "MULTI_FACTOR",
    "ONE_FACTOR",
    "PHISHING_RESISTANT",
    "POSSESSION",
    "SUPPORTED",
    "TWO_FACTORS",
    "acr_of",
]

MFA: Final = "mfa"
"""In `amr`: more than one factor was proved (RFC 8176 section 2)."""
POSSESSION: Final = "pop"
"""In `amr`: the possession of a key was proved, that of a passkey (RFC 8176 section 2)."""

ONE_FACTOR: Final = "1fa"
"""One factor, such as a password."""
TWO_FACTORS: Final = "2fa"
"""Two factors, such as a password and a one-time code."""
PHISHING_RESISTANT: Final = "phr"
"""Two factors, one of which cannot be phished: a passkey that verifies its user, or a password
and a passkey. The name is that of OpenID Connect's Extended Authentication Profile, section 2."""

MULTI_FACTOR: Final = (TWO_FACTORS, PHISHING_RESISTANT)
"""All values of at least two factors, as `acr_values`."""
SUPPORTED: Final = (ONE_FACTOR, TWO_FACTORS, PHISHING_RESISTANT)

FORM: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}")
"""A value that may be demanded: challenges quote it, in a list separated by spaces."""


def acr_of(amr: Collection[str]) -> str:
    """Return the value for the methods by which a user was authenticated (`amr`)."""
    if MFA not in amr:
        return ONE_FACTOR
    return PHISHING_RESISTANT if POSSESSION in amr else TWO_FACTORS
