"""Users: one method for each statement or transaction.

Owns which statements make up one change of an account. Knows no rules: the caller decides.
"""

from dataclasses import replace
from datetime import datetime
from uuid import UUID

import asyncpg

from auth_service import audit
from auth_service.db import rows
from auth_service.db.audit import write_audit
from auth_service.db.confusables import skeleton
from auth_service.db.executor import Executor
from auth_service.db.revocations import record_revocation
from auth_service.db.sessions import end_all_sessions, require_user
from auth_service.errors import AlreadyExists, InvalidCredentials, NotFound
from auth_service.models import Revocation, RevocationKind, User

__all__ = ["UserStore"]

_REQUIRE_CHANGE = "set_password_change_required"


class UserStore(Executor):
    """The accounts of users."""

    async def create_user(
        self, user: User, request_id: str | None = None, request_hash: bytes | None = None
    ) -> None:
        """Add a user. Raises AlreadyExists if an identifier or the request id is taken."""
        try:
            await self._execute(
                "create_user", user.id, user.password_hash, user.roles, user.scope, user.disabled,
                user.created_at, user.identifiers,
                audit.row("user.created", user.created_at, user_id=user.id),
                user.password_change_required, request_id, request_hash,
                [skeleton(each) for each in user.identifiers],
            )  # fmt: skip
        except asyncpg.UniqueViolationError as error:
            raise AlreadyExists(
                "a user with one of these identifiers, or one that looks the same, exists already"
            ) from error

    async def find_requested_user(self, request_id: str) -> tuple[User, bytes] | None:
        """Return the user that a request made, and the hash of what it asked for."""
        row = await self._row("find_requested_user", request_id)
        return (rows.user(row), row["request_hash"]) if row else None

    async def get_user(self, user_id: UUID) -> User | None:
        """Return a user by id."""
        row = await self._row("get_user", user_id)
        return rows.user(row) if row else None

    async def find_user(self, identifier: str) -> User | None:
        """Return a user by a normalised identifier."""
        row = await self._row("find_user", identifier)
        return rows.user(row) if row else None

    async def set_password_hash(
        self, user_id: UUID, password_hash: str, *, only_if: str | None = None
    ) -> None:
        """Store a password hash, with `only_if` only in place of that one. Raises NotFound."""
        changed = await self._row("set_password_hash", user_id, password_hash, only_if)
        if changed is None and only_if is None:
            raise NotFound("no such user")

    async def set_user_disabled(
        self, user_id: UUID, disabled: bool, revocation: Revocation | None, now: datetime
    ) -> Revocation | None:
        """Disable a user and end all sessions, or enable the user (without a revocation).

        Returns the revocation as it was recorded. Raises NotFound.
        """
        event = "user.disabled" if disabled else "user.enabled"
        async with self._transaction() as connection:
            await require_user(connection, "set_user_disabled", user_id, disabled)
            if revocation is not None:
                of_disabled = replace(revocation, disables=disabled)
                revocation = await end_all_sessions(connection, user_id, of_disabled, now)
            else:
                await connection.execute(self._sql["note_enabled"], str(user_id))
            await write_audit(connection, event, now, user_id=user_id)
        return revocation

    async def change_password(
        self,
        user_id: UUID,
        password_hash: str,
        revocation: Revocation,
        now: datetime,
        *,
        only_if: str | None = None,
        change_required: bool = False,
    ) -> Revocation:
        """Store a new password, end all sessions, and return the revocation as recorded.

        Raises NotFound if there is no such user, or another password than `only_if`.
        """
        async with self._transaction() as connection:
            await require_user(connection, "set_password_hash", user_id, password_hash, only_if)
            await require_user(connection, _REQUIRE_CHANGE, user_id, change_required)
            recorded = await end_all_sessions(connection, user_id, revocation, now)
            await write_audit(connection, "user.password_changed", now, user_id=user_id)
        return recorded

    async def change_own_password(
        self,
        user: User,
        session_id: UUID,
        password_hash: str,
        revocation: Revocation,
        now: datetime,
    ) -> list[Revocation]:
        """Store a new password and end all sessions except one, whose tokens stay valid.

        Therefore `revocation`, of the user, is recorded for each of the other sessions instead.
        Returns these revocations. Raises InvalidCredentials if the password of `user` was changed
        in the meantime.
        """
        async with self._transaction() as connection:
            changed = await connection.fetchrow(
                self._sql["set_password_hash"], user.id, password_hash, user.password_hash
            )
            if changed is None:
                raise InvalidCredentials
            ended = await connection.fetch(self._sql["end_user_sessions"], user.id, now, session_id)
            await connection.execute(self._sql[_REQUIRE_CHANGE], user.id, False)
            # Stops a login that proved the old password and is about to begin a session.
            await connection.execute(self._sql["bar_user"], user.id, revocation.issued_before, now)
            life = revocation.expires_at - now  # at least that of a token
            recorded = [
                Revocation(RevocationKind.SESSION, str(row["id"]), revocation.expires_at)
                for row in ended
                if row["refreshed_at"] + life > now
            ]
            for each in recorded:
                await record_revocation(connection, each, now)
            await write_audit(
                connection, "user.password_changed", now, user_id=user.id, session_id=session_id
            )
        return recorded
