"""A primary and its standby: which one is used, and what a commit that a standby has is worth."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from datetime import timedelta

import asyncpg
import pytest

from auth_service.db import pool as pools
from auth_service.db.driver_errors import translated
from auth_service.db.revocations import record_revocation
from auth_service.db.store import Store
from auth_service.errors import Unavailable
from auth_service.models import Revocation, RevocationKind
from tests.clock import FakeClock
from tests.conftest import Outside
from tests.standby import Pair, execute, open_pair, until

SOON = timedelta(milliseconds=500)


@pytest.fixture(scope="module")
def pair(outside: Outside) -> Iterator[Pair]:
    """Servers that the tests of this module share."""
    stack = contextlib.AsyncExitStack()
    try:
        yield outside.run(stack.enter_async_context(open_pair()))
    finally:
        outside.run(stack.aclose())


@pytest.fixture
def own_pair(outside: Outside) -> Iterator[Pair]:
    """Servers that a test may stop."""
    stack = contextlib.AsyncExitStack()
    try:
        yield outside.run(stack.enter_async_context(open_pair()))
    finally:
        outside.run(stack.aclose())


def revocation(target: str, clock: FakeClock) -> Revocation:
    return Revocation(RevocationKind.TOKEN, target, clock.now + timedelta(hours=1))


async def test_the_primary_is_found_behind_a_standby(pair: Pair) -> None:
    """By the pool and by a single connection, whatever the order of the hosts."""
    pool = await pools.connect(pair.urls)
    assert not await pool.fetchval("SELECT pg_is_in_recovery()")
    pool.terminate()
    connection = await pools.open_connection(pair.urls, writes=False)
    assert not await connection.fetchval("SELECT pg_is_in_recovery()")
    await connection.close()


@pytest.mark.parametrize("writes", [True, False])
async def test_a_standby_alone_is_unavailable(pair: Pair, writes: bool) -> None:
    """Nothing reads from a server that lags, and the failure says to try again."""
    started = time.monotonic()
    with pytest.raises(Unavailable):
        await pools.open_connection(pair.standby.dsn, writes=writes)
    with pytest.raises(Unavailable):
        await pools.connect(pair.standby.dsn)
    assert time.monotonic() - started < 5


async def test_what_a_standby_refuses_is_unavailable(pair: Pair, clock: FakeClock) -> None:
    """A pooler may lead a connection to one: an unlogged table, and a write."""
    connection = await asyncpg.connect(pair.standby.dsn)
    for sql in ("TABLE login_throttle", "DELETE FROM users", "SELECT pg_current_xact_id()"):
        with pytest.raises(Unavailable), translated():
            await connection.fetch(sql)
    await connection.close()


async def test_a_promoted_standby_is_used_without_a_restart(own_pair: Pair) -> None:
    """The pool loses the primary and finds the new one."""
    pool = await pools.connect(own_pair.urls, connect_timeout=SOON)
    await own_pair.primary.stop()
    with pytest.raises(Unavailable):
        await pool.fetchval("SELECT 1")
    await execute(own_pair.standby.dsn, "SELECT pg_promote()")
    insert = "INSERT INTO login_throttle VALUES ('anna', now())"
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(Unavailable):
                await pool.execute(insert)
                break
    pool.terminate()


# AUTH_DURABILITY=replicated


async def test_without_a_synchronous_standby_no_change_is_acknowledged(
    pair: Pair, clock: FakeClock
) -> None:
    """PostgreSQL would not wait and say nothing; so nothing is written either."""
    await pair.wait_for_standby(replicated=False)
    pool = await pools.connect(pair.urls, replicated=True)
    with pytest.raises(Unavailable, match="no standby"):
        await Store(pool).add_revocation(revocation("unheard", clock), clock.now)
    written = "SELECT count(*) FROM revocations WHERE target = 'unheard'"
    assert await pool.fetchval(written) == 0
    pool.terminate()


async def test_a_replicated_change_is_on_the_standby_when_it_is_acknowledged(
    pair: Pair, clock: FakeClock
) -> None:
    """Even if the database commits asynchronously by default."""
    await pair.wait_for_standby(replicated=True)
    url = f"{pair.urls}&synchronous_commit=off"
    pool = await pools.connect(url, replicated=True)
    assert await pool.fetchval("SHOW synchronous_commit") == "off"
    async with pool.transaction() as connection:
        await record_revocation(connection, revocation("heard", clock), clock.now)
        begun = await connection.fetchval("SELECT pg_current_wal_insert_lsn()::text")
    standby = await asyncpg.connect(pair.standby.dsn)
    # What follows `begun` is the commit, and the standby has it on its disk.
    flushed = "SELECT pg_last_wal_receive_lsn() > $1::text::pg_lsn"
    assert await standby.fetchval(flushed, begun)
    await standby.close()
    assert await pool.fetchval("SHOW synchronous_commit") == "off"  # for that transaction alone
    pool.terminate()


async def test_a_change_that_no_standby_confirms_is_not_acknowledged(
    own_pair: Pair, clock: FakeClock
) -> None:
    """Nor is its retry, which finds it written, nor if the server gives up the wait."""
    await own_pair.wait_for_standby(replicated=True)
    await own_pair.standby.stop()
    url = own_pair.primary.dsn
    pool = await pools.connect(url, replicated=True, statement_timeout=timedelta(milliseconds=100))
    store = Store(pool)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await store.add_revocation(revocation("alone", clock), clock.now)
    # The first commit stands here all the same, as the premise of the second.
    written = "SELECT count(*) FROM revocations WHERE target = 'alone'"
    assert await execute(url, written) == 1
    pool.terminate()

    patient = await pools.connect(url, replicated=True)
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    await until(url, waits, 0)  # what was given up on is cancelled, and holds no connection
    change = asyncio.create_task(
        Store(patient).add_revocation(revocation("cancelled", clock), clock.now)
    )
    await until(url, waits, 1)
    cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    await execute(url, cancel)
    with pytest.raises(Unavailable, match="no standby"):
        await change
    patient.terminate()
