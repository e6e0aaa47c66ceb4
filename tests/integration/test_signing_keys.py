"""Signing keys: they change state by the clock alone, and all replicas decide on them as one."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from auth_service.clock import utc_now
from auth_service.core.key_policy import KeyPolicy
from auth_service.core.root_key import replace_master_key, root_key
from auth_service.core.signing_keys import SigningKeys
from auth_service.db.cursor import Cursor
from auth_service.db.key_store import KeyStore
from auth_service.errors import AlreadyExists, ConfigError, NotFound
from auth_service.models import KeyState, StoredKey
from auth_service.tokens.keys import MasterKey, encrypt_key, generate_key, shared_key
from tests.clock import FakeClock

if TYPE_CHECKING:
    from auth_service.db.pool import Pool

MASTER = MasterKey(bytes(range(100, 132)))
OTHER_MASTER = MasterKey(bytes(range(132, 164)))
POLICY = KeyPolicy()
CONFIGURED = shared_key(bytes(range(32)))
LEAD, INTERVAL, KEEP = POLICY.publish_lead, POLICY.rotation_interval, POLICY.keep
SECOND = timedelta(seconds=1)
Replica = Callable[..., SigningKeys]


@pytest.fixture
def key_store(pool: "Pool") -> KeyStore:
    """The keys in the test's database."""
    return KeyStore(pool)


@pytest.fixture
def replica(key_store: KeyStore, clock: FakeClock) -> Replica:
    """Makes the keys of one more replica."""

    def make(policy: KeyPolicy = POLICY, master_key: MasterKey = MASTER) -> SigningKeys:
        return SigningKeys(key_store, master_key, policy, clock)

    return make


async def states(key_store: KeyStore, now: datetime) -> list[KeyState]:
    """Return the states of the keys in the database, in the order in which they sign."""
    return [row.state(now) for row in await key_store.load()]


# Start


async def test_a_replica_whose_clock_is_behind_finds_the_key_of_another(
    replica: Replica, key_store: KeyStore, clock: FakeClock
) -> None:
    """Two estimates of the database's clock differ by as much as a round trip."""
    first = replica()
    await first.start()
    behind = FakeClock(clock.now - timedelta(milliseconds=400))
    second = SigningKeys(key_store, MASTER, POLICY, behind)
    await second.start()
    assert second.ring.active_kid == first.ring.active_kid
    assert len(await key_store.load()) == 1


async def test_the_first_start_makes_one_key(replica: Replica, key_store: KeyStore) -> None:
    """It signs at once, and the next start finds it."""
    keys = replica()
    await keys.start()
    assert keys.ring.active.algorithm == "HS256"
    again = replica()
    await again.start()
    assert again.ring.active_kid == keys.ring.active_kid
    assert [row.kid for row in await key_store.load()] == [keys.ring.active_kid]


async def test_a_key_that_another_replica_makes_meanwhile_is_enough(key_store: KeyStore) -> None:
    """Also if it signs from a moment on at which this replica was waiting for the lock."""
    policy = replace(POLICY, algorithm="EdDSA")
    replicas = [SigningKeys(key_store, MASTER, policy, utc_now) for _ in range(8)]
    await asyncio.gather(*(keys.start() for keys in replicas))
    assert len(await key_store.load()) == 1


async def test_replicas_that_start_at_once_make_one_key(
    replica: Replica, key_store: KeyStore
) -> None:
    """And all sign with it."""
    replicas = [replica() for _ in range(8)]
    await asyncio.gather(*(keys.start() for keys in replicas))
    assert len(await key_store.load()) == 1
    assert len({keys.ring.active_kid for keys in replicas}) == 1


async def test_start_makes_a_key_of_the_algorithm_that_the_settings_name(
    replica: Replica, key_store: KeyStore, clock: FakeClock
) -> None:
    """It is published first if another one signs, and is not made a second time."""
    before = replica()
    await before.start()
    keys = replica(replace(POLICY, algorithm="ES256"))
    await keys.start()
    await keys.start()
    assert keys.ring.active.algorithm == "HS256"
    assert await states(key_store, clock()) == [KeyState.ACTIVE, KeyState.PUBLISHED]
    clock.advance(LEAD)
    assert keys.update()
    assert keys.ring.active.algorithm == "ES256"


