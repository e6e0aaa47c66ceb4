"""The store: each state change is whole, and conflicts have one winner."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg
import pytest

from auth_service.db import pool as pools
from auth_service.db.login_attempts import Bucket
from auth_service.db.revocations import REVOCATION_PAGE
from auth_service.db.statements import statements
from auth_service.db.store import Store
from auth_service.errors import (
    AlreadyExists,
    ConfigError,
    InvalidArgument,
    InvalidCredentials,
    NotFound,
    Unavailable,
)
from auth_service.models import (
    ClientSecret,
    Revocation,
    RevocationKind,
    ServiceAccount,
    Session,
)
from auth_service.tokens.refresh import token_id
from tests.clock import FakeClock
from tests.integration.conftest import AddSession, AddUser, rotation

if TYPE_CHECKING:
    from auth_service.db.pool import Pool

WEEK = timedelta(days=7)
SECOND = timedelta(seconds=1)
NewSession = Callable[[UUID], Session]


def of_user(user_id: UUID, clock: FakeClock) -> Revocation:
    return Revocation(
        RevocationKind.USER, str(user_id), clock.now + timedelta(hours=1), clock.now + SECOND
    )


def of_session(session_id: UUID, clock: FakeClock) -> Revocation:
    return Revocation(RevocationKind.SESSION, str(session_id), clock.now + timedelta(hours=1))


async def events(pool: "Pool") -> list[str]:
    return [row["event"] for row in await pool.fetch("SELECT event FROM audit_log")]


# Users


async def test_user_is_found_by_id_and_by_each_identifier(store: Store, add_user: AddUser) -> None:
    """A user comes back as it was stored, identifiers in their order."""
    user = await add_user("zoe@example.org", "anna")
    assert await store.get_user(user.id) == user
    assert await store.find_user("zoe@example.org") == user
    assert await store.find_user("anna") == user
    assert await store.find_user("nobody") is None
    assert await store.get_user(uuid4()) is None


async def test_taken_identifier_adds_nothing(store: Store, add_user: AddUser) -> None:
    """A user with one identifier that is taken is not stored at all."""
    await add_user("anna")
    with pytest.raises(AlreadyExists):
        await add_user("new", "anna")
    assert await store.find_user("new") is None
    assert len(await store.list_users(10)) == 1


async def test_users_are_listed_in_pages(store: Store, add_user: AddUser) -> None:
    """Pages follow one another without gap or overlap."""
    users = [await add_user() for _ in range(5)]
    first = await store.list_users(3)
    rest = await store.list_users(3, first[-1].id)
    assert [u.id for u in first + rest] == sorted(u.id for u in users)


async def test_rehash_gives_way_to_a_password_change(store: Store, add_user: AddUser) -> None:
    """A rehash of the old password never overwrites a new one."""
    user = await add_user("anna")
    await store.set_password_hash(user.id, "renewed", only_if=user.password_hash)
    await store.set_password_hash(user.id, "late", only_if=user.password_hash)
    found = await store.get_user(user.id)
    assert found is not None
    assert found.password_hash == "renewed"
    await store.set_password_hash(user.id, "forced")
    with pytest.raises(NotFound):
        await store.set_password_hash(uuid4(), "forced")


async def test_disabling_ends_sessions_and_enabling_revives_none(
    store: Store, pool: "Pool", clock: FakeClock, add_user: AddUser, add_session: AddSession
) -> None:
    """Flag, sessions, revocation and audit row change together."""
    user = await add_user("anna")
    session = await add_session(user)
    revocation = of_user(user.id, clock)
    await store.set_user_disabled(user.id, True, revocation, clock.now)
    found = await store.get_user(user.id)
    before = revocation.issued_before
    assert found == replace(user, disabled=True, revoked_before=before, signed_out_before=before)
    assert await store.list_sessions(user.id, clock.now) == []
    assert (await store.revocations_since())[0] == [revocation]
    await store.set_user_disabled(user.id, False, None, clock.now)
    found = await store.get_user(user.id)
    assert found is not None
    assert not found.disabled
    revoked = await store.find_session(session.id)
    assert revoked is not None
    assert revoked.revoked_at == clock.now
    assert sorted(await events(pool)) == [
        "session.created", "user.created", "user.disabled", "user.enabled",
    ]  # fmt: skip
    with pytest.raises(NotFound):
        await store.set_user_disabled(uuid4(), True, revocation, clock.now)


async def test_password_change_spares_the_session_it_is_made_in(
    store: Store, pool: "Pool", clock: FakeClock, add_user: AddUser, add_session: AddSession
) -> None:
    """The others end and are revoked by id, so no revocation covers the spared session."""
    user = await add_user("anna")
    kept, other = await add_session(user), await add_session(user)
    await add_session(await add_user("bert"))
    revocation = of_user(user.id, clock)
    recorded = await store.change_own_password(user, kept.id, "new", revocation, clock.now)
    assert [(each.kind, each.target) for each in recorded] == [
        (RevocationKind.SESSION, str(other.id))
    ]
    assert (await store.revocations_since())[0] == recorded
    assert await store.list_sessions(user.id, clock.now) == [kept]
    assert await store.rotate_session(rotation(kept)) is not None
    assert await store.rotate_session(rotation(other)) is None
    assert "user.password_changed" in await events(pool)


async def test_of_two_password_changes_that_prove_the_same_password_one_wins(
    store: Store, clock: FakeClock, add_user: AddUser, add_session: AddSession
) -> None:
    """The proof of the other is outdated: it changes nothing and ends no session."""
    user = await add_user("anna")
    sessions = [await add_session(user), await add_session(user)]
    revocation = of_user(user.id, clock)
    answers = await asyncio.gather(
        *(
            store.change_own_password(user, session.id, f"by {session.id}", revocation, clock.now)
            for session in sessions
        ),
        return_exceptions=True,
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["InvalidCredentials", "list"]
    (left,) = await store.list_sessions(user.id, clock.now)
    found = await store.get_user(user.id)
    assert found is not None
    assert found.password_hash == f"by {left.id}"


async def test_a_password_change_records_only_what_may_still_be_in_use(
    store: Store, clock: FakeClock, add_user: AddUser, add_session: AddSession
) -> None:
    """A session whose last access token has expired ends without a revocation of its own."""
    user = await add_user("anna")
    idle = await add_session(user)
    clock.advance(timedelta(hours=2))
    kept = await add_session(user)
    revocation = of_user(user.id, clock)
    assert await store.change_own_password(user, kept.id, "new", revocation, clock.now) == []
    ended = await store.find_session(idle.id)
    assert ended is not None
    assert ended.revoked_at == clock.now


async def test_a_login_that_proved_the_old_password_begins_no_session(
    store: Store, clock: FakeClock, add_user: AddUser, add_session: AddSession,
    new_session: NewSession,
) -> None:  # fmt: skip
    """Whatever the delay, the user has changed since the login read it."""
    user = await add_user("anna")
    kept = await add_session(user)
    await store.change_own_password(user, kept.id, "new", of_user(user.id, clock), clock.now)
    clock.advance(WEEK)
    with pytest.raises(InvalidCredentials):
        await store.create_session(new_session(user.id), None, user.revoked_before)


async def test_service_account_is_unique(store: Store, clock: FakeClock) -> None:
    """A service account comes back as stored, and its id is taken once."""
    secret = ClientSecret(uuid4(), "hash", clock.now)
    account = ServiceAccount("billing", (secret,), ("verifier",), ("read",), False, clock.now)
    await store.create_service_account(account)
    assert await store.find_service_account("billing") == account
    assert await store.find_service_account("other") is None
    with pytest.raises(AlreadyExists):
        await store.create_service_account(account)


# Sessions


async def test_session_comes_back_as_stored(
    store: Store, add_user: AddUser, add_session: AddSession, new_session: NewSession
) -> None:
    """By user and id with the user's roles, and by id alone."""
    user = await add_user("anna")
    session = new_session(user.id)
    assert await store.create_session(session, None) == session
    found = await store.get_session(user.id, session.id)
    assert found is not None
    assert found[:3] == (session, user.roles, False)
    assert await store.find_session(session.id) == session
    assert await store.get_session(uuid4(), session.id) is None
    assert await store.find_session(uuid4()) is None


