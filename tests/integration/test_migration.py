"""Moving in: a live token of another system becomes a session, once, and nobody is logged out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import structlog
from structlog.testing import capture_logs

from auth_service.core.second_factors import SecondFactorRequired
from auth_service.db import pool as pools
from auth_service.db.store import Store
from auth_service.errors import (
    InvalidArgument,
    InvalidCredentials,
    InvalidScope,
    InvalidTarget,
    Unavailable,
)
from auth_service.models import TokenPair, User
from auth_service.tokens.foreign import Refusal, RefusalReason
from auth_service.tokens.foreign_keys import TrustedKeys
from tests.clock import FakeClock
from tests.integration.authenticator import enroll
from tests.integration.core import Core, make_core
from tests.old_issuers import KEYCLOAK, SIMPLEJWT, SUPABASE, SYSTEMS, UNTIL, OldSystem, faults

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
REQUEST = "9f2b7c1e-migrate"
DJANGO_ID = "4711"


@pytest.fixture
async def core(store: Store, clock: FakeClock) -> AsyncIterator[Core]:
    """A core that knows the three systems."""
    core = _core(store, clock)
    yield core
    core.hasher.close()


def _core(store: Store, clock: FakeClock, **changes: Any) -> Core:
    issuers = [system.issuer(clock.now, **changes) for system in SYSTEMS.values()]
    return make_core(store, clock, old_issuers=issuers)


@pytest.fixture
async def user(core: Core, clock: FakeClock) -> User:
    """A user who was imported: with the id of Keycloak or Supabase, and with Django's."""
    user = await core.accounts.create_user(
        ["ada@example.com", f"django:{DJANGO_ID}"],
        "correct horse battery staple",
        roles=["staff"],
        scope=["read", "write"],
    )
    clock.advance(SECOND)
    return user


def named(system: OldSystem, user: User) -> UUID | str:
    """Return the id that a user has in the other system."""
    return user.id if system.prefix is None else DJANGO_ID


async def refused(core: Core, token: str, **options: Any) -> RefusalReason:
    """Return why a token is refused, which only the service knows."""
    with pytest.raises(InvalidCredentials) as caught:
        await core.migration.trade(token, **options)
    assert caught.value.text == InvalidCredentials().text
    cause = caught.value.__cause__
    assert isinstance(cause, Refusal)
    assert not token or token not in str(cause)
    return cause.reason


async def sessions(core: Core, user: User) -> int:
    """Return the number of live sessions of a user."""
    return len(await core.accounts.list_sessions(user.id))


def same(one: TokenPair, other: TokenPair) -> bool:
    """Tell whether two answers have the same tokens, byte for byte."""
    return (one.access_token, one.refresh_token) == (other.access_token, other.refresh_token)


