"""Base64url without padding, in its canonical form only, and the secrets encoded in it.

The encoding is that of RFC 4648 section 5 and RFC 7515 section 2. A secret for HMAC-SHA256 has 256
bits or more (RFC 7518 section 3.2).
"""

import binascii

__all__ = ["MAKE_A_SECRET", "SECRET_BYTES", "check_secret", "decode", "decode_secret", "encode"]

SECRET_BYTES = 32
MAKE_A_SECRET = "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"  # noqa: S105

_FEWEST_DISTINCT_BYTES = 16  # 32 random bytes have about 30 distinct ones
_LONGEST_PATTERN = 64  # bytes

_FROM_STANDARD = bytes.maketrans(b"+/", b"-_")
_TO_STANDARD = bytes.maketrans(b"-_+/=", b"+/---")  # what is not base64url becomes invalid
_PADDING = (b"", b"=", b"==", b"=")
_NOT_CANONICAL = "is not base64url in its canonical form (A-Z a-z 0-9 - _)"
# The last character holds bits that no byte needs. `encode` leaves them zero.
_LAST = ("", "", "AQgw", "AEIMQUYcgkosw048")


def encode(raw: bytes) -> str:
    """Return the text of these bytes, without padding."""
    return binascii.b2a_base64(raw, newline=False).translate(_FROM_STANDARD, b"=").decode()


def decode(text: str) -> bytes:
    """Return the bytes of a text. Raises ValueError for any text that `encode` never makes.

    Python's own decoder skips foreign characters and ignores excess bits of the last character.
    """
    rest = len(text) % 4
    if rest == 1:
        raise ValueError("is cut off: not a whole base64url value")
    try:
        standard = text.encode("ascii").translate(_TO_STANDARD)
        raw = binascii.a2b_base64(standard + _PADDING[rest], strict_mode=True)
    except ValueError as error:
        raise ValueError(_NOT_CANONICAL) from error
    if rest and text[-1] not in _LAST[rest]:
        raise ValueError(_NOT_CANONICAL)
    return raw


def decode_secret(text: str) -> bytes:
    """Return the bytes of a secret. Padding and spaces around it are optional.

    Raises ValueError, which says what is wrong and does not quote the secret.
    """
    secret = decode(text.strip().rstrip("="))
    check_secret(secret)
    return secret


def check_secret(secret: bytes) -> None:
    """Raise ValueError if a secret is too short, or plainly not random."""
    if len(secret) < SECRET_BYTES:
        bits = len(secret) * 8
        raise ValueError(f"has {bits} bits and needs 256 bits or more; make one: {MAKE_A_SECRET}")
    if len(set(secret)) < _FEWEST_DISTINCT_BYTES or _has_pattern(secret):
        raise ValueError(f"is not random; make one: {MAKE_A_SECRET}")


def _has_pattern(secret: bytes) -> bool:
    periods = range(1, min(len(secret) // 2, _LONGEST_PATTERN) + 1)
    return any(secret[period:] == secret[:-period] for period in periods)
