"""Refresh tokens: rebuilt from the session's row, never stored.

A refresh token is a JWT whose every claim follows from the session's row: `jti` for generation n
is HMAC(seed, n), `iat` and `exp` are the row's. So the current token of a session can be made
again byte for byte, which is what makes a retried refresh harmless. It is signed with a key
derived from the master key; a thief needs that key *and* the row.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from uuid import UUID

from auth_service import base64url
from auth_service.errors import AuthError, InvalidGrant
from auth_service.models import Session
from auth_service.tokens import jws
from auth_service.tokens.keys import MasterKey, SigningKey

REFRESH_TOKEN_TYPE = "rt+jwt"  # noqa: S105 - a media type, not a secret

_KID = "refresh"
_LARGEST_GENERATION = (1 << 40) - 1  # fits in a bigint, and no session comes near it
_TOKEN_ID = re.compile(r"[A-Za-z0-9_-]{22}", re.ASCII)
_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


@dataclass(frozen=True, slots=True)
class RefreshClaims:
    """What a refresh token says; times are whole seconds since the epoch."""

    user_id: UUID
    session_id: UUID
    generation: int
    token_id: bytes
    issued_at: int
    expires_at: int


class RefreshTokens:
    """Makes and reads refresh tokens; without I/O."""

    def __init__(self, master_key: MasterKey, issuer: str) -> None:
        secret = master_key.refresh_token_key()
        self._key = SigningKey(kid=_KID, algorithm="HS256", secret=secret)
        self._header = jws.header_segment(self._key, REFRESH_TOKEN_TYPE)
        self._issuer = issuer

    def current(self, session: Session) -> str:
        """Return the session's current refresh token: for an equal row, an equal token."""
        claims = {
            "iss": self._issuer,
            "sub": str(session.user_id),
            "sid": str(session.id),
            "gen": session.generation,
            "jti": base64url.encode(token_id(session.seed, session.generation)),
            "iat": int(session.refreshed_at.timestamp()),
            "exp": int(session.refresh_expires_at.timestamp()),
        }
        return jws.sign(claims, self._key, REFRESH_TOKEN_TYPE)

    def read(self, token: str) -> RefreshClaims:
        """Return the claims of a token that we signed, be it expired; raises InvalidGrant."""
        try:
            header, payload, signature = jws.split(token)
            if header != self._header:  # the one spelling that there is
                raise InvalidGrant
            jws.verify_signature(token, signature, self._key)
            claims = jws.read_claims(payload)
            if jws.text(claims, "iss") != self._issuer:
                raise InvalidGrant
            return RefreshClaims(
                user_id=_uuid(jws.text(claims, "sub")),
                session_id=_uuid(jws.text(claims, "sid")),
                generation=jws.whole_number(claims, "gen", _LARGEST_GENERATION),
                token_id=_token_id(jws.text(claims, "jti")),
                issued_at=jws.seconds(claims, "iat"),
                expires_at=jws.seconds(claims, "exp"),
            )
        except AuthError as error:
            raise InvalidGrant from error


def token_id(seed: bytes, generation: int) -> bytes:
    """Return the `jti` of a generation, decoded: 128 bits of HMAC-SHA256(seed, generation).

    The SQL function refresh_token_id computes the same.
    """
    return hmac.digest(seed, b"refresh %d" % generation, hashlib.sha256)[:16]


def access_token_id(seed: bytes, generation: int) -> str:
    """Return the `jti` of the access token that comes with a generation."""
    return base64url.encode(hmac.digest(seed, b"access %d" % generation, hashlib.sha256)[:16])


def is_genuine(claims: RefreshClaims, session: Session) -> bool:
    """Tell whether a token was made from this session's row, whatever its generation."""
    return hmac.compare_digest(token_id(session.seed, claims.generation), claims.token_id)


def _token_id(text: str) -> bytes:
    if _TOKEN_ID.fullmatch(text) is None:
        raise InvalidGrant
    try:
        return base64url.decode(text)
    except ValueError as error:  # bits that no 128-bit value has
        raise InvalidGrant from error


def _uuid(text: str) -> UUID:
    if _CANONICAL_UUID.fullmatch(text) is None:
        raise InvalidGrant
    return UUID(text)
