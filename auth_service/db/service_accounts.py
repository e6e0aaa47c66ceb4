"""Service accounts and their secrets: one method for each statement or transaction.

Owns which statements make up one change of an account. Knows no rules: the caller decides.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from auth_service import audit
from auth_service.db import rows
from auth_service.db.audit import write_audit
from auth_service.db.executor import Executor
from auth_service.db.revocations import record_revocation
from auth_service.db.statements import statements
from auth_service.errors import AlreadyExists, InvalidArgument, NotFound, TooManySecrets
from auth_service.models import ClientSecret, Revocation, ServiceAccount

if TYPE_CHECKING:
    from auth_service.db.pool import Connection

__all__ = ["MAX_SECRETS", "ServiceAccountStore", "end_service_tokens"]

MAX_SECRETS = 2
"""How many secrets of an account may be live at once: the present one, and the one that follows."""


class ServiceAccountStore(Executor):
    """The accounts of services."""

    async def create_service_account(self, account: ServiceAccount) -> None:
        """Add an account with its first secret, if any. Raises AlreadyExists if its id is taken."""
        secret = account.secrets[0] if account.secrets else None
        try:
            await self._durable_row(
                "create_service_account", account.client_id, account.roles, account.scope,
                account.disabled, account.created_at,
                secret.secret_hash if secret else "", secret.id if secret else None, account.bound,
                audit.row(
                    "service_account.created", account.created_at, client_id=account.client_id
                ),
            )  # fmt: skip
        except asyncpg.UniqueViolationError as error:
            raise AlreadyExists("a service account with this id exists already") from error

    async def find_service_account(self, client_id: str) -> ServiceAccount | None:
        """Return a service account by id."""
        row = await self._row("find_service_account", client_id)
        return rows.service_account(row) if row else None

    async def list_service_accounts(
        self, limit: int, after: str | None = None
    ) -> list[ServiceAccount]:
        """Return a page of service accounts, by id."""
        found = await self._rows("list_service_accounts", limit, after)
        return [rows.service_account(row) for row in found]

    async def update_service_account(
        self,
        client_id: str,
        roles: tuple[str, ...] | None,
        scope: tuple[str, ...] | None,
        bound: bool | None,
        now: datetime,
    ) -> None:
        """Replace what is given. Raises NotFound."""
        written = audit.row("service_account.updated", now, client_id=client_id)
        if await self._durable_row(
            "update_service_account", client_id, roles, scope, bound, written
        ) is None:  # fmt: skip
            raise _not_found()

    async def enable_service_account(self, client_id: str, now: datetime) -> None:
        """Let an account log in again. Raises NotFound."""
        async with self._transaction() as connection:
            await _require(connection, "enable_service_account", client_id)
            await connection.execute(self._sql["note_enabled"], client_id)
            await write_audit(connection, "service_account.enabled", now, client_id=client_id)

    async def disable_service_account(self, revocation: Revocation, now: datetime) -> Revocation:
        """Disable the account that a revocation names, and end its tokens.

        Returns the revocation as it was recorded. Raises NotFound.
        """
        async with self._transaction() as connection:
            of_disabled = replace(revocation, disables=True)
            recorded = await end_service_tokens(connection, of_disabled, now)
            await write_audit(
                connection, "service_account.disabled", now, client_id=revocation.target
            )
        return recorded

    async def delete_service_account(self, revocation: Revocation, now: datetime) -> Revocation:
        """Delete the account that a revocation names, and end its tokens; else as disable."""
        async with self._transaction() as connection:
            # If a failover loses the deletion, the account is disabled when this is written again.
            of_disabled = replace(revocation, disables=True)
            recorded = await end_service_tokens(connection, of_disabled, now)
            await connection.execute(self._sql["delete_service_account"], revocation.target)
            await write_audit(
                connection, "service_account.deleted", now, client_id=revocation.target
            )
        return recorded

    async def revoke_service_tokens(self, revocation: Revocation, now: datetime) -> Revocation:
        """End the tokens of the account that a revocation names; else as disable."""
        async with self._transaction() as connection:
            recorded = await end_service_tokens(connection, revocation, now)
            await write_audit(
                connection, "service_account.tokens_revoked", now, client_id=revocation.target
            )
        return recorded

    async def add_secret(self, client_id: str, secret: ClientSecret) -> None:
        """Add a secret, and drop those that have expired by the database's clock.

        Raises NotFound, TooManySecrets, and InvalidArgument if the secret has expired already.
        """
        async with self._transaction() as connection:
            # Whoever adds or deletes a secret of the account waits here.
            await _require(connection, "lock_service_account", client_id)
            live = await connection.fetch(self._sql["live_secrets"], client_id)
            if len(live) >= MAX_SECRETS:
                ids = " and ".join(str(row["id"]) for row in live)
                raise TooManySecrets(
                    f"the service account has {len(live)} secrets that are live, {ids}: delete the "
                    "one that is no longer used, then create the next"
                )
            added = await connection.fetchrow(
                self._sql["add_secret"], client_id, secret.id, secret.secret_hash,
                secret.created_at, secret.expires_at,
            )  # fmt: skip
            if added is None:
                raise InvalidArgument("expires_at", "must be in the future")
            await connection.execute(self._sql["mirror_secret"], client_id)
            await write_audit(
                connection, "service_account.secret_created", secret.created_at,
                client_id=client_id, secret_id=secret.id,
            )  # fmt: skip

    async def delete_secret(self, client_id: str, secret_id: UUID, now: datetime) -> None:
        """Delete a secret. Raises NotFound if there is no such account or secret."""
        async with self._transaction() as connection:
            await _require(connection, "lock_service_account", client_id)
            if await connection.fetchrow(self._sql["delete_secret"], client_id, secret_id) is None:
                raise NotFound("the service account has no such secret")
            await connection.execute(self._sql["mirror_secret"], client_id)
            await write_audit(
                connection, "service_account.secret_deleted", now,
                client_id=client_id, secret_id=secret_id,
            )  # fmt: skip

    async def note_secret_use(
        self, client_id: str, secret_id: UUID, now: datetime, precision: timedelta
    ) -> None:
        """Note that a secret was used, unless that was noted within `precision` before `now`."""
        await self._execute("note_secret_use", client_id, secret_id, now, now - precision)


async def end_service_tokens(
    connection: "Connection", revocation: Revocation, now: datetime
) -> Revocation:
    """End the tokens of an account in a transaction, and disable it if the revocation does.

    Returns the revocation as it was recorded. Raises NotFound.
    """
    barred = await connection.fetchval(
        statements()["bar_service_account"], revocation.target, revocation.issued_before, now,
        revocation.disables,
    )  # fmt: skip
    if barred is None:
        raise _not_found()
    recorded = replace(revocation, issued_before=barred)
    await record_revocation(connection, recorded, now)
    return recorded


async def _require(connection: "Connection", name: str, client_id: str) -> None:
    if await connection.fetchrow(statements()[name], client_id) is None:
        raise _not_found()


def _not_found() -> NotFound:
    return NotFound("no such service account")
