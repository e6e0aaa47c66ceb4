"""What an administrator does with the accounts of users, on a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from auth_service.core.user_import import ImportedUser
from auth_service.db.store import Store
from auth_service.errors import (
    AlreadyExists,
    InactiveReason,
    InvalidArgument,
    InvalidCredentials,
    InvalidGrant,
    InvalidScope,
    LastIdentifier,
    NotFound,
)
from auth_service.models import TokenPair, User
from tests.clock import FakeClock
from tests.integration.core import PASSWORD, Core, make_core, payload

EVENTS = "SELECT array_agg(event ORDER BY at, event) FROM audit_log WHERE event LIKE 'user.%'"


@pytest.fixture
async def core(store: Store, clock: FakeClock) -> AsyncIterator[Core]:
    core = make_core(store, clock)
    yield core
    core.hasher.close()


class TestCreate:
    async def test_a_request_that_is_repeated_makes_one_user(self, core: Core, pool: Any) -> None:
        """Also if both arrive at the same time; one row in the audit log tells of it."""

        async def create(**changes: Any) -> User:
            asked = {"identifiers": ["ada"], "password": PASSWORD, "request_id": "creation-1"}
            return await core.accounts.create_user(**asked | changes)

        first, second = await asyncio.gather(create(), create(identifiers=["ADA"]))
        again = await create()
        assert first.id == second.id == again.id
        assert await pool.fetchval(EVENTS) == ["user.created"]
        with pytest.raises(InvalidArgument) as refused:
            await create(roles=["admin"])
        assert refused.value.violations[0].field == "request_id"
        with pytest.raises(AlreadyExists):
            await create(request_id="creation-2")


class TestList:
    async def test_users_are_found_by_prefix_role_and_state(self, core: Core) -> None:
        """Each filter narrows what the others leave, page by page."""
        made = {}
        for name, roles in (("ann", ["staff"]), ("anna", []), ("bob", ["staff"]), ("an%", [])):
            names = [name, f"x-{name}@example.com"]
            made[name] = (await core.accounts.create_user(names, PASSWORD, roles=roles)).id
        await core.accounts.set_disabled(made["bob"], True)

        async def found(**only: Any) -> set[str]:
            names, after = set(), None
            while page := await core.accounts.users.list(1, after, **only):
                (user,) = page
                names.add(user.identifiers[0])
                after = user.id
            return names

        assert await found() == set(made)
        assert await found(identifier_prefix="AN") == {"ann", "anna", "an%"}
        assert await found(identifier_prefix="an%") == {"an%"}
        assert await found(identifier_prefix="x-an") == {"ann", "anna", "an%"}
        assert await found(role="staff") == {"ann", "bob"}
        assert await found(role="staff", disabled=False) == {"ann"}
        assert await found(identifier_prefix="b", disabled=True) == {"bob"}
        assert await found(identifier_prefix="b", role="admin") == set()


class TestUpdate:
    async def test_old_tokens_end_and_sessions_refresh_to_the_new_roles(
        self, core: Core, clock: FakeClock
    ) -> None:
        """By default; also in the second of the login, and of an earlier change."""
        user = await core.user(roles=("admin",))
        pair = await core.login()
        for roles in (["staff"], [], ["admin", "staff"]):
            old = pair.access_token
            updated = await core.accounts.users.update(user.id, roles=roles)
            assert (updated.roles, updated.scope) == (tuple(roles), user.scope)
            assert core.verdict(old).inactive_reason is InactiveReason.USER_REVOKED
            pair = await core.sessions.refresh(pair.refresh_token)
            assert core.claims(pair.access_token).roles == tuple(roles)
        assert core.active((await core.login()).access_token)

    async def test_the_retry_of_a_refresh_gets_a_token_that_is_good(self, core: Core) -> None:
        """The lost response held a token with the old roles, which has ended."""
        user = await core.user(roles=("admin",))
        pair = await core.login()
        lost = await core.sessions.refresh(pair.refresh_token)
        await core.accounts.users.update(user.id, roles=["staff"])
        assert not core.active(lost.access_token)
        retry = await core.sessions.refresh(pair.refresh_token)
        assert core.claims(retry.access_token).roles == ("staff",)
        assert retry.refresh_token == lost.refresh_token

    async def test_the_retry_of_a_login_gets_a_token_that_is_good(self, core: Core) -> None:
        """The same for the session that a request began."""
        user = await core.user(roles=("admin",))
        login: dict[str, Any] = {
            "identifier": "ada@example.com",
            "password": PASSWORD,
            "request_id": "login-0001",
        }
        lost = await core.sessions.login_password(**login)
        await core.accounts.users.update(user.id, roles=["staff"])
        retry = await core.sessions.login_password(**login)
        assert retry.session_id == lost.session_id
        assert core.claims(retry.access_token).roles == ("staff",)

    async def test_tokens_may_keep_what_they_have(self, core: Core, pool: Any) -> None:
        """As the administrator chooses; what is refreshed has the new roles."""
        user = await core.user(roles=("admin",))
        pair = await core.login()
        await core.accounts.users.update(user.id, roles=["staff"], end_tokens=False)
        assert core.claims(pair.access_token).roles == ("admin",)
        assert await pool.fetchval("SELECT count(*) FROM revocations") == 0
        refreshed = await core.sessions.refresh(pair.refresh_token)
        assert core.claims(refreshed.access_token).roles == ("staff",)

    @pytest.mark.parametrize("end_tokens", [True, False])
    async def test_sessions_lose_the_scopes_that_the_user_loses(
        self, core: Core, end_tokens: bool
    ) -> None:
        """And gain none without a new login (RFC 6749 section 6)."""
        user = await core.user(scope=("read", "write"))
        pair = await core.login()
        await core.accounts.users.update(user.id, scope=["more", "read"], end_tokens=end_tokens)
        with pytest.raises(InvalidScope):
            await core.sessions.refresh(pair.refresh_token, ["write"])
        refreshed = await core.sessions.refresh(pair.refresh_token)
        assert refreshed.scope == ("read",)
        assert core.claims(refreshed.access_token).scope == ("read",)
        assert (await core.login()).scope == ("more", "read")

    async def test_a_refresh_during_the_change_has_the_new_roles(
        self, core: Core, pool: Any, database_url: str
    ) -> None:
        """It waits for the change, whose transaction is held up here by a lock."""
        user = await core.user(roles=("admin",))
        pair = await core.login()
        blocker = await asyncpg.connect(database_url)
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE audit_log IN ACCESS EXCLUSIVE MODE")
            change = asyncio.create_task(core.accounts.users.update(user.id, roles=["staff"]))
            await _waiting(pool, 1)
            refresh = asyncio.create_task(core.sessions.refresh(pair.refresh_token))
            await _waiting(pool, 2)
        await blocker.close()
        await change
        refreshed = (await refresh).access_token
        assert core.claims(refreshed).roles == ("staff",)
        assert not core.active(pair.access_token)

    async def test_of_races_with_refreshes_and_logins_no_old_role_survives(
        self, store: Store, clock: FakeClock
    ) -> None:
        """Whatever is active after the change has the new roles."""
        core = make_core(store, clock, login_burst=1000)
        user = await core.user(roles=("admin",))
        pairs = [await core.login() for _ in range(8)]
        *answers, _ = await asyncio.gather(
            *(core.sessions.refresh(pair.refresh_token) for pair in pairs),
            *(core.login() for _ in range(8)),
            core.accounts.users.update(user.id, roles=["staff"]),
            return_exceptions=True,
        )
        assert all(
            isinstance(each, InvalidCredentials) for each in answers if isinstance(each, Exception)
        )
        tokens = [each.access_token for each in answers if isinstance(each, TokenPair)]
        assert len(tokens) >= 8
        active = [payload(token)["roles"] for token in tokens if core.active(token)]
        assert all(roles == ["staff"] for roles in active)
        core.hasher.close()


class TestIdentifiers:
    async def test_an_identifier_is_added_and_removed(self, core: Core) -> None:
        """It logs in from then on, and then no longer; sessions go on."""
        user = await core.user()
        added = await core.accounts.users.add_identifier(user.id, "ADA")
        assert added.identifiers == ("ada@example.com", "ada")
        pair = await core.login("Ada")
        left = await core.accounts.users.remove_identifier(user.id, "Ada")
        assert left.identifiers == ("ada@example.com",)
        with pytest.raises(InvalidCredentials):
            await core.login("ada")
        assert core.active(pair.access_token)

    async def test_what_is_taken_or_absent_is_told(self, core: Core) -> None:
        """And nothing changes."""
        ada, bob = await core.user(), await core.user("bob")
        for user in (ada, bob):
            with pytest.raises(AlreadyExists):
                await core.accounts.users.add_identifier(user.id, "BOB")
        with pytest.raises(NotFound):
            await core.accounts.users.remove_identifier(ada.id, "bob")
        for n in range(63):
            await core.accounts.users.add_identifier(ada.id, f"ada-{n}")
        with pytest.raises(InvalidArgument):
            await core.accounts.users.add_identifier(ada.id, "one-too-many")

    async def test_the_last_identifier_stays(self, core: Core) -> None:
        """Also if two are removed at the same time."""
        user = await core.accounts.create_user(["ada", "countess"], PASSWORD)
        answers = await asyncio.gather(
            *(core.accounts.users.remove_identifier(user.id, name) for name in user.identifiers),
            return_exceptions=True,
        )
        assert {type(answer) for answer in answers} == {LastIdentifier, User}
        assert len((await core.accounts.get_user(str(user.id))).identifiers) == 1


class TestTwins:
    @pytest.mark.parametrize(
        ("first", "twin"),
        [
            ("paypal", "p\u0430yp\u0430l"),
            ("p\u0430yp\u0430l", "paypal"),
            ("omega", "\u03bfmega"),
            ("kit", "k\u0131t"),
            ("\u0441\u043e\u0440", "cop"),
            ("ada", "\uff21\uff24\uff21"),
            ("stra\u00dfe", "STRASSE"),
        ],
        ids=["cyrillic", "latin", "greek", "dotless", "whole-script", "width", "case"],
    )
    async def test_a_name_that_looks_the_same_is_refused(
        self, core: Core, first: str, twin: str
    ) -> None:
        """By creation, as a further identifier, and by an import; the first one goes on."""
        await core.user(first)
        other = await core.user("other")
        with pytest.raises(AlreadyExists):
            await core.user(twin)
        with pytest.raises(AlreadyExists):
            await core.accounts.users.add_identifier(other.id, twin)
        result = await core.accounts.imports.add([ImportedUser(1, [twin, "new"])])
        assert (result.created, len(result.refusals)) == (0, 1)
        assert core.active((await core.login(first)).access_token)

    async def test_other_names_are_not(self, core: Core) -> None:
        """Two letters of ASCII are told apart, and so are other words of another script."""
        for name in (
            "corner",
            "comer",
            "user0",
            "usero",
            "\u044e\u043b\u044f",
            "m\u00fcller",
            "muller",
        ):
            await core.user(name)

    async def test_twins_of_one_import_are_refused(self, core: Core) -> None:
        """The second one, and a user who is its own twin."""
        batch = [["paypal"], ["p\u0430ypal"], ["omega", "\u03bfmega"]]
        given = [ImportedUser(n, names) for n, names in enumerate(batch)]
        result = await core.accounts.imports.add(given)
        assert [refusal.position for refusal in result.refusals] == [1, 2]

    @pytest.mark.parametrize("name", ["ann smith", "\ufb01x", "a\u200db", "\u2603"])
    async def test_new_names_are_those_of_rfc_8265(self, core: Core, name: str) -> None:
        """Neither spaces nor symbols nor what is only another form of a letter."""
        user = await core.user()
        for call in (
            core.user(name),
            core.accounts.users.add_identifier(user.id, name),
        ):
            with pytest.raises(InvalidArgument) as refused:
                await call
            assert refused.value.violations[0].field.startswith("identifier")

    async def test_users_of_before_keep_logging_in(self, core: Core, pool: Any) -> None:
        """With a name that a new user could not have."""
        user = await core.user()
        sql = "INSERT INTO user_identifiers (identifier, user_id, position) VALUES ($1, $2, 9)"
        for name in ("ann smith", "\u0430da@example.com"):
            await pool.execute(sql, name, user.id)
            assert core.active((await core.login(name)).access_token)


class TestDelete:
    async def test_everything_of_the_user_goes_but_the_audit(self, core: Core, pool: Any) -> None:
        """Tokens and sessions end, the identifier is free, and no name is left in the log."""
        user = await core.user()
        pair = await core.login()
        await core.accounts.users.delete(user.id)
        assert core.verdict(pair.access_token).inactive_reason is InactiveReason.USER_REVOKED
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(pair.refresh_token)
        with pytest.raises(InvalidCredentials):
            await core.login()
        with pytest.raises(NotFound):
            await core.accounts.get_user(str(user.id))
        for table in ("users", "user_identifiers", "sessions"):
            assert await pool.fetchval(f"SELECT count(*) FROM {table}") == 0  # noqa: S608
        left = await pool.fetch("SELECT row_to_json(a)::text AS line FROM audit_log a")
        assert "ada" not in str(left)
        assert await pool.fetchval(EVENTS) == ["user.created", "user.deleted"]
        assert (await core.user()).id != user.id
        assert core.active((await core.login()).access_token)

    async def test_a_login_that_races_the_deletion_leaves_nothing(
        self, store: Store, clock: FakeClock, pool: Any
    ) -> None:
        """Whichever commits first, no token is active and no session is left."""
        core = make_core(store, clock, login_burst=1000)
        user = await core.user()
        answers = await asyncio.gather(
            *(core.login() for _ in range(10)),
            core.accounts.users.delete(user.id),
            *(core.login() for _ in range(10)),
            return_exceptions=True,
        )
        tokens = [each.access_token for each in answers if isinstance(each, TokenPair)]
        assert not any(core.active(token) for token in tokens)
        assert await pool.fetchval("SELECT count(*) FROM sessions") == 0
        core.hasher.close()


class TestSessions:
    async def test_sessions_are_listed_in_pages(self, core: Core) -> None:
        """Each live one once, and none of another user."""
        user, _ = await core.user(), await core.user("bob")
        made = sorted([(await core.login()).session_id for _ in range(5)])
        await core.login("bob")
        await core.accounts.users.end_session(
            user.id, (first := (await core.accounts.users.sessions(user.id, 1))[0]).id
        )
        assert str(first.id) == made[0]
        page = await core.accounts.users.sessions(user.id, 2)
        rest = await core.accounts.users.sessions(user.id, 9, page[-1].id)
        assert [str(session.id) for session in [*page, *rest]] == made[1:]

    async def test_only_a_session_of_the_user_is_ended(self, core: Core) -> None:
        """The id of another user's session is not found."""
        user, other = await core.user(), await core.user("bob")
        pair = await core.login()
        (session,) = await core.accounts.users.sessions(user.id)
        for of, session_id in ((other.id, session.id), (user.id, uuid4())):
            with pytest.raises(NotFound):
                await core.accounts.users.end_session(of, session_id)
        assert core.active(pair.access_token)
        await core.accounts.users.end_session(user.id, session.id)
        assert core.verdict(pair.access_token).inactive_reason is InactiveReason.SESSION_REVOKED

    async def test_sessions_begun_before_a_moment_end_with_their_tokens(
        self, core: Core, clock: FakeClock, pool: Any
    ) -> None:
        """Also those that were refreshed since; later ones stay."""
        user = await core.user()
        old = await core.login()
        clock.advance(timedelta(minutes=10))
        moment = clock.now
        new = await core.login()
        clock.advance(timedelta(minutes=1))
        refreshed = await core.sessions.refresh(old.refresh_token)
        await core.accounts.users.end_sessions(user.id, moment)
        assert not core.active(refreshed.access_token)
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(refreshed.refresh_token)
        assert core.active(new.access_token)
        assert core.active((await core.sessions.refresh(new.refresh_token)).access_token)
        assert core.active((await core.login()).access_token)
        assert "user.sessions_revoked" in await pool.fetchval(EVENTS)
        with pytest.raises(InvalidArgument):
            await core.accounts.users.end_sessions(user.id, clock.now + timedelta(seconds=1))

    async def test_all_sessions_end(self, core: Core) -> None:
        """Without a moment; the user may log in again."""
        user = await core.user()
        pairs = [await core.login() for _ in range(2)]
        await core.accounts.users.end_sessions(user.id)
        assert not any(core.active(pair.access_token) for pair in pairs)
        assert core.active((await core.login()).access_token)


async def test_an_unknown_user_is_told(core: Core, pool: Any, clock: FakeClock) -> None:
    """By every method, and nothing is written."""
    users, nobody = core.accounts.users, uuid4()
    for call in (
        users.update(nobody, roles=["x"]),
        users.add_identifier(nobody, "x"),
        users.remove_identifier(nobody, "x"),
        users.require_password_change(nobody),
        users.delete(nobody),
        users.sessions(nobody),
        users.end_session(nobody, uuid4()),
        users.end_sessions(nobody),
        users.end_sessions(nobody, clock.now),
    ):
        with pytest.raises(NotFound):
            await call
    assert await pool.fetchval("SELECT count(*) FROM revocations") == 0
    assert await pool.fetchval(EVENTS) is None


async def _waiting(pool: Any, count: int) -> None:
    """Return once so many statements of this database wait for a lock."""
    sql = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
    """
    async with asyncio.timeout(30):
        while await pool.fetchval(sql) < count:
            await asyncio.sleep(0)