class TestTrades:
    @pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
    async def test_a_live_token_becomes_a_session(
        self, core: Core, clock: FakeClock, user: User, system: OldSystem
    ) -> None:
        """It is like that of a password: with the user's roles and scopes, and it is refreshed."""
        pair = await core.migration.trade(
            system.token(named(system, user), clock.now), client_id="shop", device_label="Firefox"
        )
        claims = core.claims(pair.access_token)
        assert (claims.subject, claims.roles, claims.scope) == (
            str(user.id),
            ("staff",),
            ("read", "write"),
        )
        (session,) = await core.accounts.list_sessions(user.id)
        assert (session.client_id, session.device_label) == ("shop", "Firefox")
        clock.advance(HOUR)
        later = await core.sessions.refresh(pair.refresh_token)
        assert core.claims(later.access_token).session_id == pair.session_id

    async def test_the_session_says_how_and_when_the_user_was_authenticated(
        self, core: Core, clock: FakeClock, user: User
    ) -> None:
        """As the other system tells it, and never more: one factor, and not later than there."""
        at = int(clock.now.timestamp())

        async def told(system: OldSystem, **claims: Any) -> tuple[tuple[str, ...], int]:
            token = system.token(named(system, user), clock.now, **claims)
            got = core.claims((await core.migration.trade(token)).access_token)
            assert got.acr == "1fa"
            return got.amr, at - got.auth_time

        assert await told(KEYCLOAK) == ((), 1800)
        strong = ["pwd", "otp", "mfa", "pop"]  # not by factors that this service knows
        assert await told(KEYCLOAK, amr=strong, acr="2") == (("pwd", "otp"), 1800)
        assert await told(KEYCLOAK, auth_time=None) == ((), 0)
        assert await told(KEYCLOAK, auth_time="yesterday", amr="pwd") == ((), 0)
        assert await told(KEYCLOAK, auth_time=at + 9) == ((), 0)
        assert await told(KEYCLOAK, iat=at + 9, auth_time=None) == ((), 0)
        assert await told(SUPABASE) == (("password",), 600)
        twice = [{"method": "totp", "timestamp": at - 5}, {"method": "password", "timestamp": 1}]
        assert await told(SUPABASE, amr=twice) == (("totp", "password"), at - 1)
        assert await told(SUPABASE, amr=[1, {}, {"method": "a\n"}, "x"] * 9) == (("x",), 0)
        assert await told(SIMPLEJWT) == ((), 0)

    async def test_a_number_may_name_the_user(
        self, core: Core, clock: FakeClock, user: User
    ) -> None:
        """As earlier releases of simplejwt wrote it."""
        token = SIMPLEJWT.token("", clock.now, user_id=int(DJANGO_ID))
        assert (await core.migration.trade(token)).refresh_token

    async def test_an_address_may_name_the_user(
        self, store: Store, core: Core, clock: FakeClock, user: User
    ) -> None:
        """In any spelling that a login takes, if the old system has verified it."""
        by_mail = replace(KEYCLOAK, user_claim="email", prefix="", kind={"email_verified": (True,)})
        replica = make_core(store, clock, old_issuers=[by_mail.issuer(clock.now)])
        for name in (" Ada@Example.com", "ada@EXAMPLE.com"):
            pair = await replica.migration.trade(by_mail.token("-", clock.now, email=name))
            assert replica.claims(pair.access_token).subject == str(user.id)
        for verified in (False, "true", 1, None):
            token = by_mail.token("-", clock.now, email_verified=verified)
            assert await refused(replica, token) is RefusalReason.WRONG_CLAIM
        for name in ("ada\n@example.com", "", "x" * 300):
            token = by_mail.token("-", clock.now, email=name)
            assert await refused(replica, token) is RefusalReason.WRONG_SUBJECT
        assert await sessions(core, user) == 2
        replica.hasher.close()

    async def test_an_id_of_other_spelling_names_nobody(
        self, core: Core, clock: FakeClock, user: User
    ) -> None:
        """Only the usual one of a UUID does."""
        for name in (f"{{{user.id}}}", user.id.hex, f"urn:uuid:{user.id}", "", "ada", "x" * 300):
            token = KEYCLOAK.token(name, clock.now)
            assert await refused(core, token) is RefusalReason.WRONG_SUBJECT
        pair = await core.migration.trade(KEYCLOAK.token(str(user.id).upper(), clock.now))
        assert pair.refresh_token

    async def test_scope_and_audience_are_those_of_the_account(
        self, core: Core, clock: FakeClock, user: User
    ) -> None:
        """They go through the checks of any login, and a trade that they refuse can be repeated."""
        token = KEYCLOAK.token(user.id, clock.now)
        with pytest.raises(InvalidScope):
            await core.migration.trade(token, scope=["admin"])
        with pytest.raises(InvalidTarget):
            await core.migration.trade(token, audience=["unknown"])
        with pytest.raises(InvalidArgument, match="request_id"):
            await core.migration.trade(token, request_id="short")
        pair = await core.migration.trade(token, scope=["read"], request_id=REQUEST)
        assert core.claims(pair.access_token).scope == ("read",)

    async def test_a_second_factor_is_asked_for_as_at_any_login(
        self, core: Core, clock: FakeClock, user: User
    ) -> None:
        """Whatever the other system says of one. Its answer completes the login."""
        app = await enroll(core, clock)
        token = KEYCLOAK.token(user.id, clock.now, amr=["pwd", "mfa"])
        with pytest.raises(SecondFactorRequired) as required:
            await core.migration.trade(token, client_id="shop")
        pair = await core.sessions.login_factor(
            required.value.challenge.token, app.proof(clock.now)
        )
        claims = core.claims(pair.access_token)
        assert (claims.client_id, claims.acr) == ("shop", "2fa")

    async def test_without_keys_the_answer_is_to_try_again(
        self, store: Store, clock: FakeClock
    ) -> None:
        """The issuer's keys were never read, so nothing is known of the token."""
        core = make_core(store, clock, old_issuers=[KEYCLOAK.issuer(clock.now, keys=TrustedKeys())])
        with pytest.raises(Unavailable):
            await core.migration.trade(KEYCLOAK.token(UUID(int=1), clock.now))
        core.hasher.close()

    async def test_the_log_says_why_and_never_the_token(
        self, core: Core, clock: FakeClock, user: User
    ) -> None:
        """Of a genuine token on the level info, and of others on debug."""
        good = KEYCLOAK.token(user.id, clock.now)
        unknown = KEYCLOAK.token(UUID(int=1), clock.now)
        forged = KEYCLOAK.token(user.id, clock.now, iss="https://other.test")
        structlog.reset_defaults()  # a server of another test may have set the least severity
        with capture_logs() as logs:
            await core.migration.trade(good)
            await refused(core, unknown)
            await refused(core, forged)
        told = [(each["event"], each["log_level"], each.get("reason")) for each in logs]
        assert told == [
            ("session_migrated", "info", None),
            ("migration_refused", "info", "no_account"),
            ("migration_refused", "debug", "unknown_issuer"),
        ]
        tokens = (good, unknown, forged)
        assert all(part not in str(logs) for token in tokens for part in token.split("."))


