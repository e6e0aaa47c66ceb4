"""Device tokens: what a login leaves on a device, to tell later logins from guesses.

A device token proves that somebody has logged in to the account before, and opens nothing. It
follows from the row of the session that the login began, so the retry of a login gets the same one.
It has the form of a refresh token, with a type and a key of its own.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from auth_service.errors import InvalidGrant, InvalidToken
from auth_service.models import Session
from auth_service.tokens import jws
from auth_service.tokens.keys import MasterKey, SigningKey

__all__ = ["DEVICE_TOKEN_TYPE", "DeviceClaims", "DeviceTokens"]

DEVICE_TOKEN_TYPE = "dt+jwt"  # noqa: S105 - a media type, not a secret

_KID = "device"


@dataclass(frozen=True, slots=True)
class DeviceClaims:
    """The claims of a device token; times are whole seconds since the epoch."""

    user_id: UUID
    session_id: UUID
    """The session that the login began; it names the device, and may have ended."""
    issued_at: int
    expires_at: int


class DeviceTokens:
    """Makes and reads device tokens, without I/O."""

    def __init__(self, master_key: MasterKey, issuer: str, ttl: timedelta) -> None:
        """A `ttl` of zero makes none."""
        self._key = SigningKey(kid=_KID, algorithm="HS256", secret=master_key.device_token_key())
        self._header = jws.header_segment(self._key, DEVICE_TOKEN_TYPE)
        self._issuer = issuer
        self._ttl = ttl

    def of(self, session: Session) -> tuple[str, datetime | None]:
        """Return the device token of a session's login and its expiry; empty if none is made."""
        if not self._ttl:
            return "", None
        issued_at = int(session.created_at.timestamp())
        expires_at = issued_at + int(self._ttl.total_seconds())
        claims = {
            "iss": self._issuer,
            "sub": str(session.user_id),
            "sid": str(session.id),
            "iat": issued_at,
            "exp": expires_at,
        }
        token = jws.sign(claims, self._key, DEVICE_TOKEN_TYPE)
        return token, datetime.fromtimestamp(expires_at, UTC)

    def read(self, token: str) -> DeviceClaims:
        """Return the claims of a token that this service signed, even if it has expired.

        Raises InvalidGrant.
        """
        try:
            header, payload, signature = jws.split(token)
            if header != self._header:  # the only spelling
                raise InvalidGrant
            jws.verify_signature(token, signature, self._key)
            claims = jws.read_claims(payload)
            if jws.text(claims, "iss") != self._issuer:
                raise InvalidGrant
            return DeviceClaims(
                user_id=jws.uuid(claims, "sub"),
                session_id=jws.uuid(claims, "sid"),
                issued_at=jws.seconds(claims, "iat"),
                expires_at=jws.seconds(claims, "exp"),
            )
        except InvalidToken as error:
            raise InvalidGrant from error
