"""Sessions: login, the generation table of refresh, and revoke, on a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from auth_service.core.passwords import Argon2Profile
from auth_service.db import pool as pools
from auth_service.db.store import Store
from auth_service.errors import (
    AuthError,
    InactiveReason,
    InvalidArgument,
    InvalidCredentials,
    InvalidGrant,
    InvalidScope,
    InvalidTarget,
    NotFound,
    PermissionDenied,
    RateLimited,
    Unavailable,
)
from auth_service.models import TokenPair
from tests.audiences import register
from tests.clock import FakeClock
from tests.integration.core import (
    CHEAP,
    PASSWORD,
    Core,
    make_core,
    payload,
    refresh_token,
    session_key,
)

Pool = asyncpg.Pool
GRACE = timedelta(seconds=10)
SECOND = timedelta(seconds=1)
DISK_FULL = """
    CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
    END
    $$;
    CREATE TRIGGER full_disk BEFORE INSERT ON sessions EXECUTE FUNCTION full_disk()
"""


@pytest.fixture
async def core(store: Store, clock: FakeClock) -> AsyncIterator[Core]:
    core = make_core(store, clock)
    yield core
    core.hasher.close()


async def row(pool: Any, pair: TokenPair) -> dict[str, Any]:
    """Return a session's row, with its location and version in the table."""
    found = await pool.fetchrow(
        "SELECT *, xmin::text, ctid::text FROM sessions WHERE user_id = $1 AND id = $2",
        *session_key(pair),
    )
    return dict(found)


async def written(pool: Any) -> dict[str, Any]:
    """Return all that a refusal could leave behind."""
    return {
        table: [tuple(r) for r in await pool.fetch(f"SELECT xmin::text, ctid::text FROM {table}")]  # noqa: S608
        for table in ("sessions", "revocations", "audit_log", "users")
    }


async def audited(pool: Any, event: str) -> int:
    count: int = await pool.fetchval("SELECT count(*) FROM audit_log WHERE event = $1", event)
    return count


async def assert_ended(core: Core, pool: Any, pair: TokenPair) -> None:
    """The session cannot be refreshed, and its access token is revoked."""
    assert (await row(pool, pair))["revoked_at"] is not None
    assert core.verdict(pair.access_token).inactive_reason is InactiveReason.SESSION_REVOKED
    with pytest.raises(InvalidGrant):
        await core.sessions.refresh(pair.refresh_token)


