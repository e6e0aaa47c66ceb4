"""What the service keeps in PostgreSQL, over one pool: accounts, audiences, sessions, revocations.

Owns the upkeep that spans them. The statements of each stand in a module of its own.
"""

import asyncio
from datetime import datetime

from auth_service.clock import steady_seconds
from auth_service.db.audiences import AudienceStore
from auth_service.db.audit import AuditStore, write_audit
from auth_service.db.audit_reader import AuditReader
from auth_service.db.factors import FactorStore
from auth_service.db.login_attempts import LoginAttemptStore
from auth_service.db.migration import MigrationStore
from auth_service.db.revocations import RevocationStore
from auth_service.db.service_accounts import ServiceAccountStore
from auth_service.db.sessions import SessionStore
from auth_service.db.user_import import UserImportStore
from auth_service.db.user_registry import UserRegistryStore
from auth_service.db.users import UserStore
from auth_service.db.workloads import WorkloadStore
from auth_service.errors import Unavailable

__all__ = ["Store"]

PRUNE_BATCH = 500
PRUNE_REST = 3.0
"""How long the clean-up rests after each batch, in times of what the batch took."""
_PRUNES = (
    "prune_revocations", "prune_sessions", "prune_login_buckets", "prune_login_throttle",
    "prune_assertion_ids", "prune_factor_attempts", "prune_migrated_sessions",
)  # fmt: skip


class Store(
    UserStore,
    UserImportStore,
    UserRegistryStore,
    FactorStore,
    LoginAttemptStore,
    ServiceAccountStore,
    AudienceStore,
    WorkloadStore,
    SessionStore,
    MigrationStore,
    RevocationStore,
    AuditStore,
    AuditReader,
):
    """The database of the service."""

    async def prune(self, now: datetime) -> int:
        """Delete what no longer matters, and return the number of rows."""
        return sum([await self._prune(name, now) for name in _PRUNES])

    async def _prune(self, name: str, before: datetime) -> int:
        """Delete by a statement that deletes a batch, and return the number of rows.

        The statements are short and rest in between, so that a large backlog slows no call down.
        """
        pruned, count = 0, PRUNE_BATCH
        while count == PRUNE_BATCH:
            began = steady_seconds()
            row = await self._row(name, before, PRUNE_BATCH)
            count = row["count"] if row else 0
            pruned += count
            if count == PRUNE_BATCH:
                await asyncio.sleep(PRUNE_REST * (steady_seconds() - began))
        return pruned

    async def extend_audit_log(self, now: datetime) -> None:
        """Make the partitions of the audit log for this month and the next, if missing."""
        await self._execute("extend_audit_log", now)

    async def prune_audit(self, before: datetime, now: datetime) -> None:
        """Drop the partitions of the audit log that are older, each as a whole, and say so in it.

        The default partition, where rows of unforeseen months are, stays and loses its old rows.
        """
        async with self._transaction() as connection:
            for name in await connection.fetchval(self._sql["drop_audit"], before):
                details = {"partition": name}
                await write_audit(connection, "audit.partition_dropped", now, details=details)
        await self._prune("prune_audit_default", before)

    async def takes_writes(self) -> bool:
        """Tell whether changes can be made now, and be as durable as AUTH_DURABILITY says."""
        if self._pool.disk_full:
            return False
        try:
            row = await self._row("takes_writes", self._pool.replicated)
        except Unavailable:
            return False
        return bool(row and row[0])

    async def ping(self) -> None:
        """Return if the database answers. Raises Unavailable."""
        await self._execute("ping")