async def test_start_with_another_master_key_is_refused_and_changes_nothing(
    replica: Replica, key_store: KeyStore
) -> None:
    """Even if it would have to make a key, which the right master key could not decrypt."""
    await replica().start()
    present = await key_store.load()
    for policy in (POLICY, replace(POLICY, algorithm="EdDSA")):
        with pytest.raises(ConfigError, match="AUTH_MASTER_KEY"):
            await replica(policy, OTHER_MASTER).start()
    assert await key_store.load() == present


# By the clock


async def test_a_key_changes_state_by_the_clock_alone(replica: Replica, clock: FakeClock) -> None:
    """Each signs from its date on, and the one before verifies until its last token has expired."""
    keys = replica()
    await keys.start()
    first = keys.ring.active.kid
    second = (await keys.rotate("EdDSA")).kid
    assert (keys.ring.active_kid, len(keys.ring)) == (first, 2)

    clock.advance(LEAD - SECOND)
    assert not keys.update()
    clock.advance(SECOND)
    assert keys.update()
    assert (keys.ring.active_kid, len(keys.ring)) == (second, 2)

    clock.advance(KEEP - SECOND)
    assert not keys.update()
    revision = keys.ring.revision
    clock.advance(SECOND)
    assert keys.update()
    assert [key.kid for key in keys.ring] == [second]
    assert keys.ring.revision > revision


async def test_replicas_that_know_the_same_keys_agree_at_every_moment(
    replica: Replica, key_store: KeyStore, clock: FakeClock
) -> None:
    """Whether they read a key when it was made or when they started."""
    first, second = replica(), replica()
    await first.start()
    await second.start()
    await first.rotate()
    assert second.update(await key_store.load())
    for _ in range(5):
        late = replica()
        await late.start()
        for keys in (first, second):
            keys.update()
            assert keys.ring.active_kid == late.ring.active_kid
            assert {key.kid for key in keys.ring} == {key.kid for key in late.ring}
        clock.advance(timedelta(minutes=15))


# Rotation by hand


async def test_a_rotation_keeps_the_algorithm_unless_told_otherwise(
    replica: Replica, clock: FakeClock
) -> None:
    """A change of the algorithm takes one rotation."""
    keys = replica()
    await keys.start()
    for algorithm, made in ((None, "HS256"), ("ES256", "ES256"), (None, "ES256")):
        clock.advance(SECOND)
        assert (await keys.rotate(algorithm)).algorithm == made


async def test_a_rotation_at_once_signs_at_once(replica: Replica, clock: FakeClock) -> None:
    """Without a wait for caches; a key that was to sign later never does."""
    keys = replica()
    await keys.start()
    later = await keys.rotate()
    now = await keys.rotate(activate_in=timedelta(0))
    assert keys.ring.active_kid == now.kid
    clock.advance(LEAD)
    keys.update()
    assert keys.ring.active_kid == now.kid
    with pytest.raises(NotFound, match="is removed"):
        await keys.retire(later.kid)


async def test_a_second_rotation_before_the_first_took_over_leaves_its_date(
    replica: Replica, clock: FakeClock
) -> None:
    """The keys sign in the order in which they were made."""
    keys = replica()
    await keys.start()
    second = await keys.rotate()
    clock.advance(timedelta(minutes=10))
    third = await keys.rotate()
    signed = []
    for _ in range(5):
        keys.update()
        signed.append(keys.ring.active_kid)
        clock.advance(timedelta(minutes=10))
    assert signed[2:] == [second.kid, third.kid, third.kid]


async def test_a_rotation_to_another_algorithm_than_the_settings_name_is_refused(
    replica: Replica,
) -> None:
    """The error names the setting to unset."""
    keys = replica(replace(POLICY, algorithm="EdDSA"))
    await keys.start()
    assert (await keys.rotate("EdDSA")).algorithm == "EdDSA"
    assert (await keys.rotate()).algorithm == "EdDSA"
    with pytest.raises(ConfigError, match="AUTH_SIGNING_ALGORITHM is EdDSA"):
        await keys.rotate("ES256")
    with pytest.raises(ConfigError, match="AUTH_SIGNING_ALGORITHM is EdDSA"):
        await keys.add(generate_key("HS256"))