class TestGenerationTable:
    async def test_the_current_token_rotates(self, core: Core, clock: FakeClock, pool: Any) -> None:
        """A refresh with the current token moves the session to the next generation."""
        await core.user()
        first = await core.login()
        clock.advance(SECOND)
        second = await core.sessions.refresh(first.refresh_token)
        assert (await row(pool, first))["generation"] == 1
        assert payload(second.refresh_token)["gen"] == 1
        assert second.refresh_token != first.refresh_token
        assert second.access_token != first.access_token
        assert second.session_id == first.session_id
        assert core.active(first.access_token)
        assert core.active(second.access_token)

    @pytest.mark.parametrize("later", [timedelta(0), SECOND, GRACE])
    async def test_a_retry_within_the_grace_gets_the_same_successor(
        self, core: Core, clock: FakeClock, pool: Any, later: timedelta
    ) -> None:
        """A lost response is answered again, byte for byte, and nothing is written."""
        await core.user()
        first = await core.login()
        clock.advance(SECOND)
        second = await core.sessions.refresh(first.refresh_token)
        before = await written(pool)
        clock.advance(later)
        assert await core.sessions.refresh(first.refresh_token) == second
        assert await written(pool) == before
        assert (await core.sessions.refresh(second.refresh_token)).refresh_token

    async def test_the_grace_is_per_rotation(self, core: Core, clock: FakeClock) -> None:
        """Each generation's retry has the whole grace, however old the session is."""
        await core.user()
        pair = await core.login()
        for _ in range(5):
            clock.advance(timedelta(minutes=5))
            successor = await core.sessions.refresh(pair.refresh_token)
            clock.advance(GRACE)
            assert await core.sessions.refresh(pair.refresh_token) == successor
            pair = successor

    async def test_a_retry_after_the_grace_is_reuse(
        self, core: Core, clock: FakeClock, pool: Any
    ) -> None:
        """A moment past the grace, a used token ends the session and is recorded."""
        await core.user()
        first = await core.login()
        second = await core.sessions.refresh(first.refresh_token)
        clock.advance(GRACE + timedelta(microseconds=1))
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(first.refresh_token)
        await assert_ended(core, pool, second)
        assert await audited(pool, "session.reuse_detected") == 1

    async def test_an_older_token_is_reuse_even_within_the_grace(
        self, core: Core, pool: Any
    ) -> None:
        """No lost response explains a token that is two generations old."""
        await core.user()
        first = await core.login()
        second = await core.sessions.refresh(first.refresh_token)
        third = await core.sessions.refresh(second.refresh_token)
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(first.refresh_token)
        await assert_ended(core, pool, third)
        assert await audited(pool, "session.reuse_detected") == 1

    @pytest.mark.parametrize(
        "asked", [{"scope": ["admin"]}, {"audience": ["nowhere"]}], ids=["scope", "audience"]
    )
    async def test_reuse_is_found_whatever_is_asked_for(
        self, core: Core, pool: Any, asked: dict[str, Any]
    ) -> None:
        """A thief who asks for too much reveals itself too (RFC 9700 section 4.14.2)."""
        await core.user()
        first = await core.login()
        second = await core.sessions.refresh(first.refresh_token)
        with pytest.raises((InvalidScope, InvalidTarget)):  # a retry, within the grace
            await core.sessions.refresh(first.refresh_token, **asked)
        third = await core.sessions.refresh(second.refresh_token)
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(first.refresh_token, **asked)
        await assert_ended(core, pool, third)
        assert await audited(pool, "session.reuse_detected") == 1

    async def test_reuse_is_recorded_once(self, core: Core, pool: Any) -> None:
        """A replayed token cannot fill the audit log."""
        await core.user()
        first = await core.login()
        second = await core.sessions.refresh(first.refresh_token)
        await core.sessions.refresh(second.refresh_token)
        for _ in range(3):
            with pytest.raises(InvalidGrant):
                await core.sessions.refresh(first.refresh_token)
        assert await audited(pool, "session.reuse_detected") == 1

    async def test_reuse_ends_one_session_only(self, core: Core) -> None:
        """The user's other sessions are not affected."""
        await core.user()
        other = await core.login()
        first = await core.login()
        second = await core.sessions.refresh(first.refresh_token)
        await core.sessions.refresh(second.refresh_token)
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(first.refresh_token)
        assert core.active(other.access_token)
        assert (await core.sessions.refresh(other.refresh_token)).refresh_token

    @pytest.mark.parametrize("lost", [1, 2, 3])
    async def test_a_token_ahead_of_the_database_is_adopted(
        self, core: Core, pool: Any, lost: int
    ) -> None:
        """After a failover that lost commits, the client that is ahead carries on."""
        await core.user()
        pair = await core.login()
        for _ in range(3):
            pair = await core.sessions.refresh(pair.refresh_token)
        await pool.execute(
            "UPDATE sessions SET generation = 3 - $3 WHERE user_id = $1 AND id = $2",
            *session_key(pair),
            lost,
        )
        successor = await core.sessions.refresh(pair.refresh_token)
        assert payload(successor.refresh_token)["gen"] == 4
        assert (await row(pool, pair))["generation"] == 4
        assert await core.sessions.refresh(pair.refresh_token) == successor
        assert (await core.sessions.refresh(successor.refresh_token)).refresh_token

    async def test_parallel_adoptions_make_one_successor(self, core: Core, pool: Any) -> None:
        """Adoption is as idempotent as rotation."""
        await core.user()
        pair = await core.login()
        for _ in range(3):
            pair = await core.sessions.refresh(pair.refresh_token)
        await pool.execute("UPDATE sessions SET generation = 0")
        answers = await asyncio.gather(
            *(core.sessions.refresh(pair.refresh_token) for _ in range(50))
        )
        assert len(set(answers)) == 1
        assert (await row(pool, pair))["generation"] == 4

    async def test_forged_expired_and_mistyped_tokens_cost_no_query(
        self, core: Core, clock: FakeClock, database_url: str
    ) -> None:
        """A token that its signature or expiry refuses never reaches the database."""
        await core.user()
        pair = await core.login()
        clock.advance(timedelta(days=7))
        expired = pair.refresh_token
        pair = await core.login()
        good = pair.refresh_token
        head, body, signature = good.split(".")
        forged = [
            "",
            "x",
            "a.b.c",
            f"{head}.{body}.{'A' * len(signature)}",
            f"{head}.{pair.access_token.split('.')[1]}.{signature}",
            good + "A",
            good[:-1],
            good + "\n",
            pair.access_token,
            expired,
        ]
        pool = await pools.connect(database_url, min_size=1, max_size=1)
        await pool.close()
        closed = make_core(Store(pool), clock)
        for token in forged:
            with pytest.raises(InvalidGrant):
                await closed.sessions.refresh(token)
        with pytest.raises(Exception, match=r".") as asked:  # a good one does reach the database
            await closed.sessions.refresh(good)
        assert not isinstance(asked.value, InvalidGrant)
        closed.hasher.close()

    @pytest.mark.parametrize("generation", [0, 1, 2, 5])
    @pytest.mark.parametrize("jti", ["A" * 22, "\u00e9" * 22, ""], ids=ascii)
    async def test_a_token_that_no_row_made_changes_nothing(
        self, core: Core, pool: Any, generation: int, jti: str
    ) -> None:
        """A thief of the master key alone can sign it, but can neither refresh nor revoke by it."""
        await core.user()
        first = await core.login()
        second = await core.sessions.refresh(first.refresh_token)
        before = await row(pool, second)
        forged = refresh_token(first.refresh_token, gen=generation, jti=jti)
        for coalesce in (False, True):
            with pytest.raises(InvalidGrant):
                await core.sessions.refresh(forged, coalesce=coalesce)
        await core.revoker.revoke_refresh_token(forged)
        await core.revoker.revoke_token(forged, "first-party")
        assert await row(pool, second) == before
        assert core.verdict(second.access_token).claims is not None
        assert (await core.sessions.refresh(second.refresh_token)).refresh_token

    async def test_an_unknown_session_or_user_is_refused(self, core: Core) -> None:
        """A genuine token of a deleted session is invalid, and ends nothing else."""
        await core.user()
        pair = await core.login()
        for changes in ({"sid": str(uuid4())}, {"sub": str(uuid4())}):
            with pytest.raises(InvalidGrant):
                await core.sessions.refresh(refresh_token(pair.refresh_token, **changes))
        assert (await core.sessions.refresh(pair.refresh_token)).refresh_token


