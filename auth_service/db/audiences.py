"""Audiences, their grants and their actors: one method for each statement or transaction.

Owns which statements make up one change of an audience. Knows no rules: the caller decides.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

import asyncpg

from auth_service import audit
from auth_service.db import rows
from auth_service.db.audit import write_audit
from auth_service.db.driver_errors import translated
from auth_service.db.executor import Executor
from auth_service.db.statements import statements
from auth_service.errors import AlreadyExists, InvalidArgument, NotFound
from auth_service.models import ActorRule, Audience

if TYPE_CHECKING:
    from auth_service.db.pool import Connection

__all__ = ["MAX_GRANTS", "Account", "AllAudiences", "AudienceStore"]

MAX_GRANTS = 256
"""How many audiences may be granted to one account. Its row is read at each login."""

Account = UUID | str
"""The id of a user, or the client id of a service account."""


class AllAudiences(NamedTuple):
    """All audiences at one moment."""

    version: UUID | None
    """Changes with each change of an audience; None if there never was one."""
    audiences: list[Audience]


class AudienceStore(Executor):
    """The audiences of tokens."""

    async def all_audiences(
        self, unless: UUID | None, connection: "Connection | None" = None
    ) -> AllAudiences | None:
        """Return all audiences; None if their version is `unless`."""
        acquired = self._pool.acquire() if connection is None else nullcontext(connection)
        async with acquired as lent:
            with translated():
                found = await lent.fetch(self._sql["audiences_unless"], unless)
        if not found:
            return None
        audiences = [rows.audience(row) for row in found if row["id"] is not None]
        return AllAudiences(found[0]["version"], audiences)

    async def find_audience(self, name: str) -> Audience | None:
        """Return an audience by name."""
        row = await self._row("find_audience", name)
        return rows.audience(row) if row else None

    async def list_audiences(self, limit: int, after: str | None = None) -> list[Audience]:
        """Return a page of audiences, by name."""
        return [rows.audience(row) for row in await self._rows("list_audiences", limit, after)]

    async def create_audience(self, audience: Audience) -> None:
        """Add an audience without actors. Raises AlreadyExists if its name is taken."""
        try:
            await self._durable_row(
                "create_audience", audience.id, audience.name, audience.scope, audience.open,
                audience.bound, audience.created_at,
                audit.row("audience.created", audience.created_at, audience=audience.name),
            )  # fmt: skip
        except asyncpg.UniqueViolationError as error:
            raise AlreadyExists("an audience with this name exists already") from error

    async def update_audience(
        self,
        name: str,
        now: datetime,
        *,
        scope: Sequence[str] | None = None,
        open_: bool | None = None,
        bound: bool | None = None,
    ) -> None:
        """Replace what is given. Raises NotFound."""
        written = audit.row("audience.updated", now, audience=name)
        if await self._durable_row("update_audience", name, scope, open_, bound, written) is None:
            raise _not_found()

    async def delete_audience(self, name: str, now: datetime) -> None:
        """Delete an audience; its grants mean nothing from then on. Raises NotFound."""
        written = audit.row("audience.deleted", now, audience=name)
        if await self._durable_row("delete_audience", name, written) is None:
            raise _not_found()

    async def grant_audience(self, name: str, account: Account, now: datetime) -> None:
        """Grant an audience to an account, if it is not yet.

        Raises NotFound, and InvalidArgument if the account has MAX_GRANTS others.
        """
        statement = "grant_to_user" if isinstance(account, UUID) else "grant_to_service_account"
        async with self._transaction() as connection:
            audience_id = await _lock(connection, name)
            await _require_account(connection, account)
            if await connection.fetchrow(
                self._sql[statement], account, audience_id, MAX_GRANTS
            ) is None:  # fmt: skip
                raise InvalidArgument(
                    "account", f"has {MAX_GRANTS} audiences already; withdraw one of them"
                )
            await _audit(connection, now, "audience.granted", name, account)

    async def withdraw_audience(self, name: str, account: Account, now: datetime) -> None:
        """Withdraw an audience from an account, if it is granted. Raises NotFound."""
        user = isinstance(account, UUID)
        statement = "withdraw_from_user" if user else "withdraw_from_service_account"
        async with self._transaction() as connection:
            audience_id = await _lock(connection, name)
            await _require_account(connection, account)
            await connection.execute(self._sql[statement], account, audience_id)
            await _audit(connection, now, "audience.withdrawn", name, account)

    async def put_actor(self, name: str, rule: ActorRule, now: datetime) -> None:
        """Set the rule of one actor of an audience. Raises NotFound."""
        async with self._transaction() as connection:
            audience_id = await _lock(connection, name)
            await _require_account(connection, rule.client_id)
            await connection.execute(
                self._sql["put_actor"], audience_id, rule.client_id, rule.subject_roles
            )
            await _audit(connection, now, "audience.actor_set", name, rule.client_id)

    async def delete_actor(self, name: str, client_id: str, now: datetime) -> None:
        """Delete the rule of one actor. Raises NotFound."""
        async with self._transaction() as connection:
            audience_id = await _lock(connection, name)
            if await connection.fetchrow(self._sql["delete_actor"], audience_id, client_id) is None:
                raise NotFound("the audience has no rule for this service account")
            await _audit(connection, now, "audience.actor_removed", name, client_id)


async def _lock(connection: "Connection", name: str) -> UUID:
    """Return the id of an audience, which nobody deletes before the end of the transaction."""
    found: UUID | None = await connection.fetchval(statements()["lock_audience"], name)
    if found is None:
        raise _not_found()
    return found


async def _require_account(connection: "Connection", account: Account) -> None:
    user = isinstance(account, UUID)
    statement = "lock_user" if user else "lock_service_account"
    if await connection.fetchrow(statements()[statement], account) is None:
        raise NotFound("no such user" if user else "no such service account")


async def _audit(
    connection: "Connection", now: datetime, event: str, name: str, account: Account
) -> None:
    if isinstance(account, UUID):
        await write_audit(connection, event, now, audience=name, user_id=account)
    else:
        await write_audit(connection, event, now, audience=name, client_id=account)


def _not_found() -> NotFound:
    return NotFound("no such audience")