# The shared key of the settings


async def test_a_configured_shared_key_signs_in_place_of_the_databases(
    replica: Replica, key_store: KeyStore
) -> None:
    """The key of the database is still trusted; if there is none, none is made."""
    configured = replica(replace(POLICY, configured=CONFIGURED))
    await configured.start()
    assert configured.ring.active is CONFIGURED
    assert await key_store.load() == []
    plain = replica()
    await plain.start()
    assert configured.update(await key_store.load())
    assert configured.ring.active is CONFIGURED
    assert plain.ring.active.kid in configured.ring


async def test_a_rotation_takes_over_from_a_configured_shared_key_after_the_lead(
    replica: Replica, clock: FakeClock
) -> None:
    """Verifiers know the new key before it signs, and the shared key still verifies."""
    keys = replica(replace(POLICY, configured=CONFIGURED))
    await keys.start()
    with pytest.raises(ConfigError, match="AUTH_SHARED_KEY"):
        await keys.rotate("HS256")
    with pytest.raises(ConfigError, match="AUTH_SHARED_KEY"):
        await keys.rotate()
    made = await keys.rotate("EdDSA")
    assert keys.ring.active is CONFIGURED
    assert made.kid in keys.ring
    clock.advance(LEAD)
    keys.update()
    assert keys.ring.active_kid == made.kid
    assert CONFIGURED.kid in keys.ring


async def test_settings_that_name_hs256_go_back_to_the_configured_shared_key(
    replica: Replica, key_store: KeyStore, clock: FakeClock
) -> None:
    """No HS256 key is made beside it, however long that lasts."""
    eddsa = replica(replace(POLICY, algorithm="EdDSA"))
    await eddsa.start()
    keys = replica(replace(POLICY, algorithm="HS256", configured=CONFIGURED))
    await keys.start()
    assert keys.ring.active is CONFIGURED
    clock.advance(INTERVAL * 2)
    assert not await keys.rotate_if_due()
    assert len(await key_store.load()) == 1


async def test_a_configured_shared_key_is_not_retired_by_command(replica: Replica) -> None:
    """It would still sign, so the error names the setting to change."""
    keys = replica(replace(POLICY, configured=CONFIGURED))
    await keys.start()
    with pytest.raises(ConfigError, match="AUTH_SHARED_KEY"):
        await keys.retire(CONFIGURED.kid)
    assert keys.ring.active is CONFIGURED


async def test_a_configured_shared_key_is_compromised_like_any_other(
    replica: Replica, key_store: KeyStore
) -> None:
    """All replicas stop trusting it, whatever their settings say."""
    policy = replace(POLICY, configured=CONFIGURED)
    keys, other = replica(policy), replica(policy)
    await keys.start()
    await other.start()
    ended = await keys.compromise(CONFIGURED.kid)
    assert ended.compromised_at is not None
    assert CONFIGURED.kid not in keys.ring
    assert keys.ring.active.algorithm == "HS256"
    assert other.update(await key_store.load())
    assert CONFIGURED.kid not in other.ring
    assert other.ring.active_kid == keys.ring.active_kid
    again = replica(policy)
    await again.start()
    assert CONFIGURED.kid not in again.ring


# Rotation by schedule


async def test_the_next_key_is_published_a_lead_before_the_interval_ends(
    replica: Replica, clock: FakeClock
) -> None:
    """It takes over when the key before has signed for the whole interval, again and again."""
    keys = replica()
    await keys.start()
    for _ in range(3):
        before = keys.ring.active.kid
        clock.advance(INTERVAL - LEAD - SECOND)
        assert not await keys.rotate_if_due()
        clock.advance(SECOND)
        assert await keys.rotate_if_due()
        assert not await keys.rotate_if_due()
        assert keys.ring.active_kid == before
        clock.advance(LEAD)
        keys.update()
        assert keys.ring.active_kid != before


async def test_replicas_that_find_a_key_due_at_once_make_one_between_them(
    replica: Replica, key_store: KeyStore, clock: FakeClock
) -> None:
    """One of them reports it, so that it can tell the others."""
    replicas = [replica() for _ in range(6)]
    for keys in replicas:
        await keys.start()
    clock.advance(INTERVAL)
    done = await asyncio.gather(*(keys.rotate_if_due() for keys in replicas))
    assert done.count(True) == 1
    assert await states(key_store, clock()) == [KeyState.ACTIVE, KeyState.PUBLISHED]


