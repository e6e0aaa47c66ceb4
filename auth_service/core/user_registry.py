"""What an administrator does with the accounts of users, but for passwords and factors.

Owns what a change does to the sessions and to the access tokens that were issued before.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from auth_service.clock import Clock
from auth_service.core import fields
from auth_service.core.identifiers import new_identifier
from auth_service.core.revocation import Announce, Revocations
from auth_service.core.session_policy import SessionPolicy
from auth_service.db.store import Store
from auth_service.db.user_registry import UserFilter
from auth_service.errors import InvalidArgument, NotFound
from auth_service.models import Session, User

__all__ = ["UserRegistry"]


class UserRegistry:
    """Lists and changes users. Every method that names one raises NotFound.

    `announce` is called with each revocation once it is committed.
    """

    def __init__(
        self,
        store: Store,
        revocations: Revocations,
        policy: SessionPolicy,
        announce: Announce,
        clock: Clock,
    ) -> None:
        self._store = store
        self._revocations = revocations
        self._policy = policy
        self._announce = announce
        self._clock = clock

    async def list(
        self,
        limit: int = 100,
        after: UUID | None = None,
        *,
        identifier_prefix: str = "",
        role: str = "",
        disabled: bool | None = None,
    ) -> list[User]:
        """Return at most `limit` users in the order of their ids, those after `after`.

        Only those to whom all that is given applies; the role is compared as it is.
        """
        prefix = (
            fields.identifier(identifier_prefix, "identifier_prefix") if identifier_prefix else ""
        )
        only = UserFilter(prefix, fields.label(role, "role") or None, disabled)
        return await self._store.list_users(limit, after, only)

    async def update(
        self,
        user_id: UUID,
        *,
        roles: Sequence[str] | None = None,
        scope: Sequence[str] | None = None,
        end_tokens: bool = True,
    ) -> User:
        """Replace the roles or the scopes; what is None stays. Return the user.

        With `end_tokens` the access tokens that were issued before end through the feed, and the
        sessions go on: they refresh to the new roles. Without it the tokens keep what they have
        until they expire. In both cases the sessions lose the scopes that the user loses, and gain
        none (RFC 6749 section 6).
        """
        now = self._clock()
        recorded = await self._store.update_user(
            user_id,
            None if roles is None else fields.labels(roles, "roles"),
            None if scope is None else fields.scope(scope),
            self._policy.user_revocation(str(user_id), now),
            now,
            end_tokens=end_tokens,
        )
        if recorded is not None:
            self._announce(recorded)
        return await self._get(user_id)

    async def add_identifier(self, user_id: UUID, identifier: str) -> User:
        """Let a user log in with a further identifier. Raises AlreadyExists if it is taken."""
        normal = new_identifier(identifier)
        await self._store.add_identifier(user_id, normal, fields.MAX_ITEMS, self._clock())
        return await self._get(user_id)

    async def remove_identifier(self, user_id: UUID, identifier: str) -> User:
        """Take an identifier away. Raises LastIdentifier if the user has no other one."""
        normal = fields.identifier(identifier)
        await self._store.remove_identifier(user_id, normal, self._clock())
        return await self._get(user_id)

    async def require_password_change(self, user_id: UUID, required: bool = True) -> None:
        """Make the next login replace the password, or take that back; sessions go on."""
        await self._store.set_password_change_required(user_id, required, self._clock())

    async def delete(self, user_id: UUID) -> None:
        """Delete a user, and end all sessions and tokens."""
        now = self._clock()
        revocation = self._policy.user_revocation(str(user_id), now)
        self._announce(await self._store.delete_user(user_id, revocation, now))

    async def sessions(
        self, user_id: UUID, limit: int = 100, after: UUID | None = None
    ) -> Sequence[Session]:
        """Return at most `limit` live sessions in the order of their ids, those after `after`."""
        await self._get(user_id)
        return await self._store.list_user_sessions(user_id, self._clock(), limit, after)

    async def end_session(self, user_id: UUID, session_id: UUID) -> None:
        """End a session of the user; one that has ended before stays as it is."""
        session = await self._store.find_session(session_id)
        if session is None or session.user_id != user_id:
            raise NotFound("the user has no such session")
        await self._revocations.end_session(user_id, session_id, "session.revoked")

    async def end_sessions(self, user_id: UUID, begun_before: datetime | None = None) -> None:
        """End the sessions of a user, with a moment only those that were begun before it."""
        if begun_before is None:
            await self._revocations.end_sessions(user_id)
            return
        now = self._clock()
        if begun_before > now:
            raise InvalidArgument("begun_before", "must not be in the future")
        expires_at = self._policy.revocation_expiry(now)
        for recorded in await self._store.end_sessions_begun_before(
            user_id, begun_before, now, expires_at
        ):
            self._announce(recorded)

    async def _get(self, user_id: UUID) -> User:
        if (found := await self._store.get_user(user_id)) is None:
            raise NotFound("no such user")
        return found