async def test_same_request_gives_the_same_session(
    store: Store, clock: FakeClock, add_user: AddUser, add_session: AddSession
) -> None:
    """Retries of a login, also parallel ones, yield one session for each user."""
    user, other = await add_user("anna"), await add_user("bert")
    made = await asyncio.gather(*(add_session(user, "request") for _ in range(10)))
    assert len({session.id for session in made}) == 1
    assert len(await store.list_sessions(user.id, clock.now)) == 1
    assert (await add_session(other, "request")).id != made[0].id


async def test_no_session_for_who_may_not_log_in(
    store: Store, clock: FakeClock, add_user: AddUser, new_session: NewSession
) -> None:
    """Not for a disabled or absent user, and not for a login from before a sign-out everywhere."""
    user = await add_user("anna")
    begun = new_session(user.id)
    await store.create_session(begun, "request")
    await store.end_user_sessions(user.id, of_user(user.id, clock), clock.now)
    with pytest.raises(InvalidCredentials):
        await store.create_session(new_session(user.id), None)
    clock.advance(SECOND)
    await store.create_session(new_session(user.id), None, clock.now)
    await store.set_user_disabled(user.id, True, of_user(user.id, clock), clock.now)
    clock.advance(SECOND)
    with pytest.raises(InvalidCredentials):
        await store.create_session(new_session(user.id), None)
    with pytest.raises(InvalidCredentials):
        await store.create_session(begun, "request")
    with pytest.raises(InvalidCredentials):
        await store.create_session(new_session(uuid4()), None)