async def test_a_key_is_made_at_once_where_none_signs(
    replica: Replica, key_store: KeyStore, clock: FakeClock
) -> None:
    """Whatever the schedule says, and whichever replica ended the last key."""
    keys = replica(replace(POLICY, rotation_interval=timedelta(0)))
    await keys.start()
    (row,) = await key_store.load()
    ended = replace(row, retire_at=clock(), remove_at=clock() + KEEP)
    keys.update(await key_store.change(lambda _: [ended]))
    assert keys.ring.active_kid is None
    assert await keys.rotate_if_due()
    assert keys.ring.active_kid not in (None, row.kid)


async def test_an_interval_of_zero_never_rotates(replica: Replica, clock: FakeClock) -> None:
    """Only a rotation by hand makes a key."""
    keys = replica(replace(POLICY, rotation_interval=timedelta(0)))
    await keys.start()
    clock.advance(timedelta(days=9999))
    assert not await keys.rotate_if_due()


async def test_the_schedule_makes_no_key_beside_a_configured_one(
    replica: Replica, key_store: KeyStore, clock: FakeClock
) -> None:
    """With or without older HS256 keys in the database; a key of another algorithm rotates."""
    keys = replica(replace(POLICY, configured=CONFIGURED))
    await keys.start()
    clock.advance(INTERVAL * 2)
    assert not await keys.rotate_if_due()
    await replica().start()
    keys.update(await key_store.load())
    clock.advance(INTERVAL * 2)
    assert not await keys.rotate_if_due()
    await keys.rotate("EdDSA")
    clock.advance(INTERVAL * 2)
    assert await keys.rotate_if_due()
    assert (await key_store.load())[-1].algorithm == "EdDSA"


# Retire


async def test_a_retired_key_gives_way_to_a_new_one_at_once(
    replica: Replica, clock: FakeClock
) -> None:
    """It verifies until its last token has expired."""
    keys = replica(replace(POLICY, algorithm="EdDSA"))
    await keys.start()
    first = keys.ring.active.kid
    ended = await keys.retire(first)
    assert (ended.retire_at, ended.remove_at) == (clock(), clock() + KEEP)
    assert keys.ring.active_kid != first
    assert keys.ring.active.algorithm == "EdDSA"
    assert first in keys.ring


async def test_a_retired_key_gives_way_to_one_that_is_there(
    replica: Replica, key_store: KeyStore, clock: FakeClock
) -> None:
    """No third key is made."""
    keys = replica()
    await keys.start()
    other = encrypt_key(generate_key("HS256"), MASTER, clock(), clock() - SECOND)
    keys.update(await key_store.change(lambda _: [other]))
    signs = keys.ring.active.kid
    await keys.retire(signs)
    assert keys.ring.active_kid == other.kid
    assert len(await key_store.load()) == 2


async def test_only_a_key_that_signs_or_will_can_be_retired(replica: Replica) -> None:
    """Any other key is not found, whether it never existed or has ended."""
    keys = replica()
    await keys.start()
    first = keys.ring.active.kid
    await keys.retire(first)
    with pytest.raises(NotFound, match="is retired"):
        await keys.retire(first)
    for end in (keys.retire, keys.compromise):
        with pytest.raises(NotFound, match="keys list"):
            await end("unknown")


@pytest.mark.parametrize("end", [SigningKeys.retire, SigningKeys.compromise])
async def test_the_end_of_a_key_to_come_leaves_no_time_without_one_that_signs(
    replica: Replica, clock: FakeClock, end: Callable[[SigningKeys, str], object]
) -> None:
    """The key before signs longer: until the next one, or until a rotation."""
    keys = replica()
    await keys.start()
    first = keys.ring.active.kid
    second = await keys.rotate()
    clock.advance(timedelta(minutes=10))
    third = await keys.rotate()
    await end(keys, second.kid)  # type: ignore[misc]
    clock.advance(LEAD - SECOND)
    keys.update()
    assert keys.ring.active_kid == first
    clock.advance(SECOND)
    keys.update()
    assert keys.ring.active_kid == third.kid
    fourth = await keys.rotate()
    await end(keys, fourth.kid)  # type: ignore[misc]
    clock.advance(LEAD * 2)
    keys.update()
    assert keys.ring.active_kid == third.kid