class TestOnce:
    async def test_a_retry_gets_the_same_tokens(
        self, core: Core, clock: FakeClock, user: User
    ) -> None:
        """Within the grace, and after any delay with the request id of the first."""
        token = KEYCLOAK.token(user.id, clock.now)
        first = await core.migration.trade(token, request_id=REQUEST)
        assert same(first, await core.migration.trade(token))
        clock.advance(timedelta(seconds=10))
        assert same(first, await core.migration.trade(token, request_id="another-one"))
        clock.advance(SECOND)
        assert await refused(core, token) is RefusalReason.REPLAYED
        assert await refused(core, token, request_id="another-one") is RefusalReason.REPLAYED
        clock.advance(timedelta(minutes=4))
        assert same(first, await core.migration.trade(token, request_id=REQUEST))
        assert core.active(first.access_token)
        assert await sessions(core, user) == 1

    async def test_a_late_retry_gets_an_access_token_that_lives(
        self, core: Core, clock: FakeClock, user: User
    ) -> None:
        """The first one has expired, and the refresh token is still the same."""
        token = SUPABASE.token(user.id, clock.now)
        first = await core.migration.trade(token, request_id=REQUEST)
        clock.advance(timedelta(minutes=30))
        again = await core.migration.trade(token, request_id=REQUEST)
        assert not core.active(first.access_token)
        assert core.active(again.access_token)
        assert again.refresh_token == first.refresh_token

    async def test_a_session_that_goes_on_is_not_handed_out_again(
        self, core: Core, clock: FakeClock, user: User
    ) -> None:
        """Whoever has refreshed it has had the answer. The session is not ended by the replay."""
        token = KEYCLOAK.token(user.id, clock.now)
        first = await core.migration.trade(token, request_id=REQUEST)
        later = await core.sessions.refresh(first.refresh_token)
        assert await refused(core, token, request_id=REQUEST) is RefusalReason.REPLAYED
        assert core.active(later.access_token)
        assert await sessions(core, user) == 1

    async def test_a_session_that_has_ended_stays_ended(
        self, core: Core, clock: FakeClock, user: User
    ) -> None:
        """A logout is not undone by the token that began the session."""
        token = KEYCLOAK.token(user.id, clock.now)
        first = await core.migration.trade(token, request_id=REQUEST)
        await core.accounts.end_session(UUID(first.session_id))
        assert await refused(core, token, request_id=REQUEST) is RefusalReason.REPLAYED
        assert await sessions(core, user) == 0

    async def test_the_later_tokens_of_a_session_are_that_session(
        self, core: Core, clock: FakeClock, user: User
    ) -> None:
        """Of a client: the applications of a single sign-on each get a session of their own."""
        at_first = KEYCLOAK.token(user.id, clock.now, sid="s")
        await core.migration.trade(at_first)
        clock.advance(timedelta(minutes=1))
        refreshed = KEYCLOAK.token(user.id, clock.now, sid="s")
        identity = KEYCLOAK.token(user.id, clock.now, sid="s", typ="ID", aud=["account"])
        for token in (refreshed, identity):
            assert await refused(core, token) is RefusalReason.REPLAYED
        other_client = KEYCLOAK.token(user.id, clock.now, sid="s", azp="shop-app")
        other_session = KEYCLOAK.token(user.id, clock.now, sid="t")
        for token in (other_client, other_session):
            await core.migration.trade(token)
        assert await sessions(core, user) == 3

    async def test_without_an_id_the_token_itself_counts(
        self, core: Core, clock: FakeClock, user: User
    ) -> None:
        """So it is traded once, and another token of the user once more."""
        token = SUPABASE.token(user.id, clock.now, session_id=None)
        first = await core.migration.trade(token)
        assert same(first, await core.migration.trade(token))
        clock.advance(timedelta(seconds=11))
        assert await refused(core, token) is RefusalReason.REPLAYED
        await core.migration.trade(SUPABASE.token(user.id, clock.now, session_id=None))
        assert await sessions(core, user) == 2

    async def test_a_retry_of_another_application_is_none(
        self, core: Core, clock: FakeClock, user: User
    ) -> None:
        """It would get tokens that name the first."""
        token = SUPABASE.token(user.id, clock.now)
        await core.migration.trade(token, client_id="web")
        assert await refused(core, token, client_id="app") is RefusalReason.REPLAYED

    async def test_of_two_replicas_at_once_one_begins_a_session(
        self, core: Core, clock: FakeClock, user: User, database_url: str
    ) -> None:
        """All calls get the tokens of the one session: no tab and no retry is logged out."""
        async with _second_replica(database_url, clock) as other:
            token = KEYCLOAK.token(user.id, clock.now)
            calls = [each.migration.trade(token) for each in (core, other) for _ in range(20)]
            first, *others = await asyncio.gather(*calls)
        assert all(same(first, each) for each in others)
        assert await sessions(core, user) == 1

    async def test_what_was_traded_is_forgotten_when_it_could_not_be_traded_any_more(
        self, core: Core, clock: FakeClock, user: User, store: Store
    ) -> None:
        """A token when it expires, a session at the end."""
        for system in (SIMPLEJWT, KEYCLOAK):
            await core.migration.trade(system.token(named(system, user), clock.now))
        clock.advance(timedelta(days=1, minutes=2))
        assert await store.prune(clock.now) == 1
        clock.advance(UNTIL)
        assert await store.prune(clock.now) == 3  # and both of our sessions have expired


