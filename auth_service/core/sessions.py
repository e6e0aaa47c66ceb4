"""Sessions: begun by a login, continued by a refresh. Knows nothing of the wire or of SQL."""

import hmac
import secrets
from collections.abc import Sequence
from datetime import datetime
from uuid import uuid4

from auth_service.clock import Clock
from auth_service.core import fields
from auth_service.core.credentials import Credentials
from auth_service.core.revocation import Revocations
from auth_service.core.session_policy import SessionPolicy
from auth_service.core.shielded import Shielded
from auth_service.core.token_issuer import TokenIssuer
from auth_service.db.store import Store
from auth_service.errors import InvalidArgument, InvalidGrant, InvalidScope
from auth_service.models import Session, TokenPair, User
from auth_service.tokens.refresh import RefreshClaims, token_id

__all__ = ["Sessions"]

_SEED_BYTES = 32
_MAX_REFRESH_ROUNDS = 4


class Sessions:
    """Trades credentials and refresh tokens for tokens."""

    def __init__(
        self,
        store: Store,
        credentials: Credentials,
        tokens: TokenIssuer,
        revocations: Revocations,
        policy: SessionPolicy,
        shielded: Shielded,
        clock: Clock,
    ) -> None:
        self._store = store
        self._credentials = credentials
        self._tokens = tokens
        self._revocations = revocations
        self._policy = policy
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

        user = await self._credentials.check_password(identifier, password)
        await self._credentials.renew_hash(user, password)
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
        return self._tokens.for_session(stored, user.roles, stored.scope)

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
        account = await self._credentials.authenticate_client(client_id, client_secret)
        granted = _granted(account.scope, scope)
        return self._tokens.for_service(account, tuple(audience), granted, self._clock())

    def _issue_time(self, user: User) -> datetime:
        """Return now, or a later moment that no earlier sign-out everywhere covers."""
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

        A rotation that has begun completes even if the caller is cancelled.

        With `coalesce`, a token that succeeded another within the grace is its own successor. Then
        no page of the many that share a session is ever two steps behind.

        Raises InvalidGrant for an invalid token, and for one that was issued to another client than
        `client_id` (RFC 6749 section 6). A token that was used before also ends its session (RFC
        9700 section 4.14.2). Raises InvalidScope, with nothing changed, for a scope beyond the
        session's.
        """
        wanted = fields.scope(scope)
        claims = self._tokens.read_refresh_token(refresh_token)
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
        return self._tokens.for_session(session, roles, wanted or session.scope)

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
                await self._end(session, "session.forgery_detected")
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
                await self._end(session, "session.reuse_detected")
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

    async def _end(self, session: Session, event: str) -> None:
        await self._revocations.end_session(session.user_id, session.id, event)

    async def _client_of(self, claims: RefreshClaims) -> str | None:
        found = await self._store.get_session(claims.user_id, claims.session_id)
        return found[0].client_id if found else None


def _is_genuine(claims: RefreshClaims, session: Session) -> bool:
    """Tell whether this service issued the token; otherwise the master key was stolen."""
    expected = token_id(session.seed, claims.generation)
    return hmac.compare_digest(expected.encode(), claims.token_id.encode())


def _granted(grant: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    if not set(wanted) <= set(grant):
        raise InvalidScope("scope exceeds what the account was granted")
    return wanted or grant
