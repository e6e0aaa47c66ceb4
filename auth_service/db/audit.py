"""Rows of the audit log: with a change, at once, or in batches a moment later.

Owns what a crash can lose: the rows that wait, at most MAX_WAITING of them. A row that is written
with a change stands in the transaction of that change.
"""

import asyncio
from collections import deque
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Unpack

import structlog

from auth_service import audit
from auth_service.audit import About
from auth_service.db.executor import Executor
from auth_service.db.statements import statements
from auth_service.errors import InvalidArgument
from auth_service.telemetry.metrics import AUDIT_DROPPED, AUDIT_WAITING

if TYPE_CHECKING:
    from auth_service.db.pool import Connection, Pool

__all__ = ["AUDIT_BATCH", "MAX_WAITING", "AuditStore", "write_audit"]

log = structlog.get_logger(__name__)

AUDIT_BATCH = 500
MAX_WAITING = 5000
"""A row has at most a few hundred bytes, so this is a megabyte or two."""


class AuditStore(Executor):
    """Writes the rows of what changes nothing else in the database."""

    def __init__(self, pool: "Pool") -> None:
        super().__init__(pool)
        self._waiting: deque[str] = deque()
        self._flushing = asyncio.Lock()

    async def write_audit(self, row: str) -> None:
        """Write a row of `audit.row` before the call is answered. Raises Unavailable."""
        async with self._pool.durable() as connection:
            await connection.execute(self._sql["write_audit"], [row])

    def write_audit_later(self, row: str) -> None:
        """Write a row with the next batch; count it as dropped if too many wait already."""
        if len(self._waiting) >= MAX_WAITING:
            AUDIT_DROPPED.inc()
            return
        self._waiting.append(row)
        AUDIT_WAITING.set(len(self._waiting))

    async def flush_audit(self) -> None:
        """Write what waits now. Raises Unavailable; what is not written waits on.

        A batch whose commit seemed lost is written again. Rows that are there already stay single.
        """
        async with self._flushing:
            for _ in range(0, len(self._waiting), AUDIT_BATCH):
                batch = list(islice(self._waiting, AUDIT_BATCH))
                await self._write_batch(batch)
                for _ in batch:
                    self._waiting.popleft()
                AUDIT_WAITING.set(len(self._waiting))

    async def _write_batch(self, batch: list[str]) -> None:
        try:
            async with self._pool.durable() as connection:
                await connection.execute(self._sql["write_audit"], batch)
        except InvalidArgument as error:  # it would never be written, nor anything behind it
            log.error("audit_rows_refused", count=len(batch), error=repr(error))  # noqa: TRY400
            AUDIT_DROPPED.inc(len(batch))


async def write_audit(
    connection: "Connection",
    event: str,
    at: datetime,
    outcome: str = audit.OK,
    **about: Unpack[About],
) -> None:
    """Write a row for the call in progress, in the transaction of a connection."""
    row = audit.row(event, at, outcome, **about)
    await connection.execute(statements()["write_audit"], [row])