async def test_login_waits_for_a_sign_out_under_way(
    store: Store, pool: "Pool", clock: FakeClock, add_user: AddUser, new_session: NewSession
) -> None:
    """No session is created beside a sign-out everywhere that has not committed yet."""
    user = await add_user("anna")
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        barred = "UPDATE users SET revoked_before = $2 WHERE id = $1"
        await connection.execute(barred, user.id, clock.now + SECOND)
        login = asyncio.create_task(store.create_session(new_session(user.id), None))
        blocked = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        async with asyncio.timeout(60):
            while not await pool.fetchval(blocked):
                await asyncio.sleep(0.01)
        await transaction.commit()
    with pytest.raises(InvalidCredentials):
        await login


@pytest.mark.parametrize("step", ["rotate_session", "rotate_free_session"])
async def test_rotation_steps_once(
    step: str, store: Store, clock: FakeClock, add_user: AddUser, add_session: AddSession
) -> None:
    """Only the current generation rotates, to a bounded expiry."""
    user = await add_user("anna")
    session = await add_session(user)
    clock.advance(timedelta(hours=1))
    rotate = getattr(store, step)
    rotated = await rotate(rotation(session, 0, ("read",), idle_ttl=timedelta(days=99)))
    expected = replace(
        session, generation=1, refreshed_at=clock.now, refresh_expires_at=session.expires_at
    )
    assert rotated == (expected, user.roles, ("*",))
    for generation in (0, 2):
        assert not await rotate(rotation(session, generation))
    found = await store.get_session(user.id, session.id)
    assert found is not None
    assert found[:3] == (expected, user.roles, False)
    assert found.read_at == clock.now


@pytest.mark.parametrize("adopt", [False, True])
@pytest.mark.parametrize(("behind", "dated"), [(3, 0), (10, 0), (11, 11)])
async def test_a_clock_that_was_set_back_dates_no_session_back(
    adopt: bool, behind: int, dated: int, store: Store, clock: FakeClock, add_user: AddUser,
    add_session: AddSession,
) -> None:  # fmt: skip
    """A sign-out everywhere goes by the date; a date beyond the allowed skew is dropped."""
    user = await add_user("anna")
    session = await add_session(user)
    clock.advance(-behind * SECOND)
    rotated = await store.rotate_session(rotation(session, 5 if adopt else 0, adopt=adopt))
    assert rotated is not None
    assert rotated.session.refreshed_at == session.refreshed_at - dated * SECOND
    if not dated:
        ended = await store.end_user_sessions(user.id, of_user(user.id, clock), clock.now)
        assert ended.issued_before is not None
        assert ended.issued_before > session.refreshed_at


@pytest.mark.parametrize("step", ["rotate_session", "rotate_free_session"])
async def test_fifty_parallel_rotations_have_one_winner(
    step: str, store: Store, clock: FakeClock, add_user: AddUser, add_session: AddSession
) -> None:
    """However many present the same token at once, one rotates."""
    session = await add_session(await add_user("anna"))
    results = await asyncio.gather(*(getattr(store, step)(rotation(session)) for _ in range(50)))
    assert len([result for result in results if result is not None]) == 1


