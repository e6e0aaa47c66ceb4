"""The cursor of the feed: no commit is skipped, none is read twice, and a poll costs nothing."""

import asyncio
import random
from typing import TYPE_CHECKING

import asyncpg
import pytest

from auth_service.db.cursor import MAX_RUNNING, Cursor
from auth_service.db.revocations import REVOCATION_PAGE
from auth_service.db.statements import statements
from auth_service.db.store import Store

if TYPE_CHECKING:
    from auth_service.db.pool import Pool

INSERT = """
    INSERT INTO revocations (kind, target, expires_at, created_at)
    SELECT 'token', unnest($1::text[]), now() + interval '1 hour', now()
"""
WRITERS = 8
TRANSACTIONS = 60  # of each writer


async def write(url: str, name: str, rng: random.Random) -> list[str]:
    """Commit or roll back transactions with pauses and savepoints; return what was committed."""
    connection = await asyncpg.connect(url)
    committed: list[str] = []
    for number in range(TRANSACTIONS):
        transaction, targets = connection.transaction(), [f"{name}-{number}"]
        await transaction.start()
        if rng.random() < 0.5:
            await connection.execute("SELECT pg_current_xact_id()")  # the id long before the row
        for _ in range(rng.randrange(4)):
            await connection.fetchval("SELECT 1")
        await connection.execute(INSERT, targets)
        if rng.random() < 0.3:
            inner, nested = connection.transaction(), f"{name}-{number}-nested"
            await inner.start()
            await connection.execute(INSERT, [nested])
            if rng.random() < 0.5:
                await inner.commit()
                targets.append(nested)
            else:
                await inner.rollback()
        for _ in range(rng.randrange(12)):
            await connection.fetchval("SELECT 1")
        if rng.random() < 0.2:
            await transaction.rollback()
        else:
            await transaction.commit()
            committed += targets
    await connection.close()
    return committed


@pytest.mark.parametrize("seed", range(4))
async def test_every_commit_is_read_exactly_once(
    database_url: str, store: Store, seed: int
) -> None:
    """Of writers that commit in any order, with savepoints, rollbacks and ids taken early."""
    rng = random.Random(seed)
    read: list[str] = []
    seen_running = 0
    _, cursor = await store.revocations_since()
    writers = asyncio.gather(
        *(write(database_url, f"w{n}", random.Random(rng.random())) for n in range(WRITERS))
    )
    while True:
        ended = writers.done()
        found, cursor = await store.revocations_since(cursor)
        read += [revocation.target for revocation in found]
        seen_running += bool(cursor.running)
        if ended:
            break
        await asyncio.sleep(rng.random() / 500)
    committed = [target for targets in await writers for target in targets]
    assert seen_running > 10  # the premise: polls fell among open transactions
    assert sorted(read) == sorted(committed)


async def test_more_open_transactions_than_a_cursor_holds_skip_nothing(
    database_url: str, store: Store
) -> None:
    """Some rows are then read again."""
    _, cursor = await store.revocations_since()
    connections = [await asyncpg.connect(database_url) for _ in range(MAX_RUNNING + 6)]
    for number, connection in enumerate(connections):
        await connection.execute("BEGIN")
        await connection.execute(INSERT, [str(number)])
    async with store._transaction() as other:
        await other.execute(INSERT, ["other"])
    found, cursor = await store.revocations_since(cursor)
    assert [revocation.target for revocation in found] == ["other"]
    assert len(cursor.running) == MAX_RUNNING
    read: list[str] = []
    for connection in reversed(connections):
        await connection.execute("COMMIT")
        found, cursor = await store.revocations_since(cursor)
        read += [revocation.target for revocation in found]
        await connection.close()
    assert {str(number) for number in range(len(connections))} <= set(read)
    assert (await store.revocations_since(cursor))[0] == []


async def test_an_open_transaction_makes_no_poll_read_anything(store: Store, pool: "Pool") -> None:
    """However many rows were written since it began; its own are read when it commits."""
    async with pool.acquire() as forgotten:
        transaction = forgotten.transaction()
        await transaction.start()
        await forgotten.execute(INSERT, ["late"])
        await pool.execute(INSERT, [str(n) for n in range(20_000)])
        found, cursor = await store.revocations_since()
        assert len(found) == 20_000
        for _ in range(3):
            found, cursor = await store.revocations_since(cursor)
            assert found == []
        assert len(cursor.running) == 1
        await transaction.commit()
    found, cursor = await store.revocations_since(cursor)
    assert [revocation.target for revocation in found] == ["late"]
    assert (await store.revocations_since(cursor))[0] == []


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
@pytest.mark.parametrize("analyzed", [False, True])
async def test_a_poll_reads_by_the_index_whatever_the_plan(
    database_url: str, mode: str, analyzed: bool
) -> None:
    """With 20,000 rows and an old transaction open, it touches a few pages and no row."""
    connection = await asyncpg.connect(database_url, statement_cache_size=0)
    other = await asyncpg.connect(database_url)
    await other.execute("BEGIN")
    await other.execute("SELECT pg_current_xact_id()")
    await connection.execute(INSERT, [str(n) for n in range(20_000)])
    if analyzed:
        await connection.execute("ANALYZE revocations")
    await connection.execute(f"SET plan_cache_mode = {mode}")
    cursor = Cursor.of_snapshot(await connection.fetchval("SELECT pg_current_snapshot()"))
    assert cursor.running
    sql = statements()["first_revocations_since"]
    await connection.execute(f"PREPARE poll (xid8, xid8[], integer) AS {sql}")
    running = ",".join(map(str, cursor.running))
    explain = (
        "EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) "
        f"EXECUTE poll ('{cursor.end}', '{{{running}}}', {REVOCATION_PAGE})"
    )
    for _ in range(2):  # the first one compiles database_epoch(), and reads catalogs for it
        plan = "\n".join(row[0] for row in await connection.fetch(explain))
    await other.close()
    await connection.close()
    assert "Seq Scan" not in plan, plan
    assert plan.count("revocations_xid") == 2, plan
    hits = int(plan.split("shared hit=", 1)[1].split()[0])
    assert hits <= 10, plan
