"""Revocations as rows: written, read after a cursor, and notified to other replicas.

Owns that no revocation is skipped, however late its transaction commits.
"""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Unpack

import asyncpg

from auth_service.audit import About
from auth_service.db import rows
from auth_service.db.audit import write_audit
from auth_service.db.cursor import START, Cursor, Position
from auth_service.db.driver_errors import translated
from auth_service.db.executor import Executor
from auth_service.db.statements import statements
from auth_service.errors import Unavailable
from auth_service.models import RecordedRevocation, Revocation

if TYPE_CHECKING:
    from auth_service.db.pool import Connection

__all__ = ["REVOCATION_PAGE", "RevocationStore", "record_revocation"]

Page = tuple[list[Revocation], Position]

REVOCATION_PAGE = 500  # takes five to ten milliseconds of the event loop


class RevocationStore(Executor):
    """The revocations of access tokens."""

    async def add_revocation(self, revocation: Revocation, now: datetime) -> None:
        """Record a revocation. If it is recorded already, the later times apply."""
        async with self._pool.durable() as connection:
            await record_revocation(connection, revocation, now)

    async def revoke_token(
        self, revocation: Revocation, now: datetime, **about: Unpack[About]
    ) -> None:
        """Record the revocation of one access token, and audit whose it was."""
        async with self._transaction() as connection:
            await record_revocation(connection, revocation, now)
            await write_audit(connection, "token.revoked", now, **about)

    async def revocations_since(self, cursor: Cursor = START) -> tuple[list[Revocation], Cursor]:
        """Return revocations committed since the answer that gave `cursor`, and the next cursor.

        START asks for all. No commit is skipped, however late, and none is returned twice.
        """
        async with self._pool.acquire() as connection:
            pages = [page async for page in self.pages_of_revocations(cursor, connection)]
        return [revocation for found, _ in pages for revocation in found], pages[-1][1].cursor

    async def pages_of_revocations(
        self, cursor: Cursor, connection: "Connection"
    ) -> AsyncGenerator[Page, None]:
        """Yield the same in pages, since a million rows in one answer exceed a statement timeout.

        All pages are of one snapshot, and each names the position after it. There is at least one
        page. A poll usually finds few rows, which come in one page and one round trip.
        """
        since = cursor.end, cursor.running
        with translated():
            if cursor != START:
                # A statement of its own: the plan for reading everything does not suit a poll.
                sql = self._sql["first_revocations_since"]
                found = await connection.fetch(sql, *since, REVOCATION_PAGE)
                if len(found) < REVOCATION_PAGE:
                    new = (row for row in found if row["kind"] is not None)
                    yield [rows.revocation(row) for row in new], _position(found[0])
                    return
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                position = await self.position(connection)
                opened = await connection.cursor(self._sql["revocations_since"], *since)
                found = await opened.fetch(REVOCATION_PAGE)
                yield [rows.revocation(row) for row in found], position
                while found := await opened.fetch(REVOCATION_PAGE):
                    yield [rows.revocation(row) for row in found], position

    async def position(self, connection: "Connection") -> Position:
        """Return where the database stands. Raises Unavailable if the server is a standby."""
        with translated():
            (found,) = await connection.fetch(self._sql["feed_position"])
        return _position(found)

    async def mark_epoch(self, epoch: str, connection: "Connection") -> datetime:
        """Note that a replica sees this epoch; return when the first one did."""
        with translated():
            seen_at: datetime = await connection.fetchval(self._sql["mark_epoch"], epoch)
        return seen_at

    async def find_revocations(
        self, kinds: Sequence[str], targets: Sequence[str]
    ) -> list[RecordedRevocation]:
        """Return the live revocations with one of these pairs of kind and target, oldest first."""
        found = await self._rows("find_revocations", kinds, targets)
        return [RecordedRevocation(rows.revocation(row), row["created_at"]) for row in found]

    async def notify_revocations(self) -> None:
        """Wake the feeds of all replicas. Takes a database-wide lock, so callers coalesce."""
        await self._execute("notify_revocations")


async def record_revocation(
    connection: "Connection", revocation: Revocation, now: datetime
) -> None:
    """Write a revocation in the transaction of a connection."""
    await connection.execute(
        statements()["add_revocation"], revocation.kind.value, revocation.target,
        revocation.issued_before, revocation.expires_at, now, revocation.disables,
    )  # fmt: skip


def _position(row: asyncpg.Record) -> Position:
    if row["standby"]:
        # It replays with a delay that it does not know, and its snapshots name nothing in progress.
        raise Unavailable("the database server is a standby; add target_session_attrs=primary")
    return Position(row["epoch"], Cursor.of_snapshot(row["snapshot"]), row["as_of"])