@pytest.mark.parametrize("step", ["rotate_session", "rotate_free_session"])
@pytest.mark.parametrize("adopt", [False, True])
async def test_no_step_of_a_session_that_may_not_refresh(
    step: str,
    adopt: bool,
    store: Store,
    pool: "Pool",
    clock: FakeClock,
    add_user: AddUser,
    add_session: AddSession,
) -> None:
    """Another user's, idle, expired, revoked, beyond its scope, or of a disabled user."""
    user = await add_user("anna")

    async def refuses(session: Session, *scope: str, user_id: UUID = user.id) -> bool:
        wanted = rotation(session, 5 if adopt else 0, scope, adopt=adopt, user_id=user_id)
        return await getattr(store, step)(wanted) is None

    session = await add_session(user)
    assert await refuses(session, "admin")
    assert await refuses(session, user_id=uuid4())
    await pool.execute("UPDATE users SET disabled = true")
    assert await refuses(session)
    await pool.execute("UPDATE users SET disabled = false")
    revoked = await add_session(user)
    await pool.execute("UPDATE sessions SET revoked_at = now() WHERE id = $1", revoked.id)
    assert await refuses(revoked)
    clock.advance(WEEK)
    assert await refuses(session)
    clock.advance(timedelta(days=-1))
    await pool.execute("UPDATE sessions SET expires_at = $1", clock.now)
    assert await refuses(session)
    await pool.execute("UPDATE sessions SET expires_at = $1", clock.now + WEEK)
    assert not await refuses(session)


async def test_adoption_only_goes_forward(
    store: Store, add_user: AddUser, add_session: AddSession
) -> None:
    """A token ahead of the database moves the session past it; a used token does nothing."""
    user = await add_user("anna")
    session = await add_session(user)
    adopted = await store.rotate_session(rotation(session, 3, ("read",), adopt=True))
    assert adopted is not None
    assert adopted.session.generation == 4
    assert adopted.roles == user.roles
    assert await store.rotate_session(rotation(session, 3, adopt=True)) is None


async def updates_of_sessions(pool: "Pool") -> Counter[str]:
    row = await pool.fetchrow(
        "SELECT n_tup_upd AS all, n_tup_hot_upd AS hot FROM pg_stat_user_tables "
        "WHERE relname = 'sessions'"
    )
    assert row is not None
    return Counter(dict(row))


@pytest.mark.parametrize("step", ["rotate_session", "rotate_free_session"])
async def test_rotation_leaves_the_indexes_alone(
    step: str, store: Store, pool: "Pool", add_user: AddUser, add_session: AddSession
) -> None:
    """Every rotation is a HOT update, so refreshes do not make a session grow."""
    session = await add_session(await add_user("anna"))
    before = await updates_of_sessions(pool)
    for generation in range(20):
        wanted = rotation(session, generation)._replace(request_hash=bytes(16))
        assert await getattr(store, step)(wanted)
    async with asyncio.timeout(60):
        while (updates := await updates_of_sessions(pool) - before)["all"] < 20:
            # Each connection reports its own share.
            for _ in range(pool.size):
                await pool.execute("SELECT pg_stat_force_next_flush()")
    assert updates == Counter(all=20, hot=20)


@pytest.mark.parametrize("step", ["rotate_session", "rotate_free_session"])
@pytest.mark.parametrize("adopt", [False, True])
async def test_a_session_does_not_step_for_a_token_that_its_row_did_not_make(
    store: Store, add_user: AddUser, add_session: AddSession, step: str, adopt: bool
) -> None:
    """The statement itself compares the token's id, so that a forgery writes nothing."""
    session = await add_session(await add_user())
    wanted = rotation(session, 3 if adopt else 0, adopt=adopt)
    for wrong in (token_id(session.seed, 1), token_id(bytes(32), wanted.generation), b""):
        assert await getattr(store, step)(wanted._replace(token_id=wrong)) is None
    assert (await store.find_session(session.id)) == session
    assert await getattr(store, step)(wanted) is not None