# Compromise


async def test_a_compromised_key_is_distrusted_at_once_and_everywhere(
    replica: Replica, key_store: KeyStore
) -> None:
    """A new key signs, the same on all replicas."""
    keys, other = replica(), replica()
    await keys.start()
    await other.start()
    first, revision = keys.ring.active.kid, other.ring.revision
    ended = await keys.compromise(first)
    assert ended.state(ended.created_at) is KeyState.COMPROMISED
    assert other.update(await key_store.load())
    assert other.ring.revision > revision
    for ring in (keys.ring, other.ring):
        assert first not in ring
        assert len(ring) == 1
    assert keys.ring.active_kid == other.ring.active_kid


async def test_a_retired_key_can_still_be_compromised(replica: Replica, clock: FakeClock) -> None:
    """Its tokens become invalid; the key that signs stays the same."""
    keys = replica()
    await keys.start()
    first = keys.ring.active.kid
    second = await keys.rotate(activate_in=timedelta(0))
    await keys.compromise(first)
    assert [key.kid for key in keys.ring] == [second.kid]


# Import


async def test_an_imported_key_takes_over_like_a_new_one(
    replica: Replica, clock: FakeClock
) -> None:
    """After the lead, or at the time that the caller names."""
    keys = replica()
    await keys.start()
    first = keys.ring.active.kid
    imported = generate_key("ES256")
    row = await keys.add(imported, timedelta(hours=1))
    assert row.activate_at == clock() + timedelta(hours=1)
    assert keys.ring.active_kid == first
    clock.advance(timedelta(hours=1))
    keys.update()
    assert keys.ring.active.kid == imported.kid


async def test_an_imported_key_signs_at_once_where_none_does(
    replica: Replica, clock: FakeClock
) -> None:
    """No verifier has to learn of it first."""
    keys = replica()
    imported = generate_key("EdDSA")
    assert (await keys.add(imported)).activate_at == clock()
    assert keys.ring.active.kid == imported.kid


async def test_a_key_is_imported_once(
    replica: Replica, key_store: KeyStore, clock: FakeClock
) -> None:
    """A key that has ended cannot be imported again either."""
    keys = replica()
    await keys.start()
    imported = generate_key("EdDSA")
    await keys.add(imported)
    present = await key_store.load()
    with pytest.raises(AlreadyExists):
        await keys.add(imported)
    assert await key_store.load() == present
    await keys.compromise(imported.kid)
    with pytest.raises(AlreadyExists):
        await keys.add(imported)


# The root key and the master key


async def test_the_root_key_is_made_once(key_store: KeyStore) -> None:
    """Replicas that start at once derive the same keys; another master key cannot decrypt it."""
    roots = await asyncio.gather(*(root_key(key_store, MASTER) for _ in range(5)))
    assert len({root.refresh_token_key() for root in roots}) == 1
    assert roots[0].refresh_token_key() != MASTER.refresh_token_key()
    with pytest.raises(ConfigError, match="AUTH_MASTER_KEY"):
        await root_key(key_store, OTHER_MASTER)


async def test_a_replaced_master_key_opens_all_that_the_old_one_did(
    replica: Replica, key_store: KeyStore
) -> None:
    """No session ends, no key changes, and the old master key decrypts nothing."""
    root = await root_key(key_store, MASTER)
    keys = replica(replace(POLICY, configured=CONFIGURED))
    await keys.start()
    await keys.rotate("EdDSA")
    await keys.compromise(CONFIGURED.kid)
    assert await replace_master_key(key_store, MASTER, OTHER_MASTER) == len(await key_store.load())
    renewed = await root_key(key_store, OTHER_MASTER)
    assert renewed.refresh_token_key() == root.refresh_token_key()
    after = replica(master_key=OTHER_MASTER)
    await after.start()
    assert {key.kid for key in after.ring} == {key.kid for key in keys.ring}
    with pytest.raises(ConfigError, match="AUTH_MASTER_KEY"):
        await root_key(key_store, MASTER)
    with pytest.raises(ConfigError, match="AUTH_MASTER_KEY"):
        await replica().start()


