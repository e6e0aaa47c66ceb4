"""Changes of users by an administrator: one method for each statement or transaction.

Owns which statements make up one change of an account. Knows no rules: the caller decides.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from auth_service.db import rows
from auth_service.db.audit import write_audit
from auth_service.db.confusables import skeleton
from auth_service.db.executor import Executor
from auth_service.db.revocations import record_revocation
from auth_service.db.sessions import end_all_sessions, require_user
from auth_service.errors import AlreadyExists, InvalidArgument, LastIdentifier, NotFound
from auth_service.models import Revocation, RevocationKind, Session, User

__all__ = ["UserFilter", "UserRegistryStore"]

_BEYOND = "\U0010ffff"
"""Follows every character of an identifier in the order of the database, which is that of bytes."""


class UserFilter(NamedTuple):
    """Which users are listed: those to whom all that is given applies."""

    identifier_prefix: str = ""
    """Normalised."""
    role: str | None = None
    disabled: bool | None = None


class UserRegistryStore(Executor):
    """The accounts of users, as an administrator sees them."""

    async def list_users(
        self, limit: int, after: UUID | None = None, only: UserFilter | None = None
    ) -> list[User]:
        """Return a page of users, by id."""
        prefix, role, disabled = only or UserFilter()
        arguments: Sequence[object] = (limit, after, role, disabled)
        if prefix:
            found = await self._rows("list_users_named", *arguments, prefix, prefix + _BEYOND)
        else:
            found = await self._rows("list_users", *arguments)
        return [rows.user(row) for row in found]

    async def update_user(
        self,
        user_id: UUID,
        roles: tuple[str, ...] | None,
        scope: tuple[str, ...] | None,
        revocation: Revocation,
        now: datetime,
        *,
        end_tokens: bool,
    ) -> Revocation | None:
        """Replace what is given, and take from the sessions the scopes that the user has no more.

        With `end_tokens` the revocation is recorded, and returned as it was: the tokens of the
        sessions end, and the sessions go on. A login that is in progress is refused, since it has
        read the user as it was. Raises NotFound.
        """
        recorded = None
        async with self._transaction() as connection:
            await require_user(connection, "lock_user", user_id)
            await connection.execute(self._sql["update_user"], user_id, roles, scope)
            await connection.execute(self._sql["lock_user_sessions"], user_id)
            barred = await connection.fetchval(
                self._sql["bar_user_tokens"], user_id, revocation.issued_before
            )
            before = barred if end_tokens else None
            await connection.execute(self._sql["narrow_sessions"], user_id, before)
            if end_tokens:
                recorded = replace(revocation, issued_before=barred)
                await record_revocation(connection, recorded, now)
            details = {
                name: " ".join(given)
                for name, given in (("roles", roles), ("scope", scope))
                if given is not None
            }
            await write_audit(connection, "user.updated", now, user_id=user_id, details=details)
        return recorded

    async def delete_user(self, user_id: UUID, revocation: Revocation, now: datetime) -> Revocation:
        """Delete a user with all that is the user's; return the revocation as recorded.

        The audit log and the revocation keep the id. Raises NotFound.
        """
        async with self._transaction() as connection:
            # If a failover loses the deletion, the user is disabled when this is written again.
            of_disabled = replace(revocation, disables=True)
            recorded = await end_all_sessions(connection, user_id, of_disabled, now)
            await connection.execute(self._sql["delete_user"], user_id)
            await write_audit(connection, "user.deleted", now, user_id=user_id)
        return recorded

    async def add_identifier(
        self, user_id: UUID, identifier: str, most: int, now: datetime
    ) -> None:
        """Add an identifier. Raises NotFound, AlreadyExists, InvalidArgument beyond `most`."""
        async with self._transaction() as connection:
            await require_user(connection, "lock_user", user_id)
            try:
                added = await connection.fetchrow(
                    self._sql["add_identifier"], user_id, identifier, most, skeleton(identifier)
                )
            except asyncpg.UniqueViolationError as error:
                raise AlreadyExists(
                    "a user with this identifier, or with one that looks the same, exists already"
                ) from error
            if added is None:
                raise InvalidArgument("identifier", f"is one too many: a user has at most {most}")
            await write_audit(connection, "user.identifier_added", now, user_id=user_id)

    async def remove_identifier(self, user_id: UUID, identifier: str, now: datetime) -> None:
        """Remove an identifier. Raises NotFound, LastIdentifier."""
        async with self._transaction() as connection:
            await require_user(connection, "lock_user", user_id)
            removed = self._sql["remove_identifier"]
            if await connection.fetchrow(removed, user_id, identifier) is None:
                raise NotFound("the user has no such identifier")
            if not await connection.fetchval(self._sql["count_identifiers"], user_id):
                raise LastIdentifier
            await write_audit(connection, "user.identifier_removed", now, user_id=user_id)

    async def set_password_change_required(
        self, user_id: UUID, required: bool, now: datetime
    ) -> None:
        """Note whether the next login has to replace the password. Raises NotFound."""
        event = "user.password_change_required" if required else "user.password_change_waived"
        async with self._transaction() as connection:
            await require_user(connection, "set_password_change_required", user_id, required)
            await write_audit(connection, event, now, user_id=user_id)

    async def list_user_sessions(
        self, user_id: UUID, now: datetime, limit: int, after: UUID | None = None
    ) -> list[Session]:
        """Return a page of the live sessions of a user, by id."""
        found = await self._rows("list_user_sessions", user_id, now, limit, after)
        return [rows.session(row) for row in found]

    async def end_sessions_begun_before(
        self, user_id: UUID, before: datetime, now: datetime, expires_at: datetime
    ) -> list[Revocation]:
        """End the sessions that were begun before a moment; return their revocations.

        Raises NotFound.
        """
        async with self._transaction() as connection:
            await require_user(connection, "bar_logins_before", user_id, before)
            ended = await connection.fetch(
                self._sql["end_sessions_begun_before"], user_id, before, now
            )
            recorded = [
                Revocation(RevocationKind.SESSION, str(row["id"]), expires_at) for row in ended
            ]
            for each in recorded:
                await record_revocation(connection, each, now)
            details = {"begun_before": before.isoformat()}
            await write_audit(
                connection, "user.sessions_revoked", now, user_id=user_id, details=details
            )
        return recorded
