"""Second factors: who is challenged, and what completes a login, on a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from auth_service.core.own_factors import ENROLLMENT_TTL
from auth_service.core.recovery_codes import new_codes
from auth_service.core.second_factors import (
    CHALLENGE_TTL,
    FactorPolicy,
    FactorProof,
    IssuedChallenge,
    SecondFactorRequired,
)
from auth_service.core.throttle import LoginOrigin
from auth_service.db.factors import MAX_FACTORS
from auth_service.db.store import Store
from auth_service.errors import (
    AlreadyExists,
    AuthError,
    InsufficientUserAuthentication,
    InvalidArgument,
    InvalidCredentials,
    InvalidGrant,
    InvalidTarget,
    NotFound,
    PermissionDenied,
    RateLimited,
    TooManyFactors,
)
from auth_service.models import FactorKind, User
from auth_service.tokens.access import AccessClaims
from tests.clock import FakeClock
from tests.integration.authenticator import STEP, App, enroll
from tests.integration.core import FACTORS, PASSWORD, Core, make_core, payload, session_key

ADA = "ada@example.com"


@pytest.fixture
async def core(store: Store, clock: FakeClock) -> AsyncIterator[Core]:
    """The rules, with a user ada."""
    core = make_core(store, clock)
    await core.user()
    yield core
    core.hasher.close()


@pytest.fixture
async def app(core: Core, clock: FakeClock) -> App:
    """The authenticator app of ada."""
    return await enroll(core, clock)


async def challenged(login: Awaitable[Any]) -> IssuedChallenge:
    """Return the challenge in which a login ends."""
    with pytest.raises(SecondFactorRequired) as caught:
        await login
    return caught.value.challenge


async def logged_in(core: Core, app: App, clock: FakeClock) -> AccessClaims:
    """Log ada in with both factors."""
    challenge = await challenged(core.login())
    pair = await core.sessions.login_factor(challenge.token, app.proof(clock.now))
    return core.claims(pair.access_token)


def recovery(code: str) -> FactorProof:
    return FactorProof(FactorKind.RECOVERY_CODE, code)


class TestLogin:
    async def test_a_code_completes_it_on_the_terms_of_the_first_step(
        self, core: Core, app: App, clock: FakeClock
    ) -> None:
        """And the session says by `amr` and `acr` that two factors were proved, also refreshed."""
        terms = {"scope": ["read"], "client_id": "shop", "device_label": "ada's phone"}
        challenge = await challenged(core.sessions.login_password(ADA, PASSWORD, **terms))  # type: ignore[arg-type]
        assert challenge.factors == (FactorKind.RECOVERY_CODE, FactorKind.TOTP)
        assert challenge.expires_at == clock.now + CHALLENGE_TTL
        pair = await core.sessions.login_factor(challenge.token, app.proof(clock.now))
        (user_id, session_id), claims = session_key(pair), core.claims(pair.access_token)
        assert (claims.amr, claims.acr) == (("pwd", "otp", "mfa"), "2fa")
        assert (claims.scope, claims.client_id) == (("read",), "shop")
        assert claims.auth_time == int(clock.now.timestamp())
        found = await core.store.get_session(user_id, session_id)
        assert found is not None
        assert found.session.device_label == "ada's phone"
        refreshed = core.claims((await core.sessions.refresh(pair.refresh_token)).access_token)
        assert (refreshed.amr, refreshed.acr) == (claims.amr, claims.acr)

    async def test_a_code_is_good_once(self, core: Core, app: App, clock: FakeClock) -> None:
        """Also by another challenge, and an older code is not good after it."""
        first, second = [await challenged(core.login()) for _ in range(2)]
        proof, older = app.proof(clock.now + STEP), app.proof(clock.now)
        await core.sessions.login_factor(first.token, proof)
        for refused in (proof, older):
            with pytest.raises(InvalidCredentials):
                await core.sessions.login_factor(second.token, refused)

    async def test_codes_are_good_one_step_early_and_late(
        self, core: Core, app: App, clock: FakeClock
    ) -> None:
        """The clocks of phones are not exact (RFC 6238 section 6); two steps are too many."""
        challenge = await challenged(core.login())
        for steps in (-2, 2):
            with pytest.raises(InvalidCredentials):
                await core.sessions.login_factor(
                    challenge.token, app.proof(clock.now + steps * STEP)
                )
        clock.advance(STEP)
        for steps in (-1, 1):
            await core.sessions.login_factor(challenge.token, app.proof(clock.now + steps * STEP))

    async def test_one_challenge_begins_one_session(
        self, core: Core, app: App, clock: FakeClock, pool: Any
    ) -> None:
        """A second code for it leads to the same session."""
        before = await pool.fetchval("SELECT count(*) FROM sessions")
        challenge = await challenged(core.login())
        pairs = [
            await core.sessions.login_factor(challenge.token, app.proof(clock.now + n * STEP))
            for n in (0, 1)
        ]
        assert pairs[0].session_id == pairs[1].session_id
        assert await pool.fetchval("SELECT count(*) FROM sessions") == before + 1

    async def test_a_recovery_code_is_good_once(
        self, core: Core, app: App, clock: FakeClock, pool: Any
    ) -> None:
        """However it is typed; and it is not kept as it is."""
        claims = await logged_in(core, app, clock)
        code, *_ = codes = await core.factors.generate_recovery_codes(claims)
        assert len(set(codes)) == 10
        challenge = await challenged(core.login())
        typed = recovery(f" {code.upper().replace('-', ' ')} ")
        pair = await core.sessions.login_factor(challenge.token, typed)
        assert core.claims(pair.access_token).amr == ("pwd", "mfa")
        with pytest.raises(InvalidCredentials):
            await core.sessions.login_factor(challenge.token, recovery(code))
        assert (await core.factors.owned(claims))[1] == 9
        kept = await pool.fetch("SELECT code_hash FROM recovery_codes")
        assert all(code.encode() not in row["code_hash"] for row in kept)

    @pytest.mark.parametrize("kind", ["totp", "recovery"])
    async def test_of_many_calls_with_one_code_one_succeeds(
        self, core: Core, app: App, clock: FakeClock, kind: str
    ) -> None:
        """Whichever challenge they complete; here none is refused for lack of attempts."""
        claims = await logged_in(core, app, clock)
        codes = await core.factors.generate_recovery_codes(claims)
        clock.advance(STEP)
        proof = recovery(codes[0]) if kind == "recovery" else app.proof(clock.now)
        many = make_core(core.store, clock, factors=FactorPolicy("Test", burst=1000))
        challenges = [await challenged(many.login()) for _ in range(3)]
        answers = await asyncio.gather(
            *(many.sessions.login_factor(c.token, proof) for c in challenges for _ in range(10)),
            return_exceptions=True,
        )
        many.hasher.close()
        assert [type(a) for a in answers if isinstance(a, Exception)] == [InvalidCredentials] * 29

    @pytest.mark.parametrize("change", ["disabled", "password", "signed out"])
    async def test_what_ends_sessions_ends_a_challenge(
        self, core: Core, app: App, clock: FakeClock, change: str
    ) -> None:
        """The code comes too late."""
        user = await core.accounts.get_user(ADA)
        challenge = await challenged(core.login())
        if change == "disabled":
            await core.accounts.set_disabled(user.id, True)
        elif change == "password":
            await core.accounts.set_password(user.id, "an even better battery staple")
        else:
            await core.accounts.end_sessions(user.id)
        with pytest.raises(InvalidCredentials):
            await core.sessions.login_factor(challenge.token, app.proof(clock.now))

    async def test_a_challenge_expires_and_cannot_be_forged(
        self, core: Core, app: App, clock: FakeClock
    ) -> None:
        """Nor is a refresh token or an enrollment one."""
        claims = await logged_in(core, app, clock)
        challenge = await challenged(core.login())
        header, body, signature = challenge.token.split(".")
        _, enrollment, _ = await core.factors.begin_totp(claims)
        clock.advance(STEP)
        for forged in ("", "a.b.c", f"{header}.{body}.{signature[::-1]}", enrollment):
            with pytest.raises(InvalidCredentials):
                await core.sessions.login_factor(forged, app.proof(clock.now))
        clock.now = challenge.expires_at
        with pytest.raises(InvalidCredentials):
            await core.sessions.login_factor(challenge.token, app.proof(clock.now))

    async def test_a_challenge_belongs_to_the_certificate_of_its_client(
        self, core: Core, app: App, clock: FakeClock
    ) -> None:
        """A thief with the token and a code, but without the key, gets nothing."""
        login = core.sessions.login_password(
            ADA, PASSWORD, origin=LoginOrigin(certificate="thumbprint")
        )
        challenge = await challenged(login)
        for certificate in ("", "another"):
            with pytest.raises(InvalidCredentials):
                await core.sessions.login_factor(
                    challenge.token, app.proof(clock.now), certificate=certificate
                )
        await core.sessions.login_factor(
            challenge.token, app.proof(clock.now), certificate="thumbprint"
        )

    async def test_terms_that_are_refused_are_refused_before_the_challenge(
        self, core: Core, app: App
    ) -> None:
        """Nobody types a code for nothing."""
        with pytest.raises(InvalidTarget):
            await core.sessions.login_password(ADA, PASSWORD, audience=["nobody"])

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            (FactorKind.TOTP, ""),
            (FactorKind.TOTP, "12345"),
            (FactorKind.TOTP, "１２３４５６"),
            (FactorKind.TOTP, "12345a"),
            (FactorKind.RECOVERY_CODE, "abcdef"),
            (FactorKind.RECOVERY_CODE, "l" * 24),
        ],
        ids=["empty", "short", "fullwidth", "letter", "short-recovery", "no-such-letter"],
    )
    async def test_what_is_no_code_is_told_and_costs_nothing(
        self, core: Core, app: App, clock: FakeClock, kind: FactorKind, value: str
    ) -> None:
        """More often than there are attempts."""
        challenge = await challenged(core.login())
        for _ in range(FACTORS.burst + 1):
            with pytest.raises(InvalidArgument):
                await core.sessions.login_factor(challenge.token, FactorProof(kind, value))
        await core.sessions.login_factor(challenge.token, app.proof(clock.now))


class TestAttempts:
    async def test_wrong_codes_use_up_the_attempts_of_the_user(
        self, core: Core, app: App, clock: FakeClock
    ) -> None:
        """The right code is not even looked at then; a further challenge does not help."""
        challenge = await challenged(core.login())
        wrong = app.proof(clock.now + 9 * STEP)
        for _ in range(FACTORS.burst):
            with pytest.raises(InvalidCredentials):
                await core.sessions.login_factor(challenge.token, wrong)
        for token in (challenge.token, (await challenged(core.login())).token):
            with pytest.raises(RateLimited) as caught:
                await core.sessions.login_factor(token, app.proof(clock.now))
            assert timedelta(0) < caught.value.retry_after <= FACTORS.refill

        clock.advance(FACTORS.refill)
        challenge = await challenged(core.login())
        await core.sessions.login_factor(challenge.token, app.proof(clock.now))
        for _ in range(FACTORS.burst):  # the right code gave all attempts back
            with pytest.raises(InvalidCredentials):
                await core.sessions.login_factor(challenge.token, app.proof(clock.now + 9 * STEP))

    async def test_parallel_guesses_cannot_race_past(
        self, core: Core, app: App, clock: FakeClock
    ) -> None:
        """Of many at once, as many are looked at as there are attempts."""
        challenge = await challenged(core.login())
        wrong = app.proof(clock.now + 9 * STEP)
        answers = await asyncio.gather(
            *(core.sessions.login_factor(challenge.token, wrong) for _ in range(30)),
            return_exceptions=True,
        )
        kinds = [type(answer) for answer in answers]
        assert kinds.count(InvalidCredentials) == FACTORS.burst
        assert kinds.count(RateLimited) == 30 - FACTORS.burst

    async def test_a_challenge_uses_up_no_password_attempts(self, core: Core, app: App) -> None:
        """The password was right."""
        for _ in range(15):
            await challenged(core.login())
            await core.shielded.drain()


class TestPolicy:
    @pytest.mark.parametrize("roles", ["*", "staff"])
    async def test_a_user_without_a_factor_enrolls_one_at_login(
        self, store: Store, clock: FakeClock, roles: str
    ) -> None:
        """If a role demands one; its first code completes the login, once for all challenges."""
        core = make_core(store, clock, factors=FactorPolicy("Test", frozenset({roles})))
        await core.user(roles=("staff",))
        first, second = [await challenged(core.login()) for _ in range(2)]
        assert first.factors == ()
        assert first.enrollment is not None
        assert second.enrollment is not None
        assert first.enrollment.uri.startswith("otpauth://totp/Test:ada%40example.com?secret=")
        app, other = App(first.enrollment.secret), App(second.enrollment.secret)
        with pytest.raises(InvalidCredentials):
            await core.sessions.login_factor(first.token, other.proof(clock.now))
        pair = await core.sessions.login_factor(first.token, app.proof(clock.now))
        assert core.claims(pair.access_token).acr == "2fa"
        with pytest.raises(InvalidCredentials):
            await core.sessions.login_factor(second.token, other.proof(clock.now))
        clock.advance(STEP)
        assert (await logged_in(core, app, clock)).acr == "2fa"
        core.hasher.close()

    async def test_others_log_in_as_before(self, store: Store, clock: FakeClock) -> None:
        """By their password, and their tokens say so."""
        core = make_core(store, clock, factors=FactorPolicy("Test", frozenset({"admin"})))
        await core.user(roles=("staff",))
        claims = core.claims((await core.login()).access_token)
        assert (claims.amr, claims.acr) == (("pwd",), "1fa")
        core.hasher.close()


class TestOwnFactors:
    async def test_a_secret_is_kept_encrypted(
        self, core: Core, clock: FakeClock, pool: Any
    ) -> None:
        """And in no token: neither reveals it without the root key."""
        claims = core.claims((await core.login()).access_token)
        told, token, expires_at = await core.factors.begin_totp(claims)
        assert expires_at == clock.now + ENROLLMENT_TTL
        app = App(told.secret)
        factor, codes = await core.factors.confirm_totp(claims, token, app.code(clock.now), "phone")
        assert len(codes) == 10
        (kept,) = await pool.fetch("SELECT * FROM user_factors")
        assert told.secret not in str(payload(token))
        assert told.secret.encode() not in kept["secret"]
        assert told.secret not in repr(told) + repr(factor)
        assert (factor.kind, factor.name, factor.last_used_at) == (
            FactorKind.TOTP,
            "phone",
            clock.now,
        )
        assert await core.factors.owned(claims) == ([factor], 10)

    async def test_a_change_needs_a_recent_login_with_all_factors(
        self, core: Core, clock: FakeClock
    ) -> None:
        """A stolen token of an older or weaker login changes nothing."""
        old = core.claims((await core.login()).access_token)
        app = await enroll(core, clock)
        for call in self.changes(core, old):
            with pytest.raises(InsufficientUserAuthentication) as caught:
                await call
            assert caught.value.unmet == ("acr_values",)
            assert caught.value.acr_values == ("2fa", "phr")
        recent = await logged_in(core, app, clock)
        clock.advance(FACTORS.recent_login + timedelta(seconds=1))
        for call in self.changes(core, recent):
            with pytest.raises(InsufficientUserAuthentication) as caught:
                await call
            assert (caught.value.unmet, caught.value.max_age) == (
                ("max_age",),
                FACTORS.recent_login,
            )

    @staticmethod
    def changes(core: Core, caller: AccessClaims) -> list[Awaitable[Any]]:
        return [
            core.factors.begin_totp(caller),
            core.factors.confirm_totp(caller, "a.b.c", "123456"),
            core.factors.delete(caller, uuid4()),
            core.factors.generate_recovery_codes(caller),
        ]

    async def test_without_factors_the_password_suffices_again(
        self, core: Core, app: App, clock: FakeClock, pool: Any
    ) -> None:
        """The last factor takes the recovery codes with it."""
        claims = await logged_in(core, app, clock)
        (factor,), _ = await core.factors.owned(claims)
        with pytest.raises(NotFound):
            await core.factors.delete(claims, uuid4())
        await core.factors.delete(claims, factor.id)
        assert await core.factors.owned(claims) == ([], 0)
        assert core.claims((await core.login()).access_token).acr == "1fa"
        with pytest.raises(NotFound):
            await core.factors.generate_recovery_codes(claims)

    async def test_an_enrollment_is_confirmed_once_by_its_user_in_time(
        self, core: Core, clock: FakeClock
    ) -> None:
        """With the right code."""
        await core.user("eve@example.com")
        ada, eve = [
            core.claims((await core.login(name)).access_token) for name in (ADA, "eve@example.com")
        ]
        told, token, _ = await core.factors.begin_totp(ada)
        app = App(told.secret)
        for caller, code in ((eve, app.code(clock.now)), (ada, app.code(clock.now + 9 * STEP))):
            with pytest.raises(InvalidArgument):
                await core.factors.confirm_totp(caller, token, code)
        await core.factors.confirm_totp(ada, token, app.code(clock.now))
        both = core.claims((await self.next_login(core, app, clock)).access_token)
        with pytest.raises(AlreadyExists):
            await core.factors.confirm_totp(both, token, app.code(clock.now))
        told, token, expires_at = await core.factors.begin_totp(both)
        clock.now = expires_at
        late = both._replace(auth_time=int(clock.now.timestamp()))
        with pytest.raises(InvalidArgument):
            await core.factors.confirm_totp(late, token, App(told.secret).code(clock.now))

    @staticmethod
    async def next_login(core: Core, app: App, clock: FakeClock) -> Any:
        clock.advance(STEP)
        challenge = await challenged(core.login())
        return await core.sessions.login_factor(challenge.token, app.proof(clock.now))

    async def test_a_second_app_works_beside_the_first_and_there_is_a_limit(
        self, core: Core, app: App, clock: FakeClock
    ) -> None:
        """A further app brings no further recovery codes."""
        claims = await logged_in(core, app, clock)
        apps = [app]
        for _ in range(MAX_FACTORS - 1):
            told, token, _ = await core.factors.begin_totp(claims)
            apps.append(App(told.secret))
            added = await core.factors.confirm_totp(claims, token, apps[-1].code(clock.now))
            assert added[1] == []
        told, token, _ = await core.factors.begin_totp(claims)
        with pytest.raises(TooManyFactors):
            await core.factors.confirm_totp(claims, token, App(told.secret).code(clock.now))
        clock.advance(STEP)
        assert (await logged_in(core, apps[-1], clock)).amr == ("pwd", "otp", "mfa")

    async def test_a_service_account_has_no_factors(self, core: Core) -> None:
        """It has no account of this kind."""
        secret = await core.accounts.services.create("orders")
        pair = await core.sessions.login_client("orders", secret)
        claims = core.claims(pair.access_token)
        with pytest.raises(PermissionDenied):
            await core.factors.owned(claims)

    async def test_an_admin_resets_the_factors_of_a_user(
        self, core: Core, app: App, pool: Any
    ) -> None:
        """All of them, with the recovery codes; each change is in the audit log."""
        user = await core.accounts.get_user(ADA)
        assert user.second_factor
        await core.accounts.reset_factors(user.id)
        assert core.claims((await core.login()).access_token).acr == "1fa"
        assert await core.store.count_recovery_codes(user.id) == 0
        with pytest.raises(NotFound):
            await core.accounts.reset_factors(uuid4())
        events = await pool.fetch("SELECT event FROM audit_log WHERE user_id = $1", user.id)
        assert {"factor.added", "factors.reset"} <= {row["event"] for row in events}


class TestStepUp:
    async def test_the_session_goes_on_with_another_login(
        self, core: Core, clock: FakeClock, pool: Any
    ) -> None:
        """Same id, same refresh token, no second session; and the tokens tell of the new login."""
        pair = await core.sessions.login_password(ADA, PASSWORD, scope=["read"])
        app = await enroll(core, clock)
        sessions = await pool.fetchval("SELECT count(*) FROM sessions")
        clock.advance(timedelta(hours=1))
        step_up = core.sessions.step_up(pair.refresh_token, ADA, PASSWORD)
        challenge = await challenged(step_up)
        stepped = await core.sessions.login_factor(challenge.token, app.proof(clock.now))
        before, after = payload(pair.access_token), core.claims(stepped.access_token)
        assert (after.session_id, after.scope) == (before["sid"], ("read",))
        assert after.token_id != before["jti"]
        assert (after.amr, after.acr) == (("pwd", "otp", "mfa"), "2fa")
        assert after.auth_time == int(clock.now.timestamp()) == before["auth_time"] + 3630
        assert stepped.refresh_token == pair.refresh_token
        refreshed = await core.sessions.refresh(pair.refresh_token)
        assert core.claims(refreshed.access_token).acr == "2fa"
        assert await pool.fetchval("SELECT count(*) FROM sessions") == sessions

    async def test_the_second_factor_alone_steps_a_session_up(
        self, core: Core, clock: FakeClock
    ) -> None:
        """The password was proved when the session began."""
        pair = await core.login()
        with pytest.raises(InvalidCredentials):  # there is no factor to ask for
            await core.sessions.step_up(pair.refresh_token)
        app = await enroll(core, clock)
        challenge = await challenged(core.sessions.step_up(pair.refresh_token))
        stepped = await core.sessions.login_factor(challenge.token, app.proof(clock.now))
        assert core.claims(stepped.access_token).amr == ("pwd", "otp", "mfa")
        assert stepped.session_id == pair.session_id

    async def test_without_a_second_factor_the_password_makes_the_login_recent(
        self, core: Core, clock: FakeClock
    ) -> None:
        """Which is enough to enroll one."""
        pair = await core.login()
        clock.advance(timedelta(hours=1))
        stepped = await core.sessions.step_up(pair.refresh_token, ADA, PASSWORD)
        claims = core.claims(stepped.access_token)
        assert (claims.session_id, claims.acr) == (pair.session_id, "1fa")
        assert claims.auth_time == int(clock.now.timestamp())
        await core.factors.begin_totp(claims)

    async def test_a_wrong_password_changes_nothing(
        self, core: Core, clock: FakeClock, pool: Any
    ) -> None:
        """Nor does the right one of another user, or a session that has ended."""
        await core.user("eve@example.com")
        pair, before = await core.login(), clock.now
        buckets = "SELECT count(*) FROM login_buckets"
        there = await pool.fetchval(buckets)
        clock.advance(timedelta(minutes=1))
        attempts: list[tuple[str, str, type[AuthError]]] = [
            (ADA, "some other battery staple", InvalidCredentials),
            ("eve@example.com", PASSWORD, InvalidCredentials),
        ]
        for name, password, error in attempts:
            with pytest.raises(error):
                await core.sessions.step_up(pair.refresh_token, name, password)
        # Only the guess at the session's own account has cost an attempt.
        assert await pool.fetchval(buckets) == there + 1
        refreshed = await core.sessions.refresh(pair.refresh_token)
        assert core.claims(refreshed.access_token).auth_time == int(before.timestamp())
        await core.revoker.revoke_refresh_token(refreshed.refresh_token)
        for token in (refreshed.refresh_token, "a.b.c", pair.access_token):
            with pytest.raises(InvalidGrant):
                await core.sessions.step_up(token, ADA, PASSWORD)

    async def test_a_session_that_ends_during_the_challenge_is_not_stepped_up(
        self, core: Core, clock: FakeClock
    ) -> None:
        """The code is used up, and no tokens are issued."""
        pair = await core.login()
        app = await enroll(core, clock)
        challenge = await challenged(core.sessions.step_up(pair.refresh_token))
        await core.revoker.revoke_refresh_token(pair.refresh_token)
        with pytest.raises(InvalidCredentials):
            await core.sessions.login_factor(challenge.token, app.proof(clock.now))


async def test_ended_attempts_are_pruned(core: Core, app: App, clock: FakeClock, pool: Any) -> None:
    """Once all of them are regained."""
    challenge = await challenged(core.login())
    with pytest.raises(InvalidCredentials):
        await core.sessions.login_factor(challenge.token, recovery(new_codes()[0]))
    await core.store.prune(clock.now)
    assert await pool.fetchval("SELECT count(*) FROM factor_attempts") == 1
    await core.store.prune(clock.now + FACTORS.refill)
    assert await pool.fetchval("SELECT count(*) FROM factor_attempts") == 0


async def test_a_user_takes_the_factors_along(core: Core, app: App, pool: Any) -> None:
    """Nothing of a deleted user is left."""
    user: User = await core.accounts.get_user(ADA)
    await pool.execute("DELETE FROM users WHERE id = $1", user.id)
    assert await pool.fetchval("SELECT count(*) FROM user_factors") == 0
    assert await pool.fetchval("SELECT count(*) FROM recovery_codes") == 0
