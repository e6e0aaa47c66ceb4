"""Refresh tokens: computed from the row of a session, never stored.

A refresh token is a JWT. Each of its claims follows from the row of the session: `jti` of
generation n is HMAC(seed, n), `iat` and `exp` are times of the row. The current token of a session
can therefore be computed again, byte for byte, which makes the retry of a refresh safe. The key
that signs it is derived from the master key: a thief needs that key *and* the row.
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
_LARGEST_GENERATION = (1 << 40) - 1  # fits in a bigint; no session reaches it
_TOKEN_ID = re.compile(r"[A-Za-z0-9_-]{22}", re.ASCII)


@dataclass(frozen=True, slots=True)
class RefreshClaims:
    """The claims of a refresh token; times are whole seconds since the epoch."""

    user_id: UUID
    session_id: UUID
    generation: int
    token_id: bytes
    """`jti`, decoded: 16 bytes."""
    issued_at: int
    expires_at: int


class RefreshTokens:
    """Makes and reads refresh tokens, without I/O."""

    def __init__(self, master_key: MasterKey, issuer: str) -> None:
        secret = master_key.refresh_token_key()
        self._key = SigningKey(kid=_KID, algorithm="HS256", secret=secret)
        self._header = jws.header_segment(self._key, REFRESH_TOKEN_TYPE)
        self._issuer = issuer

    def current(self, session: Session) -> str:
        """Return the current refresh token of a session. Equal rows give equal tokens."""
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
        """Return the claims of a token that this service signed, even if it has expired.

        Raises InvalidGrant. Whether a session made the token, `is_genuine` tells.
        """
        try:
            header, payload, signature = jws.split(token)
            if header != self._header:  # the only spelling
                raise InvalidGrant
            jws.verify_signature(token, signature, self._key)
            claims = jws.read_claims(payload)
            if jws.text(claims, "iss") != self._issuer:
                raise InvalidGrant
            return RefreshClaims(
                user_id=jws.uuid(claims, "sub"),
                session_id=jws.uuid(claims, "sid"),
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
    """Return the `jti` of the access token that is issued with a generation."""
    return base64url.encode(hmac.digest(seed, b"access %d" % generation, hashlib.sha256)[:16])


def is_genuine(claims: RefreshClaims, session: Session) -> bool:
    """Tell whether a token was computed from the row of this session, at any generation."""
    return hmac.compare_digest(token_id(session.seed, claims.generation), claims.token_id)


def _token_id(text: str) -> bytes:
    if _TOKEN_ID.fullmatch(text) is None:
        raise InvalidGrant
    try:
        return base64url.decode(text)
    except ValueError as error:  # not the canonical spelling of 128 bits
        raise InvalidGrant from error
