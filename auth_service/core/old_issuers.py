"""Issuers that users come from: whose live token it is, and which of our users it names.

Owns what such a token proves. What it is traded for is decided in `migration`. A token is verified
with keys that are already known: nothing is fetched because a token names it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from auth_service.clock import Clock
from auth_service.core import fields
from auth_service.errors import InvalidArgument, Unavailable
from auth_service.tokens import foreign
from auth_service.tokens.foreign import Refusal, RefusalReason, Rules, Token
from auth_service.tokens.foreign_keys import ForeignKey, TrustedKeys

__all__ = ["MAX_LENGTH", "OldIssuer", "OldIssuers", "Proof"]

MAX_LENGTH = 16_384
"""Bytes of a token. Some systems put all roles of a user into it."""

_MAX_ID = 256  # characters
_MAX_METHODS = 16
_SESSION_CLAIMS = ("sid", "session_id")  # OpenID Connect, Keycloak; Supabase Auth
_CLIENT_CLAIMS = ("azp", "client_id")


@dataclass(frozen=True, slots=True)
class OldIssuer:
    """An issuer of the configuration, with the keys that are fetched for it."""

    name: str
    """The `iss` of its tokens, or a name for an issuer whose tokens have none."""
    rules: Rules
    until: datetime
    """From then on no token is traded."""
    claims: Mapping[str, tuple[str | bool, ...]]
    """What tells the tokens that are traded from others: claims, with the values that will do."""
    user_claim: str = "sub"
    user_by_id: bool = True
    """Whether the claim is the id of our user, and not an identifier."""
    prefix: str = ""
    """Put before the claim, which together are the identifier."""
    names_itself: bool = True
    """Whether its tokens have `iss`."""
    keys: TrustedKeys = field(default_factory=TrustedKeys)
    shared_key: ForeignKey | None = None
    """The key that it shares with this service; it then has no others."""

    def key(self, token: Token) -> ForeignKey | None:
        """Return the key that has to verify the token. Raises Unavailable if none was read yet."""
        if self.shared_key is not None:
            return self.shared_key
        if not self.keys.known:
            raise Unavailable("the keys of the token's issuer are not known yet")
        return self.keys.get(token.kid) if "kid" in token.header else None


class Proof(NamedTuple):
    """What a good token proves."""

    issuer: OldIssuer
    user: UUID | str
    """The id of our user, or a normalised identifier."""
    once: bytes
    """What may be traded once: identifies the old session of a client, or else the token."""
    used_until: datetime
    """How long that has to be remembered."""
    amr: tuple[str, ...]
    auth_time: datetime


class OldIssuers:
    """Verifies the tokens of the issuers of the configuration."""

    def __init__(self, issuers: Iterable[OldIssuer], clock_skew: timedelta, clock: Clock) -> None:
        issuers = list(issuers)
        self._by_name = {each.name: each for each in issuers if each.names_itself}
        self._nameless = next((each for each in issuers if not each.names_itself), None)
        self._skew = clock_skew
        self._clock = clock

    def prove(self, token: str) -> Proof:
        """Return what a token proves. Raises Refusal, and Unavailable without any keys."""
        presented = foreign.read(token, MAX_LENGTH, with_kid=False)
        issuer, now = self._issuer_of(presented.claims), self._clock()
        if issuer.until <= now:
            raise Refusal(RefusalReason.CUT_OFF)
        presented.check(issuer.rules, now, self._skew)
        presented.verify(issuer.key(presented))
        for name, accepted in issuer.claims.items():
            value = presented.claims.get(name)
            if not any(type(value) is type(each) and value == each for each in accepted):
                raise Refusal(RefusalReason.WRONG_CLAIM)
        return _proof(issuer, presented, now)

    def _issuer_of(self, claims: dict[str, Any]) -> OldIssuer:
        found = self._nameless
        if "iss" in claims:
            found = self._by_name.get(foreign.text(claims, "iss"))
        if found is None:
            raise Refusal(RefusalReason.UNKNOWN_ISSUER)
        return found


def _proof(issuer: OldIssuer, token: Token, now: datetime) -> Proof:
    claims = token.claims
    once, is_session = _once(token)
    expires_at = datetime.fromtimestamp(claims["exp"], UTC)
    return Proof(
        issuer,
        _user(issuer, claims),
        once,
        # A session of the old system can yield tokens until the end.
        issuer.until if is_session else min(expires_at, issuer.until),
        _methods(claims),
        min(_authenticated_at(claims), now),
    )


def _user(issuer: OldIssuer, claims: dict[str, Any]) -> UUID | str:
    value = claims.get(issuer.user_claim)
    if type(value) is int:
        value = str(value)
    if type(value) is not str or not 0 < len(value) <= _MAX_ID:
        raise Refusal(RefusalReason.WRONG_SUBJECT)
    try:
        if not issuer.user_by_id:
            return fields.identifier(issuer.prefix + value)
        user_id = UUID(value)
    except (InvalidArgument, ValueError) as error:
        raise Refusal(RefusalReason.WRONG_SUBJECT) from error
    if str(user_id) != value.lower():
        raise Refusal(RefusalReason.WRONG_SUBJECT)
    return user_id


def _once(token: Token) -> tuple[bytes, bool]:
    """Return what may be traded once, and whether it is a session.

    The applications of a user may share a session, and each trades it for one of its own.
    """
    for name in _SESSION_CLAIMS:
        if name in token.claims:
            session = foreign.text(token.claims, name, _MAX_ID)
            client = [token.claims.get(each) for each in _CLIENT_CLAIMS]
            return _hash([name, session, *client]), True
    if "jti" in token.claims:
        return _hash(["jti", foreign.text(token.claims, "jti", _MAX_ID)]), False
    # The signature is left out: an equal token may have another.
    return _hash(["token", hashlib.sha256(token.signing_input).hexdigest()]), False


def _hash(parts: list[Any]) -> bytes:
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def _methods(claims: dict[str, Any]) -> tuple[str, ...]:
    """Return how the user was authenticated (RFC 8176), in OpenID Connect's form or Supabase's."""
    given = claims.get("amr")
    entries = given[:_MAX_METHODS] if type(given) is list else []
    names = [entry.get("method") if type(entry) is dict else entry for entry in entries]
    usable = (each for each in names if type(each) is str and 0 < len(each) <= _MAX_ID)
    return tuple(dict.fromkeys(each for each in usable if each.isprintable()))


def _authenticated_at(claims: dict[str, Any]) -> datetime:
    """Return when the user was authenticated; without a word on it, when the token was issued.

    Supabase Auth dates each method. The earliest counts: it promises the least.
    """
    entries = claims["amr"] if type(claims.get("amr")) is list else []
    dated = [entry.get("timestamp") for entry in entries if type(entry) is dict]
    known = [claims.get("auth_time"), *dated, claims["iat"]]
    moments = [each for each in known if type(each) is int and 0 < each <= claims["iat"]]
    return datetime.fromtimestamp(min(moments), UTC)
