"""Audiences: the store, what a process knows of them, and whom it lets have tokens for them."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg
import pytest

from auth_service.core.audiences import Audiences, confined
from auth_service.core.credentials import secret_hash
from auth_service.db.audiences import MAX_GRANTS, Account, AllAudiences
from auth_service.db.store import Store
from auth_service.errors import AlreadyExists, InvalidArgument, InvalidTarget, NotFound, Unavailable
from auth_service.models import ActorRule, ClientSecret, ServiceAccount, User
from tests.audiences import new_audience, register
from tests.clock import FakeClock
from tests.integration.conftest import AddUser

if TYPE_CHECKING:
    from auth_service.db.pool import Connection, Pool

OWN = "https://auth.test"


class Counting(Audiences):
    """Counts its looks at the database."""

    looks = 0

    async def follow(self, connection: "Connection | None" = None) -> None:
        """Look, as always."""
        self.looks += 1
        await super().follow(connection)


class Slow(Store):
    """Holds back what it has read of the audiences, for as long as the test wants."""

    def __init__(self, pool: "Pool") -> None:
        super().__init__(pool)
        self.go = asyncio.Event()
        self.read = asyncio.Event()
        self.go.set()

    async def all_audiences(
        self, unless: UUID | None, connection: "Connection | None" = None
    ) -> AllAudiences | None:
        """Read, as always."""
        go = self.go
        found = await super().all_audiences(unless, connection)
        self.read.set()
        await go.wait()
        return found


@pytest.fixture
def audiences(store: Store, clock: FakeClock) -> Audiences:
    """What a process knows, and at first it knows nothing."""
    return Audiences(store, OWN, clock)


async def add_service(store: Store, client_id: str) -> str:
    """Add a service account."""
    secret = ClientSecret(uuid4(), secret_hash(client_id), FakeClock().now)
    account = ServiceAccount(client_id, (secret,), (), ("read",), False, FakeClock().now)
    await store.create_service_account(account)
    return client_id


async def grants(store: Store, account: Account) -> tuple[UUID, ...]:
    """Return what is granted to an account."""
    found: User | ServiceAccount | None
    if isinstance(account, UUID):
        found = await store.get_user(account)
    else:
        found = await store.find_service_account(account)
    assert found is not None
    return found.audiences


class TestStore:
    """What the database keeps."""

    async def test_an_audience_is_found_as_it_was_registered(self, store: Store) -> None:
        """By its name, among all, and in the list."""
        made = await register(store, "orders", "orders:read", "orders:write", open_=False)
        assert await store.find_audience("orders") == made
        assert await store.find_audience("Orders") is None
        found = await store.all_audiences(None)
        assert found is not None
        assert found.audiences[1:] == [made]
        assert await store.list_audiences(1, "internal") == [made]

    async def test_a_name_is_taken_once(self, store: Store) -> None:
        """The second registration changes nothing."""
        first = await register(store, "orders", "a")
        with pytest.raises(AlreadyExists):
            await register(store, "orders", "b")
        assert await store.find_audience("orders") == first

    async def test_an_update_replaces_what_is_given(self, store: Store, clock: FakeClock) -> None:
        """And nothing else; False is not nothing."""
        await register(store, "orders", "a", bound=True)
        await store.update_audience("orders", clock.now, open_=False)
        found = await store.find_audience("orders")
        assert found is not None
        assert (found.scope, found.open, found.bound) == (("a",), False, True)
        await store.update_audience("orders", clock.now, scope=(), bound=False)
        found = await store.find_audience("orders")
        assert found is not None
        assert (found.scope, found.open, found.bound) == ((), False, False)

    async def test_the_version_changes_with_each_change(
        self, store: Store, clock: FakeClock
    ) -> None:
        """Also when an actor's account is deleted, and with nothing else."""
        await add_service(store, "gateway")
        rule = ActorRule("gateway", ("staff",))
        changes: list[Callable[[], Awaitable[object]]] = [
            lambda: register(store, "orders"),
            lambda: store.update_audience("orders", clock.now, open_=False),
            lambda: store.put_actor("orders", rule, clock.now),
            lambda: store.put_actor("orders", ActorRule("gateway", ()), clock.now),
            lambda: store.delete_actor("orders", "gateway", clock.now),
            lambda: store.put_actor("orders", rule, clock.now),
            lambda: store._execute("delete_service_account", "gateway"),
            lambda: store.delete_audience("orders", clock.now),
        ]
        seen = set()
        for change in changes:
            await change()
            found = await store.all_audiences(None)
            assert found is not None
            seen.add(found.version)
            assert await store.all_audiences(found.version) is None
        assert len(seen) == len(changes)

    async def test_a_database_that_never_had_an_audience_has_no_version(
        self, store: Store, pool: "Pool"
    ) -> None:
        """So a process that knows a version drops all, and one that knows none stays as it is."""
        await pool.execute("TRUNCATE audiences, audience_actors, audience_version")
        assert await store.all_audiences(None) is None
        assert await store.all_audiences(uuid4()) == (None, [])

    async def test_actors_are_those_that_were_set_last(
        self, store: Store, clock: FakeClock
    ) -> None:
        """Each account has one rule, and none without an account or an audience."""
        await register(store, "orders")
        for client_id in ("b", "a"):
            await add_service(store, client_id)
            await store.put_actor("orders", ActorRule(client_id, ("x",)), clock.now)
        await store.put_actor("orders", ActorRule("b", ("y", "z")), clock.now)
        found = await store.find_audience("orders")
        assert found is not None
        assert found.actors == (ActorRule("a", ("x",)), ActorRule("b", ("y", "z")))
        await store.delete_actor("orders", "a", clock.now)
        for name, client_id in (("orders", "nobody"), ("elsewhere", "b")):
            with pytest.raises(NotFound):
                await store.put_actor(name, ActorRule(client_id, ()), clock.now)
            with pytest.raises(NotFound):
                await store.delete_actor(name, client_id, clock.now)
        found = await store.find_audience("orders")
        assert found is not None
        assert found.actors == (ActorRule("b", ("y", "z")),)

    async def test_a_grant_is_kept_with_the_account(
        self, store: Store, add_user: AddUser, clock: FakeClock
    ) -> None:
        """Of a user or a service account; twice is once, and withdrawn is gone."""
        orders, billing = await register(store, "orders"), await register(store, "billing")
        others: list[Account] = [(await add_user()).id, await add_service(store, "other")]
        accounts: list[Account] = [(await add_user()).id, await add_service(store, "gateway")]
        for account in accounts:
            for name in ("orders", "billing", "orders"):
                await store.grant_audience(name, account, clock.now)
            assert set(await grants(store, account)) == {orders.id, billing.id}
            await store.withdraw_audience("orders", account, clock.now)
            await store.withdraw_audience("orders", account, clock.now)
            assert await grants(store, account) == (billing.id,)
        for other in others:
            assert await grants(store, other) == ()

    async def test_a_grant_needs_an_account_and_an_audience(
        self, store: Store, add_user: AddUser, clock: FakeClock
    ) -> None:
        """Neither comes into being by it."""
        await register(store, "orders")
        user = (await add_user()).id
        unknown: list[tuple[str, Account]] = [
            ("elsewhere", user), ("orders", uuid4()), ("orders", "nobody")
        ]  # fmt: skip
        for name, account in unknown:
            with pytest.raises(NotFound):
                await store.grant_audience(name, account, clock.now)
            with pytest.raises(NotFound):
                await store.withdraw_audience(name, account, clock.now)
        assert await grants(store, user) == ()

    async def test_a_new_audience_has_none_of_the_grants_of_a_deleted_one(
        self, store: Store, add_user: AddUser, clock: FakeClock
    ) -> None:
        """Although it has the same name."""
        before = await register(store, "orders")
        user = (await add_user()).id
        await store.grant_audience("orders", user, clock.now)
        await store.delete_audience("orders", clock.now)
        after = await register(store, "orders")
        assert after.id not in await grants(store, user)
        await store.grant_audience("orders", user, clock.now)
        assert await grants(store, user) == (after.id,)
        assert before.id != after.id

    async def test_an_account_has_a_bounded_number_of_grants(
        self, store: Store, pool: "Pool", add_user: AddUser, clock: FakeClock
    ) -> None:
        """The one over it is refused, and one that it has already is not."""
        await pool.execute(
            "INSERT INTO audiences SELECT gen_random_uuid(), 'a' || n, '{}', false, false, now() "
            "FROM generate_series(1, $1) n",
            MAX_GRANTS + 1,
        )
        of_all = "SELECT array_agg(id) FROM audiences WHERE name <> ALL ('{internal,a1}')"
        ids = await pool.fetchval(of_all)
        accounts: list[Account] = [(await add_user()).id, await add_service(store, "gateway")]
        await pool.execute("UPDATE users SET audiences = $1", ids)
        await pool.execute("UPDATE service_accounts SET audiences = $1", ids)
        for account in accounts:
            with pytest.raises(InvalidArgument, match="withdraw one"):
                await store.grant_audience("a1", account, clock.now)
            await store.grant_audience("a2", account, clock.now)
            assert len(await grants(store, account)) == MAX_GRANTS

    async def test_each_change_leaves_a_row_in_the_audit_log(
        self, store: Store, pool: "Pool", add_user: AddUser, clock: FakeClock
    ) -> None:
        """It names the audience, and the account if there is one."""
        user, service = (await add_user()).id, await add_service(store, "gateway")
        await register(store, "orders")
        await store.update_audience("orders", clock.now, open_=False)
        await store.grant_audience("orders", user, clock.now)
        await store.withdraw_audience("orders", service, clock.now)
        await store.put_actor("orders", ActorRule(service, ()), clock.now)
        await store.delete_actor("orders", service, clock.now)
        await store.delete_audience("orders", clock.now)
        with pytest.raises(NotFound):
            await store.delete_audience("orders", clock.now)
        with pytest.raises(NotFound):
            await store.update_audience("orders", clock.now, open_=True)
        rows = await pool.fetch(
            "SELECT event, audience, user_id, client_id FROM audit_log WHERE audience IS NOT NULL "
            "ORDER BY array_position(ARRAY['created', 'updated', 'granted', 'withdrawn', "
            "'actor_set', 'actor_removed', 'deleted'], split_part(event, '.', 2))"
        )
        assert [tuple(row) for row in rows] == [
            ("audience.created", "orders", None, None),
            ("audience.updated", "orders", None, None),
            ("audience.granted", "orders", user, None),
            ("audience.withdrawn", "orders", None, service),
            ("audience.actor_set", "orders", None, service),
            ("audience.actor_removed", "orders", None, service),
            ("audience.deleted", "orders", None, None),
        ]