async def test_the_database_computes_the_same_token_ids(pool: "Pool") -> None:
    """For any seed of 32 bytes, and any generation."""
    generator = random.Random(20)
    for generation in (0, 1, 9, 10, 2**31, 2**40 - 1, *(generator.getrandbits(40) for _ in "ab")):
        for seed in (bytes(32), b"\xff" * 32, bytes(range(32)), generator.randbytes(32)):
            computed = await pool.fetchval("SELECT refresh_token_id($1, $2)", seed, generation)
            assert computed == token_id(seed, generation)


async def test_sessions_are_listed_live_and_newest_first(
    store: Store, clock: FakeClock, add_user: AddUser, add_session: AddSession
) -> None:
    """Without ended sessions, expired ones, and those of other users."""
    user = await add_user("anna")
    await add_session(await add_user("bert"))
    old = await add_session(user)
    ended = await add_session(user)
    await store.end_session(
        user.id, ended.id, of_session(ended.id, clock), clock.now, "session.revoked"
    )
    clock.advance(SECOND)
    new = await add_session(user)
    assert await store.list_sessions(user.id, clock.now) == [new, old]
    assert await store.list_sessions(user.id, old.refresh_expires_at) == [new]


async def test_session_is_revoked_once(
    store: Store, pool: "Pool", clock: FakeClock, add_user: AddUser, add_session: AddSession
) -> None:
    """Of twenty parallel calls one ends it, with one audit row and one revocation."""
    session = await add_session(await add_user("anna"))
    revocation = of_session(session.id, clock)
    answers = await asyncio.gather(
        *(
            store.end_session(
                session.user_id, session.id, revocation, clock.now, "session.reuse_detected"
            )
            for _ in range(20)
        )
    )
    assert answers.count(True) == 1
    assert (await events(pool)).count("session.reuse_detected") == 1
    assert (await store.revocations_since())[0] == [revocation]
    assert not await store.end_session(uuid4(), uuid4(), revocation, clock.now, "x")


async def test_a_users_sessions_are_found_without_reading_those_of_others(
    store: Store, pool: "Pool", clock: FakeClock, add_user: AddUser, add_session: AddSession
) -> None:
    """The cost depends on the user's own sessions, through an index on the user."""
    user = await add_user("anna")
    session = await add_session(user)
    await pool.execute(
        """
        INSERT INTO users (id, password_hash, roles, scope, disabled, created_at)
        SELECT gen_random_uuid(), 'other', '{}', '{}', false, $1 FROM generate_series(1, 5000)
        """,
        clock.now,
    )
    await pool.execute(
        """
        INSERT INTO sessions SELECT u.id, gen_random_uuid(), 0, s.seed, s.client_id, s.device_label,
            s.audience, s.scope, s.amr, s.auth_time, s.created_at, s.refreshed_at,
            s.refresh_expires_at, s.expires_at
        FROM users u CROSS JOIN sessions s WHERE s.id = $1 AND u.password_hash = 'other'
        """,
        session.id,
    )
    await pool.execute("ANALYZE sessions")
    explained = f"EXPLAIN {statements()['list_sessions']}"
    plan = "\n".join(row[0] for row in await pool.fetch(explained, user.id, clock.now, 1000))
    assert "Index Cond: (user_id = " in plan
    assert "Seq Scan" not in plan
    assert await store.list_sessions(user.id, clock.now, 1000) == [session]


async def test_sign_out_everywhere(
    store: Store, clock: FakeClock, add_user: AddUser, add_session: AddSession
) -> None:
    """All of the user's sessions end, nobody else's; an unknown user is reported."""
    user, other = await add_user("anna"), await add_user("bert")
    await add_session(user)
    spared = await add_session(other)
    revocation = of_user(user.id, clock)
    assert await store.end_user_sessions(user.id, revocation, clock.now) == revocation
    assert await store.list_sessions(user.id, clock.now) == []
    assert await store.list_sessions(other.id, clock.now) == [spared]
    found = await store.get_user(user.id)
    assert found is not None
    assert found.revoked_before == revocation.issued_before
    with pytest.raises(NotFound):
        await store.end_user_sessions(uuid4(), revocation, clock.now)
    assert (await store.revocations_since())[0] == [revocation]


# Revocations