@asynccontextmanager
async def _second_replica(database_url: str, clock: FakeClock) -> AsyncIterator[Core]:
    """Yield a core with a pool of its own on the same database."""
    pool = await pools.connect(database_url, min_size=1, max_size=10)
    core = _core(Store(pool), clock)
    yield core
    core.hasher.close()
    await pool.close()


class TestRefusals:
    @pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
    async def test_a_token_that_is_wrong_in_one_respect_is_refused(
        self, core: Core, clock: FakeClock, user: User, system: OldSystem
    ) -> None:
        """All alike, each for its own reason; the token that is right in all is traded."""
        name = named(system, user)
        wrong = faults(system, name, clock.now)
        assert len(wrong) >= 22
        for fault, (token, reason) in wrong.items():
            assert (fault, await refused(core, token)) == (fault, reason)
        assert await sessions(core, user) == 0
        await core.migration.trade(system.token(name, clock.now))
        assert await sessions(core, user) == 1

    @pytest.mark.parametrize("token", ["", ".", "..", "a.b.c", "e30.e30.e30", "é" * 9, "x" * 17000])
    async def test_what_is_no_token_is_refused(self, core: Core, token: str) -> None:
        """Before anything of it is believed."""
        assert await refused(core, token) is RefusalReason.MALFORMED

    @pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
    async def test_nothing_is_traded_from_the_end_on(
        self, core: Core, clock: FakeClock, user: User, system: OldSystem
    ) -> None:
        """Not even the retry of what was traded before it."""
        name = named(system, user)
        clock.advance(UNTIL - 2 * SECOND)
        traded, kept = (system.token(name, clock.now, iat=_seconds(clock)) for _ in range(2))
        await core.migration.trade(traded, request_id=REQUEST)
        clock.advance(SECOND)
        for token in (traded, kept, system.token(name, clock.now)):
            assert await refused(core, token, request_id=REQUEST) is RefusalReason.CUT_OFF
        assert await sessions(core, user) == 1

    async def test_the_end_is_one_of_the_databases_clock(
        self, store: Store, core: Core, clock: FakeClock, user: User
    ) -> None:
        """A replica whose clock is behind does not prolong it."""
        behind = FakeClock(clock.now)
        replica = _core(store, behind)
        token = SUPABASE.token(user.id, behind.now)
        clock.advance(UNTIL)
        assert await refused(replica, token) is RefusalReason.REPLAYED
        replica.hasher.close()

    async def test_a_disabled_user_is_refused(
        self, core: Core, clock: FakeClock, user: User
    ) -> None:
        """Also the retry of a trade from before. The token is not used up by that."""
        traded, kept = (KEYCLOAK.token(user.id, clock.now) for _ in range(2))
        await core.migration.trade(traded, request_id=REQUEST)
        await core.accounts.set_disabled(user.id, True)
        for token in (traded, kept):
            assert await refused(core, token, request_id=REQUEST) is RefusalReason.DISABLED

    async def test_a_sign_out_ends_what_was_begun_at_the_other_system(
        self, core: Core, clock: FakeClock, user: User
    ) -> None:
        """And so does a new password; a session that is begun there later is traded."""
        before = KEYCLOAK.token(user.id, clock.now)
        clock.advance(timedelta(minutes=1))
        await core.accounts.end_sessions(user.id)
        refreshed = KEYCLOAK.token(user.id, clock.now + SECOND)  # of a login half an hour ago
        for token in (before, refreshed):
            assert await refused(core, token) is RefusalReason.SIGNED_OUT
        clock.advance(timedelta(minutes=1))
        begun_later = KEYCLOAK.token(user.id, clock.now, auth_time=_seconds(clock))
        assert (await core.migration.trade(begun_later)).refresh_token


def _seconds(clock: FakeClock) -> int:
    return int(clock.now.timestamp())
