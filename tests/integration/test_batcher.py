"""Rotations that arrive together share a round trip, and none suffers from another's failure."""

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from auth_service.db.batcher import BATCH_SIZE
from auth_service.db.store import Store
from auth_service.errors import Unavailable
from auth_service.models import Session
from tests.integration.conftest import AddSession, AddUser, rotation
from tests.integration.serving import until

if TYPE_CHECKING:
    from auth_service.db.pool import Pool

WEEK = timedelta(days=7)
WAITS_FOR_A_LOCK = """
    SELECT count(*) > 0 FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
TERMINATE_WAITING = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.fixture
def rotate(store: Store) -> Any:
    """Rotates a session, in a batch."""

    async def step(session: Session, generation: int = 0) -> Session | None:
        found = await store.rotate_free_session(rotation(session, generation))
        return found.session if found else None

    return step


async def test_calls_that_arrive_together_share_one_commit_and_each_gets_its_own_session(
    rotate: Any, pool: "Pool", add_user: AddUser, add_session: AddSession
) -> None:
    """Thirty sessions of three users rotate in one transaction."""
    users = [await add_user() for _ in range(3)]
    sessions = [await add_session(users[number % 3]) for number in range(30)]
    stepped = await asyncio.gather(*map(rotate, sessions))
    assert [(found.id, found.generation) for found in stepped] == [(s.id, 1) for s in sessions]
    assert await pool.fetchval("SELECT count(DISTINCT xmin::text) FROM sessions") == 1


async def test_more_calls_than_a_batch_holds_take_two_batches(
    rotate: Any, add_user: AddUser, add_session: AddSession
) -> None:
    """Every call is answered."""
    user = await add_user()
    sessions = [await add_session(user) for _ in range(BATCH_SIZE + 20)]
    stepped = await asyncio.gather(*map(rotate, sessions))
    assert [found.id for found in stepped] == [session.id for session in sessions]


async def test_a_batch_takes_one_call_for_each_session(
    rotate: Any, add_user: AddUser, add_session: AddSession
) -> None:
    """The same token twice, and one of another generation: the first call rotates."""
    session = await add_session(await add_user())
    stepped = await asyncio.gather(rotate(session), rotate(session), rotate(session, 1))
    assert [found is not None for found in stepped] == [True, False, False]


async def test_a_locked_session_is_skipped_and_delays_no_other(
    rotate: Any, database_url: str, add_user: AddUser, add_session: AddSession
) -> None:
    """While another transaction holds its row, the others rotate."""
    user = await add_user()
    held, free = await add_session(user), await add_session(user)
    connection = await asyncpg.connect(database_url)
    async with connection.transaction():
        await connection.execute("SELECT FROM sessions WHERE id = $1 FOR UPDATE", held.id)
        assert await rotate(held) is None
        stepped = await asyncio.gather(rotate(held), rotate(free))
        assert [found is not None for found in stepped] == [False, True]
    await connection.close()
    assert await rotate(held) is not None


async def test_a_call_cancelled_before_its_batch_changes_nothing(
    rotate: Any, store: Store, add_user: AddUser, add_session: AddSession
) -> None:
    """Nothing has begun for it; the other calls of the batch rotate."""
    user = await add_user()
    mine, other = await add_session(user), await add_session(user)
    leaving, staying = (asyncio.create_task(rotate(session)) for session in (mine, other))
    await asyncio.sleep(0)  # both wait for the batch
    leaving.cancel()
    assert (await staying).generation == 1
    found = await store.find_session(mine.id)
    assert found is not None
    assert found.generation == 0
    again = asyncio.create_task(rotate(mine))
    await asyncio.sleep(0)
    again.cancel()
    assert (await rotate(mine)).generation == 1  # a cancelled call is in nobody's way


async def test_a_call_cancelled_during_its_batch_is_completed(
    rotate: Any, store: Store, database_url: str, add_user: AddUser, add_session: AddSession
) -> None:
    """What has begun is committed, for this call and for the others of the batch."""
    user = await add_user()
    mine, other = await add_session(user), await add_session(user)
    connection = await asyncpg.connect(database_url)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("LOCK TABLE sessions IN EXCLUSIVE MODE")
    leaving, staying = (asyncio.create_task(rotate(session)) for session in (mine, other))
    await until(database_url, WAITS_FOR_A_LOCK, what="the batch waits")
    leaving.cancel()
    await transaction.rollback()
    await connection.close()
    assert (await staying).generation == 1
    found = await store.find_session(mine.id)
    assert found is not None
    assert found.generation == 1


async def test_a_batch_that_fails_fails_its_own_calls_alone(
    rotate: Any, database_url: str, add_user: AddUser, add_session: AddSession
) -> None:
    """Each of them may try again; a call that arrived meanwhile is answered by the next batch."""
    user = await add_user()
    first, second, later = [await add_session(user) for _ in range(3)]
    connection = await asyncpg.connect(database_url)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("LOCK TABLE sessions IN EXCLUSIVE MODE")
    failing = [asyncio.create_task(rotate(session)) for session in (first, second)]
    await until(database_url, WAITS_FOR_A_LOCK, what="the batch waits")
    waiting = asyncio.create_task(rotate(later))
    await asyncio.sleep(0)  # it waits for the next batch
    await connection.execute(TERMINATE_WAITING)
    for each in failing:
        with pytest.raises(Unavailable):
            await each
    await transaction.rollback()
    await connection.close()
    assert (await waiting).generation == 1
    assert (await rotate(first)).generation == 1