async def test_revocation_again_keeps_the_later_times_and_is_seen_again(
    store: Store, clock: FakeClock
) -> None:
    """A change is read by those who know the row already; an earlier time changes nothing."""
    first = Revocation(RevocationKind.ALL, "", clock.now + SECOND, clock.now)
    later = Revocation(RevocationKind.ALL, "", clock.now + WEEK, clock.now + SECOND)
    await store.add_revocation(first, clock.now)
    found, cursor = await store.revocations_since()
    assert found == [first]
    await store.add_revocation(later, clock.now)
    found, _ = await store.revocations_since(cursor)
    assert found == [later]
    await store.add_revocation(first, clock.now)
    assert (await store.revocations_since())[0] == [later]


async def test_late_commit_is_not_skipped(store: Store, pool: "Pool", clock: FakeClock) -> None:
    """A transaction that began first and commits last is read after later ones."""
    insert = (
        "INSERT INTO revocations (kind, target, expires_at, created_at) VALUES "
        "('token', $1, $2, $2)"
    )
    late = Revocation(RevocationKind.TOKEN, "late", clock.now)
    early = Revocation(RevocationKind.TOKEN, "early", clock.now)
    _, cursor = await store.revocations_since()
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(insert, late.target, clock.now)
        await store.add_revocation(early, clock.now)
        found, cursor = await store.revocations_since(cursor)
        assert found == [early]
        await transaction.commit()
    found, _ = await store.revocations_since(cursor)
    assert late in found


@pytest.mark.parametrize("count", [REVOCATION_PAGE - 1, REVOCATION_PAGE, 2 * REVOCATION_PAGE + 1])
async def test_however_much_is_new_comes_page_by_page(
    store: Store, pool: "Pool", clock: FakeClock, count: int
) -> None:
    """A replica that was disconnected for long catches up, and no row is returned twice."""
    _, cursor = await store.revocations_since()
    await pool.execute(
        "INSERT INTO revocations (kind, target, expires_at, created_at) "
        "SELECT 'token', n::text, $1, $1 FROM generate_series(1, $2::int) n",
        clock.now,
        count,
    )
    async with pool.acquire() as connection:
        pages = [page async for page in store.pages_of_revocations(cursor, connection)]
    assert max(len(found) for found, _ in pages) <= REVOCATION_PAGE
    targets = [revocation.target for found, _ in pages for revocation in found]
    assert sorted(targets, key=int) == [str(n + 1) for n in range(count)]


async def test_prune_deletes_what_no_longer_matters(
    store: Store, pool: "Pool", clock: FakeClock, add_user: AddUser, add_session: AddSession
) -> None:
    """Expired revocations, sessions a day past their end, full buckets; more than some batches."""
    session = await add_session(await add_user("anna"))
    bucket = Bucket(1, 3, SECOND)
    await store.reserve_login_attempt("anna", clock.now, [None, bucket, bucket._replace(slot=2)])
    await pool.execute(
        "INSERT INTO revocations (kind, target, expires_at, created_at) "
        "SELECT 'token', n::text, $1, $1 FROM generate_series(1, 2500) n",
        clock.now,
    )
    live = Revocation(RevocationKind.TOKEN, "live", session.expires_at + WEEK)
    await store.add_revocation(live, clock.now)
    assert await store.prune(clock.now) == 2500
    assert (await store.revocations_since())[0] == [live]
    clock.now = session.expires_at + timedelta(hours=23)
    assert await store.prune(clock.now) == 2
    assert await store.find_session(session.id)
    clock.advance(timedelta(hours=1))
    assert await store.prune(clock.now) == 1
    assert await store.find_session(session.id) is None


async def test_audit_log_gets_partitions_ahead(
    store: Store, pool: "Pool", clock: FakeClock
) -> None:
    """This month's and the next; a month that began in the default partition stays there."""

    async def partitions() -> set[str]:
        sql = "SELECT relid::regclass::text FROM pg_partition_tree('audit_log') WHERE isleaf"
        return {row[0] for row in await pool.fetch(sql)}

    of_the_migration = await partitions()
    assert "audit_log_default" in of_the_migration
    clock.now = clock.now.replace(year=2031, month=12, day=31)
    await asyncio.gather(*(store.extend_audit_log(clock.now) for _ in range(4)))
    await store.extend_audit_log(clock.now)
    made = await partitions() - of_the_migration
    assert made == {"audit_log_203112", "audit_log_203201"}
    insert = "INSERT INTO audit_log (at, event) VALUES ($1, 'x') RETURNING tableoid::regclass::text"
    assert await pool.fetchval(insert, clock.now) == "audit_log_203112"
    unforeseen = clock.now.replace(year=2040)
    assert await pool.fetchval(insert, unforeseen) == "audit_log_default"
    await store.extend_audit_log(unforeseen)
    assert await pool.fetchval(insert, unforeseen) == "audit_log_default"