class TestRefresh:
    async def test_200_parallel_calls_make_one_successor(
        self, core: Core, clock: FakeClock, pool: Any
    ) -> None:
        """However many tabs refresh at once, the session rotates once."""
        await core.user()
        first = await core.login()
        clock.advance(SECOND)
        answers = await asyncio.gather(
            *(core.sessions.refresh(first.refresh_token) for _ in range(200))
        )
        assert len(set(answers)) == 1
        assert (await row(pool, first))["generation"] == 1
        assert await audited(pool, "session.reuse_detected") == 0

    async def test_the_scope_may_narrow_for_one_access_token(self, core: Core) -> None:
        """The access token has the scope asked for; the session keeps its own."""
        await core.user()
        pair = await core.login()
        narrow = await core.sessions.refresh(pair.refresh_token, ["read"])
        assert narrow.scope == core.claims(narrow.access_token).scope == ("read",)
        whole = await core.sessions.refresh(narrow.refresh_token)
        assert whole.scope == core.claims(whole.access_token).scope == ("read", "write")

    async def test_a_scope_beyond_the_session_changes_nothing(self, core: Core, pool: Any) -> None:
        """The refusal costs the client nothing: its token is still the current one."""
        await core.user()
        pair = await core.sessions.login_password("ada@example.com", PASSWORD, scope=["read"])
        before = await written(pool)
        for scope in (["write"], ["read", "write"], ["nonsense"]):
            with pytest.raises(InvalidScope):
                await core.sessions.refresh(pair.refresh_token, scope)
        with pytest.raises(InvalidArgument):
            await core.sessions.refresh(pair.refresh_token, ["a b"])
        assert await written(pool) == before
        assert (await core.sessions.refresh(pair.refresh_token)).scope == ("read",)

    async def test_roles_are_those_of_today(self, core: Core, pool: Any) -> None:
        """A role given or taken shows in the next access token."""
        user = await core.user(roles=("auditor",))
        pair = await core.login()
        assert core.claims(pair.access_token).roles == ("auditor",)
        await pool.execute("UPDATE users SET roles = '{operator}' WHERE id = $1", user.id)
        pair = await core.sessions.refresh(pair.refresh_token)
        assert core.claims(pair.access_token).roles == ("operator",)

    async def test_a_disabled_user_cannot_refresh(self, core: Core, pool: Any) -> None:
        """Refused while the session is ended, and also if it were left alive."""
        user = await core.user()
        pair = await core.login()
        await core.accounts.set_disabled(user.id, True)
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(pair.refresh_token)
        await pool.execute("UPDATE sessions SET revoked_at = NULL")
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(pair.refresh_token)
        assert (await row(pool, pair))["generation"] == 0

    async def test_a_session_not_refreshed_for_long_has_ended(
        self, core: Core, clock: FakeClock
    ) -> None:
        """The idle lifetime starts again with each refresh."""
        await core.user()
        pair = await core.login()
        clock.advance(timedelta(days=7) - SECOND)
        pair = await core.sessions.refresh(pair.refresh_token)
        assert pair.refresh_expires_at == clock() + timedelta(days=7)
        clock.advance(timedelta(days=7))
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(pair.refresh_token)

    async def test_a_session_ends_at_its_absolute_expiry(
        self, core: Core, clock: FakeClock
    ) -> None:
        """Refreshing does not prolong it, and none of its tokens outlives it."""
        await core.user()
        pair = await core.login()
        end = clock() + timedelta(days=30)
        for _ in range(4):
            clock.advance(timedelta(days=7) - SECOND)
            pair = await core.sessions.refresh(pair.refresh_token)
        clock.advance(end - clock() - timedelta(minutes=1))
        pair = await core.sessions.refresh(pair.refresh_token)
        assert pair.refresh_expires_at == end
        assert pair.access_expires_at <= end
        clock.advance(timedelta(minutes=1))
        assert core.verdict(pair.access_token).inactive_reason is InactiveReason.EXPIRED
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(pair.refresh_token)

    async def test_the_row_expires_even_if_the_token_says_otherwise(
        self, core: Core, clock: FakeClock, pool: Any
    ) -> None:
        """The row decides: a genuine token with a longer `exp` does not prolong a session."""
        await core.user()
        pair = await core.login()
        longer = refresh_token(pair.refresh_token, exp=payload(pair.refresh_token)["exp"] + 10**7)
        clock.advance(timedelta(days=8))
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(longer)
        clock.advance(timedelta(days=30))
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(longer)
        assert (await row(pool, pair))["generation"] == 0


