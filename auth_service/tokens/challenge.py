"""Challenges: what a login still lacks, signed, so that no server has to remember it.

A challenge is a JWT that carries the terms of the login which it continues. Its key is derived
from the root key and never leaves the server. An enrollment is a challenge too: of a factor that is
to be added. Its secret follows from the id, and is not in the token.
"""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from auth_service.errors import AuthError, InvalidCredentials
from auth_service.tokens import jws
from auth_service.tokens.keys import MasterKey, SigningKey

__all__ = ["ANYBODY", "Challenges", "Enrollment", "LoginChallenge", "LoginTerms"]

CHALLENGE_TYPE = "lc+jwt"
ENROLLMENT_TYPE = "fe+jwt"

ANYBODY = UUID(int=0)

_KID = "challenge"
_LONGEST = 1 << 18
"""Characters: a challenge is never in a header, and the names of 64 audiences must fit."""
_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class LoginTerms:
    """What a login asks for: the session that begins with it, or the one that it steps up."""

    audience: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()
    client_id: str = ""
    device_label: str = ""
    request_id: str | None = None
    certificate: str = ""
    """The thumbprint of the client's certificate, or empty."""
    session_id: UUID | None = None
    """The session to step up."""


@dataclass(frozen=True, slots=True)
class LoginChallenge:
    """A login that lacks a second factor, or one by a passkey alone."""

    id: UUID
    user_id: UUID
    """ANYBODY if a passkey is to tell who logs in."""
    terms: LoginTerms
    amr: tuple[str, ...]
    """How the user was authenticated so far (RFC 8176)."""
    revoked_before: datetime | None
    """That of the user at that moment: what ends sessions ends challenges too."""
    expires_at: datetime
    enrolls: bool = False
    """Whether the factor is one that is added by this login."""


@dataclass(frozen=True, slots=True)
class Enrollment:
    """A factor that a user is about to add; it gets the same id."""

    id: UUID
    user_id: UUID
    expires_at: datetime


class Challenges:
    """Signs and reads challenges, without I/O. What is forged or expired is InvalidCredentials."""

    def __init__(self, root_key: MasterKey, issuer: str) -> None:
        self._key = SigningKey(kid=_KID, algorithm="HS256", secret=root_key.challenge_key())
        self._secret = root_key.enrollment_key()
        self._issuer = issuer

    def enrolled_secret(self, id_: UUID) -> bytes:
        """Return the secret of the app that a challenge or an enrollment adds: 20 bytes."""
        return hmac.digest(self._secret, b"secret " + id_.bytes, hashlib.sha256)[:20]

    def passkey_challenge(self, id_: UUID) -> bytes:
        """Return what a passkey signs to answer a challenge or to confirm an enrollment."""
        return hmac.digest(self._secret, b"passkey " + id_.bytes, hashlib.sha256)

    def sign(self, challenge: LoginChallenge) -> str:
        """Return the challenge of a login as a token."""
        terms, before = challenge.terms, challenge.revoked_before
        claims = {
            "aud": terms.audience,
            "scope": terms.scope,
            "client_id": terms.client_id,
            "device": terms.device_label,
            "req": terms.request_id or "",
            "cert": terms.certificate,
            "sid": "" if terms.session_id is None else str(terms.session_id),
            "amr": challenge.amr,
            "rb": 0 if before is None else int(before.timestamp() * _MICROSECONDS),
            "enrolls": int(challenge.enrolls),
        }
        return self._sign(challenge, claims, CHALLENGE_TYPE)

    def read(self, token: str, now: datetime) -> LoginChallenge:
        """Return the challenge of a token. Raises InvalidCredentials."""
        try:
            claims = self._read(token, CHALLENGE_TYPE, now)
            sid = claims["sid"]
            terms = LoginTerms(
                audience=tuple(claims["aud"]),
                scope=tuple(claims["scope"]),
                client_id=claims["client_id"],
                device_label=claims["device"],
                request_id=claims["req"] or None,
                certificate=claims["cert"],
                session_id=UUID(sid) if sid else None,
            )
            before = claims["rb"]
            return LoginChallenge(
                **_base(claims),
                terms=terms,
                amr=tuple(claims["amr"]),
                revoked_before=(
                    datetime.fromtimestamp(before / _MICROSECONDS, UTC) if before else None
                ),
                enrolls=bool(claims["enrolls"]),
            )
        except AuthError as error:
            raise InvalidCredentials from error

    def sign_enrollment(self, enrollment: Enrollment) -> str:
        """Return an enrollment as a token."""
        return self._sign(enrollment, {}, ENROLLMENT_TYPE)

    def read_enrollment(self, token: str, now: datetime) -> Enrollment:
        """Return the enrollment of a token. Raises InvalidCredentials."""
        try:
            return Enrollment(**_base(self._read(token, ENROLLMENT_TYPE, now)))
        except AuthError as error:
            raise InvalidCredentials from error

    def _sign(self, of: LoginChallenge | Enrollment, more: dict[str, Any], typ: str) -> str:
        claims = {
            "iss": self._issuer,
            "sub": str(of.user_id),
            "jti": str(of.id),
            "exp": int(of.expires_at.timestamp()),
        }
        return jws.sign(claims | more, self._key, typ)

    def _read(self, token: str, typ: str, now: datetime) -> dict[str, Any]:
        """Return the claims. The signature vouches for their form: nobody else has the key."""
        header, payload, signature = jws.split(token, _LONGEST)
        if header != jws.header_segment(self._key, typ):
            raise InvalidCredentials
        jws.verify_signature(token, signature, self._key)
        claims = jws.read_claims(payload)
        if claims["iss"] != self._issuer or claims["exp"] <= now.timestamp():
            raise InvalidCredentials
        return claims


def _base(claims: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": UUID(claims["jti"]),
        "user_id": UUID(claims["sub"]),
        "expires_at": datetime.fromtimestamp(claims["exp"], UTC),
    }
