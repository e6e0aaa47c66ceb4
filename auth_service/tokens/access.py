"""Signs and verifies access tokens, in memory (RFC 9068).

Owns what makes an access token valid: form, signature, claims, then revocation. One `TokenVerifier`
serves every edge and the client library, so that none of them can omit a check.
"""

import contextlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable, Collection
from datetime import timedelta
from typing import Any, NamedTuple

from auth_service.clock import Clock, seconds
from auth_service.errors import (
    InactiveReason,
    InsufficientUserAuthentication,
    InvalidArgument,
    InvalidToken,
)
from auth_service.tokens import delegation, jws
from auth_service.tokens.delegation import Chain
from auth_service.tokens.keys import KeyRing, SigningKey
from auth_service.tokens.revocation import Marks, RevocationList, marks

ACCESS_TOKEN_TYPE = "at+jwt"  # noqa: S105 - RFC 9068 section 2.1
SCOPE_TOKEN = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
"""One scope (RFC 6749 section 3.3)."""
THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]")
"""The SHA-256 of a certificate in DER, 32 bytes in canonical base64url (RFC 8705 section 3.1)."""

_CONFIRMATION = "x5t#S256"

_SIGHTS = 1 << 16


class AccessClaims(NamedTuple):
    """The claims of an access token; times are whole seconds since the epoch.

    A named tuple, because a frozen dataclass takes four times as long to build.
    """

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
    chain: Chain = ()
    """The exchanges that led to this token (RFC 8693), newest first."""
    certificate_thumbprint: str = ""
    """The client certificate that the token is bound to (RFC 8705); empty for a bearer token."""
    acr: str = ""
    """How strongly the user was authenticated, see `tokens.assurance`; empty if not known."""

    @property
    def actors(self) -> tuple[str, ...]:
        """The service accounts that act for the subject: who calls now, then who called it."""
        return tuple(link.actor for link in self.chain)

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
        if self.chain:
            claims |= delegation.as_claims(self.chain)
        if self.acr:
            claims["acr"] = self.acr
        if self.certificate_thumbprint:
            claims["cnf"] = {_CONFIRMATION: self.certificate_thumbprint}
        return claims


class TokenSigner:
    """Signs access tokens with the active key of a ring."""

    def __init__(self, key_ring: KeyRing) -> None:
        self._key_ring = key_ring

    @property
    def revision(self) -> int:
        """Increases when a key is no longer trusted: tokens signed before may be invalid."""
        return self._key_ring.revision

    def sign(self, claims: AccessClaims) -> str:
        """Return the access token of these claims. Raises InvalidArgument if it is too long."""
        token = jws.sign(claims.as_jwt(), self._key_ring.active, ACCESS_TOKEN_TYPE)
        if len(token) > jws.MAX_TOKEN_LENGTH:  # every verifier would refuse it
            raise InvalidArgument(
                "audience",
                f"with scope and roles, makes a token of over {jws.MAX_TOKEN_LENGTH} bytes",
            )
        return token


