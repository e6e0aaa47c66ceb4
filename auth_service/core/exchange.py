"""Exchange: the token that a service received becomes one for the next service (RFC 8693).

Owns who may exchange what, and what the new token may be. Everything is decided in memory, and the
database holds nothing of it: the new token names what it came from, and ends with it
(`tokens.delegation`).

The new token has the subject, the session, the roles and the login of its parent. Its audience is
the one that was asked for. Its scope is a part of the parent's, and belongs to that audience. It
expires with the parent at the latest, and lives as long as a new access token at most. The expiry
of the actor's own token does not matter: the end of the actor ends the new token.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from auth_service.clock import Clock, seconds
from auth_service.core import fields
from auth_service.core.audiences import confined
from auth_service.core.validation import Validation
from auth_service.errors import (
    CertificateRequired,
    ConfigError,
    InvalidScope,
    InvalidSubjectToken,
    InvalidTarget,
    InvalidToken,
    PermissionDenied,
)
from auth_service.models import Audience
from auth_service.tokens.access import AccessClaims, TokenSigner, new_token_id
from auth_service.tokens.delegation import MAX_DEPTH, Link
from auth_service.tokens.revocation import RevocationList

__all__ = ["Actor", "GatewayExchange", "TokenExchange"]

_MAX_KEPT = 10_000  # exchanged tokens


class Actor(NamedTuple):
    """The service account that exchanges."""

    client_id: str
    issued_at: int
    """When its own token was issued, or its account was read; seconds since the epoch."""
    audience: Collection[str]
    """The audiences that it may have tokens for itself."""
    certificate: Callable[[], str] = lambda: ""
    """Returns the thumbprint of the certificate that it presents, or empty."""
    bound: bool = False
    """Whether its own tokens are bound to its certificate, and so those that it exchanges."""

    @classmethod
    def of(cls, claims: AccessClaims, certificate: Callable[[], str] = lambda: "") -> "Actor":
        """Return the holder of a token of this service's API. Raises PermissionDenied.

        Anybody may name any `client_id` at a login with a password, so only a token without a
        session counts. A token that was exchanged is that of somebody else.
        """
        if claims.session_id or claims.chain or claims.subject != claims.client_id:
            raise PermissionDenied("only a service account may exchange, with its own access token")
        bound = claims.certificate_thumbprint != ""
        return cls(claims.client_id, claims.issued_at, claims.audience, certificate, bound)


class _Kept(NamedTuple):
    target: Audience
    parent: AccessClaims
    revision: int
    token: str
    claims: AccessClaims


class TokenExchange:
    """Exchanges access tokens, without I/O.

    What was exchanged is kept, and given again for the same parent, actor, audience and scope,
    while an exchange would yield the same but for its id and its date.
    """

    def __init__(
        self,
        validation: Validation,
        signer: TokenSigner,
        revocations: RevocationList,
        find_audience: Callable[[str], Audience | None],
        own_audience: str,
        longest: timedelta,
        clock: Clock,
    ) -> None:
        """`longest` is the life of a new access token."""
        self._validation = validation
        self._signer = signer
        self._revocations = revocations
        self._find_audience = find_audience
        self._own = own_audience
        self._longest = int(longest.total_seconds())
        self._now = seconds(clock)
        self._kept: OrderedDict[tuple[object, ...], _Kept] = OrderedDict()

    def exchange(
        self,
        actor: Actor,
        subject_token: str,
        audience: str,
        scope: Sequence[str] = (),
        lifetime: timedelta | None = None,
        presenter: str = "",
    ) -> tuple[str, AccessClaims]:
        """Return a token for one audience, and its claims.

        Without `scope` it has all that it may have. `presenter` is the thumbprint of the
        certificate of who presented the token to the actor, which a bound token needs. Raises
        InvalidSubjectToken if the token is not valid, or not for this actor; InvalidTarget if the
        actor may not act for this subject towards the audience; InvalidArgument; InvalidScope;
        CertificateRequired; RevocationsStale.
        """
        scope = fields.scope(scope) if scope else ()
        parent = self._parent(subject_token, presenter)
        if not self._is_for(actor, parent):
            raise InvalidSubjectToken(
                "is for another service: exchange tokens for an audience of your own token, or for "
                "one with the name of your account"
            )
        return self.issue(actor, parent, self.target(actor, parent, audience), scope, lifetime)

    def issue(
        self,
        actor: Actor,
        parent: AccessClaims,
        target: Audience,
        scope: Sequence[str] = (),
        lifetime: timedelta | None = None,
    ) -> tuple[str, AccessClaims]:
        """Return a token for a target of this actor, by the claims of a valid token."""
        bound_to = ""
        if (target.bound or actor.bound) and not (bound_to := actor.certificate()):
            raise CertificateRequired
        key = (parent.token_id, target.name, actor.client_id, tuple(scope), bound_to)
        if lifetime is None:
            kept = self._kept.get(key)
            if kept is not None and self._is_good(kept, target, parent):
                return kept.token, kept.claims
        claims = self._claims(actor, parent, target, scope, lifetime, bound_to)
        token = self._signer.sign(claims)
        if lifetime is None and claims.expires_at == parent.expires_at:
            self._kept[key] = _Kept(target, parent, self._signer.revision, token, claims)
            if len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
        return token, claims

    def _claims(
        self,
        actor: Actor,
        parent: AccessClaims,
        target: Audience,
        scope: Sequence[str],
        lifetime: timedelta | None,
        bound_to: str,
    ) -> AccessClaims:
        now = int(self._now())
        life = self._longest
        if lifetime is not None:
            life = min(life, int(lifetime.total_seconds()))
        link = Link(actor.client_id, actor.issued_at, parent.token_id, parent.issued_at)
        return AccessClaims(
            issuer=parent.issuer,
            subject=parent.subject,
            audience=(target.name,),
            expires_at=min(parent.expires_at, now + life),
            # Not before the parent: a login may be dated up to a second ahead, past a revocation.
            issued_at=max(now, parent.issued_at),
            token_id=new_token_id(),
            session_id=parent.session_id,
            client_id=actor.client_id,  # RFC 8693 section 4.3
            scope=_granted(confined(parent.scope, target.scope), scope),
            roles=parent.roles,
            auth_time=parent.auth_time,
            amr=parent.amr,
            chain=(link, *parent.chain),
            certificate_thumbprint=bound_to,
            acr=parent.acr,
        )

    def _is_good(self, kept: _Kept, target: Audience, parent: AccessClaims) -> bool:
        """Tell whether a kept token is what an exchange would yield now, and valid.

        It expires with its parent, which is valid. A refresh that is repeated for fewer scopes
        gives another parent with the same id.
        """
        return (
            kept.target is target
            and (kept.parent is parent or kept.parent == parent)
            and kept.revision == self._signer.revision
            and self._revocations.check(kept.claims) is None
        )

    def _parent(self, subject_token: str, presenter: str) -> AccessClaims:
        try:
            return self._validation.verify(subject_token, certificate_thumbprint=presenter)
        except InvalidToken as error:
            raise InvalidSubjectToken(f"is not active: {error.inactive_reason}") from error

    def _is_for(self, actor: Actor, parent: AccessClaims) -> bool:
        """Tell whether the parent was meant for this actor, and not only found by it.

        Every token may be for this service itself, so that says nothing.
        """
        return any(
            name != self._own and (name == actor.client_id or name in actor.audience)
            for name in parent.audience
        )

    def target(self, actor: Actor, parent: AccessClaims, audience: str) -> Audience:
        """Return the audience, if the actor may act for the parent's subject towards it.

        Raises InvalidTarget, and InvalidSubjectToken for a parent that was exchanged too often.
        """
        if len(parent.chain) >= MAX_DEPTH:
            raise InvalidSubjectToken(f"was exchanged {MAX_DEPTH} times, which is the limit")
        known = self._find_audience(fields.label(audience, "audience"))
        if known is not None and audience != self._own:
            for rule in known.actors:
                if rule.client_id == actor.client_id and (
                    not rule.subject_roles or not set(rule.subject_roles).isdisjoint(parent.roles)
                ):
                    return known
        raise InvalidTarget(audience)


class GatewayExchange:
    """Exchanges the tokens of requests that a gateway admits, in the name of one service account.

    The account has no token of its own. What it exchanges is dated by the last time at which its
    rules were read, so a process that has not heard of its end yet makes tokens that end with it.
    """

    def __init__(
        self, exchange: TokenExchange, rules_read_at: Callable[[], datetime], client_id: str
    ) -> None:
        """`client_id` is empty if no service account stands for the gateways."""
        self._exchange = exchange
        self._rules_read_at = rules_read_at
        self._client_id = client_id

    def token(self, parent: AccessClaims, audience: str) -> str:
        """Return a token for an audience, by the claims of a valid token.

        Raises ConfigError if no service account stands for the gateways, InvalidTarget,
        InvalidSubjectToken, and CertificateRequired for an audience whose tokens are bound: the
        service does not see the certificate that the gateway presents to its upstream.
        """
        if not self._client_id:
            raise ConfigError("AUTH_GATEWAY_ACCOUNT names no service account")
        actor = Actor(self._client_id, int(self._rules_read_at().timestamp()), ())
        target = self._exchange.target(actor, parent, audience)
        token, _ = self._exchange.issue(actor, parent, target)
        return token


def _granted(most: tuple[str, ...], wanted: Sequence[str]) -> tuple[str, ...]:
    if not set(wanted) <= set(most):
        raise InvalidScope("scope exceeds that of the subject token, or is not of the audience")
    return tuple(dict.fromkeys(wanted)) or most
