"""Moving in without a logout: the live token of another system becomes a session of ours, once.

Owns which trade begins a session, which is the retry of one, and which is refused. What a token
proves is decided in `old_issuers`.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import timedelta
from uuid import UUID

import structlog

from auth_service import audit
from auth_service.audit import Actor, ActorKind
from auth_service.clock import Clock
from auth_service.core.audiences import Audiences
from auth_service.core.auditing import Auditor
from auth_service.core.credentials import Credentials
from auth_service.core.new_session import NewSessions, login_terms
from auth_service.core.old_issuers import OldIssuer, OldIssuers, Proof
from auth_service.core.session_policy import SessionPolicy
from auth_service.core.token_issuer import TokenIssuer
from auth_service.db.migration import Trade
from auth_service.db.store import Store
from auth_service.errors import InvalidCredentials
from auth_service.models import Session, TokenPair, User
from auth_service.tokens.assurance import MFA, ONE_FACTOR, POSSESSION
from auth_service.tokens.challenge import LoginTerms
from auth_service.tokens.foreign import Refusal, RefusalReason

__all__ = ["Migration"]

log = structlog.get_logger(__name__)

_STRENGTHS = (MFA, POSSESSION)
_MARGIN = timedelta(minutes=1)  # what was traded outlives its token, whatever the clock is set to


class Migration:
    """Trades tokens of the issuers that users come from. Every refusal looks the same."""

    def __init__(
        self,
        store: Store,
        credentials: Credentials,
        issuers: Iterable[OldIssuer],
        audiences: Audiences,
        tokens: TokenIssuer,
        policy: SessionPolicy,
        clock: Clock,
    ) -> None:
        self._store = store
        self._credentials = credentials
        self._issuers = OldIssuers(issuers, policy.clock_skew, clock)
        self._new_sessions = NewSessions(audiences, policy, clock)
        self._tokens = tokens
        self._policy = policy
        self._clock = clock
        self._auditor = Auditor(store, clock)

    async def trade(
        self,
        token: str,
        *,
        audience: Sequence[str] = (),
        scope: Sequence[str] = (),
        client_id: str = "",
        device_label: str = "",
        request_id: str = "",
        certificate: str = "",
    ) -> TokenPair:
        """Return the first tokens of a new session for a token of another system.

        A second call with a token of the same session there is its retry within the grace of a
        refresh, and after any delay if it has the `request_id` of the first: it gets the same
        tokens, until they are refreshed. Any other is refused, and ends nothing. The arguments are
        those of a login with a password. Raises InvalidCredentials, InvalidTarget, InvalidScope,
        CertificateRequired, SecondFactorRequired, and Unavailable if the keys of the issuer were
        never read.
        """
        terms = login_terms(audience, scope, client_id, device_label, request_id, certificate)
        with self._auditor.attempt("migrated_token"):
            return await self._trade(token, terms)

    async def _trade(self, token: str, terms: LoginTerms) -> TokenPair:
        proof: Proof | None = None
        try:
            proof = self._issuers.prove(token)
            audit.note(issuer=proof.issuer.name)
            user = await self._user(proof)
            audit.identify(Actor(ActorKind.USER, str(user.id), "migrated_token"))
            # What another system tells of a second factor is not what this service would ask for.
            amr = tuple(each for each in proof.amr if each not in _STRENGTHS)
            session = await self._new_sessions.make(user, terms, amr, ONE_FACTOR, proof.auth_time)
            await self._credentials.require_factor(user, terms, session.amr)
            stored = await self._traded(proof, user, session, terms)
        except Refusal as refusal:
            audit.note(details={"refused": refusal.reason.value})
            _log_refusal(refusal.reason, proof)
            raise InvalidCredentials from refusal
        log.info(
            "session_migrated" if stored.id == session.id else "session_migrated_again",
            issuer=proof.issuer.name,
            user_id=str(user.id),
            session_id=str(stored.id),
        )
        return self._tokens.for_login(stored, user.roles, self._clock())

    async def _user(self, proof: Proof) -> User:
        if isinstance(proof.user, UUID):
            user = await self._store.get_user(proof.user)
        else:
            user = await self._store.find_user(proof.user)
        if user is None:
            raise Refusal(RefusalReason.NO_ACCOUNT)
        audit.note(user_id=user.id)
        if user.disabled:
            raise Refusal(RefusalReason.DISABLED)
        # A sign-out everywhere, or a new password, also ends what was begun at the old system.
        if user.signed_out_before is not None and proof.auth_time < user.signed_out_before:
            raise Refusal(RefusalReason.SIGNED_OUT)
        return user

    async def _traded(
        self, proof: Proof, user: User, session: Session, terms: LoginTerms
    ) -> Session:
        request = terms.request_id
        trade = Trade(
            proof.issuer.name,
            proof.once,
            proof.issuer.until,
            proof.used_until + _MARGIN,
            None if request is None else hashlib.sha256(request.encode()).digest(),
            self._policy.refresh_grace,
        )
        stored = await self._store.trade_session(session, trade, user.revoked_before)
        if stored is None or stored.client_id != terms.client_id:
            raise Refusal(RefusalReason.REPLAYED)
        if stored.bound_to not in ("", terms.certificate):
            raise Refusal(RefusalReason.REPLAYED)
        return stored


def _log_refusal(reason: RefusalReason, proof: Proof | None) -> None:
    """Say why a token is refused: for operators only if it is genuine, as anybody sends others."""
    if proof is None:
        log.debug("migration_refused", reason=reason.value)
    else:
        named = str(proof.user) if isinstance(proof.user, UUID) else None
        log.info("migration_refused", reason=reason.value, issuer=proof.issuer.name, user_id=named)