class TestAdmission:
    """Who may have tokens for an audience."""

    async def test_an_open_audience_is_for_all(self, audiences: Audiences, store: Store) -> None:
        """Its scopes come with it, and those of several are put together."""
        await register(store, "orders", "orders:read")
        await register(store, "billing", "billing:read", "billing:write")
        assert await audiences.admit(["orders"], ()) == {"orders:read"}
        both = {"orders:read", "billing:read", "billing:write"}
        assert await audiences.admit(["orders", "billing"], ()) == both

    async def test_a_restricted_audience_is_for_those_to_whom_it_is_granted(
        self, audiences: Audiences, store: Store
    ) -> None:
        """The grant of another audience is none."""
        orders = await register(store, "orders", "read", open_=False)
        other = await register(store, "billing", open_=False)
        assert await audiences.admit(["orders"], [other.id, orders.id]) == {"read"}
        with pytest.raises(InvalidTarget, match="orders"):
            await audiences.admit(["orders"], [other.id])
        with pytest.raises(InvalidTarget, match="orders"):
            await audiences.admit(["billing", "orders"], [other.id])

    async def test_an_unknown_audience_looks_like_one_that_is_not_granted(
        self, audiences: Audiences, store: Store
    ) -> None:
        """So nobody learns which names there are."""
        await register(store, "orders", open_=False)
        texts = []
        for name in ("orders", "billing"):
            with pytest.raises(InvalidTarget) as caught:
                await audiences.admit([name], ())
            texts.append(caught.value.text.replace(name, "…"))
        assert len(set(texts)) == 1

    async def test_the_own_audience_is_always_open_and_has_no_scope(
        self, audiences: Audiences, store: Store
    ) -> None:
        """Unless it is registered: then it has the scopes that are, and is still open."""
        assert await audiences.admit([OWN], ()) == set()
        await register(store, OWN, "profile", open_=False)
        await audiences.follow()
        assert await audiences.admit([OWN], ()) == {"profile"}

    async def test_an_audience_of_another_replica_is_found_at_once(
        self, audiences: Audiences, store: Store
    ) -> None:
        """Also just after an audience was looked for in vain."""
        for name in ("first", "second"):
            with pytest.raises(InvalidTarget):
                await audiences.admit([name], ())
            await register(store, name)
            assert await audiences.admit([name], ()) == {"*"}

    async def test_a_look_that_began_too_early_is_followed_by_another(
        self, audiences: Audiences, store: Store
    ) -> None:
        """Whoever misses while one is under way does not rely on what that one read."""

        async def strangers() -> None:
            while True:
                with pytest.raises(InvalidTarget):
                    await audiences.admit(["nowhere"], ())

        flood = [asyncio.create_task(strangers()) for _ in range(4)]
        for number in range(50):
            await register(store, f"orders-{number}")
            assert await audiences.admit([f"orders-{number}"], ()) == {"*"}
        for task in flood:
            task.cancel()
        await asyncio.gather(*flood, return_exceptions=True)

    async def test_an_answer_that_comes_late_replaces_none_that_is_newer(
        self, pool: "Pool", clock: FakeClock
    ) -> None:
        """A change that this process knows, it does not forget again."""
        store = Slow(pool)
        audiences = Audiences(store, OWN, clock)
        await register(store, "orders")
        late = store.go = asyncio.Event()
        poll = asyncio.create_task(audiences.follow())
        await store.read.wait()
        store.go = asyncio.Event()
        store.go.set()
        await store.update_audience("orders", clock.now, open_=False)
        await audiences.follow()
        late.set()
        await poll
        orders = audiences.find("orders")
        assert orders is not None
        assert not orders.open

    async def test_all_that_miss_at_once_share_their_looks(
        self, store: Store, clock: FakeClock
    ) -> None:
        """A hundred names that are not registered take two queries."""
        audiences = Counting(store, OWN, clock)
        await register(store, "orders")
        missing = (audiences.admit([f"nowhere-{number}"], ()) for number in range(100))
        found = asyncio.gather(*missing, return_exceptions=True)
        assert await audiences.admit(["orders"], ()) == {"*"}
        assert all(isinstance(each, InvalidTarget) for each in await found)
        assert audiences.looks == 2

    async def test_a_database_that_is_down_is_no_refusal(
        self, audiences: Audiences, pool: "Pool"
    ) -> None:
        """The same call may succeed later."""
        pool.terminate()
        for _ in range(2):
            with pytest.raises(Unavailable):
                await audiences.admit(["orders"], ())

    async def test_what_is_followed_is_what_is_registered(
        self, audiences: Audiences, store: Store, clock: FakeClock
    ) -> None:
        """Changed, deleted and new audiences."""
        await register(store, "orders", "a")
        await register(store, "billing")
        await audiences.follow()
        assert audiences.scope_of(["orders", "billing", "internal"]) == {"a", "*"}
        await store.update_audience("orders", clock.now, scope=("b",))
        await store.delete_audience("billing", clock.now)
        new = await register(store, "shipping")
        await audiences.follow()
        assert audiences.scope_of(["orders", "billing"]) == {"b"}
        assert audiences.find("billing") is None
        assert audiences.find("shipping") == new

    @pytest.mark.parametrize(
        ("within", "expected"),
        [({"*"}, ("a", "b")), ({"b", "c"}, ("b",)), ({"*", "c"}, ("a", "b")), (set(), ())],
    )
    async def test_scopes_are_confined_to_those_of_the_audiences(
        self, within: set[str], expected: tuple[str, ...]
    ) -> None:
        """In their order; an asterisk stands for any."""
        assert confined(("a", "b"), within) == expected


def test_two_audiences_of_one_name_differ() -> None:
    """By the id, which grants name."""
    assert new_audience("orders").id != new_audience("orders").id


async def test_no_row_without_its_audience_or_account(pool: "Pool", store: Store) -> None:
    """The database itself refuses a rule of nobody."""
    orders = await register(store, "orders")
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await pool.execute("INSERT INTO audience_actors VALUES ($1, 'nobody', '{}')", orders.id)
