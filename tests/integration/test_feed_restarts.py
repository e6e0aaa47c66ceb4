"""The revocation feed and a database that stops, crashes or fails over: nothing is skipped.

The feed reads everything again unless its cursor is certain to mean the same as before.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from structlog.testing import capture_logs

from auth_service.db import pool as pools
from auth_service.db.cursor import START, Cursor
from auth_service.db.feed import RevocationFeed
from auth_service.db.migrate import migrate
from auth_service.db.store import Store
from auth_service.errors import Unavailable
from auth_service.models import Revocation, RevocationKind
from auth_service.tokens.revocation import RevocationList
from tests.clock import FakeClock
from tests.folders import open_folder
from tests.postgres import new_postgres
from tests.standby import open_pair

if TYPE_CHECKING:
    from auth_service.db.pool import Pool

OFTEN = timedelta(milliseconds=20)
WAL_WRITER = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'"


class Database:
    """A PostgreSQL of the test's own, at one address over all its starts."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "pg" / "data"
        self.url = f"postgresql://auth@/auth?host={folder / 'sockets'}&port=5432"
        self._sockets = folder / "sockets"
        self._postgres = new_postgres(folder / "pg")

    async def start(self) -> None:
        await self._postgres.start()
        self.show()

    async def stop(self) -> None:
        await self._postgres.stop()
        self.hide()

    def show(self) -> None:
        (sockets,) = parse_qs(urlsplit(self.direct_url).query)["host"]
        self._sockets.symlink_to(sockets)

    def hide(self) -> None:
        """Leave direct_url as the only way to reach it."""
        self._sockets.unlink(missing_ok=True)

    @property
    def direct_url(self) -> str:
        return self._postgres.dsn

    async def value(self, sql: str) -> Any:
        connection = await asyncpg.connect(self.direct_url)
        value = await connection.fetchval(sql)
        await connection.close()
        return value

    async def crash(self) -> None:
        """Lose what was committed asynchronously, then recover."""
        pid = await self.value(WAL_WRITER)
        os.kill(pid, signal.SIGKILL)  # upon which PostgreSQL ends all others
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    if await self.value(WAL_WRITER) not in (None, pid):
                        return
                await asyncio.sleep(0.005)


class Replica:
    """A feed, and the targets that it has read since the test last cleared them."""

    def __init__(self, database: Database, pool: "Pool", clock: FakeClock) -> None:
        self.read: list[str] = []
        self.epochs: set[str] = set()
        self.known = RevocationList(clock)
        self.feed = RevocationFeed(
            Store(pool), database.url, self.known, poll_interval=OFTEN, settle=timedelta(0),
            on_revocations=self._on_revocations,
        )  # fmt: skip

    def _on_revocations(self, found: list[Revocation], _new: list[Revocation]) -> None:
        self.read.extend(each.target for each in found)
        self.epochs |= {self.feed.epoch} if found else set()

    async def settled(self, xid: int) -> None:
        """Return once the cursor is past a transaction, so that it is read no more."""
        await until(lambda: self.feed.cursor.covers(xid))
        self.read.clear()
        self.epochs.clear()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder("feed-") as path:
        yield path


@pytest.fixture
async def database(folder: Path) -> AsyncIterator[Database]:
    """One with the schema in it."""
    database = Database(folder)
    try:
        await database.start()
        await migrate(database.direct_url)
        yield database
    finally:
        await database.stop()


@asynccontextmanager
async def replica_of(database: Database, clock: FakeClock) -> AsyncIterator[Replica]:
    pool = await pools.connect(database.url, min_size=0)
    replica = Replica(database, pool, clock)
    await replica.feed.start()
    try:
        yield replica
    finally:
        await replica.feed.stop()
        pool.terminate()


async def revoke(database: Database, target: str, clock: FakeClock) -> int:
    """Revoke a token; return the number of the transaction."""
    revocation = Revocation(RevocationKind.TOKEN, target, clock.now + timedelta(hours=1))
    pool = await pools.connect(database.direct_url, min_size=1, max_size=1)
    await Store(pool).add_revocation(revocation, clock.now)
    xid: int = await pool.fetchval(
        "SELECT xid::text::bigint FROM revocations WHERE target = $1", target
    )
    await pool.close()
    return xid


