"""Mappings of workloads, public keys of service accounts, and assertions that were used.

One method for each statement or transaction. Knows no rules: the caller decides.
"""

import hashlib
import json
from datetime import datetime

import asyncpg

from auth_service import audit
from auth_service.db import rows
from auth_service.db.audit import write_audit
from auth_service.db.executor import Executor
from auth_service.errors import AlreadyExists, InvalidArgument, NotFound
from auth_service.models import ClientKey, WorkloadMapping

__all__ = ["MAX_CLIENT_KEYS", "WorkloadStore"]

MAX_CLIENT_KEYS = 8
"""Live keys of an account: those of its instances, and those that follow in a rotation."""


class WorkloadStore(Executor):
    """What service accounts log in with that is no secret."""

    async def find_workload_mapping(self, issuer: str, subject: str) -> WorkloadMapping | None:
        """Return the mapping of a workload."""
        row = await self._row("find_workload_mapping", issuer, subject)
        return rows.workload_mapping(row) if row else None

    async def list_workload_mappings(
        self, limit: int, after: tuple[str, str] | None = None
    ) -> list[WorkloadMapping]:
        """Return a page of mappings, by issuer and subject."""
        issuer, subject = after or (None, None)
        found = await self._rows("list_workload_mappings", limit, issuer, subject)
        return [rows.workload_mapping(row) for row in found]

    async def add_workload_mapping(self, mapping: WorkloadMapping) -> None:
        """Add a mapping. Raises AlreadyExists, and NotFound if there is no such account."""
        try:
            await self._durable_row(
                "add_workload_mapping", mapping.issuer, mapping.subject, mapping.client_id,
                json.dumps(dict(mapping.claims)), mapping.created_at,
                _mapped(mapping),
            )  # fmt: skip
        except asyncpg.UniqueViolationError as error:
            raise AlreadyExists(
                "this subject of the issuer is mapped already; delete that mapping first"
            ) from error
        except asyncpg.ForeignKeyViolationError as error:
            raise NotFound("no such service account") from error

    async def delete_workload_mapping(self, issuer: str, subject: str, now: datetime) -> None:
        """Delete a mapping. Raises NotFound."""
        written = audit.row("workload.unmapped", now, issuer=issuer, subject=subject)
        if await self._durable_row("delete_workload_mapping", issuer, subject, written) is None:
            raise NotFound("no such mapping")

    async def find_client_key(self, client_id: str, kid: str) -> ClientKey | None:
        """Return a key of a service account that has not expired."""
        row = await self._row("find_client_key", client_id, kid)
        return rows.client_key(row) if row else None

    async def list_client_keys(self, client_id: str) -> list[ClientKey]:
        """Return the keys of a service account, oldest first; none if there is no such account."""
        return [rows.client_key(row) for row in await self._rows("list_client_keys", client_id)]

    async def add_client_key(self, key: ClientKey) -> None:
        """Add a key, and drop those that have expired by the database's clock.

        Raises NotFound, AlreadyExists, and InvalidArgument if the key has expired already or the
        account has MAX_CLIENT_KEYS.
        """
        async with self._transaction() as connection:
            # Whoever adds a key of the account waits here.
            account = self._sql["lock_service_account"]
            if await connection.fetchrow(account, key.client_id) is None:
                raise NotFound("no such service account")
            await connection.execute(self._sql["prune_client_keys"], key.client_id)
            live = await connection.fetch(self._sql["list_client_keys"], key.client_id)
            if key.kid in [row["kid"] for row in live]:
                raise AlreadyExists("the service account has a key with this kid already")
            if len(live) >= MAX_CLIENT_KEYS:
                raise InvalidArgument(
                    "client_id", f"has {len(live)} keys that are live, the most: delete one first"
                )
            added = await connection.fetchrow(
                self._sql["add_client_key"], key.client_id, key.kid, key.jwk, key.created_at,
                key.expires_at,
            )  # fmt: skip
            if added is None:
                raise InvalidArgument("expires_at", "must be in the future")
            await write_audit(
                connection, "service_account.key_added", key.created_at,
                client_id=key.client_id, kid=key.kid,
            )  # fmt: skip

    async def delete_client_key(self, client_id: str, kid: str, now: datetime) -> None:
        """Delete a key. Raises NotFound."""
        async with self._transaction() as connection:
            if await connection.fetchrow(self._sql["delete_client_key"], client_id, kid) is None:
                raise NotFound("the service account has no such key")
            await write_audit(
                connection, "service_account.key_deleted", now, client_id=client_id, kid=kid
            )

    async def use_assertion(self, client_id: str, token_id: str, expires_at: datetime) -> bool:
        """Note that an assertion was used; return False if it was before, at any replica."""
        hashed = hashlib.sha256(token_id.encode()).digest()
        return await self._durable_row("use_assertion", client_id, hashed, expires_at) is not None


def _mapped(mapping: WorkloadMapping) -> str:
    if mapping.created_at is None:
        raise ValueError("a mapping of the configuration is not stored")
    return audit.row(
        "workload.mapped",
        mapping.created_at,
        client_id=mapping.client_id,
        issuer=mapping.issuer,
        subject=mapping.subject,
    )