async def test_a_master_key_is_replaced_in_a_database_never_used(key_store: KeyStore) -> None:
    """There is nothing to encrypt again."""
    assert await replace_master_key(key_store, MASTER, OTHER_MASTER) == 0


async def test_a_wrong_old_master_key_replaces_nothing(
    replica: Replica, key_store: KeyStore
) -> None:
    """All keys are encrypted again, or none."""
    await root_key(key_store, MASTER)
    await replica().start()
    with pytest.raises(ConfigError, match="AUTH_MASTER_KEY"):
        await replace_master_key(key_store, OTHER_MASTER, MasterKey(bytes(range(164, 196))))
    await root_key(key_store, MASTER)
    await replica().start()


async def test_a_running_replica_goes_on_when_the_master_key_is_replaced(
    replica: Replica, key_store: KeyStore, clock: FakeClock
) -> None:
    """It keeps the keys that it has, and adds none that a restarted process could not decrypt."""
    keys = replica()
    await keys.start()
    signs = keys.ring.active_kid
    await replace_master_key(key_store, MASTER, OTHER_MASTER)
    with capture_logs() as logs:
        assert not keys.update(await key_store.load())
    assert logs == []
    assert keys.ring.active_kid == signs
    clock.advance(INTERVAL)
    with pytest.raises(ConfigError, match="AUTH_MASTER_KEY"):
        await keys.rotate_if_due()
    restarted = replica(master_key=OTHER_MASTER)
    await restarted.start()
    assert await restarted.rotate_if_due()


async def test_a_key_that_cannot_be_opened_is_left_out_and_logged(
    replica: Replica, key_store: KeyStore
) -> None:
    """All other keys are trusted as before."""
    keys = replica()
    await keys.start()
    signs = keys.ring.active_kid
    await replace_master_key(key_store, MASTER, OTHER_MASTER)
    restarted = replica(master_key=OTHER_MASTER)
    await restarted.start()
    made = await restarted.rotate()
    with capture_logs() as logs:
        assert not keys.update(await key_store.load())
    assert [(entry["event"], entry["kid"]) for entry in logs] == [
        ("key_cannot_be_opened", made.kid)
    ]
    assert keys.ring.active_kid == signs


# The store


async def test_keys_that_have_ended_are_deleted_after_a_month(
    replica: Replica, key_store: KeyStore, clock: FakeClock
) -> None:
    """Until then `keys list` shows them; a key that signs is never deleted."""
    keys = replica()
    await keys.start()
    first = await keys.rotate(activate_in=timedelta(0))
    second = await keys.rotate(activate_in=timedelta(0))
    await keys.compromise(first.kid)
    clock.advance(KEEP + timedelta(days=29))
    await key_store.prune(clock())
    assert len(await key_store.load()) == 3
    clock.advance(timedelta(days=2))
    await key_store.prune(clock())
    assert [row.kid for row in await key_store.load()] == [second.kid]


async def test_a_decision_that_fails_writes_nothing(key_store: KeyStore, clock: FakeClock) -> None:
    """The next decision does not wait for it."""
    row = StoredKey("kid", "EdDSA", b"sealed", clock(), clock())

    def fail(_present: list[StoredKey]) -> list[StoredKey]:
        raise AlreadyExists("no")

    with pytest.raises(AlreadyExists):
        await key_store.change(fail)
    assert await key_store.change(lambda present: [row] if not present else []) == [row]
    assert await key_store.load() == [row]


async def test_changed_keys_are_read_from_a_cursor_on(
    key_store: KeyStore, pool: "Pool", clock: FakeClock
) -> None:
    """Keys that were made or changed since, and no others."""
    rows = [StoredKey(f"k{n}", "EdDSA", b"sealed", clock(), clock()) for n in range(2)]
    await key_store.change(lambda _: rows)
    async with pool.acquire() as connection:
        cursor = Cursor.of_snapshot(await connection.fetchval("SELECT pg_current_snapshot()"))
        assert await key_store.changed_since(cursor, connection) == []
        retired = replace(rows[0], retire_at=clock(), remove_at=clock() + KEEP)
        await key_store.change(lambda _: [retired])
        assert await key_store.changed_since(cursor, connection) == [retired]
