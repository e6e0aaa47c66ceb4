"""Decodes the text of a token, without verifying it."""

import base64
import binascii
import json

from auth_service.cli.terminal import Exit, fail

__all__ = ["decode", "header_of"]


def header_of(encoded: str) -> dict[str, object]:
    """Return the header of a token, which is not verified."""
    return decode(encoded)[0]


def decode(encoded: str) -> tuple[dict[str, object], dict[str, object]]:
    parts = encoded.strip().split(".")
    if len(parts) != 3:
        fail(Exit.REFUSED, "this is not a JWT", "a JWT is three base64url parts separated by dots")
    return _part(parts[0], "header"), _part(parts[1], "claims")


def _part(text: str, what: str) -> dict[str, object]:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        decoded = json.loads(raw)
    except (binascii.Error, ValueError, RecursionError):
        decoded = None
    if not isinstance(decoded, dict):
        fail(Exit.REFUSED, f"this is not a JWT: its {what} is not a JSON object in base64url")
    return decoded
