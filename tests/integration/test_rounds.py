"""Rotations that come at once go to the database together, and none pays for another's trouble."""

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from auth_service.db.rounds import ROUND_SIZE
from auth_service.db.store import Store
from auth_service.errors import Unavailable
from auth_service.models import Session
from tests.clock import FakeClock
from tests.integration.conftest import AddSession, AddUser
from tests.integration.serving import until

if TYPE_CHECKING:
    from auth_service.db.pool import Pool

WEEK = timedelta(days=7)
WAITS_FOR_A_LOCK = """
    SELECT count(*) > 0 FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
END_WHO_WAITS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.fixture
def rotate(store: Store, clock: FakeClock) -> Any:
    """Steps a session."""

    async def step(session: Session, generation: int = 0) -> Session | None:
        found = await store.rotate_free_session(
            session.user_id, session.id, generation, (), clock.now, clock.now + WEEK
        )
        return found[0] if found else None

    return step


async def test_who_asks_at_once_shares_one_commit_and_gets_his_own_session(
    rotate: Any, pool: "Pool", add_user: AddUser, add_session: AddSession
) -> None:
    """Thirty sessions of three users step in one transaction."""
    users = [await add_user() for _ in range(3)]
    sessions = [await add_session(users[number % 3]) for number in range(30)]
    stepped = await asyncio.gather(*map(rotate, sessions))
    assert [(found.id, found.generation) for found in stepped] == [(s.id, 1) for s in sessions]
    assert await pool.fetchval("SELECT count(DISTINCT xmin::text) FROM sessions") == 1


async def test_more_than_a_round_takes_more_rounds(
    rotate: Any, add_user: AddUser, add_session: AddSession
) -> None:
    """Nobody is left behind."""
    user = await add_user()
    sessions = [await add_session(user) for _ in range(ROUND_SIZE + 20)]
    stepped = await asyncio.gather(*map(rotate, sessions))
    assert [found.id for found in stepped] == [session.id for session in sessions]


async def test_of_one_session_a_round_takes_one(
    rotate: Any, add_user: AddUser, add_session: AddSession
) -> None:
    """Of the same token twice, and of another generation, one steps."""
    session = await add_session(await add_user())
    stepped = await asyncio.gather(rotate(session), rotate(session), rotate(session, 1))
    assert [found is not None for found in stepped] == [True, False, False]


async def test_a_session_that_is_held_is_left_out_and_holds_up_nobody(
    rotate: Any, database_url: str, add_user: AddUser, add_session: AddSession
) -> None:
    """While another transaction has its row, the others step."""
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


async def test_a_caller_who_goes_stops_nothing(
    rotate: Any, store: Store, add_user: AddUser, add_session: AddSession
) -> None:
    """Neither the own step nor that of the others in the round."""
    user = await add_user()
    mine, other = await add_session(user), await add_session(user)
    going, staying = (asyncio.create_task(rotate(session)) for session in (mine, other))
    await asyncio.sleep(0)  # both wait for the round
    going.cancel()
    assert (await staying).generation == 1
    found = await store.find_session(mine.id)
    assert found is not None
    assert found.generation == 1


async def test_a_round_that_fails_fails_for_its_callers_and_the_next_goes_on(
    rotate: Any, database_url: str, add_user: AddUser, add_session: AddSession
) -> None:
    """Each is told to try again; who asked in the meantime is not concerned."""
    user = await add_user()
    first, second, later = [await add_session(user) for _ in range(3)]
    connection = await asyncpg.connect(database_url)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("LOCK TABLE sessions IN EXCLUSIVE MODE")
    failing = [asyncio.create_task(rotate(session)) for session in (first, second)]
    await until(database_url, WAITS_FOR_A_LOCK, what="the round waits")
    waiting = asyncio.create_task(rotate(later))
    await asyncio.sleep(0)  # it waits for the next round
    await connection.execute(END_WHO_WAITS)
    for each in failing:
        with pytest.raises(Unavailable):
            await each
    await transaction.rollback()
    await connection.close()
    assert (await waiting).generation == 1
    assert (await rotate(first)).generation == 1
