"""A pool of connections to PostgreSQL: statements and transactions on any of them.

Owns what a transaction waits for when it commits. Knows nothing of tables.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg

from auth_service.db.connections import Connections
from auth_service.db.driver_errors import setup_errors, translated
from auth_service.db.durability import commit_on_standby, require_standby
from auth_service.db.hosts import APPLICATION_NAME, Connection, Connector

__all__ = ["Connection", "Pool", "connect", "open_connection"]

DISK_FULL_SECONDS = 10.0
"""For how long one write that finds the disk full speaks for others: no query can tell."""


class Pool:
    """The way to one database.

    `replicated` makes transactions wait until a standby has them, see `transaction`.
    """

    def __init__(self, connections: Connections, *, replicated: bool = False) -> None:
        self._connections = connections
        self.replicated = replicated
        self._disk_full_until = 0.0

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """Lend a connection; the driver's errors are translated.

        Raises Unavailable if none is free within the time that connecting may take.
        """
        with translated():
            connection = await self._connections.take()
            try:
                yield connection
            except BaseException as error:
                if isinstance(error, asyncpg.DiskFullError):
                    self._disk_full_until = asyncio.get_running_loop().time() + DISK_FULL_SECONDS
                self._connections.give_back(connection, error)
                raise
            self._connections.give_back(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection in a transaction, which is committed at the end.

        With `replicated` it returns once a standby has the commit, and raises Unavailable if the
        server waits for none: the commit is then undone or, if the wait was cut short, uncertain.
        """
        async with self.acquire() as connection:
            await connection.execute("BEGIN")
            if self.replicated:
                await require_standby(connection)
            yield connection
            await (
                commit_on_standby(connection) if self.replicated else connection.execute("COMMIT")
            )

    @asynccontextmanager
    async def durable(self) -> AsyncIterator[Connection]:
        """Lend a connection for one statement, which is then as durable as `transaction`."""
        async with self.transaction() if self.replicated else self.acquire() as connection:
            yield connection

    async def execute(self, sql: str, *arguments: Any) -> str:
        """Run a statement; return its command tag."""
        async with self.acquire() as connection:
            return await connection.execute(sql, *arguments)

    async def fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """Return the rows of a statement."""
        async with self.acquire() as connection:
            return await connection.fetch(sql, *arguments)

    async def fetchrow(self, sql: str, *arguments: Any) -> asyncpg.Record | None:
        """Return the first row of a statement."""
        async with self.acquire() as connection:
            return await connection.fetchrow(sql, *arguments)

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        """Return the first column of the first row of a statement."""
        async with self.acquire() as connection:
            return await connection.fetchval(sql, *arguments)

    @property
    def disk_full(self) -> bool:
        """Whether a write failed for lack of disk space in the last ten seconds."""
        return asyncio.get_running_loop().time() < self._disk_full_until

    @property
    def size(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    async def close(self) -> None:
        """Close all connections, once callers have given them back or five seconds have passed."""
        await self._connections.close()

    def terminate(self) -> None:
        """Close all connections at once; statements under way fail."""
        self._connections.terminate()


async def connect(
    url: str,
    *,
    min_size: int = 2,
    max_size: int = 10,
    statement_timeout: timedelta = timedelta(seconds=5),
    connect_timeout: timedelta = timedelta(seconds=5),
    transaction_pooling: bool = False,
    replicated: bool = False,
) -> Pool:
    """Open a pool. Raises Unavailable, or ConfigError if no retry can help."""
    connector = Connector(url, connect_timeout, statement_timeout, transaction_pooling)
    connections = Connections(connector, min_size, max_size)
    await connections.start()
    return Pool(connections, replicated=replicated)


async def open_connection(
    url: str,
    *,
    application_name: str = APPLICATION_NAME,
    statement_timeout: timedelta = timedelta(seconds=5),
    connect_timeout: timedelta = timedelta(seconds=5),
    transaction_pooling: bool = False,
    writes: bool = True,
) -> Connection:
    """Open one connection outside of the pool. Raises as `connect` does."""
    connector = Connector(
        url, connect_timeout, statement_timeout, transaction_pooling, application_name, writes
    )
    with translated(), setup_errors():
        return await connector.connect()
