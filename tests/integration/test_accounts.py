"""Accounts: create, disable, change password, service accounts, on a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from auth_service.db.store import Store
from auth_service.errors import (
    AlreadyExists,
    InactiveReason,
    InvalidArgument,
    InvalidCredentials,
    InvalidGrant,
    NotFound,
    PermissionDenied,
    WeakPassword,
)
from tests.clock import FakeClock
from tests.integration.core import PASSWORD, Core, make_core

NEW_PASSWORD = "an even better battery staple"


@pytest.fixture
async def core(store: Store, clock: FakeClock) -> AsyncIterator[Core]:
    core = make_core(store, clock)
    yield core
    core.hasher.close()


class TestCreate:
    async def test_a_user_is_found_by_id_and_by_every_identifier(self, core: Core) -> None:
        """In whatever case or Unicode form it is typed."""
        user = await core.accounts.create_user(
            ["Ada@Example.com", "ada@example.com", " ＡＤＡ "], PASSWORD, roles=["admin", "admin"]
        )
        assert user.identifiers == ("ada@example.com", "ada")
        assert user.roles == ("admin",)
        for name in (str(user.id), "ADA@EXAMPLE.COM", "ada", "Ada "):
            found = await core.accounts.get_user(name)
            assert (found.id, set(found.identifiers)) == (user.id, {"ada@example.com", "ada"})
            assert (found.roles, found.disabled) == (("admin",), False)
        for name in ("nobody", str(uuid4())):
            with pytest.raises(NotFound):
                await core.accounts.get_user(name)

    async def test_an_identifier_is_taken_once(self, core: Core, pool: Any) -> None:
        """The second account is refused entirely, also if only one of its identifiers is taken."""
        await core.user()
        with pytest.raises(AlreadyExists):
            await core.accounts.create_user(["new@example.com", "ADA@example.com"], PASSWORD)
        with pytest.raises(NotFound):
            await core.accounts.get_user("new@example.com")
        assert await pool.fetchval("SELECT count(*) FROM users") == 1

    async def test_of_parallel_creations_one_succeeds(self, core: Core) -> None:
        """The database decides, not a check beforehand."""
        answers = await asyncio.gather(*(core.user() for _ in range(10)), return_exceptions=True)
        assert [type(answer) for answer in answers].count(AlreadyExists) == 9

    async def test_parallel_creations_with_crossed_identifiers_do_not_deadlock(
        self, core: Core
    ) -> None:
        """Of two accounts with the same names in another order, one is created."""
        answers = await asyncio.gather(
            *(
                core.accounts.create_user(["a", "b"] if n % 2 else ["b", "a"], PASSWORD)
                for n in range(20)
            ),
            return_exceptions=True,
        )
        assert [type(answer) for answer in answers].count(AlreadyExists) == 19

    @pytest.mark.parametrize(
        ("field", "values"),
        [
            ("identifiers", {"identifiers": []}),
            ("identifiers[1]", {"identifiers": ["ok", "a\0"]}),
            ("roles[0]", {"roles": [""]}),
            ("scope[0]", {"scope": ["a b"]}),
        ],
    )
    async def test_bad_input_names_its_field(
        self, core: Core, field: str, values: dict[str, Any]
    ) -> None:
        """An operator learns what is wrong."""
        request: dict[str, Any] = {"identifiers": ["ada"], "password": PASSWORD} | values
        with pytest.raises(InvalidArgument) as refused:
            await core.accounts.create_user(**request)
        assert refused.value.violations[0].field == field

    async def test_a_short_password_is_refused(self, core: Core) -> None:
        """Characters count, not bytes."""
        for password in ("", "x" * 14, "é" * 14):
            with pytest.raises(WeakPassword):
                await core.accounts.create_user(["ada"], password)
        assert (await core.accounts.create_user(["ada"], "à noël, été, où")).roles == ()

    async def test_no_password_is_made_of_the_accounts_own_words(self, core: Core) -> None:
        """At whatever door it comes in: those of an existing account are read first."""
        words = "ada-lovelace@example.com"
        with pytest.raises(WeakPassword, match="identifiers"):
            await core.accounts.create_user(["Ada", "Ada-Lovelace@Example.com"], words)
        user = await core.user(words)
        claims = core.claims((await core.login(words)).access_token)
        with pytest.raises(WeakPassword, match=r"^password: is made of"):
            await core.accounts.set_password(user.id, "Lovelace-Example-1")
        with pytest.raises(WeakPassword, match=r"^new_password: is made of"):
            await core.accounts.change_password(claims, PASSWORD, "Lovelace-Example-1")

    async def test_the_rules_are_for_new_passwords_alone(self, core: Core, store: Store) -> None:
        """Who has a weak password of earlier days can still log in, and replace it."""
        user = await core.user()
        await store.set_password_hash(user.id, await core.hasher.hash("aaaaaaa"))
        pair = await core.sessions.login_password("ada@example.com", "aaaaaaa")
        await core.accounts.change_password(core.claims(pair.access_token), "aaaaaaa", NEW_PASSWORD)

    async def test_users_are_listed_in_pages(self, core: Core) -> None:
        """Each user once, in the order of ids."""
        made = sorted([(await core.user(f"u{n}@example.com")).id for n in range(5)])
        first = await core.accounts.users.list(3)
        rest = await core.accounts.users.list(3, first[-1].id)
        assert [user.id for user in first + rest] == made
        assert await core.accounts.users.list(3, made[-1]) == []


class TestDisable:
    async def test_disabling_ends_everything_until_enabled(self, core: Core, pool: Any) -> None:
        """No token and no login works; once enabled, a login in the same second does."""
        user = await core.user()
        pair = await core.login()
        await core.accounts.set_disabled(user.id, True)
        assert core.verdict(pair.access_token).inactive_reason in {
            InactiveReason.USER_REVOKED,
            InactiveReason.SESSION_REVOKED,
        }
        assert await core.accounts.list_sessions(user.id) == []
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(pair.refresh_token)
        with pytest.raises(InvalidCredentials):
            await core.login()
        assert (await core.accounts.get_user(str(user.id))).disabled
        await core.accounts.set_disabled(user.id, False)
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(pair.refresh_token)
        fresh = await core.login()
        assert core.active(fresh.access_token)
        assert not core.active(pair.access_token)
        assert await pool.fetchval("SELECT count(*) FROM audit_log") >= 3

    async def test_an_unknown_user_is_told(self, core: Core, pool: Any) -> None:
        """And nothing is revoked."""
        for disabled in (True, False):
            with pytest.raises(NotFound):
                await core.accounts.set_disabled(uuid4(), disabled)
        with pytest.raises(NotFound):
            await core.accounts.set_password(uuid4(), NEW_PASSWORD)
        assert await pool.fetchval("SELECT count(*) FROM revocations") == 0

    async def test_a_login_that_races_the_disabling_leaves_no_live_session(
        self, store: Store, clock: FakeClock, pool: Any
    ) -> None:
        """Whichever commits first, a disabled user has no session."""
        core = make_core(store, clock, login_burst=1000)
        user = await core.user()
        await asyncio.gather(
            *(core.login() for _ in range(10)),
            core.accounts.set_disabled(user.id, True),
            *(core.login() for _ in range(10)),
            return_exceptions=True,
        )
        live = "SELECT count(*) FROM sessions WHERE revoked_at IS NULL"
        assert await pool.fetchval(live) == 0
        core.hasher.close()


class TestPassword:
    async def test_a_new_password_replaces_the_old_and_ends_sessions(self, core: Core) -> None:
        """The old password and all sessions that it opened are invalid."""
        user = await core.user()
        pair = await core.login()
        await core.accounts.set_password(user.id, NEW_PASSWORD)
        assert not core.active(pair.access_token)
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(pair.refresh_token)
        with pytest.raises(InvalidCredentials):
            await core.login()
        fresh = await core.sessions.login_password("ada@example.com", NEW_PASSWORD)
        assert core.active(fresh.access_token)

    async def test_a_weak_new_password_changes_nothing(self, core: Core) -> None:
        """The old password stays valid."""
        user = await core.user()
        with pytest.raises(WeakPassword):
            await core.accounts.set_password(user.id, "short")
        assert (await core.login()).access_token

    async def test_a_login_with_the_old_password_that_races_the_change_does_not_outlive_it(
        self, store: Store, clock: FakeClock, pool: Any
    ) -> None:
        """No session that was opened with the old password survives."""
        core = make_core(store, clock, login_burst=1000)
        user = await core.user()
        await asyncio.gather(
            *(core.login() for _ in range(10)),
            core.accounts.set_password(user.id, NEW_PASSWORD),
            *(core.login() for _ in range(10)),
            return_exceptions=True,
        )
        live = "SELECT count(*) FROM sessions WHERE revoked_at IS NULL"
        assert await pool.fetchval(live) == 0
        core.hasher.close()

    async def test_unicode_forms_of_a_password_are_one(self, core: Core) -> None:
        """Two keyboards may send the same password in two forms."""
        await core.accounts.create_user(["ada"], "caf\u00e9 au lait, please")
        pair = await core.sessions.login_password("ada", "cafe\u0301 au lait, please")
        assert core.active(pair.access_token)


class TestServiceAccounts:
    async def test_a_client_id_is_taken_once(self, core: Core) -> None:
        """The secret of the first stays valid."""
        secret = await core.accounts.services.create("Billing")
        with pytest.raises(AlreadyExists):
            await core.accounts.services.create("billing")
        assert core.active((await core.sessions.login_client("BILLING", secret)).access_token)

    async def test_the_secret_is_not_stored(self, core: Core, pool: Any) -> None:
        """Only its hash is."""
        secret = await core.accounts.services.create("billing")
        assert len(secret) >= 43
        assert secret not in str(await pool.fetchrow("SELECT * FROM service_accounts"))


async def test_sessions_are_listed_live_and_newest_first(core: Core, clock: FakeClock) -> None:
    """An ended or expired session is not in the list."""
    user = await core.user()
    pairs = []
    for _ in range(3):
        pairs.append(await core.login())
        clock.advance(timedelta(minutes=1))
    await core.revoker.revoke_refresh_token(pairs[1].refresh_token)
    listed = await core.accounts.list_sessions(user.id)
    assert [str(session.id) for session in listed] == [pairs[2].session_id, pairs[0].session_id]
    clock.advance(timedelta(days=8))
    assert await core.accounts.list_sessions(user.id) == []


@pytest.mark.parametrize("changes", [{"session_id": ""}, {"session_id": "x"}, {"subject": "x"}])
async def test_a_token_of_no_user_has_no_account(core: Core, changes: dict[str, Any]) -> None:
    """A token of a service account, or one made up by a holder of the shared key."""
    await core.user()
    claims = core.claims((await core.login()).access_token)._replace(**changes)
    with pytest.raises(PermissionDenied):
        await core.accounts.own_account(claims)
