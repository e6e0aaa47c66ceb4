"""JSON Web Signatures in the one form that this service issues (RFC 7515).

PyJWT supplies the cryptography. This module does the parsing, because a general library accepts
much that this service never issues: duplicate JSON members, padding, non-canonical base64, UTF-16,
floats for integers, header parameters such as `jku` or `zip`. Every such token is refused before
its claims are read (RFC 8725 sections 3.1, 3.8 to 3.11).
"""

import hmac
import json
import re
import string
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from jwt.algorithms import get_default_algorithms

from auth_service import base64url
from auth_service.errors import InactiveReason, InvalidToken
from auth_service.tokens import strict_json
from auth_service.tokens.keys import SigningKey

MAX_TOKEN_LENGTH = 4096
"""Bytes. Longer tokens do not fit in gRPC metadata (8 KiB in all); this is checked first."""
MAX_NAME_LENGTH = 256
"""Characters of `iss`, `sub`, `sid`, `jti` and `client_id`."""
LATEST_TIME = (1 << 32) - 1
"""Seconds since the epoch that fit in 32 bits: the year 2106."""

_ALPHABET = (string.ascii_letters + string.digits + "-_").encode()
_HEADER_PARAMETERS = {"typ", "alg", "kid"}
_ALGORITHMS = get_default_algorithms()
_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
_JSON = json.JSONEncoder(separators=(",", ":"))


class Header(NamedTuple):
    """The header parameters that this service issues (RFC 7515 section 4.1)."""

    typ: str
    alg: str
    kid: str


def malformed() -> InvalidToken:
    """Return the error for a token that this service cannot have issued."""
    return InvalidToken(InactiveReason.MALFORMED)


def sign(claims: dict[str, Any], key: SigningKey, typ: str) -> str:
    """Return the claims as a compact JWS. Equal input gives equal output, except for ES256.

    `jwt.encode` returns the same bytes, but checks in each call whether a shared key is a
    certificate, which takes longer than everything else.
    """
    signing_input = f"{header_segment(key, typ)}.{_segment(claims)}"
    if key.secret:
        signature = key.mac(signing_input.encode())
    else:
        signature = _ALGORITHMS[key.algorithm].sign(signing_input.encode(), key.private_key)
    return f"{signing_input}.{base64url.encode(signature)}"


def header_segment(key: SigningKey, typ: str) -> str:
    """Return the header of a token that is signed with a key, encoded."""
    return _header_segment(key.algorithm, key.kid, typ)


@lru_cache
def _header_segment(alg: str, kid: str, typ: str) -> str:
    return _segment({"alg": alg, "kid": kid, "typ": typ})


def _segment(value: dict[str, Any]) -> str:
    return base64url.encode(_JSON.encode(value).encode())


def split(token: str, longest: int = MAX_TOKEN_LENGTH) -> tuple[str, str, str]:
    """Return the three segments. Raises InvalidToken for a wrong length or alphabet."""
    if len(token) > longest or not token.isascii():
        raise malformed()
    if token.encode().translate(None, _ALPHABET) != b"..":
        raise malformed()
    header, payload, signature = token.split(".")
    if not (header and payload and signature):
        raise malformed()
    return header, payload, signature


def read_header(segment: str) -> Header:
    """Return the header. Raises InvalidToken for a parameter that this service never issues."""
    parameters = read_object(segment)
    if parameters.keys() != _HEADER_PARAMETERS:
        raise malformed()
    header = Header(**parameters)
    if not all(type(value) is str and value.isprintable() for value in header):
        raise malformed()
    return header


def verify_signature(token: str, signature: str, key: SigningKey) -> None:
    """Check the signature over header and payload with the algorithm of the key."""
    signing_input = token[: -len(signature) - 1].encode()
    if key.secret:
        # In base64url, which has one spelling only, so that a valid signature is not decoded.
        valid = hmac.compare_digest(base64url.encode(key.mac(signing_input)), signature)
    else:
        algorithm = _ALGORITHMS[key.algorithm]
        valid = algorithm.verify(signing_input, key.public_key, decode(signature))
    if not valid:
        decode(signature)  # or it is malformed
        raise InvalidToken(InactiveReason.BAD_SIGNATURE)


def read_claims(segment: str) -> dict[str, Any]:
    """Return the claims of a payload; check its signature first."""
    return read_object(segment)


def text(claims: dict[str, Any], name: str) -> str:
    """Return a claim that must be printable text. Raises InvalidToken."""
    value = claims.get(name)
    if type(value) is not str or not value.isprintable():
        raise malformed()
    return value


def uuid(claims: dict[str, Any], name: str) -> UUID:
    """Return a claim that must be a UUID in its canonical spelling. Raises InvalidToken."""
    value = text(claims, name)
    if _CANONICAL_UUID.fullmatch(value) is None:
        raise malformed()
    return UUID(value)


def seconds(claims: dict[str, Any], name: str) -> int:
    """Return a claim that must be whole seconds since the epoch. Raises InvalidToken."""
    return whole_number(claims, name, LATEST_TIME)


def whole_number(claims: dict[str, Any], name: str, largest: int) -> int:
    """Return a claim that must be an integer from 0 to `largest`. Raises InvalidToken."""
    value = claims.get(name)
    if type(value) is not int or not 0 <= value <= largest:
        raise malformed()
    return value


def decode(segment: str) -> bytes:
    """Return the bytes of a segment. Raises InvalidToken if it is not canonical base64url."""
    try:
        return base64url.decode(segment)
    except ValueError as error:
        raise malformed() from error


def read_object(segment: str) -> dict[str, Any]:
    """Return the JSON object in a segment. Raises InvalidToken."""
    try:
        value = strict_json.decode(base64url.decode(segment).decode("utf-8"))
    except ValueError as error:
        raise malformed() from error
    if type(value) is not dict:
        raise malformed()
    return value
