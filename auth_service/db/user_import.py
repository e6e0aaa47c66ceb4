"""Many users at once: who has an identifier or an id already, and new rows for those who have not.

Knows no rules: the caller decides which users are new.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import asyncpg

from auth_service.db.audit import write_audit
from auth_service.db.confusables import skeleton
from auth_service.db.executor import Executor
from auth_service.errors import AlreadyExists
from auth_service.models import User

__all__ = ["UserImportStore"]

_SEPARATOR = "\n"  # printable names have none


class UserImportStore(Executor):
    """The users that are imported."""

    async def find_owners(self, identifiers: Sequence[str]) -> dict[str, UUID]:
        """Return the ids of the users who have these identifiers, by identifier."""
        found = await self._rows("find_owners", identifiers)
        return {row["identifier"]: row["user_id"] for row in found}

    async def find_looks(self, identifiers: Sequence[str]) -> dict[str, str]:
        """Return which identifiers are taken that look like these, by what they look like."""
        looks = [skeleton(each) or each for each in identifiers]
        return {row["looks"]: row["identifier"] for row in await self._rows("find_looks", looks)}

    async def find_user_ids(self, user_ids: Sequence[UUID]) -> set[UUID]:
        """Return those of the ids that users have."""
        if not user_ids:
            return set()
        return {row["id"] for row in await self._rows("find_user_ids", user_ids)}

    async def import_users(self, users: Sequence[User], now: datetime) -> None:
        """Add users and one row of the audit log. Raises AlreadyExists, and then adds none."""
        names = [
            (identifier, user.id, position, skeleton(identifier))
            for user in users
            for position, identifier in enumerate(user.identifiers, 1)
        ]
        try:
            async with self._transaction() as connection:
                await connection.execute(
                    self._sql["import_users"],
                    [user.id for user in users],
                    [user.password_hash for user in users],
                    [_SEPARATOR.join(user.roles) for user in users],
                    [_SEPARATOR.join(user.scope) for user in users],
                    [user.disabled for user in users],
                    [user.created_at for user in users],
                    *([name[column] for name in names] for column in range(4)),
                )
                details = {"created": str(len(users))}
                await write_audit(connection, "users.imported", now, details=details)
        except asyncpg.UniqueViolationError as error:
            raise AlreadyExists("one of these users exists already") from error
