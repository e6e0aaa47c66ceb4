"""Login attempts in the database: what one takes, from which buckets, and who wins a race."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol
from uuid import UUID, uuid4

import pytest

from auth_service.db.login_attempts import Bucket, Reserved, Shown
from auth_service.db.store import Store
from auth_service.models import Revocation, RevocationKind, Session, Taken
from tests.clock import FakeClock
from tests.integration.conftest import AddSession, AddUser

if TYPE_CHECKING:
    from auth_service.db.pool import Pool

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
NewSession = Callable[[UUID], Session]
SOURCE, NETWORK, IDENTIFIER, OWN = 1, 2, 3, 4
TABLE = "SELECT t.*, xmin, xmax, ctid FROM login_buckets t ORDER BY slot"


def of_identifier(burst: int, refill: timedelta = HOUR, slot: int = IDENTIFIER) -> list[Bucket]:
    """Return the buckets of a stranger, of whom that of the identifier refuses first."""
    return [
        Bucket(SOURCE, 1000, SECOND),
        Bucket(NETWORK, 1000, SECOND),
        Bucket(slot, burst, refill),
    ]


class Reserve(Protocol):
    """Reserves an attempt with the identifier anna, now."""

    async def __call__(
        self, strangers: Sequence[Bucket | None], *shown: Shown, identifier: str = "anna"
    ) -> Reserved: ...


@pytest.fixture
def reserve(store: Store, clock: FakeClock) -> Reserve:
    """Reserves attempts."""

    async def attempt(
        strangers: Sequence[Bucket | None], *shown: Shown, identifier: str = "anna"
    ) -> Reserved:
        return await store.reserve_login_attempt(
            identifier, clock.now, strangers, shown, own_burst=2, own_refill=HOUR
        )

    return attempt


async def test_attempts_come_back_one_by_one(
    reserve: Reserve, store: Store, clock: FakeClock
) -> None:
    """The burst is exact, the wait is exact, and one attempt returns each refill."""
    every = 10 * SECOND

    async def attempt(slot: int = IDENTIFIER) -> timedelta | None:
        return (await reserve(of_identifier(3, every, slot))).wait

    assert [await attempt() for _ in range(4)] == [None, None, None, every]
    clock.advance(timedelta(seconds=4))
    assert await attempt() == timedelta(seconds=6)
    clock.advance(timedelta(seconds=6))
    assert [await attempt() for _ in range(2)] == [None, every]
    assert await attempt(slot=IDENTIFIER + 1) is None
    await store.give_login_attempts_back([Taken(IDENTIFIER, every)])
    assert [await attempt() for _ in range(2)] == [None, every]
    await store.give_login_attempts_back([Taken(IDENTIFIER, 3 * every)])
    assert [await attempt() for _ in range(4)] == [None, None, None, every]


async def test_an_attempt_comes_with_the_user_and_a_refusal_with_the_wait(
    reserve: Reserve, pool: "Pool", add_user: AddUser
) -> None:
    """An unknown identifier uses attempts too, and a refused attempt writes nothing."""
    user = await add_user("zoe@example.org", "anna")
    once, other = of_identifier(1), of_identifier(1, slot=IDENTIFIER + 1)
    assert await reserve(once) == Reserved(user, None, IDENTIFIER, None)
    unknown = await reserve(other, identifier="nobody")
    assert replace(unknown, decoy=None) == Reserved(None, None, IDENTIFIER + 1, None)
    assert user.password_hash not in repr(unknown)
    written = await pool.fetch(TABLE)
    assert await reserve(once) == Reserved(None, HOUR, IDENTIFIER, None)
    refused = await reserve(other, identifier="nobody")
    assert refused == Reserved(None, HOUR, IDENTIFIER + 1, None)
    assert await pool.fetch(TABLE) == written


@pytest.mark.parametrize("refusing", [SOURCE, NETWORK, IDENTIFIER])
async def test_an_attempt_takes_from_all_buckets_or_from_none(
    reserve: Reserve, pool: "Pool", refusing: int
) -> None:
    """Whichever has none left; the refusal names it."""
    buckets = [Bucket(n, 1 if n == refusing else 5, HOUR) for n in (SOURCE, NETWORK, IDENTIFIER)]
    assert (await reserve(buckets)).wait is None
    taken = await pool.fetch(TABLE)
    assert len(taken) == 3
    assert await reserve(buckets) == Reserved(None, HOUR, refusing, None)
    assert await pool.fetch(TABLE) == taken


async def test_an_unknown_source_has_no_bucket(reserve: Reserve, pool: "Pool") -> None:
    """The others count all the same."""
    buckets = [None, Bucket(NETWORK, 5, HOUR), Bucket(IDENTIFIER, 1, HOUR)]
    assert (await reserve(buckets)).wait is None
    assert (await reserve(buckets)).bucket == IDENTIFIER
    assert [row["slot"] for row in await pool.fetch(TABLE)] == [NETWORK, IDENTIFIER]


@pytest.mark.parametrize("contended", [SOURCE, NETWORK, IDENTIFIER])
async def test_parallel_attempts_cannot_race_past_the_limit(
    reserve: Reserve, pool: "Pool", clock: FakeClock, contended: int
) -> None:
    """Of fifty parallel attempts exactly the burst is allowed, and no more reach later buckets."""
    buckets = [
        Bucket(n, 10 if n == contended else 1000, HOUR) for n in (SOURCE, NETWORK, IDENTIFIER)
    ]
    answers = await asyncio.gather(*(reserve(buckets) for _ in range(50)))
    waits = [answer.wait for answer in answers]
    assert waits.count(None) == 10
    assert all(wait > timedelta(0) for wait in waits if wait is not None)
    used = {row["slot"]: (row["full_at"] - clock.now) / HOUR for row in await pool.fetch(TABLE)}
    assert used[contended] == used[IDENTIFIER] == 10


async def test_attempts_and_their_return_do_not_deadlock(reserve: Reserve, store: Store) -> None:
    """Both go through the buckets in one order, whatever order they are given back in."""
    buckets = [Bucket(n, 1000, HOUR) for n in (SOURCE, NETWORK, IDENTIFIER)]
    back = [Taken(n, HOUR) for n in (IDENTIFIER, SOURCE, NETWORK)]

    async def turn() -> None:
        assert (await reserve(buckets)).wait is None
        await store.give_login_attempts_back(back)

    await asyncio.gather(*(turn() for _ in range(100)))


async def test_a_session_gives_the_attempts_back(
    reserve: Reserve, store: Store, add_user: AddUser, new_session: NewSession
) -> None:
    """What its own login took; the retry of a request gives it back too."""
    user = await add_user("anna")
    once = of_identifier(1)
    for _ in range(3):
        assert (await reserve(once)).user == user
        assert (await reserve(once)).wait == HOUR
        await store.create_session(
            new_session(user.id), "request", taken=[Taken(IDENTIFIER, HOUR), Taken(OWN, HOUR)]
        )
    assert (await reserve(once)).user == user


class TestTheOwner:
    """Who shows something of the account has a bucket that strangers cannot use up."""

    async def drain(self, reserve: Reserve) -> None:
        while (await reserve(of_identifier(2))).wait is None:
            pass

    async def test_a_live_session_opens_a_bucket_of_its_own(
        self, reserve: Reserve, pool: "Pool", add_user: AddUser, add_session: AddSession
    ) -> None:
        """It is taken from alone, by burst and refill of its own, until nothing is left."""
        user = await add_user("anna")
        session = await add_session(user)
        await self.drain(reserve)
        strangers = (await pool.fetch(TABLE))[:3]
        shown = Shown(OWN, user.id, session.id)
        assert await reserve(of_identifier(2), shown) == Reserved(user, None, OWN, OWN)
        assert (await reserve(of_identifier(2), shown)).wait is None
        assert await reserve(of_identifier(2), shown) == Reserved(None, HOUR, OWN, OWN)
        assert (await pool.fetch(TABLE))[:3] == strangers

    @pytest.mark.parametrize("why", ["ended", "idle", "expired", "unknown", "of another user"])
    async def test_a_session_that_is_not_live_opens_none(
        self, reserve: Reserve, store: Store, clock: FakeClock, add_user: AddUser,
        add_session: AddSession, why: str,
    ) -> None:  # fmt: skip
        """Its holder is a stranger."""
        user, other = await add_user("anna"), await add_user("bert")
        session = await add_session(other if why == "of another user" else user)
        shown = Shown(OWN, session.user_id, uuid4() if why == "unknown" else session.id)
        if why == "ended":
            of_session = Revocation(RevocationKind.SESSION, str(session.id), clock.now + HOUR)
            await store.end_session(user.id, session.id, of_session, clock.now, "session.revoked")
        elif why == "idle":
            clock.now = session.refresh_expires_at
        elif why == "expired":
            clock.now = session.expires_at
        await self.drain(reserve)
        assert await reserve(of_identifier(2), shown) == Reserved(None, HOUR, IDENTIFIER, None)

    @pytest.mark.parametrize(("generation", "opens"), [(5, True), (4, True), (3, False)])
    async def test_a_refresh_token_that_was_used_before_opens_none(
        self, reserve: Reserve, pool: "Pool", add_user: AddUser, add_session: AddSession,
        generation: int, opens: bool,
    ) -> None:  # fmt: skip
        """Only the current one and the one before, whose successor may have been lost."""
        user = await add_user("anna")
        session = await add_session(user)
        await pool.execute("UPDATE sessions SET generation = 5")
        shown = Shown(OWN, user.id, session.id, generation)
        assert ((await reserve(of_identifier(1), shown)).own == OWN) is opens

    async def test_a_device_outlives_its_session_but_not_a_sign_out_everywhere(
        self, reserve: Reserve, store: Store, clock: FakeClock, add_user: AddUser
    ) -> None:
        """A change of the password is one; a device of a later login is good again."""
        user = await add_user("anna")

        async def opens(issued_at: datetime) -> bool:
            shown = Shown(OWN, user.id, uuid4(), issued_at=issued_at)
            found = await reserve(of_identifier(1000), shown)
            return found.own == OWN

        before = clock.now
        assert await opens(before)
        clock.advance(HOUR)
        revocation = Revocation(
            RevocationKind.USER, str(user.id), clock.now + HOUR, clock.now + SECOND
        )
        await store.end_user_sessions(user.id, revocation, clock.now)
        assert not await opens(before)
        assert await opens(clock.now + SECOND)

    async def test_the_first_of_several_that_is_good_counts(
        self, reserve: Reserve, add_user: AddUser, add_session: AddSession
    ) -> None:
        """A browser sends a session that has ended beside its device."""
        user = await add_user("anna")
        session = await add_session(user)
        shown = [
            Shown(7, user.id, uuid4()),
            Shown(8, uuid4(), session.id),
            Shown(9, user.id, session.id),
            Shown(OWN, user.id, uuid4(), issued_at=session.created_at),
        ]
        assert (await reserve(of_identifier(1), *shown)).own == 9


async def test_full_buckets_are_pruned(
    reserve: Reserve, store: Store, pool: "Pool", clock: FakeClock
) -> None:
    """A bucket whose attempts are regained needs no row."""
    await reserve([None, Bucket(NETWORK, 1, SECOND), Bucket(IDENTIFIER, 1, HOUR)])
    clock.advance(SECOND)
    assert await store.prune(clock.now) == 1
    assert [row["slot"] for row in await pool.fetch(TABLE)] == [IDENTIFIER]
