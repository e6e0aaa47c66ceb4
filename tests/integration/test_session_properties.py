"""Random sequences of logins, refreshes, replays, revocations and clock steps, against a model."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from auth_service.db import pool as pools
from auth_service.db.store import Store
from auth_service.errors import InactiveReason, InvalidGrant, InvalidScope
from auth_service.models import TokenPair
from tests.clock import FakeClock
from tests.databases import SET_CLOCK
from tests.integration.core import Core, make_core, payload, session_key

T = TypeVar("T")

GRACE = timedelta(seconds=10)
IDLE = timedelta(days=7)
ABSOLUTE = timedelta(days=30)
SKEW = timedelta(seconds=10)
STEPS = (
    timedelta(milliseconds=1),
    timedelta(seconds=1),
    timedelta(seconds=9),
    GRACE,
    timedelta(seconds=11),
    timedelta(minutes=14),
    timedelta(minutes=16),
    timedelta(hours=2),
    timedelta(days=3),
    timedelta(days=8),
    timedelta(seconds=-3),
)
draw = st.integers(min_value=0, max_value=10**6)


@dataclass(frozen=True)
class Generation:
    """The row after a rotation, and the tokens that the rotation returned."""

    number: int
    refreshed_at: datetime
    refresh_expires_at: datetime
    pair: TokenPair


@dataclass
class ModelSession:
    """The rules of a session, without database or cryptography."""

    user: str
    expires_at: datetime
    history: list[Generation]
    issued: list[Generation] = field(default_factory=list)
    revoked_at: datetime | None = None

    @property
    def revoked(self) -> bool:
        return self.revoked_at is not None

    def revoke(self, now: datetime) -> None:
        """End the session, once."""
        self.revoked_at = self.revoked_at or now

    def was_issued_again(self, token_id: str) -> bool:
        """Return whether several access tokens have this id."""
        claims = [payload(each.pair.access_token) for each in self.issued]
        return len({each["exp"] for each in claims if each["jti"] == token_id}) > 1

    @property
    def current(self) -> Generation:
        return self.history[-1]

    def outcome(self, token: Generation, now: datetime) -> str:
        """Return the outcome of a refresh with the token of a generation."""
        if int(token.refresh_expires_at.timestamp()) <= now.timestamp():
            return "refused"
        if self.revoked or self.expires_at <= now:
            return "refused"
        behind = self.current.number - token.number
        if behind == 1 and now - self.current.refreshed_at <= GRACE:
            return "same"
        if behind > 0:  # the clock may have been set back: then the call seems to have come before
            return "reuse" if now >= self.current.refreshed_at else "refused"
        return "refused" if self.current.refresh_expires_at <= now else "rotated"


class Lives(RuleBasedStateMachine):
    """Two users and their sessions, in the database and in the model."""

    run: Callable[[Coroutine[Any, Any, Any]], Any]
    store: Store
    pool: Any
    count = 0

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock(on_change=lambda now: self.run(self.pool.execute(SET_CLOCK, now)))
        self.latest = self.clock()
        self.core: Core = make_core(self.store, self.clock)
        self.sessions: list[ModelSession] = []
        self.revoked_before: dict[str, int] = {}
        self.dead_tokens: set[str] = set()
        type(self).count += 1
        self.users = [f"{name}-{self.count}" for name in ("ada", "bob")]
        for user in self.users:
            self.run(self.core.user(user))

    def teardown(self) -> None:
        self.core.hasher.close()

    def pick(self, number: int) -> ModelSession:
        return self.sessions[number % len(self.sessions)]

    # Rules

    @rule(number=draw)
    def login(self, number: int) -> None:
        user = self.users[number % 2]
        before = self.revoked_before.get(user, 0)
        now = max(self.clock(), datetime.fromtimestamp(before, self.clock().tzinfo))
        pair = self.run(self.core.login(user))
        first = Generation(0, now, now + IDLE, pair)
        assert pair.refresh_expires_at == now + IDLE
        self.sessions.append(ModelSession(user, now + ABSOLUTE, [first], [first]))

    @precondition(lambda self: self.sessions)
    @rule(number=draw)
    def refresh(self, number: int) -> None:
        session = self.pick(number)
        self.use(session, session.current)

    @precondition(lambda self: self.sessions)
    @rule(number=draw)
    def retry(self, number: int) -> None:
        session = self.pick(number)
        self.use(session, session.history[-2] if len(session.history) > 1 else session.current)

    @precondition(lambda self: self.sessions)
    @rule(number=draw, which=draw)
    def replay(self, number: int, which: int) -> None:
        session = self.pick(number)
        self.use(session, session.issued[which % len(session.issued)])

    @precondition(lambda self: self.sessions)
    @rule(number=draw)
    def ask_too_much(self, number: int) -> None:
        session = self.pick(number)
        refusal = None
        try:
            self.run(self.core.sessions.refresh(session.current.pair.refresh_token, ["admin"]))
        except (InvalidGrant, InvalidScope) as error:
            refusal = error
        assert refusal is not None

    @precondition(lambda self: self.sessions)
    @rule(number=draw, which=draw)
    def sign_out(self, number: int, which: int) -> None:
        session = self.pick(number)
        token = session.issued[which % len(session.issued)].pair.refresh_token
        self.run(self.core.revoker.revoke_refresh_token(token))
        session.revoke(self.clock())

    @precondition(lambda self: self.sessions)
    @rule(number=draw, which=draw)
    def revoke_access(self, number: int, which: int) -> None:
        session = self.pick(number)
        token = session.issued[which % len(session.issued)].pair.access_token
        alive = payload(token)["exp"] > self.clock().timestamp()
        self.run(self.core.revoker.revoke_access_token(token))
        if alive:
            self.dead_tokens.add(payload(token)["jti"])

    @precondition(lambda self: self.sessions)
    @rule(number=draw)
    def sign_out_everywhere(self, number: int) -> None:
        session = self.pick(number)
        caller = self.core.verifier.authenticate(session.current.pair.access_token)
        self.run(self.core.revoker.revoke_all("", caller))
        # Tokens may be dated ahead: of logins right after a sign-out, or by a faster clock.
        now = self.clock()
        theirs = [other for other in self.sessions if other.user == session.user]
        for other in theirs:
            other.revoke(now)
        ended = [other.current.refreshed_at for other in theirs if other.revoked_at == now]
        before = int(max([now, *ended]).timestamp()) + 1
        self.revoked_before[session.user] = max(before, self.revoked_before.get(session.user, 0))

    @precondition(lambda self: any(len(s.history) > 1 and not s.revoked for s in self.sessions))
    @rule(number=draw)
    def failover(self, number: int) -> None:
        """The database loses its last commits: the row is as it was a generation ago."""
        able = [s for s in self.sessions if len(s.history) > 1 and not s.revoked]
        session = able[number % len(able)]
        session.history.pop()
        self.run(
            self.pool.execute(
                "UPDATE sessions SET generation = $3, refreshed_at = $4, refresh_expires_at = $5"
                " WHERE user_id = $1 AND id = $2",
                *session_key(session.current.pair),
                session.current.number,
                session.current.refreshed_at,
                session.current.refresh_expires_at,
            )
        )

    @rule(step=st.sampled_from(STEPS))
    def time_passes(self, step: timedelta) -> None:
        """Clocks differ, but by no more than verifiers allow."""
        if self.clock() + step >= self.latest - SKEW:
            self.clock.advance(step)
        self.latest = max(self.latest, self.clock())

    # Checks

    def use(self, session: ModelSession, token: Generation) -> None:
        """Refresh with a token, in the service and in the model."""
        now = self.clock()
        expected = session.outcome(token, now)
        try:
            pair = self.run(self.core.sessions.refresh(token.pair.refresh_token))
        except InvalidGrant:
            assert expected in {"refused", "reuse"}
            if expected == "reuse":
                session.revoke(now)
            return
        if expected == "same":
            assert pair == session.current.pair
            return
        assert expected == "rotated"
        assert pair not in [earlier.pair for earlier in session.history]
        before = self.revoked_before.get(session.user, 0)
        latest = session.current.refreshed_at
        refreshed_at = max(now, latest, datetime.fromtimestamp(before, now.tzinfo))
        until = min(now + IDLE, session.expires_at)
        assert pair.refresh_expires_at == until
        new = Generation(token.number + 1, refreshed_at, until, pair)
        session.history.append(new)
        session.issued.append(new)

    @invariant()
    def verdicts_follow_the_model(self) -> None:
        now = self.clock().timestamp()
        for session in self.sessions:
            for generation in session.issued:
                claims = payload(generation.pair.access_token)
                reason = self.core.verdict(generation.pair.access_token).inactive_reason
                if claims["exp"] <= now:
                    assert reason is InactiveReason.EXPIRED
                elif claims["iat"] > now + SKEW.total_seconds():
                    assert reason is InactiveReason.NOT_YET_VALID
                elif self.dead_tokens & {claims["jti"]} and session.was_issued_again(claims["jti"]):
                    pass  # after a failover: the revocation of the first ends with the first
                else:
                    before = self.revoked_before.get(session.user, 0)
                    revoked = session.revoked or claims["iat"] < before
                    revoked |= claims["jti"] in self.dead_tokens
                    assert (reason is not None) is revoked

    @invariant()
    def rows_follow_the_model(self) -> None:
        for session in self.sessions:
            row = self.run(
                self.pool.fetchrow(
                    "SELECT generation, revoked_at FROM sessions WHERE user_id = $1 AND id = $2",
                    *session_key(session.current.pair),
                )
            )
            assert row["generation"] == session.current.number
            assert (row["revoked_at"] is not None) is session.revoked


def test_sessions_follow_the_model(database_url: str) -> None:
    """No sequence of events makes the service differ from the model."""
    with asyncio.Runner() as runner:
        pool = runner.run(_pool(database_url))

        class Machine(Lives):
            run = staticmethod(runner.run)
            store = Store(pool)

        Machine.pool = pool
        try:
            run_state_machine_as_test(
                Machine,
                settings=settings(
                    max_examples=25,
                    stateful_step_count=30,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(pool.close())


async def _pool(database_url: str) -> Any:
    return await pools.connect(database_url, min_size=1, max_size=4)
