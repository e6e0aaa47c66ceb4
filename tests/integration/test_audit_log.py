"""The audit log in the database: read in pages, watched, written in batches, dropped when old."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest
from prometheus_client import REGISTRY

from auth_service import audit
from auth_service.audit import Actor, ActorKind, Origin
from auth_service.db import pool as pools
from auth_service.db.audit import AUDIT_BATCH, MAX_WAITING
from auth_service.db.audit_reader import AuditEvent, AuditFilter, AuditKey, AuditPosition
from auth_service.db.cursor import MAX_RUNNING
from auth_service.db.store import Store
from auth_service.errors import Unavailable

if TYPE_CHECKING:
    from auth_service.db.pool import Connection, Pool

NOW = datetime(2031, 5, 10, 12, 0, tzinfo=UTC)
OLD_ROW = "INSERT INTO audit_log (at, event, id, xid) VALUES ($1, $2, NULL, NULL)"


def row(event: str, at: datetime = NOW, **about: object) -> str:
    """Return a row."""
    return audit.row(event, at, **about)  # type: ignore[arg-type]


def sample(name: str) -> float:
    """Return the value of a metric."""
    return REGISTRY.get_sample_value(name) or 0


async def write(connection: "Connection", event: str) -> None:
    """Write a row on a connection."""
    await connection.execute("SELECT write_audit($1::jsonb)", row(event))


async def read_on(store: Store, position: AuditPosition | None) -> tuple[list[str], AuditPosition]:
    """Return the events since a position, and the next position."""
    events: list[AuditEvent] = []
    complete = False
    while not complete:
        found, position, complete = await store.audit_since(position)
        events += found
    assert position is not None
    return [event.event for event in events], position


@pytest.fixture
async def connections(database_url: str) -> "AsyncIterator[list[Connection]]":
    """Connections for transactions that last."""
    made = [await pools.open_connection(database_url) for _ in range(2)]
    yield made
    for connection in made:
        connection.terminate()


# Pages


async def test_pages_have_each_row_once_and_the_newest_first(store: Store, pool: "Pool") -> None:
    """Also rows of one moment, and rows of old releases, which have no id."""
    written = [f"new{n}" for n in range(9)]
    for n, event in enumerate(written):
        await store.write_audit(row(event, NOW + timedelta(seconds=n // 4)))
    for n in range(5):
        await pool.execute(OLD_ROW, NOW, f"old{n}")
    read: list[AuditEvent] = []
    after: AuditKey | None = None
    while page := await store.list_audit(AuditFilter(), 2, after):
        read += page
        after = page[-1].key
    expected = [*written, *(f"old{n}" for n in range(5))]
    assert sorted(event.event for event in read) == sorted(expected)
    assert [event.at for event in read] == sorted((event.at for event in read), reverse=True)


USER, SOURCE = UUID(int=7), "192.0.2.7"


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (AuditFilter(), "abcd"),
        (AuditFilter(event="login.failed"), "bc"),
        (AuditFilter(event="login"), ""),
        (AuditFilter(event="login.*"), "bc"),
        (AuditFilter(event="*"), "abcd"),
        (AuditFilter(actor="root"), "a"),
        (AuditFilter(user_id=USER), "ab"),
        (AuditFilter(client_id="billing"), "c"),
        (AuditFilter(outcome="OK"), "ad"),
        (AuditFilter(failures_only=True), "bc"),
        (AuditFilter(source=SOURCE), "b"),
        (AuditFilter(start=NOW + timedelta(seconds=1)), "bcd"),
        (AuditFilter(end=NOW + timedelta(seconds=1)), "a"),
        (AuditFilter(event="login.*", user_id=USER), "b"),
    ],
    ids=str,
)
async def test_a_filter_selects_the_same_rows_of_a_page_and_of_a_stream(
    store: Store, wanted: AuditFilter, found: str
) -> None:
    """A stream is told the times by its statement, and goes by the others itself."""
    audit.begin(Origin, Actor(ActorKind.USER, "root", "access_token"))
    await store.write_audit(audit.row("user.created", NOW, user_id=USER, kid="a"))
    audit.begin(lambda: Origin(SOURCE))
    at = NOW + timedelta(seconds=1)
    await store.write_audit(audit.row("login.failed", at, "RATE_LIMITED", user_id=USER, kid="b"))
    audit.begin(Origin)
    await store.write_audit(audit.row("login.failed", at, "OTHER", client_id="billing", kid="c"))
    await store.write_audit(audit.row("key.created", at, kid="d"))
    page = await store.list_audit(wanted, 100)
    assert sorted(event.kid or "" for event in page) == list(found)
    streamed, _, _ = await store.audit_since(None, wanted.start)
    if wanted.end is None:
        assert sorted(e.kid or "" for e in streamed if wanted.matches(e)) == list(found)


# Watching


async def test_a_row_that_is_committed_late_is_seen_once(
    store: Store, connections: "list[Connection]"
) -> None:
    """Although a later transaction was seen before it."""
    late, early = connections
    position: AuditPosition | None = await store.audit_position()
    transaction = late.transaction()
    await transaction.start()
    await write(late, "late")
    await write(early, "early")
    seen, position = await read_on(store, position)
    assert seen == ["early"]
    assert (await read_on(store, position))[0] == []
    await transaction.commit()
    seen, position = await read_on(store, position)
    assert seen == ["late"]
    assert (await read_on(store, position))[0] == []


async def test_a_row_that_is_rolled_back_is_never_seen(
    store: Store, connections: "list[Connection]"
) -> None:
    """Nor anything of its transaction."""
    position = await store.audit_position()
    transaction = connections[0].transaction()
    await transaction.start()
    await write(connections[0], "undone")
    assert (await read_on(store, position))[0] == []
    await transaction.rollback()
    assert (await read_on(store, position))[0] == []


async def test_pages_of_a_stream_end_between_transactions(
    store: Store, connections: "list[Connection]"
) -> None:
    """From any page it goes on by the text of its position; one transaction is in progress."""
    late, other = connections
    position: AuditPosition | None = await store.audit_position()
    transaction = late.transaction()
    await transaction.start()
    await write(late, "late")
    for n in range(4):
        async with other.transaction():
            for m in range(n + 1):
                await write(other, f"{n}.{m}")
    seen: list[str] = []
    complete = False
    while not complete:
        found, position, complete = await store.audit_since(position, page=3)
        seen += [event.event for event in found]
        position = AuditPosition.parse(str(position))
    assert [name[0] for name in seen] == ["0", "1", "1", "2", "2", "2", "3", "3", "3", "3"]
    assert sorted(seen) == [f"{n}.{m}" for n in range(4) for m in range(n + 1)]
    await transaction.commit()
    assert (await read_on(store, position))[0] == ["late"]


async def test_a_watcher_of_parallel_writers_sees_each_row_once(store: Store) -> None:
    """While they write, and whatever the order of their commits."""
    position = await store.audit_position()
    names = [f"{writer}.{n}" for writer in range(8) for n in range(20)]

    async def writer(number: int) -> None:
        for n in range(20):
            await store.write_audit(row(f"{number}.{n}"))

    writers = asyncio.gather(*map(writer, range(8)))
    seen: list[str] = []
    while len(seen) < len(names):
        found, position = await read_on(store, position)
        seen += found
    await writers
    assert sorted(seen) == sorted(names)
    assert (await read_on(store, position))[0] == []


async def test_rows_beyond_the_longest_position_come_once(store: Store, database_url: str) -> None:
    """With more transactions in progress than a position names, rows wait, and none comes twice."""
    running = await asyncio.gather(
        *(pools.open_connection(database_url) for _ in range(MAX_RUNNING + 2))
    )
    try:
        position = await store.audit_position()
        for connection in running:
            await connection.execute("BEGIN")
            await write(connection, "held")
        await store.write_audit(row("free"))
        seen, position = await read_on(store, position)
        for connection in running:
            await connection.execute("COMMIT")
        more, position = await read_on(store, position)
        assert sorted(seen + more) == ["free", *["held"] * (MAX_RUNNING + 2)]
    finally:
        for connection in running:
            connection.terminate()


async def test_after_a_failover_the_last_rows_come_again(store: Store) -> None:
    """The position of another timeline names transactions that may be lost."""
    await store.write_audit(row("old", NOW - timedelta(days=1)))
    await store.write_audit(row("recent", NOW))
    position = replace(await store.audit_position(), epoch="another", as_of=NOW)
    assert (await read_on(store, position))[0] == ["recent"]


# Batches


async def test_rows_that_wait_are_written_once(store: Store) -> None:
    """In several batches, by whoever flushes them."""
    for n in range(AUDIT_BATCH + 5):
        store.write_audit_later(row(f"row{n}"))
    assert sample("auth_audit_rows_waiting") == AUDIT_BATCH + 5
    await asyncio.gather(*(store.flush_audit() for _ in range(3)))
    assert sample("auth_audit_rows_waiting") == 0
    found = await store.list_audit(AuditFilter(), 1000)
    assert len({event.event for event in found}) == len(found) == AUDIT_BATCH + 5


async def test_rows_beyond_the_bound_are_counted(store: Store) -> None:
    """Memory is bounded in a flood."""
    before = sample("auth_audit_rows_dropped_total")
    for _ in range(MAX_WAITING + 3):
        store.write_audit_later("{}")
    assert sample("auth_audit_rows_dropped_total") - before == 3
    assert sample("auth_audit_rows_waiting") == MAX_WAITING


async def test_rows_wait_while_the_database_does_not_answer(
    database_url: str, connections: "list[Connection]"
) -> None:
    """And are written once it does."""
    pool = await pools.connect(database_url, statement_timeout=timedelta(milliseconds=200))
    store = Store(pool)
    store.write_audit_later(row("waits"))
    async with connections[0].transaction():
        await connections[0].execute("LOCK TABLE audit_log")
        with pytest.raises(Unavailable):
            await store.flush_audit()
        assert sample("auth_audit_rows_waiting") == 1
    await store.flush_audit()
    assert [event.event for event in await store.list_audit(AuditFilter(), 9)] == ["waits"]
    pool.terminate()


async def test_a_batch_that_was_written_before_changes_nothing(store: Store) -> None:
    """A commit that seemed lost is tried again."""
    again = row("once")
    for _ in range(2):
        store.write_audit_later(again)
        await store.flush_audit()
    assert len(await store.list_audit(AuditFilter(), 9)) == 1


async def test_a_failure_after_a_commit_leaves_the_row_of_the_commit(store: Store) -> None:
    """If the commit was lost, the row of the failure is written instead."""
    for written in (True, False):
        call = audit.begin(Origin)
        changed = audit.row("user.created", NOW, user_id=uuid4())
        if written:
            await store.write_audit(changed)
        store.write_audit_later(audit.closing_row("admin.create_user", NOW, "UNAVAILABLE"))
        await store.flush_audit()
        assert call.has_row
    found = [event.event for event in await store.list_audit(AuditFilter(), 9)]
    assert sorted(found) == ["admin.create_user", "user.created"]


async def test_a_row_that_cannot_be_stored_holds_up_no_other(store: Store) -> None:
    """It is counted as dropped."""
    before = sample("auth_audit_rows_dropped_total")
    store.write_audit_later(row("bad", user_id="no uuid"))
    await store.flush_audit()
    store.write_audit_later(row("good"))
    await store.flush_audit()
    assert sample("auth_audit_rows_dropped_total") - before == 1
    assert [event.event for event in await store.list_audit(AuditFilter(), 9)] == ["good"]


# Retention


async def partitions(pool: "Pool") -> set[str]:
    """Return the partitions for months of 2031."""
    sql = "SELECT relid::regclass::text FROM pg_partition_tree('audit_log') WHERE isleaf"
    return {row[0] for row in await pool.fetch(sql) if "2031" in row[0]}


async def test_old_partitions_are_dropped_as_a_whole(store: Store, pool: "Pool") -> None:
    """Once each of their rows is old; that leaves a row for each of them."""
    for month in (1, 3, 5):
        await store.extend_audit_log(NOW.replace(month=month))
    for month in range(1, 6):
        await store.write_audit(row(f"of.{month}", NOW.replace(month=month)))
    await store.prune_audit(NOW.replace(month=3, day=31), NOW)
    assert await partitions(pool) == {f"audit_log_2031{month:02}" for month in range(3, 7)}
    found = await store.list_audit(AuditFilter(), 99)
    assert sorted(e.event for e in found if e.event.startswith("of")) == ["of.3", "of.4", "of.5"]
    dropped = [dict(e.details) for e in found if e.event == "audit.partition_dropped"]
    assert sorted(each["partition"] for each in dropped) == ["audit_log_203101", "audit_log_203102"]


async def test_old_rows_of_the_default_partition_are_deleted(store: Store) -> None:
    """Those of a month for which there was no partition in time."""
    for year in (2020, 2031):
        await store.write_audit(row(f"of.{year}", NOW.replace(year=year)))
    await store.prune_audit(NOW - timedelta(days=400), NOW)
    assert [event.event for event in await store.list_audit(AuditFilter(), 9)] == ["of.2031"]


async def test_a_partition_in_use_is_dropped_later(
    store: Store, pool: "Pool", connections: "list[Connection]"
) -> None:
    """Nobody who writes waits long behind a transaction that has read it."""
    await store.extend_audit_log(NOW)
    reader = connections[0].transaction()
    await reader.start()
    await connections[0].fetch("SELECT * FROM audit_log_203105")
    await store.prune_audit(NOW + timedelta(days=90), NOW)
    assert "audit_log_203105" in await partitions(pool)
    await reader.rollback()
    await store.prune_audit(NOW + timedelta(days=90), NOW)
    assert "audit_log_203105" not in await partitions(pool)
