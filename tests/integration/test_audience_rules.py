"""Who gets tokens for which audience, with which scopes: at a login and at a refresh."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from auth_service.core.audience_registry import AudienceRegistry
from auth_service.db.store import Store
from auth_service.errors import (
    InvalidArgument,
    InvalidCredentials,
    InvalidScope,
    InvalidTarget,
    NotFound,
)
from auth_service.models import TokenPair, User
from tests.audiences import register
from tests.clock import FakeClock
from tests.integration.core import PASSWORD, Core, make_core

SECOND = timedelta(seconds=1)
USER = "ada@example.com"


@pytest.fixture
async def core(store: Store, clock: FakeClock) -> AsyncIterator[Core]:
    """The core over an empty database."""
    made = make_core(store, clock)
    yield made
    made.hasher.close()


@pytest.fixture
async def ada(core: Core) -> User:
    """A user with two scopes."""
    return await core.user()


async def login(core: Core, *audience: str, scope: tuple[str, ...] = ()) -> TokenPair:
    """Begin a session of the user's."""
    return await core.sessions.login_password(USER, PASSWORD, audience=audience, scope=scope)


class TestLogin:
    @pytest.mark.parametrize("registered", [False, True])
    async def test_what_is_not_granted_is_refused_like_what_is_unknown(
        self, core: Core, ada: User, registered: bool
    ) -> None:
        """And nobody learns either without the password."""
        if registered:
            await register(core.store, "ledger", open_=False)
        with pytest.raises(InvalidTarget, match="the audience ledger is not known, or not granted"):
            await login(core, "internal", "ledger")
        with pytest.raises(InvalidCredentials):
            await core.sessions.login_password(USER, "wrong", audience=["ledger"])

    async def test_a_grant_opens_a_restricted_audience(self, core: Core, ada: User) -> None:
        """For the account to which it is granted, and for no other."""
        await register(core.store, "ledger", open_=False)
        await core.user("eve@example.com")
        await core.store.grant_audience("ledger", ada.id, ada.created_at)
        assert core.claims((await login(core, "ledger")).access_token).audience == ("ledger",)
        with pytest.raises(InvalidTarget):
            await core.sessions.login_password("eve@example.com", PASSWORD, audience=["ledger"])

    async def test_scopes_are_those_of_the_audiences(self, core: Core, ada: User) -> None:
        """Those of the user that belong to one of them; others cannot arise, even if asked for."""
        await register(core.store, "orders", "read", "other")
        await register(core.store, "billing", "write")
        assert (await login(core, "orders")).scope == ("read",)
        assert (await login(core, "orders", "billing")).scope == ("read", "write")
        assert (await login(core, "internal")).scope == ("read", "write")
        for scope in ("write", "other"):
            with pytest.raises(InvalidScope):
                await login(core, "orders", scope=(scope,))

    async def test_a_service_account_is_held_to_the_same(self, core: Core) -> None:
        """Its grants are its own."""
        await register(core.store, "orders", "read")
        await register(core.store, "ledger", open_=False)
        services = core.accounts.services
        secret = await services.create("billing", scope=["read", "write"])

        async def service_login(audience: str, *scope: str) -> TokenPair:
            return await core.sessions.login_client(
                "billing", secret, audience=[audience], scope=scope
            )

        assert (await service_login("orders")).scope == ("read",)
        with pytest.raises(InvalidScope):
            await service_login("orders", "write")
        with pytest.raises(InvalidTarget):
            await service_login("ledger")
        account = await services.get("billing")
        await core.store.grant_audience("ledger", "billing", account.created_at)
        assert (await service_login("ledger")).scope == ("read", "write")


