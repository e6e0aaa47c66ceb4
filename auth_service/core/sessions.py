"""Sessions: login, refresh, revoke. The rules, and nothing of wire or SQL."""

import contextlib
import hmac
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID, uuid4

from auth_service.clock import Clock
from auth_service.core import fields
from auth_service.core.credentials import check_password, secret_hash
from auth_service.core.passwords import PasswordHasher
from auth_service.core.session_policy import SessionPolicy
from auth_service.core.shielded import Shielded
from auth_service.db.store import Store
from auth_service.errors import (
    InvalidArgument,
    InvalidCredentials,
    InvalidGrant,
    InvalidScope,
    InvalidToken,
    NotFound,
    PermissionDenied,
    RateLimited,
)
from auth_service.models import (
    Revocation,
    RevocationKind,
    ServiceAccount,
    Session,
    TokenPair,
    User,
)
from auth_service.tokens.access import AccessClaims, TokenSigner, TokenVerifier, new_token_id
from auth_service.tokens.refresh import (
    RefreshClaims,
    RefreshTokens,
    access_token_id,
    token_id,
)

Announce = Callable[[Revocation], object]

ADMIN_ROLE = "admin"

_SEED_BYTES = 32
_MAX_REFRESH_ROUNDS = 4


class Sessions:
    """The life of a session. `announce` is told of each revocation once it is committed."""

    def __init__(  # noqa: PLR0913, PLR0917 - what it works with
        self,
        store: Store,
        hasher: PasswordHasher,
        signer: TokenSigner,
        verifier: TokenVerifier,
        refresh_tokens: RefreshTokens,
        policy: SessionPolicy,
        announce: Announce,
        shielded: Shielded,
        clock: Clock,
    ) -> None:
        self._store = store
        self._hasher = hasher
        self._signer = signer
        self._verifier = verifier
        self._refresh_tokens = refresh_tokens
        self._policy = policy
        self._announce = announce
        self._shielded = shielded
        self._clock = clock

    # Login

    async def login_password(
        self,
        identifier: str,
        password: str,
        *,
        audience: Sequence[str] = (),
        scope: Sequence[str] = (),
        client_id: str = "",
        device_label: str = "",
        request_id: str = "",
    ) -> TokenPair:
        """Return the first tokens of a new session, or of the one that `request_id` began."""
        identifier = fields.identifier(identifier, "password.identifier")
        audience = fields.labels(audience, "audience") or self._policy.default_audience
        scope = fields.scope(scope)
        client_id = fields.label(client_id, "client_id") or "first-party"
        device_label = fields.label(device_label, "device_label")
        request = fields.request_id(request_id)

        user = await check_password(
            self._store, self._hasher, self._policy, self._clock(), identifier, password
        )
        await self._renew_hash(user, password)
        now = self._issue_time(user)
        expires_at = now + self._policy.refresh_absolute_ttl
        session = Session(
            user_id=user.id,
            id=uuid4(),
            generation=0,
            seed=secrets.token_bytes(_SEED_BYTES),
            client_id=client_id,
            device_label=device_label,
            audience=tuple(audience),
            scope=_granted(user.scope, scope),
            amr=("pwd",),
            auth_time=now,
            created_at=now,
            refreshed_at=now,
            refresh_expires_at=min(now + self._policy.refresh_idle_ttl, expires_at),
            expires_at=expires_at,
        )
        stored = await self._store.create_session(session, request, user.revoked_before, identifier)
        if stored.generation or stored.revoked_at or stored.refresh_expires_at <= now:
            raise InvalidArgument(
                "request_id", "belongs to an earlier login; make up a new one for each login"
            )
        return self._token_pair(stored, user.roles, stored.scope)

    async def login_client(
        self,
        client_id: str,
        client_secret: str,
        *,
        audience: Sequence[str] = (),
        scope: Sequence[str] = (),
    ) -> TokenPair:
        """Return the access token of a service account; it gets no refresh token."""
        audience = fields.labels(audience, "audience") or self._policy.default_audience
        scope = fields.scope(scope)
        account = await self.authenticate_client(client_id, client_secret)
        now = self._clock()
        granted = _granted(account.scope, scope)
        claims = AccessClaims(
            issuer=self._policy.issuer,
            subject=account.client_id,
            audience=tuple(audience),
            expires_at=int((now + self._policy.access_ttl).timestamp()),
            issued_at=int(now.timestamp()),
            token_id=new_token_id(),
            session_id="",
            client_id=account.client_id,
            scope=granted,
            roles=account.roles,
            auth_time=int(now.timestamp()),
            amr=(),
        )
        return TokenPair(self._signer.sign(claims), _moment(claims.expires_at, now), granted)

    async def authenticate_client(self, client_id: str, client_secret: str) -> ServiceAccount:
        """Return the service account of these credentials; raises InvalidCredentials."""
        client_id = fields.identifier(client_id, "client.client_id")
        account = await self._store.find_service_account(client_id)
        known = account.secret_hash if account else ""
        matches = hmac.compare_digest(secret_hash(client_secret), known)
        if account is None or not matches or account.disabled:
            raise InvalidCredentials
        return account

    async def require_public_client(self, client_id: str) -> None:
        """Raise InvalidCredentials for a client that has a secret and so must show it."""
        client_id = fields.identifier(client_id, "client_id")
        if await self._store.find_service_account(client_id) is not None:
            raise InvalidCredentials

    async def _renew_hash(self, user: User, password: str) -> None:
        if self._hasher.needs_rehash(user.password_hash):
            with contextlib.suppress(RateLimited):  # no reason to refuse: another login will do
                renewed = await self._hasher.hash(password)
                await self._store.set_password_hash(user.id, renewed, only_if=user.password_hash)

    def _issue_time(self, user: User) -> datetime:
        """Return now, but never a moment that an earlier sign-out everywhere still covers."""
        now = self._clock()
        return max(now, user.revoked_before) if user.revoked_before else now

    # Refresh

    async def refresh(
        self,
        refresh_token: str,
        scope: Sequence[str] = (),
        *,
        client_id: str | None = None,
        coalesce: bool = False,
    ) -> TokenPair:
        """Return the successor of a refresh token, the same one for every retry.

        What has begun is completed although the caller be cancelled.

        With `coalesce` a token that has just succeeded another is its own successor within the
        grace. So of many pages that share a session none is ever two steps behind.

        Raises InvalidGrant for a token that is no good, or not of this client where one is given
        (RFC 6749 section 6), and revokes the session of one that was used before (RFC 9700 section
        4.14.2); InvalidScope, with nothing done, for a scope beyond the session's.
        """
        wanted = fields.scope(scope)
        claims = self._refresh_tokens.read(refresh_token)
        now = self._clock()
        if claims.expires_at <= now.timestamp():
            raise InvalidGrant
        if client_id is not None and await self._client_of(claims) != client_id:
            raise InvalidGrant
        until = now + self._policy.refresh_idle_ttl
        stepped = None
        if not coalesce:
            stepped = await self._store.rotate_free_session(
                claims.user_id, claims.session_id, claims.generation, wanted, now, until
            )
        if stepped is None or not _is_genuine(claims, stepped[0]):
            stepped = await self._shielded.run(
                self._successor(claims, wanted, now, until, coalesce)
            )
        session, roles = stepped
        return self._token_pair(session, roles, wanted or session.scope)

    async def _successor(
        self,
        claims: RefreshClaims,
        wanted: tuple[str, ...],
        now: datetime,
        until: datetime,
        coalesce: bool,
    ) -> tuple[Session, tuple[str, ...]]:
        """Return the session after the one step that this token is good for.

        A step that finds nothing to do has lost a race, or the token is not the current one.
        Generations only grow, so that a few rounds settle which.
        """
        for _ in range(_MAX_REFRESH_ROUNDS):
            found = await self._store.get_session(claims.user_id, claims.session_id)
            if found is None:
                raise InvalidGrant
            session, roles, disabled = found
            if not _is_genuine(claims, session):
                await self._end(session.user_id, session.id, now, "session.forgery_detected")
                raise InvalidGrant
            if session.revoked_at or disabled or session.expires_at <= now:
                raise InvalidGrant
            if not set(wanted) <= set(session.scope):
                raise InvalidScope("scope exceeds what the session was granted")
            behind = session.generation - claims.generation
            graced = now - session.refreshed_at <= self._policy.refresh_grace
            if graced and (behind == 1 or (coalesce and behind == 0 < session.generation)):
                return session, roles
            if behind > 0:
                await self._end(session.user_id, session.id, now, "session.reuse_detected")
                raise InvalidGrant
            if session.refresh_expires_at <= now and behind == 0:
                raise InvalidGrant
            # Ahead of the database: it lost its last commits, and the token is provably ours.
            step = self._store.adopt_generation if behind < 0 else self._store.rotate_session
            stepped = await step(
                claims.user_id, claims.session_id, claims.generation, wanted, now, until
            )
            if stepped is not None:
                return stepped
        raise InvalidGrant

    # Revoke

    async def revoke_refresh_token(self, refresh_token: str) -> None:
        """End the session of a refresh token; of one that is no good, nothing (RFC 7009 2.2)."""
        try:
            claims = self._refresh_tokens.read(refresh_token)
        except InvalidGrant:
            return
        await self._end(claims.user_id, claims.session_id, self._clock(), "session.revoked")

    async def revoke_access_token(self, access_token: str) -> None:
        """End one access token; of one that is no good, nothing (RFC 7009 section 2.2)."""
        try:
            claims = self._verifier.authenticate(access_token)
        except InvalidToken:
            return
        await self._revoke_access(claims)

    async def revoke_token(self, token: str, client_id: str) -> None:
        """End a token of this client, of either kind; of one that is no good, nothing.

        Raises PermissionDenied for a token of another client (RFC 7009 section 2.1).
        """
        try:
            refresh = self._refresh_tokens.read(token)
        except InvalidGrant:
            refresh = None
        if refresh is not None:
            owner = await self._client_of(refresh)
            if owner is None:
                return
            _require_owner(owner, client_id)
            await self._end(refresh.user_id, refresh.session_id, self._clock(), "session.revoked")
            return
        try:
            access = self._verifier.authenticate(token)
        except InvalidToken:
            return
        _require_owner(access.client_id, client_id)
        await self._revoke_access(access)

    async def _client_of(self, claims: RefreshClaims) -> str | None:
        found = await self._store.get_session(claims.user_id, claims.session_id)
        return found[0].client_id if found else None

    async def _revoke_access(self, claims: AccessClaims) -> None:
        now = self._clock()
        expires_at = _moment(claims.expires_at, now)
        if expires_at > now:
            revocation = Revocation(RevocationKind.TOKEN, claims.token_id, expires_at)
            await self._store.add_revocation(revocation, now)
            self._announce(revocation)

    async def revoke_session(self, session_id: str, caller: AccessClaims) -> None:
        """End a session of the caller's own, or for an admin anybody's."""
        session = await self._store.find_session(fields.uuid(session_id, "session_id"))
        may = session is not None and (
            str(session.user_id) == caller.subject or ADMIN_ROLE in caller.roles
        )
        if session is None or not may:
            raise NotFound("no such session among yours")
        await self._end(session.user_id, session.id, self._clock(), "session.revoked")

    async def revoke_all(self, user_id: str, caller: AccessClaims) -> None:
        """End every session of the caller, or for an admin of a user."""
        subject = user_id or caller.subject
        if subject != caller.subject and ADMIN_ROLE not in caller.roles:
            raise PermissionDenied("the sessions of another user need the admin role")
        now = self._clock()
        if not user_id and not caller.session_id:  # a service account: no sessions, only tokens
            revocation = self._policy.user_revocation(subject, now)
            await self._store.add_revocation(revocation, now)
        else:
            user = fields.uuid(subject, "all_sessions.user_id")
            revocation = self._policy.user_revocation(str(user), now)
            revocation = await self._store.revoke_user(user, revocation, now)
        self._announce(revocation)

    async def _end(self, user_id: UUID, session_id: UUID, now: datetime, event: str) -> None:
        revocation = self._policy.session_revocation(session_id, now)
        await self._store.revoke_session(user_id, session_id, revocation, now, event)
        self._announce(revocation)

    def _token_pair(
        self, session: Session, roles: tuple[str, ...], scope: tuple[str, ...]
    ) -> TokenPair:
        """Return the tokens of a session's current generation: for equal input, equal tokens."""
        issued_at = session.refreshed_at
        expires_at = min(issued_at + self._policy.access_ttl, session.expires_at)
        claims = AccessClaims(
            issuer=self._policy.issuer,
            subject=str(session.user_id),
            audience=session.audience,
            expires_at=int(expires_at.timestamp()),
            issued_at=int(issued_at.timestamp()),
            token_id=access_token_id(session.seed, session.generation),
            session_id=str(session.id),
            client_id=session.client_id,
            scope=scope,
            roles=roles,
            auth_time=int(session.auth_time.timestamp()),
            amr=session.amr,
        )
        return TokenPair(
            access_token=self._signer.sign(claims),
            access_expires_at=_moment(claims.expires_at, issued_at),
            scope=scope,
            refresh_token=self._refresh_tokens.current(session),
            refresh_expires_at=session.refresh_expires_at,
            session_id=str(session.id),
        )


def _is_genuine(claims: RefreshClaims, session: Session) -> bool:
    """Tell whether we made this token: if not, a thief of the master key did."""
    return hmac.compare_digest(token_id(session.seed, claims.generation), claims.token_id)


def _require_owner(owner: str, client_id: str) -> None:
    if owner != client_id:
        raise PermissionDenied("the token was issued to another client")


def _granted(grant: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    if not set(wanted) <= set(grant):
        raise InvalidScope("scope exceeds what the account was granted")
    return wanted or grant


def _moment(epoch_seconds: int, like: datetime) -> datetime:
    return datetime.fromtimestamp(epoch_seconds, like.tzinfo)
