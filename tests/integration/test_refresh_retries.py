"""Retries of a refresh: no stall, no cancelled call and no wrong clock logs anybody out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from auth_service import base64url
from auth_service.clock import DatabaseClock
from auth_service.db.store import Store
from auth_service.errors import InvalidArgument, InvalidGrant
from auth_service.tokens.refresh import token_id
from tests.clock import FakeClock
from tests.integration.core import Core, make_core, payload, refresh_token
from tests.integration.serving import until
from tests.integration.test_sessions import assert_ended, audited, row, written

if TYPE_CHECKING:
    from auth_service.db.pool import Pool

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)
REQUEST = "3f0c2a9e-refresh"
WAITS_FOR_A_LOCK = """
    SELECT count(*) >= {} FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.fixture
async def core(store: Store, clock: FakeClock) -> AsyncIterator[Core]:
    core = make_core(store, clock)
    await core.user()
    yield core
    core.hasher.close()


@dataclass(frozen=True)
class Lock:
    """A lock that a transaction of its own holds."""

    connection: Any
    database_url: str

    async def waited_for_by(self, count: int) -> None:
        """Return once that many statements wait for it."""
        await until(self.database_url, WAITS_FOR_A_LOCK.format(count), what="statements wait")


@asynccontextmanager
async def held(database_url: str, sql: str) -> AsyncIterator[Lock]:
    """Hold the lock that a statement takes, and commit at the end."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute(sql)
            yield Lock(connection, database_url)
    finally:
        await connection.close()


class TestRequestId:
    @pytest.mark.parametrize("later", [timedelta(0), 11 * SECOND, timedelta(hours=1), 6 * DAY])
    async def test_the_same_request_gets_the_same_successor_after_any_delay(
        self, core: Core, clock: FakeClock, pool: "Pool", later: timedelta
    ) -> None:
        """Byte for byte, and nothing is written; the successor is valid."""
        first = await core.login()
        second = await core.sessions.refresh(first.refresh_token, request_id=REQUEST)
        clock.advance(later)
        before = await written(pool)
        again = await core.sessions.refresh(first.refresh_token, request_id=REQUEST)
        assert again.refresh_token == second.refresh_token
        assert again.refresh_expires_at == second.refresh_expires_at
        assert await written(pool) == before
        assert core.active(again.access_token)
        third = await core.sessions.refresh(again.refresh_token)
        assert payload(third.refresh_token)["gen"] == 2

    async def test_a_retry_outlives_the_token_that_it_presents(
        self, core: Core, clock: FakeClock
    ) -> None:
        """A token used on its sixth day still leads to its successor on the twelfth."""
        first = await core.login()
        clock.advance(6 * DAY)
        second = await core.sessions.refresh(first.refresh_token, request_id=REQUEST)
        clock.advance(6 * DAY)
        assert first.refresh_expires_at is not None
        assert first.refresh_expires_at < clock.now
        again = await core.sessions.refresh(first.refresh_token, request_id=REQUEST)
        assert again.refresh_token == second.refresh_token

    async def test_an_expired_token_without_its_request_changes_nothing(
        self, core: Core, clock: FakeClock, pool: "Pool"
    ) -> None:
        """It is neither rotated nor taken for reuse."""
        first = await core.login()
        clock.advance(6 * DAY)
        second = await core.sessions.refresh(first.refresh_token, request_id=REQUEST)
        clock.advance(2 * DAY)
        before = await written(pool)
        for request_id in ("", "another-request"):
            with pytest.raises(InvalidGrant):
                await core.sessions.refresh(first.refresh_token, request_id=request_id)
        assert await written(pool) == before
        clock.advance(6 * DAY)  # the successor has expired as well
        for token in (first.refresh_token, second.refresh_token):
            with pytest.raises(InvalidGrant):
                await core.sessions.refresh(token, request_id=REQUEST)
        assert await written(pool) == before

    async def test_within_its_life_the_access_token_is_the_same_too(
        self, core: Core, clock: FakeClock
    ) -> None:
        """Later a new one takes its place, with an id of its own, so that revoking one holds."""
        first = await core.login()
        second = await core.sessions.refresh(first.refresh_token, request_id=REQUEST)
        clock.advance(timedelta(minutes=14))
        again = await core.sessions.refresh(first.refresh_token, request_id=REQUEST)
        assert again == second
        clock.advance(timedelta(minutes=2))
        later = await core.sessions.refresh(first.refresh_token, request_id=REQUEST)
        claims = core.claims(later.access_token)
        assert claims.issued_at == int(clock.now.timestamp())
        assert claims.token_id != payload(second.access_token)["jti"]
        await core.revoker.revoke_access_token(later.access_token)
        assert not core.active(later.access_token)

    @pytest.mark.parametrize("request_id", ["", "another-request"])
    async def test_without_the_request_it_is_reuse_after_the_grace(
        self, core: Core, clock: FakeClock, pool: "Pool", request_id: str
    ) -> None:
        """A thief who copied the token does not know the request id: the session ends."""
        first = await core.login()
        second = await core.sessions.refresh(first.refresh_token, request_id=REQUEST)
        clock.advance(11 * SECOND)
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(first.refresh_token, request_id=request_id)
        await assert_ended(core, pool, second)
        assert await audited(pool, "session.reuse_detected") == 1
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(first.refresh_token, request_id=REQUEST)

    async def test_a_request_belongs_to_one_step(self, core: Core, pool: "Pool") -> None:
        """Two steps behind it is reuse, even if a client repeats one id for ever."""
        first = await core.login()
        second = await core.sessions.refresh(first.refresh_token, request_id=REQUEST)
        third = await core.sessions.refresh(second.refresh_token, request_id=REQUEST)
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(first.refresh_token, request_id=REQUEST)
        await assert_ended(core, pool, third)

    async def test_a_step_without_a_request_forgets_the_one_before(
        self, core: Core, clock: FakeClock, pool: "Pool"
    ) -> None:
        """What an earlier step was asked by says nothing of this one."""
        first = await core.login()
        second = await core.sessions.refresh(first.refresh_token, request_id=REQUEST)
        third = await core.sessions.refresh(second.refresh_token)
        assert (await row(pool, third))["refresh_request_hash"] is None
        clock.advance(11 * SECOND)
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(second.refresh_token, request_id=REQUEST)
        await assert_ended(core, pool, third)

    async def test_only_a_short_hash_of_it_is_stored(self, core: Core, pool: "Pool") -> None:
        """A reader of the database does not learn the id."""
        first = await core.login()
        await core.sessions.refresh(first.refresh_token, request_id=REQUEST)
        stored = await row(pool, first)
        assert len(stored["refresh_request_hash"]) == 16
        assert REQUEST not in str(stored)

    async def test_an_adopted_step_remembers_its_request(
        self, core: Core, clock: FakeClock, pool: "Pool"
    ) -> None:
        """After a failover that lost commits a retry is harmless as well."""
        first = await core.login()
        second = await core.sessions.refresh(first.refresh_token)
        await pool.execute("UPDATE sessions SET generation = 0")
        third = await core.sessions.refresh(second.refresh_token, request_id=REQUEST)
        clock.advance(DAY)
        again = await core.sessions.refresh(second.refresh_token, request_id=REQUEST)
        assert again.refresh_token == third.refresh_token

    @pytest.mark.parametrize("bad", ["short", "x" * 129, "with a space", "ümlauts-", "a\0bcdefgh"])
    async def test_a_bad_request_id_is_refused_by_name(
        self, core: Core, pool: "Pool", bad: str
    ) -> None:
        """The refusal names the field and changes nothing."""
        first = await core.login()
        before = await written(pool)
        with pytest.raises(InvalidArgument) as refused:
            await core.sessions.refresh(first.refresh_token, request_id=bad)
        assert refused.value.violations[0].field == "request_id"
        assert await written(pool) == before


class TestSlowDatabase:
    async def test_the_grace_runs_from_the_write(
        self, core: Core, clock: FakeClock, database_url: str, pool: "Pool"
    ) -> None:
        """A statement that waits for 14 s leaves the whole grace to the client's retry."""
        first = await core.login()
        async with held(database_url, "LOCK TABLE sessions IN EXCLUSIVE MODE") as lock:
            lost = asyncio.create_task(core.sessions.refresh(first.refresh_token))
            await lock.waited_for_by(1)
            clock.advance(14 * SECOND)
        second = await lost
        assert (await row(pool, first))["refreshed_at"] == clock.now
        clock.advance(10 * SECOND)
        assert await core.sessions.refresh(first.refresh_token) == second

    async def test_the_grace_runs_from_the_end_of_a_wait_for_the_row(
        self, core: Core, clock: FakeClock, database_url: str, pool: "Pool"
    ) -> None:
        """The rotation that waits for the row's lock takes the time once it has it."""
        first = await core.login()
        async with held(database_url, "SELECT FROM sessions FOR UPDATE") as lock:
            lost = asyncio.create_task(core.sessions.refresh(first.refresh_token))
            await lock.waited_for_by(1)
            clock.advance(14 * SECOND)
        second = await lost
        assert (await row(pool, first))["refreshed_at"] == clock.now
        clock.advance(10 * SECOND)
        assert await core.sessions.refresh(first.refresh_token) == second

    async def test_a_retry_counts_from_its_arrival(
        self, core: Core, clock: FakeClock, database_url: str
    ) -> None:
        """A retry that arrived in time gets its successor, however long the database takes."""
        first = await core.login()
        second = await core.sessions.refresh(first.refresh_token)
        clock.advance(5 * SECOND)
        async with held(database_url, "LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE") as lock:
            retry = asyncio.create_task(core.sessions.refresh(first.refresh_token))
            await lock.waited_for_by(1)
            clock.advance(14 * SECOND)
        assert await retry == second

    async def test_a_call_from_before_the_last_rotation_ends_nothing(
        self, core: Core, clock: FakeClock, database_url: str, pool: "Pool"
    ) -> None:
        """It comes to its turn late, two steps behind: refused, and the session goes on."""
        first = await core.login()
        async with held(database_url, "SELECT FROM sessions FOR UPDATE") as lock:
            late = [
                asyncio.create_task(core.sessions.refresh(first.refresh_token)) for _ in range(2)
            ]
            await lock.waited_for_by(2)
            clock.advance(SECOND)
            await lock.connection.execute(
                "UPDATE sessions SET generation = 2, refreshed_at = $1", clock.now
            )
        for task in late:
            with pytest.raises(InvalidGrant):
                await task
        assert await audited(pool, "session.reuse_detected") == 0
        seed = (await row(pool, first))["seed"]
        current = refresh_token(first.refresh_token, gen=2, jti=base64url.encode(token_id(seed, 2)))
        third = await core.sessions.refresh(current)
        assert payload(third.refresh_token)["gen"] == 3
        clock.advance(SECOND)
        with pytest.raises(InvalidGrant):  # a call that arrives only now is reuse
            await core.sessions.refresh(first.refresh_token)
        await assert_ended(core, pool, third)
        assert await audited(pool, "session.reuse_detected") == 1

    async def test_a_correction_of_the_clock_makes_no_late_call_a_reuse(
        self, store: Store, clock: FakeClock, database_url: str, pool: "Pool"
    ) -> None:
        """The time that a call took is counted by the steady clock."""
        began = clock.now
        steady = [0.0]
        estimated = DatabaseClock(began, 0.0, 0.0, steady=lambda: steady[0])
        core = make_core(store, estimated)
        await core.user()
        first = await core.login()
        async with held(database_url, "SELECT FROM sessions FOR UPDATE") as lock:
            late = asyncio.create_task(core.sessions.refresh(first.refresh_token))
            await lock.waited_for_by(1)
            await lock.connection.execute(
                "UPDATE sessions SET generation = 2, refreshed_at = $1", began + SECOND
            )
            clock.advance(2 * SECOND)
            steady[0] += 2
            estimated.adjust(began, steady[0], steady[0])  # as if no time had passed
        with pytest.raises(InvalidGrant):
            await late
        assert await audited(pool, "session.reuse_detected") == 0
        core.hasher.close()

    async def test_a_late_call_one_step_behind_gets_its_successor(
        self, core: Core, clock: FakeClock, database_url: str, pool: "Pool"
    ) -> None:
        """It arrived before the rotation, so it is entitled to what the other call got."""
        first = await core.login()
        async with held(database_url, "SELECT FROM sessions FOR UPDATE") as lock:
            late = asyncio.create_task(core.sessions.refresh(first.refresh_token))
            await lock.waited_for_by(1)
            clock.advance(60 * SECOND)
            await lock.connection.execute(
                "UPDATE sessions SET generation = 1, refreshed_at = $1",
                clock.now - 30 * SECOND,
            )
        assert payload((await late).refresh_token)["gen"] == 1
        assert (await row(pool, first))["revoked_at"] is None


class TestClocks:
    @pytest.mark.parametrize("off", [30 * SECOND, -30 * SECOND, DAY / 24, -DAY / 24])
    async def test_a_replica_with_a_wrong_clock_ends_no_session_by_a_retry(
        self, core: Core, store: Store, clock: FakeClock, pool: "Pool", off: timedelta
    ) -> None:
        """The database's clock dates the row and counts the grace, at whatever replica."""
        other = make_core(store, lambda: clock() + off)
        pair = await core.login()
        for one, another in ((core, other), (other, core), (other, other)):
            second = await one.sessions.refresh(pair.refresh_token)
            assert (await row(pool, pair))["refreshed_at"] == clock.now
            clock.advance(9 * SECOND)
            assert await another.sessions.refresh(pair.refresh_token) == second
            pair = second
        other.hasher.close()