class TestLogin:
    async def test_what_a_login_yields(self, core: Core, clock: FakeClock) -> None:
        """The claims of RFC 9068, for the audience and scope asked for."""
        user = await core.user(roles=("auditor",))
        for name in ("orders", "billing"):
            await register(core.store, name)
        pair = await core.sessions.login_password(
            " ADA@example.com ",
            PASSWORD,
            audience=["orders", "billing"],
            scope=["read"],
            client_id="web",
            device_label="Ada's laptop",
        )
        claims = core.claims(pair.access_token)
        assert claims.subject == str(user.id)
        assert claims.audience == ("orders", "billing")
        assert claims.scope == pair.scope == ("read",)
        assert claims.roles == ("auditor",)
        assert (claims.amr, claims.acr) == (("pwd",), "1fa")
        assert claims.client_id == "web"
        assert claims.session_id == pair.session_id
        assert claims.issued_at == claims.auth_time == int(clock().timestamp())
        assert pair.access_expires_at <= clock() + timedelta(minutes=15)
        assert core.claims((await core.login()).access_token).audience == ("internal",)
        (newest, _) = sorted(
            await core.accounts.list_sessions(user.id), key=lambda s: s.client_id, reverse=True
        )
        assert (newest.client_id, newest.device_label) == ("web", "Ada's laptop")

    async def test_all_failures_of_credentials_look_the_same(self, core: Core) -> None:
        """A client cannot tell a wrong password, an unknown user and a disabled user apart."""
        await core.user()
        disabled = await core.user("eve@example.com")
        await core.accounts.set_disabled(disabled.id, True)
        seen = []
        for identifier, password in (
            ("ada@example.com", "wrong password, quite"),
            ("ada@example.com", ""),
            ("nobody@example.com", PASSWORD),
            ("eve@example.com", PASSWORD),
            ("eve@example.com", "wrong password, quite"),
        ):
            with pytest.raises(InvalidCredentials) as refused:
                await core.sessions.login_password(identifier, password)
            seen.append((type(refused.value), refused.value.text, refused.value.__cause__))
        with pytest.raises(InvalidCredentials) as refused:
            await core.sessions.login_client("nobody", "secret")
        seen.append((type(refused.value), refused.value.text, refused.value.__cause__))
        assert len(set(seen)) == 1

    async def test_a_request_id_makes_a_retried_login_one_session(
        self, core: Core, clock: FakeClock
    ) -> None:
        """The retry of a lost response gets the same tokens."""
        user = await core.user()
        login: dict[str, Any] = {
            "identifier": "ada@example.com",
            "password": PASSWORD,
            "request_id": "r-12345678",
        }
        first = await core.sessions.login_password(**login)
        clock.advance(timedelta(minutes=1))
        assert await core.sessions.login_password(**login) == first
        assert len(await core.accounts.list_sessions(user.id)) == 1
        other = await core.sessions.login_password(**login | {"request_id": "r-87654321"})
        assert other.session_id != first.session_id

    async def test_parallel_logins_with_one_request_id_make_one_session(
        self, store: Store, clock: FakeClock
    ) -> None:
        """Whichever comes first, all get its tokens."""
        core = make_core(store, clock, login_burst=100)
        user = await core.user()
        answers = await asyncio.gather(
            *(
                core.sessions.login_password("ada@example.com", PASSWORD, request_id="the-same-one")
                for _ in range(30)
            )
        )
        assert len(set(answers)) == 1
        assert len(await core.accounts.list_sessions(user.id)) == 1
        core.hasher.close()

    async def test_two_users_may_use_one_request_id(self, core: Core) -> None:
        """A request id belongs to its user and opens nobody else's session."""
        await core.user()
        await core.user("bob@example.com")
        pairs = [
            await core.sessions.login_password(name, PASSWORD, request_id="the-same-one")
            for name in ("ada@example.com", "bob@example.com")
        ]
        assert pairs[0].session_id != pairs[1].session_id
        assert len({core.claims(pair.access_token).subject for pair in pairs}) == 2

    @pytest.mark.parametrize("end", ["refreshed", "revoked", "expired"])
    async def test_a_request_id_does_not_bring_an_old_session_back(
        self, core: Core, clock: FakeClock, end: str
    ) -> None:
        """Once the session has changed, its request id is refused by name."""
        await core.user()
        login: dict[str, Any] = {
            "identifier": "ada@example.com",
            "password": PASSWORD,
            "request_id": "r-12345678",
        }
        pair = await core.sessions.login_password(**login)
        if end == "refreshed":
            await core.sessions.refresh(pair.refresh_token)
        elif end == "revoked":
            await core.revoker.revoke_refresh_token(pair.refresh_token)
        else:
            clock.advance(timedelta(days=8))
        with pytest.raises(InvalidArgument) as refused:
            await core.sessions.login_password(**login)
        assert refused.value.violations[0].field == "request_id"

    async def test_guessing_is_throttled_and_refills(self, store: Store, clock: FakeClock) -> None:
        """After the burst even the right password waits, exactly as long as the error says."""
        core = make_core(store, clock, login_burst=3, login_refill=timedelta(seconds=10))
        await core.user()
        await core.user("bob@example.com")
        for _ in range(3):
            with pytest.raises(InvalidCredentials):
                await core.sessions.login_password("ada@example.com", "wrong")
        with pytest.raises(RateLimited) as refused:
            await core.login()
        assert timedelta(0) < refused.value.retry_after <= timedelta(seconds=10)
        assert (await core.login("bob@example.com")).access_token
        clock.advance(refused.value.retry_after)
        with pytest.raises(InvalidCredentials):
            await core.sessions.login_password("ada@example.com", "wrong")
        with pytest.raises(RateLimited):
            await core.login()
        clock.advance(timedelta(seconds=10))
        assert (await core.login()).access_token
        for _ in range(3):  # a success has cleared the count
            with pytest.raises(InvalidCredentials):
                await core.sessions.login_password("ADA@EXAMPLE.COM", "wrong")
        with pytest.raises(RateLimited):
            await core.login()
        core.hasher.close()

    async def test_each_login_gives_the_attempts_back(self, store: Store, clock: FakeClock) -> None:
        """So does the retry of a request, but not a refused login, such as one for its scope."""
        core = make_core(store, clock, login_burst=2)
        await core.user()
        login: dict[str, Any] = {
            "identifier": "ada@example.com",
            "password": PASSWORD,
            "request_id": "r-12345678",
        }
        for _ in range(3):
            with pytest.raises(InvalidCredentials):
                await core.sessions.login_password("ada@example.com", "wrong")
            assert (await core.sessions.login_password(**login)).access_token
        for _ in range(2):
            with pytest.raises(InvalidScope):
                await core.sessions.login_password("ada@example.com", PASSWORD, scope=["root"])
        with pytest.raises(RateLimited):
            await core.login()
        core.hasher.close()

    async def test_the_databases_trouble_uses_up_no_attempts(
        self, store: Store, clock: FakeClock, pool: Any
    ) -> None:
        """On a full disk the right password is refused as often as it comes, and then works."""
        core = make_core(store, clock, login_burst=3)
        await core.user()
        await pool.execute(DISK_FULL)
        for _ in range(5):
            with pytest.raises(Unavailable):
                await core.login()
            await core.shielded.drain()
        with pytest.raises(InvalidCredentials):
            await core.sessions.login_password("ada@example.com", "wrong")
        await pool.execute("DROP TRIGGER full_disk ON sessions")
        assert (await core.login()).access_token
        core.hasher.close()

    async def test_an_unknown_identifier_is_throttled_just_so(
        self, store: Store, clock: FakeClock
    ) -> None:
        """The throttle does not reveal who has an account."""
        core = make_core(store, clock, login_burst=2)
        for expected in (InvalidCredentials, InvalidCredentials, RateLimited):
            with pytest.raises(expected):
                await core.sessions.login_password("nobody@example.com", "wrong")
        core.hasher.close()

    async def test_parallel_guesses_do_not_race_past_the_throttle(
        self, store: Store, clock: FakeClock
    ) -> None:
        """Of many parallel guesses, only the burst is tried."""
        core = make_core(store, clock, login_burst=5)
        await core.user()
        answers = await asyncio.gather(
            *(core.sessions.login_password("ada@example.com", f"guess {n}") for n in range(40)),
            return_exceptions=True,
        )
        kinds = [type(answer) for answer in answers]
        assert kinds.count(InvalidCredentials) == 5
        assert kinds.count(RateLimited) == 35
        core.hasher.close()

    async def test_a_full_hashing_queue_is_a_rate_limit(
        self, store: Store, clock: FakeClock
    ) -> None:
        """A flood is refused at once rather than queued without bound."""
        core = make_core(store, clock, queue=0, login_burst=1000)
        answers = await asyncio.gather(
            *(core.sessions.login_password("ada@example.com", "guess") for _ in range(100)),
            return_exceptions=True,
        )
        assert {type(answer) for answer in answers} <= {InvalidCredentials, RateLimited}
        assert RateLimited in {type(answer) for answer in answers}
        core.hasher.close()

    async def test_a_login_renews_the_hash_of_an_old_profile(
        self, core: Core, clock: FakeClock, pool: Any
    ) -> None:
        """A higher cost applies to each user from the next login on; passwords keep working."""
        await core.user()
        await core.login()
        before = await pool.fetchval("SELECT password_hash FROM users")
        dearer = make_core(core.store, clock, profile=Argon2Profile(16, 2))
        await dearer.login()
        after = await pool.fetchval("SELECT password_hash FROM users")
        assert "m=8," in before
        assert "m=16," in after
        assert (await dearer.login()).access_token
        assert await pool.fetchval("SELECT password_hash FROM users") == after
        dearer.hasher.close()

    async def test_a_service_account_gets_an_access_token_alone(
        self, core: Core, clock: FakeClock, pool: Any
    ) -> None:
        """It has its secret at hand and needs neither session nor refresh token."""
        secret = await core.accounts.services.create(
            "billing", roles=["verifier"], scope=["read", "write"]
        )
        pair = await core.sessions.login_client("billing", secret, scope=["read"])
        assert (pair.refresh_token, pair.refresh_expires_at, pair.session_id) == ("", None, "")
        claims = core.claims(pair.access_token)
        assert (claims.subject, claims.client_id, claims.session_id) == ("billing", "billing", "")
        assert (claims.roles, claims.scope) == (("verifier",), ("read",))
        assert pair.access_expires_at <= clock() + timedelta(minutes=15)
        assert await pool.fetchval("SELECT count(*) FROM sessions") == 0
        with pytest.raises(InvalidCredentials):
            await core.sessions.login_client("billing", secret + "x")
        with pytest.raises(InvalidScope):
            await core.sessions.login_client("billing", secret, scope=["admin"])
        await pool.execute("UPDATE service_accounts SET disabled = true")
        with pytest.raises(InvalidCredentials):
            await core.sessions.login_client("billing", secret)

    async def test_a_scope_beyond_the_grant_is_refused(self, core: Core, pool: Any) -> None:
        """And leaves no session behind."""
        await core.user()
        with pytest.raises(InvalidScope):
            await core.sessions.login_password("ada@example.com", PASSWORD, scope=["admin"])
        assert await pool.fetchval("SELECT count(*) FROM sessions") == 0

    @pytest.mark.parametrize(
        ("field", "values"),
        [
            ("password.identifier", {"identifier": ""}),
            ("password.identifier", {"identifier": "a\0b"}),
            ("password.identifier", {"identifier": "a" * 255}),
            ("password", {"password": "x" * 1025}),
            ("audience[1]", {"audience": ["a", "b\n"]}),
            ("audience[0]", {"audience": [""]}),
            ("scope[0]", {"scope": ["a b"]}),
            ("client_id", {"client_id": "\x7f"}),
            ("device_label", {"device_label": "x" * 257}),
            ("request_id", {"request_id": "short"}),
        ],
    )
    async def test_bad_input_names_its_field(
        self, core: Core, field: str, values: dict[str, Any]
    ) -> None:
        """A client learns which field is wrong."""
        await core.user()
        request = {"identifier": "ada@example.com", "password": PASSWORD} | values
        with pytest.raises(InvalidArgument) as refused:
            await core.sessions.login_password(**request)
        assert refused.value.violations[0].field == field


