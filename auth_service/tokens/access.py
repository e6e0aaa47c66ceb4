"""Access tokens: signed and verified, in memory (RFC 9068).

Owns what makes an access token good: form, signature, claims, then revocation. The one
`TokenVerifier` serves every edge and the client library, so that none can forget a check.
"""

import contextlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

from auth_service.clock import Clock, seconds
from auth_service.errors import InactiveReason, InvalidArgument, InvalidToken
from auth_service.tokens import jws
from auth_service.tokens.keys import KeyRing, SigningKey
from auth_service.tokens.revocation import Marks, RevocationList, marks

ACCESS_TOKEN_TYPE = "at+jwt"  # noqa: S105 - RFC 9068 section 2.1
SCOPE_TOKEN = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
"""One scope (RFC 6749 section 3.3)."""


class _Marked:
    """Keeps the marks out of the fields: they are no claims, and another process has other ones."""

    __slots__ = ("marks",)
    marks: Marks
    """What RevocationList looks up first."""


@dataclass(frozen=True, slots=True)
class AccessClaims(_Marked):
    """The claims of an access token; times are whole seconds since the epoch."""

    issuer: str
    subject: str
    audience: tuple[str, ...]
    expires_at: int
    issued_at: int
    token_id: str
    session_id: str
    client_id: str
    scope: tuple[str, ...]
    roles: tuple[str, ...]
    auth_time: int
    amr: tuple[str, ...]
    not_before: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "marks", marks(self.token_id, self.session_id))

    def __reduce__(self) -> tuple[Any, ...]:
        return AccessClaims, tuple(getattr(self, each.name) for each in fields(self))

    def as_jwt(self) -> dict[str, Any]:
        """Return the claims under their registered names (RFC 9068 section 2.2)."""
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "sub": self.subject,
            "aud": list(self.audience),
            "exp": self.expires_at,
            "iat": self.issued_at,
            "jti": self.token_id,
            "client_id": self.client_id,
            "scope": " ".join(self.scope),
            "roles": list(self.roles),
            "auth_time": self.auth_time,
            "amr": list(self.amr),
        }
        if self.session_id:
            claims["sid"] = self.session_id
        if self.not_before:
            claims["nbf"] = self.not_before
        return claims


class TokenSigner:
    """Signs access tokens with the ring's active key."""

    def __init__(self, key_ring: KeyRing) -> None:
        self._key_ring = key_ring

    def sign(self, claims: AccessClaims) -> str:
        """Return the access token of these claims; raises InvalidArgument if it gets too long."""
        token = jws.sign(claims.as_jwt(), self._key_ring.active, ACCESS_TOKEN_TYPE)
        if len(token) > jws.MAX_TOKEN_LENGTH:  # no verifier would take it
            raise InvalidArgument(
                "audience",
                f"would, with scope and roles, make a token of over {jws.MAX_TOKEN_LENGTH} bytes",
            )
        return token


