"""Base64url without padding, canonical only (RFC 4648 section 5, RFC 7515 section 2)."""

import base64
import binascii


def encode(raw: bytes) -> str:
    """Return the text of these bytes, without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Return the bytes of a text; raises ValueError for any text that `encode` never makes.

    Python's own decoder skips foreign characters, and takes a last character with stray bits.
    """
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise ValueError("is cut off: not a whole base64url value") from error
    if encode(raw) != text:
        raise ValueError("is not base64url in its one canonical form (A-Z a-z 0-9 - _)")
    return raw
