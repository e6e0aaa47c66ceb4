"""Sessions: begun by a login, continued by a refresh. Knows nothing of the wire or of SQL."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import structlog

from auth_service import audit
from auth_service.audit import Actor, ActorKind
from auth_service.clock import Clock, steady
from auth_service.core import fields
from auth_service.core.audiences import Audiences, confined, granted_scope
from auth_service.core.auditing import Auditor
from auth_service.core.credentials import Credentials
from auth_service.core.new_session import NewSessions, login_terms, uncovered
from auth_service.core.refresh_call import RefreshCall, request_hash
from auth_service.core.revocation import Revocations
from auth_service.core.second_factors import FactorProof, IssuedChallenge, SecondFactorRequired
from auth_service.core.session_policy import SessionPolicy
from auth_service.core.shielded import Shielded
from auth_service.core.step_up import StepUp
from auth_service.core.throttle import NOWHERE, LoginOrigin
from auth_service.core.token_issuer import TokenIssuer
from auth_service.db.sessions import FoundSession, RotatedSession, Rotation
from auth_service.db.store import Store
from auth_service.errors import (
    InvalidArgument,
    InvalidCredentials,
    InvalidGrant,
    PasswordChangeRequired,
    Unavailable,
    WeakPassword,
)
from auth_service.models import ServiceAccount, Session, Taken, TokenPair, User
from auth_service.tokens.assurance import MFA, acr_of
from auth_service.tokens.challenge import LoginTerms
from auth_service.tokens.refresh import RefreshClaims, is_genuine

__all__ = ["Sessions"]

log = structlog.get_logger(__name__)

_MAX_REFRESH_ROUNDS = 4


class Sessions:
    """Trades credentials and refresh tokens for tokens."""

    def __init__(
        self,
        store: Store,
        credentials: Credentials,
        audiences: Audiences,
        tokens: TokenIssuer,
        revocations: Revocations,
        policy: SessionPolicy,
        shielded: Shielded,
        clock: Clock,
    ) -> None:
        self._store = store
        self._credentials = credentials
        self._audiences = audiences
        self._tokens = tokens
        self._revocations = revocations
        self._policy = policy
        self._shielded = shielded
        self._clock = clock
        self._steady = steady(clock)
        self._new_sessions = NewSessions(audiences, policy, clock)
        self._step_up = StepUp(store, audiences, tokens, clock)
        self._auditor = Auditor(store, clock)

    # Login

    async def login_password(  # noqa: PLR0913 - all that a login may say
        self,
        identifier: str,
        password: str,
        *,
        audience: Sequence[str] = (),
        scope: Sequence[str] = (),
        client_id: str = "",
        device_label: str = "",
        request_id: str = "",
        origin: LoginOrigin = NOWHERE,
        new_password: str = "",
    ) -> TokenPair:
        """Return the first tokens of a new session, or of the one that `request_id` began.

        Without a scope they have all that the user is granted and that belong to the audiences.
        `origin` tells the login from guesses of strangers, and has the client's certificate; the
        tokens of the session are bound to that if one of the audiences asks for it (RFC 8705).
        Raises InvalidCredentials, RateLimited, InvalidTarget, InvalidScope, CertificateRequired,
        and SecondFactorRequired with a challenge. If the password has to be changed,
        `new_password` replaces it; without one, raises PasswordChangeRequired.
        """
        identifier = fields.identifier(identifier, "password.identifier")
        terms = login_terms(
            audience, scope, client_id, device_label, request_id, origin.certificate
        )
        with self._auditor.attempt("password"):
            return await self._prove_password(identifier, password, terms, origin, new_password)

    async def _prove_password(
        self,
        identifier: str,
        password: str,
        terms: LoginTerms,
        origin: LoginOrigin,
        new_password: str = "",
    ) -> TokenPair:
        user, taken = await self._credentials.check_password(identifier, password, origin)
        amr = ("pwd",)
        try:
            await self._credentials.password_change.check(user, new_password)
            session = await self._new_session(user, terms, amr)
            if not new_password:
                await self._credentials.renew_hash(user, password)
            await self._credentials.require_factor(user, terms, amr)
            if new_password:
                user = await self._credentials.password_change.replace(user, new_password)
                session = await self._new_session(user, terms, amr)
            return await self._begin(user, terms, amr, session, taken)
        except (Unavailable, SecondFactorRequired, PasswordChangeRequired, WeakPassword):
            # The password was right: neither a failure of the database nor the challenge nor what
            # is wrong with a new password uses up attempts.
            self._shielded.start(self._credentials.give_back(taken))
            raise

    async def login_factor(
        self,
        challenge_token: str,
        proof: FactorProof,
        *,
        certificate: str = "",
        new_password: str = "",
    ) -> TokenPair:
        """Return the tokens of the login that a challenge continues, by a second factor.

        Raises what `login_password` raises; a challenge that is forged or expired, and one of
        another client certificate, is InvalidCredentials.
        """
        with self._auditor.attempt(proof.kind.value):
            return await self._prove_factor(challenge_token, proof, certificate, new_password)

    async def _prove_factor(
        self, challenge_token: str, proof: FactorProof, certificate: str, new_password: str
    ) -> TokenPair:
        factors = self._credentials.factors
        challenge = factors.read(challenge_token)
        if challenge.terms.certificate not in ("", certificate):
            raise InvalidCredentials
        user, amr = await factors.prove(challenge, proof)
        # One challenge begins one session: its id stands for a request id that was left out.
        request_id = challenge.terms.request_id or f"challenge:{challenge.id}"
        terms = replace(challenge.terms, request_id=request_id)
        if "pwd" in amr and terms.session_id is None:
            await self._credentials.password_change.check(user, new_password)
            if new_password:
                user = await self._credentials.password_change.replace(user, new_password)
        session = await self._new_session(user, terms, amr)
        return await self._begin(user, terms, amr, session)

    def begin_passkey_login(
        self,
        *,
        audience: Sequence[str] = (),
        scope: Sequence[str] = (),
        client_id: str = "",
        device_label: str = "",
        certificate: str = "",
    ) -> IssuedChallenge:
        """Return a challenge that the passkey of any user answers by `login_factor`."""
        terms = login_terms(audience, scope, client_id, device_label, certificate=certificate)
        return self._credentials.factors.begin_alone(terms)

    async def step_up(
        self,
        session_refresh_token: str,
        identifier: str = "",
        password: str = "",
        *,
        client_id: str | None = None,
        certificate: str = "",
    ) -> TokenPair:
        """Return tokens of a session that tell of this login, made with a refresh token of it.

        Without an identifier the password was proved before, and only the second factor is asked
        for. Raises what `login_password` raises, InvalidCredentials for another user than the
        session's and for one who has no second factor to ask for, and InvalidGrant for the refresh
        token, also if it was issued to another client than `client_id`.
        """
        if identifier:
            identifier = fields.identifier(identifier, "password.identifier")
        with self._auditor.attempt("password" if identifier else "refresh_token"):
            found = await self._step_up.find(session_refresh_token, client_id, certificate)
            audit.note(user_id=found.session.user_id, session_id=found.session.id)
            terms = LoginTerms(certificate=certificate, session_id=found.session.id)
            user = await self._store.get_user(found.session.user_id)
            if identifier:
                # Without an attempt: one's own session opens no way to guess at other accounts.
                if user is None or identifier not in user.identifiers:
                    raise InvalidCredentials
                origin = LoginOrigin(session=(user.id, found.session.id))
                return await self._prove_password(identifier, password, terms, origin)
            if user is not None and user.second_factor:
                amr = tuple(method for method in found.session.amr if method != MFA)
                await self._credentials.require_factor(user, terms, amr)
            raise InvalidCredentials

    async def _new_session(
        self, user: User, terms: LoginTerms, amr: tuple[str, ...]
    ) -> Session | None:
        """Return the session of these terms, not stored yet; None if they name one to step up."""
        if terms.session_id is not None:
            return None
        return await self._new_sessions.make(user, terms, amr, acr_of(amr))

    async def _begin(
        self,
        user: User,
        terms: LoginTerms,
        amr: tuple[str, ...],
        session: Session | None,
        taken: Sequence[Taken] = (),
    ) -> TokenPair:
        """Begin the session of a user who is authenticated, or step up the one of the terms."""
        if session is None:
            pair = await self._step_up.complete(user, terms, amr)
            await self._credentials.give_back(taken)
            return pair
        stored = await self._store.create_session(
            session, terms.request_id, user.revoked_before, taken
        )
        ended = stored.revoked_at or stored.refresh_expires_at <= session.created_at
        if stored.generation or ended:
            raise InvalidArgument(
                "request_id", "belongs to an earlier login; make up a new one for each login"
            )
        return self._tokens.for_login(stored, user.roles, session.created_at)

    async def login_client(
        self,
        client_id: str,
        client_secret: str,
        *,
        audience: Sequence[str] = (),
        scope: Sequence[str] = (),
        certificate: str = "",
    ) -> TokenPair:
        """Return the access token of a service account; it gets no refresh token.

        It is bound to the certificate if the account or one of the audiences asks for that. Raises
        what `login_password` raises.
        """

        async def prove() -> ServiceAccount:
            return await self._credentials.authenticate_client(client_id, client_secret)

        return await self._login_service(prove, "client_secret", audience, scope, certificate)

    async def login_workload(
        self,
        token: str,
        *,
        uris: Sequence[str] = (),
        client_id: str = "",
        audience: Sequence[str] = (),
        scope: Sequence[str] = (),
        certificate: str = "",
    ) -> TokenPair:
        """Do as `login_client` for a workload: by its platform's token, or by its certificate.

        `uris` are those in the certificate of the caller, used if there is no token.
        """

        async def prove() -> ServiceAccount:
            return await self._credentials.authenticate_workload(token, client_id, uris)

        credential = "workload" if token else "certificate"
        return await self._login_service(prove, credential, audience, scope, certificate)

    async def _login_service(
        self,
        prove: Callable[[], Awaitable[ServiceAccount]],
        credential: str,
        audience: Sequence[str],
        scope: Sequence[str],
        certificate: str,
    ) -> TokenPair:
        audience = fields.labels(audience, "audience") or self._policy.default_audience
        scope = fields.scope(scope)
        # The token is dated before the account is read: a change that the read misses ends it.
        now = self._clock()
        with self._auditor.attempt(credential):
            account = await prove()
            within = await self._audiences.admit(audience, account.audiences)
            granted = granted_scope(account.scope, scope, within)
            issued_at = uncovered(now, account.revoked_before)
            bound_to = self._new_sessions.bound_to(audience, certificate, account.bound)
        # It has no session, so nothing is stored with which the row could be.
        self._store.write_audit_later(audit.row("service_account.logged_in", now))
        return self._tokens.for_service(account, tuple(audience), granted, issued_at, bound_to)

    # Refresh

    async def refresh(
        self,
        refresh_token: str,
        scope: Sequence[str] = (),
        *,
        audience: Sequence[str] = (),
        client_id: str | None = None,
        request_id: str = "",
        coalesce: bool = False,
        certificate: str = "",
    ) -> TokenPair:
        """Return the successor of a refresh token, the same one for every retry.

        A call counts as a retry within the grace of the rotation, and after any delay if it has the
        `request_id` of the call that rotated. A rotation that has begun completes even if the
        caller is cancelled.

        With `coalesce`, a token that succeeded another within the grace is its own successor. Then
        no page of the many that share a session is ever two steps behind.

        Raises InvalidGrant for an invalid token, for one that was issued to another client than
        `client_id` (RFC 6749 section 6), and for one that is bound to another `certificate` (RFC
        8705 section 4). A token that was used before also ends its session (RFC
        9700 section 4.14.2). With nothing changed, raises InvalidTarget for an audience that is not
        the session's or no longer the user's, and InvalidScope for a scope that is not the
        session's or does not belong to the audiences.
        """
        wanted, request = fields.scope(scope), fields.request_id(request_id)
        target = fields.labels(audience, "audience")
        claims = self._tokens.read_refresh_token(refresh_token)
        hashed = request_hash(claims, request)
        call = RefreshCall(
            claims, wanted, target, hashed, self._clock(), self._steady(), coalesce, certificate
        )
        if call.expired and not self._may_be_a_retry(call):
            raise InvalidGrant
        if client_id is not None and await self._client_of(claims) != client_id:
            raise InvalidGrant
        rotated = None
        if not (coalesce or call.expired):
            rotated = await self._store.rotate_free_session(self._rotation(call))
        if rotated is None:
            return await self._shielded.run(self._successor(call))
        return self._pair(call, rotated)

    def _may_be_a_retry(self, call: RefreshCall) -> bool:
        """Tell whether the successor of an expired token may be alive still."""
        expired_at = datetime.fromtimestamp(call.claims.expires_at, UTC)
        return call.request_hash is not None and (
            call.arrived_at < expired_at + self._policy.refresh_idle_ttl
        )

    async def _successor(self, call: RefreshCall) -> TokenPair:
        """Return the tokens after the one step to which this call is entitled.

        A step that changes nothing has lost a race, or the token is not the current one.
        Generations only grow, so a few rounds settle which.
        """
        claims = call.claims
        for _ in range(_MAX_REFRESH_ROUNDS):
            found = await self._store.get_session(
                claims.user_id, claims.session_id, call.audience, self._audiences.own
            )
            if found is None:
                raise InvalidGrant
            session = found.session
            if not is_genuine(claims, session):
                log.error("refresh_token_forged", session_id=str(session.id))
                raise InvalidGrant
            if session.revoked_at or found.disabled or session.expires_at <= found.read_at:
                raise InvalidGrant
            if session.bound_to not in ("", call.certificate):
                raise InvalidGrant
            # By the database's clock, and never later than it was.
            arrived_at = found.read_at - timedelta(seconds=self._steady() - call.steady_arrival)
            if self._is_retry(call, session, arrived_at):
                if session.refresh_expires_at <= found.read_at:
                    raise InvalidGrant
                call.require_granted(found)
                return self._pair(call, found, found.read_at)
            behind = session.generation - claims.generation
            if behind > 0 and not call.expired and arrived_at >= session.refreshed_at:
                await self._end_for_reuse(session)
            # A call that arrived before the last rotation is late, and proves no reuse.
            if behind > 0 or call.expired:
                raise InvalidGrant
            if session.refresh_expires_at <= found.read_at and behind == 0:
                raise InvalidGrant
            # Only now: an old token is reuse, whatever is asked for with it.
            call.require_granted(found)
            # Ahead of the database: it lost its last commits, and the token is provably ours.
            rotated = await self._store.rotate_session(self._rotation(call, adopt=behind < 0))
            if rotated is not None:
                return self._pair(call, rotated)
        raise InvalidGrant

    def _pair(
        self, call: RefreshCall, of: RotatedSession | FoundSession, now: datetime | None = None
    ) -> TokenPair:
        """Return the tokens of the current generation, as the call asks for them."""
        scope = call.scope or confined(of.session.scope, of.audience_scope)
        return self._tokens.for_session(of.session, of.roles, scope, now, audience=call.audience)

    def _is_retry(self, call: RefreshCall, session: Session, arrived_at: datetime) -> bool:
        """Tell whether the current generation is the successor that this call asks for."""
        behind = session.generation - call.claims.generation
        if behind == 1 and call.made(session):
            return True
        graced = arrived_at - session.refreshed_at <= self._policy.refresh_grace
        coalesced = call.coalesce and behind == 0 < session.generation
        return graced and not call.expired and (behind == 1 or coalesced)

    def _rotation(self, call: RefreshCall, *, adopt: bool = False) -> Rotation:
        claims = call.claims
        return Rotation(
            claims.user_id,
            claims.session_id,
            claims.generation,
            0 if adopt else claims.generation,
            call.scope,
            self._policy.refresh_idle_ttl,
            self._policy.clock_skew,
            call.request_hash,
            claims.token_id,
            call.audience,
            self._audiences.own,
            call.certificate,
        )

    async def _end_for_reuse(self, session: Session) -> None:
        # Whoever holds an old token may be the thief or the victim.
        audit.identify(Actor(ActorKind.NOBODY, "", "refresh_token"))
        await self._revocations.end_session(
            session.user_id, session.id, "session.reuse_detected", InvalidGrant.reason
        )

    async def _client_of(self, claims: RefreshClaims) -> str | None:
        found = await self._store.get_session(claims.user_id, claims.session_id)
        return found.session.client_id if found else None