class TestClients:
    """How clients are told apart: by their secrets, and by the owner of a token."""

    @pytest.fixture
    async def secret(self, core: Core) -> str:
        """The secret of the service account `billing`."""
        await core.user()
        return await core.accounts.services.create("billing")

    async def login(self, core: Core, client_id: str) -> TokenPair:
        """Begin a session at a client."""
        return await core.sessions.login_password("ada@example.com", PASSWORD, client_id=client_id)

    async def test_a_secret_authenticates_its_own_client(self, core: Core, secret: str) -> None:
        """The account's own spelling of the id is returned, however the caller spells it."""
        for client_id in ("billing", " BILLING "):
            account = await core.credentials.authenticate_client(client_id, secret)
            assert account.client_id == "billing"

    async def test_all_failures_of_a_client_look_the_same(
        self, core: Core, secret: str, pool: Any
    ) -> None:
        """Unknown, wrong, empty, not even UTF-8 or disabled."""
        other = await core.accounts.services.create("orders")
        wrong = ("", secret + "x", other, "\ud800", "\0")
        tries = [("billing", each) for each in wrong] + [("nobody", secret), ("nobody", "")]
        await pool.execute("UPDATE service_accounts SET disabled = true WHERE client_id = 'orders'")
        for client_id, given in [*tries, ("orders", other)]:
            with pytest.raises(InvalidCredentials):
                await core.credentials.authenticate_client(client_id, given)

    @pytest.mark.parametrize("client_id", ["", "\0", "\ud800", "a" * 255])
    async def test_an_impossible_client_id_is_an_invalid_argument(
        self, core: Core, client_id: str
    ) -> None:
        """Text that PostgreSQL cannot store never reaches it."""
        with pytest.raises(InvalidArgument):
            await core.credentials.authenticate_client(client_id, "secret")
        with pytest.raises(InvalidArgument):
            await core.credentials.require_public_client(client_id)

    async def test_who_has_a_secret_is_no_public_client(
        self, core: Core, secret: str, pool: Any
    ) -> None:
        """However its id is spelled, and also if it is disabled."""
        await core.credentials.require_public_client("web")
        for _ in range(2):
            for client_id in ("billing", "Billing", " billing", "\uff42illing"):
                with pytest.raises(InvalidCredentials):
                    await core.credentials.require_public_client(client_id)
            await pool.execute("UPDATE service_accounts SET disabled = true")

    @pytest.mark.parametrize("other", ["app", "WEB", "", "first-party"])
    async def test_a_refresh_token_is_bound_to_its_client(
        self, core: Core, secret: str, pool: Any, other: str
    ) -> None:
        """RFC 6749 section 10.4: another client changes nothing, and the token stays valid."""
        pair = await self.login(core, "web")
        before = await written(pool)
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(pair.refresh_token, client_id=other)
        assert await written(pool) == before
        second = await core.sessions.refresh(pair.refresh_token, client_id="web")
        assert await core.sessions.refresh(pair.refresh_token, client_id="web") == second

    async def test_reuse_at_another_client_is_none(
        self, core: Core, secret: str, pool: Any
    ) -> None:
        """A replay by its own client ends the session; one by another client changes nothing."""
        first = await self.login(core, "web")
        second = await core.sessions.refresh(first.refresh_token)
        third = await core.sessions.refresh(second.refresh_token)
        before = await written(pool)
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(first.refresh_token, client_id="app")
        assert await written(pool) == before
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(first.refresh_token, client_id="web")
        await assert_ended(core, pool, third)

    async def test_a_token_of_no_session_is_refused_at_every_client(
        self, core: Core, secret: str, pool: Any
    ) -> None:
        """Without a session it is bound to no client."""
        pair = await self.login(core, "web")
        await pool.execute("DELETE FROM sessions")
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(pair.refresh_token, client_id="web")

    async def test_a_client_ends_its_own_tokens(self, core: Core, secret: str, pool: Any) -> None:
        """A refresh token ends its session, an access token only itself."""
        pair = await self.login(core, "billing")
        await core.revoker.revoke_token(pair.access_token, "billing")
        assert core.verdict(pair.access_token).inactive_reason is InactiveReason.TOKEN_REVOKED
        pair = await core.sessions.refresh(pair.refresh_token)
        await core.revoker.revoke_token(pair.refresh_token, "billing")
        await assert_ended(core, pool, pair)
        own = await core.sessions.login_client("billing", secret)
        await core.revoker.revoke_token(own.access_token, "billing")
        assert not core.active(own.access_token)

    async def test_a_client_ends_nobody_elses_tokens(
        self, core: Core, secret: str, pool: Any
    ) -> None:
        """RFC 7009 section 2.1: the request is refused, and nothing is written."""
        pair = await self.login(core, "web")
        before = await written(pool)
        for token in (pair.access_token, pair.refresh_token):
            with pytest.raises(PermissionDenied):
                await core.revoker.revoke_token(token, "billing")
        assert await written(pool) == before
        assert core.active(pair.access_token)

    async def test_an_invalid_token_has_ended_already(
        self, core: Core, secret: str, clock: FakeClock, pool: Any
    ) -> None:
        """RFC 7009 section 2.2: garbage, expired, or of a deleted session."""
        pair = await self.login(core, "billing")
        await pool.execute("DELETE FROM sessions")
        clock.advance(timedelta(days=31))
        before = await written(pool)
        for token in ("", "x", "a.b.c", "\ud800", pair.access_token, pair.refresh_token):
            await core.revoker.revoke_token(token, "billing")
        assert await written(pool) == before