class TokenVerifier:
    """Verifies access tokens, without I/O.

    A token is cached when it comes a second time, up to `cache_size` tokens, so that tokens that
    come once do not displace those in use. Expiry and revocation are checked each time. The cache
    is emptied when the ring no longer trusts a key. Any number of threads may verify.
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
        self._cache_size = cache_size
        self._memory = _Memory(key_ring.revision)
        self.signatures_verified = 0
        """How many tokens had a valid signature and were not remembered."""

    def verify(  # noqa: PLR0912 - a branch for each check, in their order
        self,
        token: str,
        *,
        audience: str = "",
        required_scope: Collection[str] = (),
        required_roles: Collection[str] = (),
        certificate_thumbprint: str = "",
        max_age: timedelta | None = None,
        acr_values: Collection[str] = (),
    ) -> AccessClaims:
        """Return the claims of a valid token. Raises InvalidToken with the first reason against it.

        An empty `audience` accepts any. The token must have every required scope and role.
        `certificate_thumbprint` is that of the certificate that the presenter of the token has
        proved to hold; without the right one, a bound token is refused (RFC 8705 section 3).
        With `max_age`, the user must not have logged in longer ago than that and the clock skew;
        with `acr_values`, its `acr` must be one of them. InsufficientUserAuthentication is raised
        last, and so only for a token that another login would help.
        """
        memory = self._memory
        if memory.revision != self._key_ring.revision:
            memory = self._memory = _Memory(self._key_ring.revision)
        known = memory.claims.get(token)
        if known is None:
            claims, looked_up = self._authenticate(token, memory.keys), None
        else:
            claims, looked_up = known
        now = self._now()
        if claims.expires_at <= now:
            raise InvalidToken(InactiveReason.EXPIRED)
        # Clocks differ: a token that another machine issued just now may lie in the future here.
        if claims.issued_at > now + self._skew or claims.not_before > now + self._skew:
            raise InvalidToken(InactiveReason.NOT_YET_VALID)
        if audience and audience not in claims.audience:
            raise InvalidToken(InactiveReason.WRONG_AUDIENCE)
        if (reason := self._revocations.check(claims, looked_up)) is not None:
            raise InvalidToken(reason)
        bound_to = claims.certificate_thumbprint
        if bound_to and bound_to != certificate_thumbprint:
            raise InvalidToken(InactiveReason.WRONG_CERTIFICATE)
        if required_scope and not set(claims.scope).issuperset(required_scope):
            raise InvalidToken(InactiveReason.INSUFFICIENT_SCOPE)
        if required_roles and not set(claims.roles).issuperset(required_roles):
            raise InvalidToken(InactiveReason.INSUFFICIENT_ROLE)
        if acr_values or max_age is not None:
            self._require_login(claims, max_age, tuple(acr_values), now)
        if known is None and memory.saw(token):
            memory.claims[token] = claims, marks(claims)
            if len(memory.claims) > self._cache_size:
                with contextlib.suppress(KeyError):  # another thread has emptied it
                    memory.claims.popitem(last=False)
        return claims

    def recall(
        self, token: str, certificate_thumbprint: str = "", max_age: timedelta | None = None
    ) -> bool:
        """Return whether `verify` accepted this token before and it is still valid.

        False also means that it was forgotten: `verify` then gives the verdict. What `verify` was
        asked for (audience, scope, roles and acr) does not change while a token lives. A bound
        token needs its certificate here too, and its login may have become too old since.
        """
        memory = self._memory
        if memory.revision != self._key_ring.revision:
            return False
        known = memory.claims.get(token)
        if known is None:
            return False
        claims, looked_up = known
        now = self._now()
        latest = now + self._skew
        return (
            claims.expires_at > now
            and claims.issued_at <= latest
            and claims.not_before <= latest
            and claims.certificate_thumbprint in ("", certificate_thumbprint)
            and self._revocations.check(claims, looked_up) is None
            and (max_age is None or self._is_recent(claims, max_age, now))
        )

    def authenticate(self, token: str) -> AccessClaims:
        """Return the claims of a token that this service signed, even if expired or revoked.

        For revocation, which succeeds for an invalid token (RFC 7009 section 2.2).
        """
        return self._authenticate(token, {})

    def _require_login(
        self,
        claims: AccessClaims,
        max_age: timedelta | None,
        acr_values: tuple[str, ...],
        now: float,
    ) -> None:
        unmet = []
        if max_age is not None and not self._is_recent(claims, max_age, now):
            unmet.append("max_age")
        if acr_values and not (claims.acr and claims.acr in acr_values):
            unmet.append("acr_values")
        if unmet:
            raise InsufficientUserAuthentication(max_age, acr_values, tuple(unmet))

    def _is_recent(self, claims: AccessClaims, max_age: timedelta, now: float) -> bool:
        # With the skew: the one clock dated the login, and another tells how long ago that was.
        return now <= claims.auth_time + max_age.total_seconds() + self._skew

    def _authenticate(self, token: str, keys: dict[str, SigningKey]) -> AccessClaims:
        header, payload, signature = jws.split(token)
        key = keys.get(header) or self._key_of(header)
        jws.verify_signature(token, signature, key)
        self.signatures_verified += 1
        # After the signature, so that forged tokens do not fill it. A few spellings suffice.
        if len(keys) < 4 * len(self._key_ring):
            keys[header] = key
        claims = read_access_claims(jws.read_claims(payload))
        if claims.issuer != self._issuer:
            raise InvalidToken(InactiveReason.WRONG_ISSUER)
        return claims

    def _key_of(self, segment: str) -> SigningKey:
        """Return the key that a header names. The key decides the algorithm, never the token."""
        header = jws.read_header(segment)
        if header.typ != ACCESS_TOKEN_TYPE:
            raise InvalidToken(InactiveReason.WRONG_TYPE)
        key = self._key_ring.get(header.kid)
        if key is None or key.algorithm != header.alg:
            raise InvalidToken(InactiveReason.UNKNOWN_KEY)
        return key


class _Memory:
    """The valid tokens under one revision of the key ring."""

    __slots__ = ("_new", "_sights", "claims", "keys", "revision")

    def __init__(self, revision: int) -> None:
        self.revision = revision
        self.claims: OrderedDict[str, tuple[AccessClaims, Marks]] = OrderedDict()
        """By token: its claims, and what their revocation is looked up by."""
        self.keys: dict[str, SigningKey] = {}
        """By header, as it is spelled in tokens."""
        self._sights = bytearray(_SIGHTS)
        self._new = 0

    def saw(self, token: str) -> bool:
        """Return whether a token came before, and note that it came.

        Two tokens with the same hash count as one, which costs memory and nothing else.
        """
        index = hash(token) % _SIGHTS
        if self._sights[index]:
            return True
        if self._new > _SIGHTS // 4:  # or most tokens would share a hash with another
            self._sights, self._new = bytearray(_SIGHTS), 0
        self._sights[index] = 1
        self._new += 1
        return False


def new_token_id() -> str:
    """Return a random token id of 128 bits."""
    return secrets.token_urlsafe(16)


def read_access_claims(claims: dict[str, Any]) -> AccessClaims:
    """Return the claims. Raises InvalidToken if one is missing, of a wrong type or out of range."""
    get: Callable[..., Any] = claims.get  # the checks below give the types
    audience, roles, amr = get("aud", []), get("roles", []), get("amr", [])
    if type(audience) is str:
        audience = [audience]
    if not type(audience) is type(roles) is type(amr) is list:
        raise jws.malformed()
    names: list[str] = [get("iss"), get("sub"), get("jti"), get("client_id")]
    issuer, subject, token_id, client_id = names
    session_id: str = get("sid", "")
    if "sid" in claims:
        names.append(session_id)
    acr: str = get("acr", "")
    if "acr" in claims:
        names.append(acr)
    scope = get("scope", "")
    try:  # Checking all texts at once takes a third of the time of checking each.
        printable = "".join([*names, scope, *audience, *roles, *amr]).isprintable()
    except TypeError as error:
        raise jws.malformed() from error
    if not printable:
        raise jws.malformed()
    for name in names:
        if not 0 < len(name) <= jws.MAX_NAME_LENGTH:
            raise jws.malformed()
    expires_at, issued_at, not_before = get("exp"), get("iat"), get("nbf", 0)
    auth_time = get("auth_time", issued_at)
    for moment in (expires_at, issued_at, not_before, auth_time):
        if type(moment) is not int or not 0 <= moment <= jws.LATEST_TIME:
            raise jws.malformed()
    bound_to = _thumbprint(claims["cnf"]) if "cnf" in claims else ""
    return AccessClaims(
        issuer,
        subject,
        tuple(audience),
        expires_at,
        issued_at,
        token_id,
        session_id,
        client_id,
        tuple(scope.split()),
        tuple(roles),
        auth_time,
        tuple(amr),
        not_before,
        delegation.read_chain(claims) if "act" in claims or "parents" in claims else (),
        bound_to,
        acr,
    )


def _thumbprint(confirmation: Any) -> str:
    """Return the thumbprint in a claim `cnf`. Raises InvalidToken for anything else in it.

    A confirmation that is not understood is one that nobody checks, so the token is refused. RFC
    7800 section 3.1 leaves that to the application.
    """
    if type(confirmation) is not dict or confirmation.keys() != {_CONFIRMATION}:
        raise jws.malformed()
    thumbprint = confirmation[_CONFIRMATION]
    if type(thumbprint) is not str or not THUMBPRINT.fullmatch(thumbprint):
        raise jws.malformed()
    return thumbprint