class TokenVerifier:
    """Tells a good access token from a bad one, without I/O.

    A token that was found good is remembered, up to `cache_size` of them; every later sight of it
    still checks its expiry and its revocation. All is forgotten once the ring trusts a key no more.
    Any number of threads may verify.
    """

    def __init__(
        self,
        key_ring: KeyRing,
        revocations: RevocationList,
        *,
        issuer: str,
        clock: Clock,
        clock_skew: timedelta = timedelta(seconds=10),
        cache_size: int = 10_000,
    ) -> None:
        self._key_ring = key_ring
        self._revocations = revocations
        self._issuer = issuer
        self._now = seconds(clock)
        self._skew = clock_skew.total_seconds()
        self.cache_size = cache_size
        self._memory = _Memory(key_ring.revision)

    def verify(
        self,
        token: str,
        *,
        audience: str = "",
        required_scope: Collection[str] = (),
        required_roles: Collection[str] = (),
    ) -> AccessClaims:
        """Return the claims of a good token; raises InvalidToken with the first reason against it.

        An empty `audience` accepts any; every required scope and role must be there.
        """
        memory = self._memory
        if memory.revision != self._key_ring.revision:
            memory = self._memory = _Memory(self._key_ring.revision)
        known = memory.claims.get(token)
        claims = self._authenticate(token, memory.keys) if known is None else known
        now = self._now()
        if claims.expires_at <= now:
            raise InvalidToken(InactiveReason.EXPIRED)
        # The clocks of two machines differ: a token just issued elsewhere may seem early here.
        if claims.issued_at > now + self._skew or claims.not_before > now + self._skew:
            raise InvalidToken(InactiveReason.NOT_YET_VALID)
        if audience and audience not in claims.audience:
            raise InvalidToken(InactiveReason.WRONG_AUDIENCE)
        if (reason := self._revocations.check(claims)) is not None:
            raise InvalidToken(reason)
        if required_scope and not set(claims.scope).issuperset(required_scope):
            raise InvalidToken(InactiveReason.INSUFFICIENT_SCOPE)
        if required_roles and not set(claims.roles).issuperset(required_roles):
            raise InvalidToken(InactiveReason.INSUFFICIENT_ROLE)
        if known is None:
            self._remember(token, claims, memory)
        return claims

    @property
    def revision(self) -> int:
        """Changes when the ring trusts a key no more: what was good is to be verified anew."""
        return self._key_ring.revision

    def still_holds(self, claims: AccessClaims, revision: int) -> bool:
        """Tell whether claims that `verify` returned under a revision are good still.

        What it was asked for, as audience, scope and roles, holds for ever.
        """
        now = self._now()
        return (
            claims.expires_at > now
            and revision == self._key_ring.revision
            and claims.issued_at <= now + self._skew
            and claims.not_before <= now + self._skew
            and self._revocations.check(claims) is None
        )

    def authenticate(self, token: str) -> AccessClaims:
        """Return the claims of a token that we signed, be it expired or revoked.

        For revocation, which RFC 7009 section 2.2 lets succeed for a token that is no good.
        """
        return self._authenticate(token, {})

    def _authenticate(self, token: str, keys: dict[str, SigningKey]) -> AccessClaims:
        header, payload, signature = jws.split(token)
        key = keys.get(header) or self._key_of(header)
        jws.verify_signature(token, signature, key)
        # Only now, so that no forger fills it; a few spellings of one header are enough.
        if len(keys) < 4 * len(self._key_ring):
            keys[header] = key
        claims = _access_claims(jws.read_claims(payload))
        if claims.issuer != self._issuer:
            raise InvalidToken(InactiveReason.WRONG_ISSUER)
        return claims

    def _key_of(self, segment: str) -> SigningKey:
        """Return the key that a header names; the algorithm is the key's, never the token's."""
        header = jws.read_header(segment)
        if header.typ != ACCESS_TOKEN_TYPE:
            raise InvalidToken(InactiveReason.WRONG_TYPE)
        key = self._key_ring.get(header.kid)
        if key is None or key.algorithm != header.alg:
            raise InvalidToken(InactiveReason.UNKNOWN_KEY)
        return key

    def _remember(self, token: str, claims: AccessClaims, memory: "_Memory") -> None:
        memory.claims[token] = claims
        if len(memory.claims) > self.cache_size:
            with contextlib.suppress(KeyError):  # other threads have been there first
                memory.claims.popitem(last=False)


class _Memory:
    """What was found good under one revision of the key ring."""

    __slots__ = ("claims", "keys", "revision")

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self.claims: OrderedDict[str, AccessClaims] = OrderedDict()
        """By token."""
        self.keys: dict[str, SigningKey] = {}
        """By header, as it is spelled in tokens."""


def new_token_id() -> str:
    """Return a random token id of 128 bits."""
    return secrets.token_urlsafe(16)


def _access_claims(claims: dict[str, Any]) -> AccessClaims:
    audience = claims.get("aud")
    issued_at = jws.seconds(claims, "iat")
    return AccessClaims(
        issuer=jws.name(claims, "iss"),
        subject=jws.name(claims, "sub"),
        audience=(jws.text(claims, "aud"),) if type(audience) is str else jws.texts(claims, "aud"),
        expires_at=jws.seconds(claims, "exp"),
        issued_at=issued_at,
        token_id=jws.name(claims, "jti"),
        session_id=jws.name(claims, "sid") if "sid" in claims else "",
        client_id=jws.name(claims, "client_id"),
        scope=tuple(jws.text(claims, "scope", "").split()),
        roles=jws.texts(claims, "roles"),
        auth_time=jws.seconds(claims, "auth_time", issued_at),
        amr=jws.texts(claims, "amr"),
        not_before=jws.seconds(claims, "nbf", 0),
    )
