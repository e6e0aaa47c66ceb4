"""PostgreSQL stopped, killed, frozen, out of connections, read-only and out of disk space."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from tests.chaos.fleet import Database, open_fleet
from tests.chaos.kills import audited
from tests.chaos.row import Row

__all__ = ["freeze", "killed", "out_of_connections", "read_only", "stopped"]

FAULT_SECONDS = 3.0
WORK_SECONDS = 1.0  # before the fault, so that something is under way, and after it


async def freeze(lengths: tuple[float, ...], settle: float = 3.0) -> list[Row]:
    """Stop all processes of PostgreSQL (SIGSTOP) for so many seconds each."""
    rows = [Row(f"PostgreSQL frozen for {length:g} s") for length in lengths]
    for row, length in zip(rows, lengths, strict=True):
        async with open_fleet() as fleet, audited(row, fleet) as model:
            await asyncio.sleep(1)
            fleet.database.freeze()
            assert not await fleet.database.answers(within=1), "PostgreSQL is not frozen"
            await asyncio.sleep(length - 1)
            fleet.database.thaw()
            row.recovered(await model.write())
            await asyncio.sleep(settle)  # for what was queued and comes late
    return rows


async def killed(times: int) -> Row:
    """Kill PostgreSQL, and start it again after a while."""
    row = Row(f"PostgreSQL killed (SIGKILL), away for {FAULT_SECONDS:g} s")
    return await _away(row, times, Database.kill)


async def stopped(times: int) -> Row:
    """Stop PostgreSQL in order, and start it again after a while."""
    row = Row(f"PostgreSQL stopped for {FAULT_SECONDS:g} s")
    return await _away(row, times, Database.stop)


async def _away(row: Row, times: int, end: Callable[[Database], Awaitable[None]]) -> Row:
    async with open_fleet() as fleet, audited(row, fleet) as model:
        for _ in range(times):
            await asyncio.sleep(WORK_SECONDS)
            await end(fleet.database)
            await asyncio.sleep(FAULT_SECONDS)
            await fleet.database.start()
            row.recovered(await model.write())
            await asyncio.sleep(WORK_SECONDS)
    return row


async def out_of_connections(times: int) -> Row:
    """Take every connection that PostgreSQL has left, and the service's own too."""
    row = Row(f"PostgreSQL without a free connection for {FAULT_SECONDS:g} s")
    return await _during(row, times, _exhausted)


async def read_only(times: int) -> Row:
    """Make every transaction read-only."""
    row = Row(f"PostgreSQL read-only for {FAULT_SECONDS:g} s")
    return await _during(row, times, _read_only)


async def _during(row: Row, times: int, fault: "Fault") -> Row:
    async with open_fleet() as fleet, audited(row, fleet) as model:
        for _ in range(times):
            await asyncio.sleep(WORK_SECONDS)
            async with fault(fleet.database):
                await asyncio.sleep(FAULT_SECONDS)
            row.recovered(await model.write())
            await asyncio.sleep(WORK_SECONDS)
    return row


Fault = Callable[[Database], contextlib.AbstractAsyncContextManager[None]]
OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


@asynccontextmanager
async def _exhausted(database: Database) -> AsyncIterator[None]:
    await database.execute(OTHERS)  # of the service too, so that it has to connect again
    taken: list[Any] = []
    try:
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while len(taken) < 500:
                taken.append(await asyncpg.connect(database.direct_url))
        assert not await database.answers(), "PostgreSQL takes connections all the same"
        yield
    finally:
        await asyncio.gather(*(connection.close() for connection in taken))


@asynccontextmanager
async def _read_only(database: Database) -> AsyncIterator[None]:
    await _set(database, "default_transaction_read_only", "on")
    try:
        with contextlib.suppress(asyncpg.ReadOnlySQLTransactionError):
            await database.execute("CREATE TABLE chaos ()")
            raise AssertionError("PostgreSQL takes writes all the same")
        yield
    finally:
        await _set(database, "default_transaction_read_only", "off")


async def _set(database: Database, name: str, value: str) -> None:
    connection = await asyncpg.connect(
        database.direct_url, server_settings={"default_transaction_read_only": "off"}
    )
    await connection.execute(f"ALTER SYSTEM SET {name} = {value}")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()
    deadline = time.monotonic() + 10
    while await _shown(database, name) != value:
        assert time.monotonic() < deadline, f"{name} does not become {value}"
        await asyncio.sleep(0.05)


async def _shown(database: Database, name: str) -> str:
    connection = await asyncpg.connect(database.direct_url)
    try:
        return str(await connection.fetchval(f"SHOW {name}"))
    finally:
        await connection.close()