class TestRevoke:
    async def test_by_refresh_token(self, core: Core, pool: Any) -> None:
        """The session ends, with its access token and its refresh token."""
        await core.user()
        pair = await core.login()
        other = await core.login()
        await core.revoker.revoke_refresh_token(pair.refresh_token)
        await assert_ended(core, pool, pair)
        assert await audited(pool, "session.revoked") == 1
        assert core.active(other.access_token)
        before = await written(pool)
        await core.revoker.revoke_refresh_token(pair.refresh_token)
        assert await written(pool) == before

    async def test_by_a_used_refresh_token(self, core: Core, pool: Any) -> None:
        """A used refresh token still signs its session out."""
        await core.user()
        first = await core.login()
        second = await core.sessions.refresh(first.refresh_token)
        await core.revoker.revoke_refresh_token(first.refresh_token)
        await assert_ended(core, pool, second)

    async def test_by_access_token(self, core: Core, clock: FakeClock) -> None:
        """Only that token ends; its session continues."""
        await core.user()
        pair = await core.login()
        await core.revoker.revoke_access_token(pair.access_token)
        assert core.verdict(pair.access_token).inactive_reason is InactiveReason.TOKEN_REVOKED
        clock.advance(SECOND)
        pair = await core.sessions.refresh(pair.refresh_token)
        assert core.active(pair.access_token)

    async def test_an_unknown_or_expired_token_is_fine(
        self, core: Core, clock: FakeClock, pool: Any
    ) -> None:
        """RFC 7009 section 2.2: nothing is left to revoke, and nothing is written."""
        await core.user()
        pair = await core.login()
        clock.advance(timedelta(days=31))
        before = await written(pool)
        for token in ("", "x", "a.b.c", pair.access_token, pair.refresh_token + "A"):
            await core.revoker.revoke_access_token(token)
            await core.revoker.revoke_refresh_token(token)
        assert await written(pool) == before
        await core.revoker.revoke_refresh_token(pair.refresh_token)
        await pool.execute("DELETE FROM sessions")
        before = await written(pool)
        await core.revoker.revoke_refresh_token(pair.refresh_token)
        assert await written(pool) == before

    async def test_by_id_only_ones_own(self, core: Core, pool: Any) -> None:
        """Another user's session looks like a missing one, except to an admin."""
        await core.user()
        await core.user("bob@example.com")
        await core.user("root@example.com", roles=("admin",))
        ada, ada2 = await core.login(), await core.login()
        bob = core.claims((await core.login("bob@example.com")).access_token)
        admin = core.claims((await core.login("root@example.com")).access_token)
        refusals = []
        for session_id in (ada.session_id, str(uuid4())):
            with pytest.raises(NotFound) as refused:
                await core.revoker.revoke_session(session_id, bob)
            refusals.append(refused.value.text)
        assert len(set(refusals)) == 1
        with pytest.raises(InvalidArgument):
            await core.revoker.revoke_session("not a UUID", bob)
        assert core.active(ada.access_token)
        await core.revoker.revoke_session(ada.session_id, core.claims(ada2.access_token))
        await assert_ended(core, pool, ada)
        await core.revoker.revoke_session(ada2.session_id, admin)
        await assert_ended(core, pool, ada2)
        await core.revoker.revoke_session(ada2.session_id, admin)

    async def test_all_ends_everything_at_once(
        self, core: Core, clock: FakeClock, pool: Any
    ) -> None:
        """Every token issued before is refused; a login in the same second works."""
        await core.user()
        pairs = [await core.login() for _ in range(3)]
        clock.advance(timedelta(milliseconds=100))
        await core.revoker.revoke_all("", core.claims(pairs[0].access_token))
        for pair in pairs:
            assert not core.active(pair.access_token)
            assert (await row(pool, pair))["revoked_at"] is not None
            with pytest.raises(InvalidGrant):
                await core.sessions.refresh(pair.refresh_token)
        clock.advance(timedelta(milliseconds=100))
        fresh = await core.login()
        assert core.active(fresh.access_token)
        refreshed = await core.sessions.refresh(fresh.refresh_token)
        assert core.active(refreshed.access_token)

    async def test_all_ends_tokens_dated_ahead_too(self, core: Core, clock: FakeClock) -> None:
        """Tokens of a login right after a sign-out, and of a clock that was set back."""
        await core.user()
        caller = core.claims((await core.login()).access_token)
        clock.advance(timedelta(milliseconds=100))
        for _ in range(3):
            await core.revoker.revoke_all("", caller)
            pair = await core.login()
            assert core.active(pair.access_token)
        clock.advance(timedelta(seconds=8))
        ahead = await core.login()
        clock.advance(timedelta(seconds=-8))
        assert core.active(ahead.access_token)
        await core.revoker.revoke_all("", caller)
        for token in (pair.access_token, ahead.access_token):
            assert core.verdict(token).inactive_reason is InactiveReason.USER_REVOKED

    async def test_all_of_another_needs_the_admin_role(self, core: Core) -> None:
        """By the user's id; only an admin learns that a user is unknown."""
        user = await core.user()
        pair = await core.login()
        await core.user("bob@example.com")
        await core.user("root@example.com", roles=("admin",))
        bob = core.claims((await core.login("bob@example.com")).access_token)
        admin = core.claims((await core.login("root@example.com")).access_token)
        for target in (str(user.id), str(uuid4())):
            with pytest.raises(PermissionDenied):
                await core.revoker.revoke_all(target, bob)
        with pytest.raises(NotFound):
            await core.revoker.revoke_all(str(uuid4()), admin)
        with pytest.raises(InvalidArgument):
            await core.revoker.revoke_all("not a UUID", admin)
        assert core.active(pair.access_token)
        await core.revoker.revoke_all(str(user.id).upper(), admin)
        assert not core.active(pair.access_token)

    async def test_all_of_a_service_account(self, core: Core, clock: FakeClock) -> None:
        """It has no sessions, but its tokens end."""
        secret = await core.accounts.services.create("billing")
        pair = await core.sessions.login_client("billing", secret)
        await core.revoker.revoke_all("", core.claims(pair.access_token))
        assert core.verdict(pair.access_token).inactive_reason is InactiveReason.USER_REVOKED
        clock.advance(SECOND)
        assert core.active((await core.sessions.login_client("billing", secret)).access_token)

    @pytest.mark.parametrize("_", range(5))
    async def test_a_login_that_races_a_sign_out_everywhere_does_not_outlive_it(
        self, store: Store, clock: FakeClock, pool: Any, _: int
    ) -> None:
        """A session that began on earlier facts is ended, or never began."""
        core = make_core(store, clock, login_burst=1000)
        user = await core.user()
        admin = core.claims((await core.login()).access_token)._replace(roles=("admin",))
        clock.advance(SECOND)

        async def login() -> TokenPair | AuthError:
            try:
                return await core.login()
            except AuthError as error:
                return error

        results = await asyncio.gather(
            *(login() for _ in range(8)),
            core.revoker.revoke_all(str(user.id), admin),
            *(login() for _ in range(8)),
        )
        # Each pair either knows of the sign-out (issued at or after it) or is ended with it.
        boundary = await pool.fetchval("SELECT revoked_before FROM users WHERE id = $1", user.id)
        for pair in results:
            if isinstance(pair, TokenPair):
                found = await row(pool, pair)
                assert found["created_at"] >= boundary or found["revoked_at"] is not None
        core.hasher.close()


def test_the_cheap_profile_is_cheap() -> None:
    """These tests spend their time in PostgreSQL and not in argon2."""
    assert CHEAP.memory_kib == 8
