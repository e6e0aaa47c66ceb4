"""The revocation feed: every replica learns what any replica revokes, whatever fails."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from auth_service.db import pool as pools
from auth_service.db.cursor import Cursor
from auth_service.db.feed import RevocationFeed
from auth_service.db.store import Store
from auth_service.errors import Unavailable
from auth_service.models import Revocation, RevocationKind
from auth_service.tokens.revocation import RevocationList
from tests.clock import FakeClock

if TYPE_CHECKING:
    from auth_service.db.pool import Pool

NEVER = timedelta(hours=1)
OFTEN = timedelta(milliseconds=20)

Start = Callable[[timedelta], AbstractAsyncContextManager[tuple[RevocationFeed, RevocationList]]]
LISTENERS = (
    "FROM pg_stat_activity WHERE datname = current_database() "
    "AND application_name = 'auth-service feed'"
)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def until_sql(pool: "Pool", condition: str) -> None:
    async with asyncio.timeout(60):
        while not await pool.fetchval(condition):
            await asyncio.sleep(0.005)


@pytest.fixture
def start(store: Store, database_url: str, clock: FakeClock) -> Start:
    """Starts a feed as another replica does."""

    @asynccontextmanager
    async def feed(
        poll_interval: timedelta,
    ) -> AsyncIterator[tuple[RevocationFeed, RevocationList]]:
        known = RevocationList(clock)
        feed = RevocationFeed(store, database_url, known, poll_interval=poll_interval)
        await feed.start()
        try:
            yield feed, known
        finally:
            await feed.stop()

    return feed


@pytest.fixture
def revoke(store: Store, clock: FakeClock) -> Callable[[str], Awaitable[None]]:
    """Revokes a token in the database."""

    async def revoke(target: str) -> None:
        expires_at = clock.now + timedelta(hours=1)
        await store.add_revocation(Revocation(RevocationKind.TOKEN, target, expires_at), clock.now)

    return revoke


Revoke = Callable[[str], Awaitable[None]]


async def test_start_knows_all_that_was_revoked(start: Start, revoke: Revoke, pool: "Pool") -> None:
    """A new replica is never behind, and says so by the clock of the database."""
    await revoke("a")
    await revoke("b")
    before = await pool.fetchval("SELECT now()")
    async with start(NEVER) as (feed, known):
        assert len(known) == 2
        assert before < feed.as_of < await pool.fetchval("SELECT now()")


async def test_after_everything_was_read_a_poll_follows_at_once(start: Start) -> None:
    """Reading a million rows takes seconds, and as_of is that of the beginning."""
    async with start(NEVER) as (feed, _):
        first = feed.as_of
        await until(lambda: feed.as_of > first)


async def test_replicas_wake_each_other(start: Start, revoke: Revoke) -> None:
    """After wake() a revocation arrives long before the poll, in both directions."""
    async with start(NEVER) as (feed, known), start(NEVER) as (other_feed, other_known):
        await revoke("a")
        feed.wake()
        await until(lambda: len(known) == len(other_known) == 1)
        for n in range(20):
            await revoke(f"b{n}")
            other_feed.wake()
        await until(lambda: len(known) == len(other_known) == 21)


async def test_poll_finds_what_no_hint_told(start: Start, revoke: Revoke, pool: "Pool") -> None:
    """A lost NOTIFY delays a revocation by the poll interval; as_of goes on meanwhile."""
    async with start(OFTEN) as (feed, known):
        await revoke("a")
        await until(lambda: len(known) == 1)
        now = await pool.fetchval("SELECT now()")
        await until(lambda: feed.as_of > now)


async def test_late_commit_arrives(
    start: Start, revoke: Revoke, pool: "Pool", clock: FakeClock
) -> None:
    """A transaction that commits after others were read is not skipped."""
    async with start(OFTEN) as (_, known):
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "INSERT INTO revocations (kind, target, expires_at, created_at) "
                "VALUES ('token', 'late', $1, $1)",
                clock.now + timedelta(hours=1),
            )
            await revoke("early")
            await until(lambda: len(known) == 1)
        await until(lambda: len(known) == 2)


async def test_lost_connection_loses_no_revocation(
    start: Start, revoke: Revoke, pool: "Pool"
) -> None:
    """A killed connection is replaced at once, and hints work again."""
    async with start(NEVER) as (feed, known):
        for n in range(3):
            pid = await pool.fetchval(f"SELECT pid {LISTENERS}")
            await pool.execute("SELECT pg_terminate_backend($1)", pid)
            await revoke(f"unseen{n}")
            await until(lambda n=n: len(known) == 2 * n + 1)  # type: ignore[misc]
            await until_sql(pool, f"SELECT count(*) = 1 AND min(pid) <> {pid} {LISTENERS}")
            await revoke(f"hinted{n}")
            feed.wake()
            await until(lambda n=n: len(known) == 2 * n + 2)  # type: ignore[misc]


async def test_after_a_lost_connection_only_what_is_new_is_read(
    store: Store, database_url: str, revoke: Revoke, pool: "Pool", clock: FakeClock
) -> None:
    """The database is the same, so the cursor holds: a million rows are not read again."""
    read: list[str] = []
    feed = RevocationFeed(
        store, database_url, RevocationList(clock), poll_interval=OFTEN,
        on_revocations=lambda found, _: read.extend(each.target for each in found),
    )  # fmt: skip
    await revoke("known")
    xid = await pool.fetchval("SELECT xid::text::bigint FROM revocations")
    await feed.start()
    await until(lambda: feed.cursor.covers(xid))
    read.clear()
    pid = await pool.fetchval(f"SELECT pid {LISTENERS}")
    await pool.execute("SELECT pg_terminate_backend($1)", pid)
    await until_sql(pool, f"SELECT count(*) = 1 AND min(pid) <> {pid} {LISTENERS}")
    await revoke("new")
    await until(lambda: "new" in read)
    assert "known" not in read
    await feed.stop()


async def test_outage_stops_as_of_until_the_database_is_back(
    start: Start, revoke: Revoke, pool: "Pool"
) -> None:
    """While nothing can be read as_of stands still, and the feed recovers by itself."""
    async with start(OFTEN) as (feed, known):
        # A lock on the table, beyond the feed's timeout, stands for a database that hangs.
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute("LOCK TABLE revocations IN ACCESS EXCLUSIVE MODE")
            await until_sql(pool, "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted")
            before = feed.as_of
            await until_sql(pool, "SELECT count(*) = 0 FROM pg_locks WHERE NOT granted")
            assert feed.as_of == before
        await revoke("a")
        await until(lambda: len(known) == 1 and feed.as_of > before)


async def test_restored_database_is_read_from_the_start(start: Start, revoke: Revoke) -> None:
    """If transaction ids begin again, rows with low ids are read all the same."""
    async with start(OFTEN) as (feed, known):
        feed._cursor = Cursor(feed.cursor.end + 1_000_000)
        await revoke("a")
        await until(lambda: len(known) == 1)


@pytest.mark.parametrize("same", [True, False])
async def test_only_the_system_that_lost_commits_gets_them_again(
    start: Start, revoke: Revoke, pool: "Pool", clock: FakeClock, same: bool
) -> None:
    """A feed that is led to the database of another installation writes nothing into it."""
    async with start(OFTEN) as (feed, known):
        known.add(Revocation(RevocationKind.TOKEN, "lost", clock.now + timedelta(hours=1)))
        if same:
            feed.epoch = feed.epoch.replace("-00000001-", "-0000000F-")
        else:
            feed._system = "7"
            feed.epoch = f"7-{feed.epoch}"
        await revoke("a")
        await until(lambda: len(known) == 2 and feed._complete)
        found = await pool.fetchval("SELECT array_agg(target ORDER BY target) FROM revocations")
        assert found == (["a", "lost"] if same else ["a"])


async def test_feed_outlives_any_error(start: Start, revoke: Revoke, pool: "Pool") -> None:
    """Even without its table it goes on, once the table is back."""
    async with start(OFTEN) as (_, known):
        await pool.execute("ALTER TABLE revocations RENAME TO gone")
        await until_sql(pool, f"SELECT count(*) = 0 {LISTENERS}")
        await pool.execute("ALTER TABLE gone RENAME TO revocations")
        await revoke("a")
        await until(lambda: len(known) == 1)


async def test_stop_gives_back_the_connection(start: Start, pool: "Pool") -> None:
    """Nothing listens after stop()."""
    async with start(NEVER):
        assert await pool.fetchval(f"SELECT count(*) {LISTENERS}") == 1
    await until_sql(pool, f"SELECT count(*) = 0 {LISTENERS}")


async def test_behind_a_pooler_the_poll_finds_what_no_hint_announces(
    store: Store, database_url: str, clock: FakeClock, revoke: Revoke
) -> None:
    """A pooler in transaction mode passes no notification on, so the feed does not listen."""
    known = RevocationList(clock)
    feed = RevocationFeed(store, database_url, known, poll_interval=OFTEN, transaction_pooling=True)
    await feed.start()
    await revoke("a")
    await until(lambda: len(known) == 1)
    await feed.stop()


async def test_start_needs_the_database(clock: FakeClock, database_url: str) -> None:
    """Without it nothing is known, and start() raises."""
    pool = await pools.connect(database_url, min_size=1)
    feed = RevocationFeed(Store(pool), "postgresql://auth@127.0.0.1:1/auth", RevocationList(clock))
    with pytest.raises(Unavailable):
        await feed.start()
    with pytest.raises(Unavailable):
        _ = feed.as_of
    await feed.stop()
    pool.terminate()