# Errors


async def test_lost_connections_are_unavailable_and_then_mended(
    store: Store, pool: "Pool", database_url: str
) -> None:
    """A backend that is terminated ends its call as unavailable; the next one works."""
    async with pool.acquire() as victim:
        pid = await victim.fetchval("SELECT pg_backend_pid()")
    killer = await asyncpg.connect(database_url)
    blocker = killer.transaction()
    await blocker.start()
    await killer.execute("LOCK TABLE users")
    call = asyncio.create_task(store.find_user("anna"))
    waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = $1"
    async with asyncio.timeout(60):
        while not await killer.fetchval(waits, pid):
            await asyncio.sleep(0.01)
    await killer.execute("SELECT pg_terminate_backend($1)", pid)
    with pytest.raises(Unavailable) as raised:
        await call
    assert "terminat" not in raised.value.text
    await killer.close()
    assert await store.find_user("anna") is None


async def test_slow_statement_is_unavailable(database_url: str) -> None:
    """The statement timeout ends it on the server."""
    pool = await pools.connect(database_url, statement_timeout=timedelta(milliseconds=50))
    with pytest.raises(Unavailable):
        async with pool.acquire() as connection:
            await connection.execute("SELECT pg_sleep(30)")
    pool.terminate()


async def test_connections_that_became_read_only_are_closed(
    store: Store, pool: "Pool", add_user: AddUser
) -> None:
    """After a failover the pool leaves the demoted server."""
    async with AsyncExitStack() as stack:
        for _ in range(3):
            connection = await stack.enter_async_context(pool.acquire())
            await connection.execute("SET default_transaction_read_only = on")
    with pytest.raises(Unavailable):
        await add_user("anna")
    await add_user("anna")


async def test_transaction_that_a_cancellation_left_is_rolled_back(
    store: Store, pool: "Pool", clock: FakeClock, add_user: AddUser, add_session: AddSession
) -> None:
    """A cancelled call leaves no partial change and no open transaction in the pool."""
    user = await add_user("anna")
    for turns in range(12):
        session = await add_session(user)
        revocation = of_session(session.id, clock)
        call = asyncio.create_task(
            store.end_session(session.user_id, session.id, revocation, clock.now, "x")
        )
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        found = await store.find_session(session.id)
        assert found is not None
        revoked = [each.target for each in (await store.revocations_since())[0]]
        assert (found.revoked_at is not None) == (str(session.id) in revoked)
    idle = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
    )
    async with asyncio.timeout(60):  # it is rolled back while others go on
        while await pool.fetchval(idle):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
async def test_text_that_cannot_be_stored_is_refused(store: Store, text: str) -> None:
    """NUL and lone surrogates are invalid input and not an internal error."""
    with pytest.raises(InvalidArgument):
        await store.find_user(text)
    await store.ping()


async def test_unreachable_database_is_unavailable() -> None:
    """Nobody listens there."""
    with pytest.raises(Unavailable):
        await pools.connect("postgresql://auth@127.0.0.1:1/auth")


async def test_wrong_set_up_is_told_to_the_operator(database_url: str) -> None:
    """A missing database and an invalid URL are configuration errors, not retryable ones."""
    for url in (
        database_url.replace("/auth_test_", "/absent_"),
        "postgresql://auth@127.0.0.1/auth?sslmode=nonsense",
    ):
        with pytest.raises(ConfigError):
            await pools.connect(url)


async def test_wake_up_reaches_listeners(store: Store, database_url: str) -> None:
    """The hint arrives on the channel of the feed."""
    arrived = asyncio.Event()
    connection = await asyncpg.connect(database_url)
    await connection.add_listener("authn_feed", lambda *_: arrived.set())
    await store.notify_revocations()
    async with asyncio.timeout(60):
        await arrived.wait()
    connection.terminate()
