"""How the stores reach PostgreSQL: a named statement on a connection of the pool.

Knows no table. Every method raises Unavailable if the database cannot be reached or does not answer
in time.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from auth_service.db.statements import statements

if TYPE_CHECKING:
    from auth_service.db.pool import Connection, Pool

__all__ = ["Executor"]


class Executor:
    """Runs the statements of queries.sql by name, each in a transaction of its own."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._sql = statements()

    async def _execute(self, name: str, *arguments: Any) -> None:
        async with self._pool.acquire() as connection:
            await connection.execute(self._sql[name], *arguments)

    async def _row(self, name: str, *arguments: Any) -> asyncpg.Record | None:
        async with self._pool.acquire() as connection:
            return await connection.fetchrow(self._sql[name], *arguments)

    async def _durable_row(self, name: str, *arguments: Any) -> asyncpg.Record | None:
        """Return as `_row`, once the change is as durable as AUTH_DURABILITY says."""
        async with self._pool.durable() as connection:
            return await connection.fetchrow(self._sql[name], *arguments)

    async def _rows(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        async with self._pool.acquire() as connection:
            return await connection.fetch(self._sql[name], *arguments)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator["Connection"]:
        async with self._pool.transaction() as connection:
            yield connection