async def test_after_a_clean_restart_only_what_is_new_is_read(
    database: Database, clock: FakeClock
) -> None:
    """A clean shutdown loses nothing, so the feed goes on from its cursor."""
    async with replica_of(database, clock) as replica:
        await replica.settled(await revoke(database, "before", clock))
        epoch = replica.feed.epoch
        await database.stop()
        await database.start()
        await revoke(database, "after", clock)
        await until(lambda: "after" in replica.read)
        assert "before" not in replica.read
        assert replica.feed.epoch == epoch


async def test_after_a_crash_everything_is_read_again(database: Database, clock: FakeClock) -> None:
    """It may lose commits and give their ids to others, which the cursor would skip."""
    await database.value("ALTER SYSTEM SET bgwriter_lru_maxpages = 0")
    await database.value("SELECT pg_reload_conf()")
    async with replica_of(database, clock) as replica:
        await revoke(database, "before", clock)
        await database.value("CHECKPOINT")  # so this one stays
        os.kill(await database.value(WAL_WRITER), signal.SIGSTOP)  # and no later one
        lost = await revoke(database, "lost", clock)
        await replica.settled(lost)
        database.hide()
        await database.crash()
        assert await revoke(database, "unseen", clock) <= lost
        while await revoke(database, "later", clock) < replica.feed.cursor.end:
            pass
        database.show()
        await until(lambda: "later" in replica.read)
        assert {"before", "unseen"} <= set(replica.read)
        assert len(replica.known) == 4  # what the database lost stays revoked here
        await until(lambda: replica.feed._complete)
        assert await database.value("SELECT count(*) FROM revocations") == 4  # and there again


async def test_after_a_failover_everything_is_read_again(
    database: Database, clock: FakeClock
) -> None:
    """On another timeline the same transaction ids belong to other transactions."""
    async with replica_of(database, clock) as replica:
        await replica.settled(await revoke(database, "before", clock))
        await database.stop()
        # A standby that is promoted does the same: it recovers and begins a new timeline.
        (database.data / "recovery.signal").touch()
        owner = database.data.stat()
        os.chown(database.data / "recovery.signal", owner.st_uid, owner.st_gid)
        with (database.data / "postgresql.auto.conf").open("a") as settings:
            settings.write("restore_command = 'false'\n")
        await database.start()
        await until(lambda: "before" in replica.read)
        # A Watch stream that resumes meanwhile must not compare its cursor with these rows.
        assert {epoch.split("-")[1] for epoch in replica.epochs} == {"00000002"}


async def test_a_standby_is_refused(clock: FakeClock) -> None:
    """Also if a pooler hides what it is: it has a delay that it does not know."""
    async with open_pair() as pair:
        pool = await pools.connect(pair.url, min_size=0)
        store = Store(pool)
        feed = RevocationFeed(store, pair.standby.dsn, RevocationList(clock))
        with pytest.raises(Unavailable):
            await feed.start()
        await feed.stop()
        connection = await asyncpg.connect(pair.standby.dsn)
        for cursor in (START, Cursor(1)):
            with pytest.raises(Unavailable, match="standby"):
                await anext(store.pages_of_revocations(cursor, connection))
        with pytest.raises(Unavailable, match="standby"):
            await store.position(connection)
        await connection.close()
        await pool.close()


async def test_a_feed_that_is_led_to_a_standby_is_not_fresh(clock: FakeClock) -> None:
    """However often that server answers, until it is promoted."""
    async with open_pair() as pair:
        pool = await pools.connect(pair.url, min_size=0)
        feed = RevocationFeed(
            Store(pool), pair.url, RevocationList(clock), poll_interval=OFTEN, settle=timedelta(0)
        )
        await feed.start()
        with capture_logs() as logs:
            pair.lead_to(pair.standby)
            pair.kill_primary()
            await until(lambda: len(failures(logs)) > 2)
            before, seen = feed.as_of, len(failures(logs))
            await until(lambda: len(failures(logs)) > seen)
            assert feed.as_of == before
        await pair.promote()
        await until(lambda: feed.as_of > before)
        await feed.stop()
        await pool.close()


def failures(logs: list[Any]) -> list[Any]:
    return [entry for entry in logs if entry["event"] == "revocation_feed_failed"]
