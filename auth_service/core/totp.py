"""The codes of authenticator apps (RFC 6238): SHA-1, six digits, 30 seconds, as in all apps."""

import base64
import hmac
import re
from datetime import datetime

import pyotp

from auth_service.errors import InvalidArgument

__all__ = ["SECRET_BYTES", "base32", "code_of", "matching_step", "provisioning_uri", "typed_code"]

SECRET_BYTES = 20  # RFC 4226 section 4, R6
STEP_SECONDS = 30
DRIFT = 1
"""Time steps before and after the present one whose codes are good (RFC 6238 section 5.2)."""

_CODE = re.compile(r"[0-9]{6}", re.ASCII)


def base32(secret: bytes) -> str:
    """Return a secret as people type it into an app."""
    return base64.b32encode(secret).decode().rstrip("=")


def provisioning_uri(secret: bytes, user: str, service: str) -> str:
    """Return the otpauth URI that an app reads from a QR code."""
    return pyotp.TOTP(base32(secret)).provisioning_uri(name=user, issuer_name=service)


def typed_code(text: str, field: str) -> str:
    """Return a code without the spaces that apps show. Raises InvalidArgument if it is none."""
    code = "".join(text.split())
    if _CODE.fullmatch(code) is None:
        raise InvalidArgument(field, "must be the six digits that the authenticator app shows")
    return code


def code_of(secret: bytes, moment: datetime) -> str:
    """Return the code that an app shows at a moment."""
    return pyotp.TOTP(base32(secret)).at(moment)


def matching_step(secret: bytes, code: str, now: datetime) -> int | None:
    """Return the time step that has this code, the latest of those that are good; None if none.

    All are compared, whichever matches, so that the time tells nothing.
    """
    otp, present = pyotp.TOTP(base32(secret)), int(now.timestamp()) // STEP_SECONDS
    steps = range(present - DRIFT, present + DRIFT + 1)
    matching = [step for step in steps if hmac.compare_digest(otp.generate_otp(step), code)]
    return max(matching, default=None)
