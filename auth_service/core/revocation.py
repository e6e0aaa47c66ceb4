"""Ends sessions and access tokens: by token (RFC 7009), by session, or all of a user.

Owns who may end what, and that each revocation is announced in this process once it is committed.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

from auth_service import audit
from auth_service.audit import Actor, ActorKind
from auth_service.clock import Clock
from auth_service.core import fields
from auth_service.core.auditing import identify_caller, subject_of
from auth_service.core.session_policy import SessionPolicy
from auth_service.core.token_issuer import TokenIssuer
from auth_service.db.store import Store
from auth_service.errors import InvalidGrant, InvalidToken, NotFound, PermissionDenied
from auth_service.models import Revocation, RevocationKind, Session
from auth_service.tokens.access import AccessClaims, TokenVerifier
from auth_service.tokens.refresh import is_genuine

__all__ = ["ADMIN_ROLE", "Announce", "Revocations", "Revoker"]

Announce = Callable[[Revocation], object]

ADMIN_ROLE = "admin"


class Revocations:
    """Records revocations, and announces them once they are committed."""

    def __init__(
        self, store: Store, policy: SessionPolicy, announce: Announce, clock: Clock
    ) -> None:
        self._store = store
        self._policy = policy
        self._announce = announce
        self._clock = clock

    async def end_session(
        self, user_id: UUID, session_id: UUID, event: str, outcome: str = audit.OK
    ) -> None:
        """End a session and audit the event; one that has ended before stays as it is."""
        now = self._clock()
        revocation = self._policy.session_revocation(session_id, now)
        await self._store.end_session(user_id, session_id, revocation, now, event, outcome)
        self._announce(revocation)

    async def end_sessions(self, user_id: UUID) -> None:
        """End every session of a user. Raises NotFound."""
        now = self._clock()
        revocation = self._policy.user_revocation(str(user_id), now)
        self._announce(await self._store.end_user_sessions(user_id, revocation, now))

    async def end_service_tokens(self, client_id: str) -> None:
        """End every access token of a service account, which has no session. Raises NotFound."""
        await self.end_service(client_id, self._store.revoke_service_tokens)

    async def end_service(
        self,
        client_id: str,
        record: Callable[[Revocation, datetime], Awaitable[Revocation]],
    ) -> None:
        """End every access token of a service account by `record`, a method of the store.

        A login that read the account just before the commit has no row that the commit waits for,
        as a session is. Its token is dated before it reads. If the commit took so long that such a
        token is dated beyond the bound, the bound is moved past the commit.
        """
        now = self._clock()
        revocation = await record(self._policy.user_revocation(client_id, now), now)
        committed = self._clock()
        if revocation.issued_before is not None and committed >= revocation.issued_before:
            later = self._policy.user_revocation(client_id, committed)
            revocation = replace(later, disables=revocation.disables)
            await self._store.add_revocation(revocation, committed)
        self._announce(revocation)

    async def end_access_token(self, claims: AccessClaims) -> None:
        """End one access token, unless it has expired."""
        now = self._clock()
        expires_at = datetime.fromtimestamp(claims.expires_at, UTC)
        if expires_at > now:
            revocation = Revocation(RevocationKind.TOKEN, claims.token_id, expires_at)
            await self._store.revoke_token(revocation, now, **subject_of(claims))
            self._announce(revocation)


class Revoker:
    """Ends what a caller names, if the caller may end it."""

    def __init__(
        self,
        store: Store,
        revocations: Revocations,
        tokens: TokenIssuer,
        verifier: TokenVerifier,
    ) -> None:
        self._store = store
        self._revocations = revocations
        self._tokens = tokens
        self._verifier = verifier

    async def revoke_refresh_token(self, refresh_token: str) -> None:
        """End the session of a refresh token.

        Does nothing if the token is invalid (RFC 7009 section 2.2).
        """
        if (session := await self._session_of(refresh_token)) is not None:
            audit.identify(Actor(ActorKind.USER, str(session.user_id), "refresh_token"))
            await self._revocations.end_session(session.user_id, session.id, "session.revoked")

    async def revoke_access_token(self, access_token: str) -> None:
        """End one access token. Does nothing if it is invalid (RFC 7009 section 2.2)."""
        try:
            claims = self._verifier.authenticate(access_token)
        except InvalidToken:
            return
        identify_caller(claims)
        await self._revocations.end_access_token(claims)

    async def revoke_token(self, token: str, client_id: str) -> None:
        """End a token of either kind that was issued to this client.

        Does nothing if the token is invalid. Raises PermissionDenied if it was issued to another
        client (RFC 7009 section 2.1).
        """
        if (session := await self._session_of(token)) is not None:
            _require_owner(session.client_id, client_id)
            await self._revocations.end_session(session.user_id, session.id, "session.revoked")
            return
        try:
            access = self._verifier.authenticate(token)
        except InvalidToken:
            return
        _require_owner(access.client_id, client_id)
        await self._revocations.end_access_token(access)

    async def _session_of(self, refresh_token: str) -> Session | None:
        """Return the session that made a refresh token; None if none did."""
        try:
            claims = self._tokens.read_refresh_token(refresh_token)
        except InvalidGrant:
            return None
        found = await self._store.get_session(claims.user_id, claims.session_id)
        if found is None or not is_genuine(claims, found.session):
            return None
        return found.session

    async def revoke_session(self, session_id: str, caller: AccessClaims) -> None:
        """End a session of the caller; an admin may end anybody's. Raises NotFound."""
        session = await self._store.find_session(fields.uuid(session_id, "session_id"))
        may = session is not None and (
            str(session.user_id) == caller.subject or ADMIN_ROLE in caller.roles
        )
        if session is None or not may:
            raise NotFound("no such session among yours")
        await self._revocations.end_session(session.user_id, session.id, "session.revoked")

    async def revoke_all(self, user_id: str, caller: AccessClaims) -> None:
        """End every session of the caller, or of the user that an admin names.

        Raises PermissionDenied, and NotFound to an admin for an unknown user.
        """
        subject = user_id or caller.subject
        if subject != caller.subject and ADMIN_ROLE not in caller.roles:
            raise PermissionDenied("the sessions of another user need the admin role")
        if not user_id and not caller.session_id:
            await self._revocations.end_service_tokens(subject)
        else:
            await self._revocations.end_sessions(fields.uuid(subject, "all_sessions.user_id"))


def _require_owner(owner: str, client_id: str) -> None:
    if owner != client_id:
        raise PermissionDenied("the token was issued to another client")
