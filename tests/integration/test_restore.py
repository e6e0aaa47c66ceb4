"""What replicas write again after lost commits: just what the database lacks, in any order."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from auth_service.db.cursor import START
from auth_service.db.key_store import KeyStore
from auth_service.db.restore import BATCH, Restorer
from auth_service.db.store import Store
from auth_service.models import (
    ClientSecret,
    Revocation,
    RevocationKind,
    ServiceAccount,
    Session,
    StoredKey,
)
from auth_service.tokens.revocation import RevocationList
from tests.clock import FakeClock
from tests.integration.conftest import AddSession, AddUser

if TYPE_CHECKING:
    from auth_service.db.pool import Pool

NewSession = Callable[[UUID], Session]
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)


class Replica:
    """A process that knows some revocations."""

    def __init__(self, pool: "Pool", clock: FakeClock, *known: Revocation) -> None:
        self.revocations = RevocationList(clock)
        self.restorer = Restorer(self.revocations)
        self._pool = pool
        self.revocations.add_all(known)
        self.restorer.note(known, read=False)

    async def restore(self) -> None:
        """Read everything, then write what the database lacks."""
        self.restorer.begin()
        async with self._pool.acquire() as connection:
            pages = Store(self._pool).pages_of_revocations(START, connection)
            async for found, _ in pages:
                self.restorer.note(found)
            await self.restorer.restore(connection, await connection.fetchval("SELECT now()"))


async def xids(pool: "Pool") -> dict[str, int]:
    return {row[0]: row[1] for row in await pool.fetch("SELECT target, xid FROM revocations")}


def token(target: str, clock: FakeClock) -> Revocation:
    return Revocation(RevocationKind.TOKEN, target, clock.now + HOUR)


def of_user(user_id: UUID, clock: FakeClock, **fields: Any) -> Revocation:
    return Revocation(
        RevocationKind.USER, str(user_id), clock.now + HOUR, clock.now + SECOND, **fields
    )


async def test_replicas_write_the_union_of_what_they_know_and_nothing_twice(
    store: Store, pool: "Pool", clock: FakeClock, add_user: AddUser, add_session: AddSession
) -> None:
    """At the same time, with what each alone knows and with what all know."""
    user = await add_user()
    sessions = [await add_session(user) for _ in range(20)]
    shared = [
        Revocation(RevocationKind.SESSION, str(each.id), clock.now + HOUR) for each in sessions
    ]
    shared += [token(f"shared{n}", clock) for n in range(BATCH)]
    await store.add_revocation(token("kept", clock), clock.now)
    replicas = [
        Replica(pool, clock, token("kept", clock), *shared[n:], token(f"own{n}", clock))
        for n in range(4)
    ]
    before = await xids(pool)
    await asyncio.gather(*(replica.restore() for replica in replicas))
    after = await xids(pool)
    targets = {each.target for each in shared} | {f"own{n}" for n in range(4)} | {"kept"}
    assert after.keys() == targets
    assert after["kept"] == before["kept"]
    assert await store.list_sessions(user.id, clock.now) == []
    assert (
        await pool.fetchval("SELECT count(*) FROM audit_log WHERE event = 'session.revoked'") == 20
    )
    await asyncio.gather(*(replica.restore() for replica in replicas))
    assert await xids(pool) == after


async def test_what_the_database_knows_less_of_is_written_again(
    store: Store, pool: "Pool", clock: FakeClock, add_user: AddUser, new_session: NewSession
) -> None:
    """A second sign-out whose row was there before, with an earlier bound."""
    user = await add_user()
    first = of_user(user.id, clock)
    await store.end_user_sessions(user.id, first, clock.now)
    clock.advance(timedelta(minutes=1))
    session = await store.create_session(new_session(user.id), revoked_before=first.issued_before)
    clock.advance(SECOND)
    second = of_user(user.id, clock)
    await Replica(pool, clock, second).restore()
    found, _ = await store.revocations_since()
    assert [each.issued_before for each in found] == [second.issued_before]
    ended = await store.get_session(user.id, session.id)
    assert ended is not None
    assert ended[0].revoked_at is not None


async def test_a_session_that_began_after_the_sign_out_stays(
    store: Store, pool: "Pool", clock: FakeClock, add_user: AddUser, add_session: AddSession
) -> None:
    """Its login was acknowledged by the new primary."""
    user = await add_user()
    before = await add_session(user)
    lost = of_user(user.id, clock)
    clock.advance(SECOND)
    after = await add_session(user)
    await Replica(pool, clock, lost).restore()
    live = await store.list_sessions(user.id, clock.now)
    assert [each.id for each in live] == [after.id]
    assert before.id != after.id


async def test_a_user_is_disabled_again_only_if_that_was_lost(
    store: Store, pool: "Pool", clock: FakeClock, add_user: AddUser
) -> None:
    """A user who was enabled since then stays enabled."""
    lost, enabled = await add_user(), await add_user()
    await store.set_user_disabled(enabled.id, True, of_user(enabled.id, clock), clock.now)
    (known,), cursor = await store.revocations_since()
    assert known.disables
    replica = Replica(pool, clock, known, of_user(lost.id, clock, disables=True))
    await store.set_user_disabled(enabled.id, False, None, clock.now)
    await replica.restore()
    for user, disabled in ((lost, True), (enabled, False)):
        found = await store.get_user(user.id)
        assert found is not None
        assert found.disabled is disabled
    changed, _ = await store.revocations_since(cursor)
    assert {each.target: each.disables for each in changed} == {
        str(lost.id): True, str(enabled.id): False,
    }  # fmt: skip


async def test_a_replica_that_read_of_the_enabling_does_not_disable_again(
    store: Store, pool: "Pool", clock: FakeClock, add_user: AddUser
) -> None:
    """Also if both commits were lost."""
    user = await add_user()
    disabled = of_user(user.id, clock, disables=True)
    replica = Replica(pool, clock, disabled)
    replica.restorer.note([replace(disabled, disables=False)])
    await replica.restore()
    found = await store.get_user(user.id)
    assert found is not None
    assert not found.disabled
    assert len(await xids(pool)) == 1


async def test_a_service_account_is_disabled_again_if_that_was_lost(
    store: Store, pool: "Pool", clock: FakeClock
) -> None:
    """Also if its deletion was lost; one whose tokens alone had ended logs in again."""
    names = ("disabled", "deleted", "revoked")
    for name in names:
        secret = ClientSecret(uuid4(), name, clock.now)
        await store.create_service_account(
            ServiceAccount(name, (secret,), (), (), False, clock.now)
        )
    ended = {name: replace(of_user(uuid4(), clock), target=name) for name in names}
    known = [replace(ended[name], disables=name != "revoked") for name in names]
    await Replica(pool, clock, *known).restore()
    accounts = await store.list_service_accounts(10)
    assert {each.client_id: each.disabled for each in accounts} == {
        "deleted": True, "disabled": True, "revoked": False,
    }  # fmt: skip
    for account in accounts:
        assert account.revoked_before is not None
        assert account.revoked_before >= clock.now + SECOND
    audited = await pool.fetch("SELECT event, client_id FROM audit_log ORDER BY client_id, event")
    assert [tuple(row) for row in audited if not row["event"].endswith("created")] == [
        ("service_account.disabled", "deleted"),
        ("service_account.disabled", "disabled"),
        ("service_account.tokens_revoked", "revoked"),
    ]


async def test_a_service_account_that_was_enabled_or_made_again_stays_enabled(
    store: Store, pool: "Pool", clock: FakeClock
) -> None:
    """A replica that knew of the end before reads of the beginning after."""
    for name in ("enabled", "remade"):
        secret = ClientSecret(uuid4(), name, clock.now)
        account = ServiceAccount(name, (secret,), (), (), False, clock.now)
        await store.create_service_account(account)
        revocation = replace(of_user(uuid4(), clock), target=name)
        if name == "enabled":
            known = await store.disable_service_account(revocation, clock.now)
            replica = Replica(pool, clock, known)
            await store.enable_service_account(name, clock.now)
        else:
            known = await store.delete_service_account(revocation, clock.now)
            replica = Replica(pool, clock, known)
            await store.create_service_account(account)
        assert known.disables
        await pool.execute("UPDATE revocations SET issued_before = '2000-01-01'")  # to be restored
        await replica.restore()
        found = await store.find_service_account(name)
        assert found is not None
        assert not found.disabled


async def test_revocations_of_unknown_users_are_written_unchanged(
    pool: "Pool", clock: FakeClock
) -> None:
    """Of a service account, of a user whose making was lost, of all tokens."""
    known = [
        of_user(uuid4(), clock, disables=True),
        replace(of_user(uuid4(), clock), target="billing"),
        Revocation(RevocationKind.SESSION, "no uuid", clock.now + HOUR),
        Revocation(RevocationKind.SESSION, str(uuid4()), clock.now + HOUR),
        Revocation(RevocationKind.ALL, "", clock.now + HOUR, clock.now),
    ]
    await Replica(pool, clock, *known).restore()
    assert (await xids(pool)).keys() == {each.target for each in known}


# Keys


def version(clock: FakeClock, number: int) -> StoredKey:
    """Return a key as it was after so many changes."""
    made = StoredKey("k", "EdDSA", b"sealed", clock.now, clock.now, changed_at=clock.now)
    at = clock.now + number * SECOND
    return replace(made, retire_at=at, remove_at=at + HOUR, changed_at=at) if number else made


@pytest.mark.parametrize("order", list(permutations(range(3))))
async def test_the_version_of_a_key_that_was_written_last_holds(
    pool: "Pool", clock: FakeClock, order: tuple[int, ...]
) -> None:
    """Whatever the order in which replicas write theirs."""
    keys = KeyStore(pool)
    async with pool.acquire() as connection:
        for number in order:
            await keys.restore([version(clock, number)], connection)
        assert await keys.load() == [version(clock, 2)]
        assert await keys.restore([version(clock, n) for n in range(3)], connection) == []


@pytest.mark.parametrize("first", [True, False])
async def test_a_compromised_key_stays_compromised(
    pool: "Pool", clock: FakeClock, first: bool
) -> None:
    """Although another version was written later, before or after."""
    keys, later = KeyStore(pool), version(clock, 2)
    compromised = replace(version(clock, 1), compromised_at=clock.now)
    async with pool.acquire() as connection:
        for each in (compromised, later) if first else (later, compromised):
            await keys.restore([each], connection)
    assert await keys.load() == [replace(later, compromised_at=clock.now)]


async def test_a_change_of_a_key_is_dated_by_the_clock_of_the_database(
    pool: "Pool", clock: FakeClock
) -> None:
    """So that a replica whose clock is off never wins over a later change."""
    keys = KeyStore(pool)
    clock.advance(HOUR)
    (made,) = await keys.change(lambda _: [replace(version(clock, 2), changed_at=None)])
    (loaded,) = await keys.load()
    assert made.changed_at == loaded.changed_at == clock.now