class TestRefresh:
    async def test_a_refresh_may_name_some_of_the_audiences(
        self, core: Core, ada: User, clock: FakeClock
    ) -> None:
        """The access token is for these alone, with their scopes; the session keeps all."""
        await register(core.store, "orders", "read")
        await register(core.store, "billing", "write")
        pair = await login(core, "orders", "billing")
        clock.advance(SECOND)
        narrow = await core.sessions.refresh(pair.refresh_token, audience=["billing"])
        claims = core.claims(narrow.access_token)
        assert (claims.audience, claims.scope, narrow.scope) == (
            ("billing",),
            ("write",),
            ("write",),
        )
        whole = core.claims((await core.sessions.refresh(narrow.refresh_token)).access_token)
        assert (whole.audience, whole.scope) == (("orders", "billing"), ("read", "write"))

    async def test_a_retry_for_the_same_audience_gets_the_same_tokens(
        self, core: Core, ada: User, clock: FakeClock
    ) -> None:
        """Byte for byte, within the grace, and by its id after any delay."""
        await register(core.store, "orders", "read")
        pair = await login(core, "internal", "orders")
        given: dict[str, Any] = {"audience": ["orders"], "request_id": "r-12345678"}
        first = await core.sessions.refresh(pair.refresh_token, **given)
        clock.advance(SECOND)
        assert await core.sessions.refresh(pair.refresh_token, **given) == first
        clock.advance(timedelta(minutes=10))
        assert await core.sessions.refresh(pair.refresh_token, **given) == first

    @pytest.mark.parametrize("audience", ["billing", "nowhere"])
    async def test_no_refresh_goes_beyond_the_session(
        self, core: Core, ada: User, audience: str
    ) -> None:
        """Not even to an audience that is open to all; nothing changes."""
        await register(core.store, "orders")
        await register(core.store, "billing")
        pair = await login(core, "orders")
        with pytest.raises(InvalidTarget):
            await core.sessions.refresh(pair.refresh_token, audience=[audience])
        with pytest.raises(InvalidArgument):
            await core.sessions.refresh(pair.refresh_token, audience=[""])
        assert (await core.sessions.refresh(pair.refresh_token)).session_id == pair.session_id

    async def test_a_scope_of_another_audience_is_refused(self, core: Core, ada: User) -> None:
        """Although the session has it."""
        await register(core.store, "orders", "read")
        await register(core.store, "billing", "write")
        pair = await login(core, "orders", "billing")
        with pytest.raises(InvalidScope):
            await core.sessions.refresh(pair.refresh_token, ["read"], audience=["billing"])
        narrow = await core.sessions.refresh(pair.refresh_token, ["read"])
        assert core.claims(narrow.access_token).scope == ("read",)

    async def test_a_grant_that_is_withdrawn_refuses_and_ends_nothing(
        self, core: Core, ada: User, clock: FakeClock
    ) -> None:
        """The session goes on for its other audiences, and in whole once it is granted again."""
        await register(core.store, "ledger", open_=False)
        await core.store.grant_audience("ledger", ada.id, clock())
        pair = await login(core, "internal", "ledger")
        await core.store.withdraw_audience("ledger", ada.id, clock())
        for _ in range(2):
            with pytest.raises(InvalidTarget):
                await core.sessions.refresh(pair.refresh_token)
        other = await core.sessions.refresh(pair.refresh_token, audience=["internal"])
        await core.store.grant_audience("ledger", ada.id, clock())
        whole = await core.sessions.refresh(other.refresh_token)
        assert core.claims(whole.access_token).audience == ("internal", "ledger")

    async def test_an_audience_that_is_deleted_has_no_new_token(
        self, core: Core, ada: User, clock: FakeClock
    ) -> None:
        """Not even if another one takes its name, restricted."""
        await register(core.store, "orders")
        pair = await login(core, "orders")
        await core.store.delete_audience("orders", clock())
        with pytest.raises(InvalidTarget):
            await core.sessions.refresh(pair.refresh_token)
        await register(core.store, "orders", open_=False)
        with pytest.raises(InvalidTarget):
            await core.sessions.refresh(pair.refresh_token)


class TestRegistry:
    async def test_the_default_audiences_are_registered(
        self, store: Store, clock: FakeClock
    ) -> None:
        """Open and for any scope; one that is registered already stays as it is."""
        registry = AudienceRegistry(store, clock)
        await registry.update("internal", scope=["read"], open_=False)
        await asyncio.gather(*(registry.create_defaults(["internal", "orders"]) for _ in range(5)))
        internal, orders = await registry.list()
        assert (internal.scope, internal.open) == (("read",), False)
        assert (orders.name, orders.scope, orders.open) == ("orders", ("*",), True)

    async def test_what_is_not_there_is_not_found(self, store: Store, clock: FakeClock) -> None:
        """By whatever method."""
        registry = AudienceRegistry(store, clock)
        for work in (
            registry.get("ledger"),
            registry.update("ledger", open_=True),
            registry.delete("ledger"),
            registry.grant("ledger", "billing"),
            registry.withdraw("ledger", "billing"),
            registry.set_actor("ledger", "billing"),
            registry.remove_actor("ledger", "billing"),
            registry.grant("internal", "billing"),
            registry.remove_actor("internal", "billing"),
        ):
            with pytest.raises(NotFound):
                await work
