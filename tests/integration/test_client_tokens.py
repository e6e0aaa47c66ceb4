"""Token sources with the real service, on a connection that can be cut."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

import grpc
import pytest

from auth_service.client.renewal import finish
from auth_service.client.token_sources import (
    ServiceAccountTokens,
    SessionTokens,
    SyncServiceAccountTokens,
    SyncSessionTokens,
)
from auth_service.errors import AuthError, InvalidCredentials, InvalidGrant, Unavailable
from tests.acceptance.servers import Proxy, database_target, eventually, open_accounts, through
from tests.audiences import register_in
from tests.clock import FakeClock
from tests.integration.client_side import ACCOUNT, Pause, Service

T = TypeVar("T")

DUE = timedelta(minutes=13)  # of a lifetime of fifteen
EXPIRED = timedelta(minutes=16)
TIMEOUT = 30.0  # seconds; no passing test takes as long


@pytest.fixture
def clock() -> FakeClock:
    """The client's clock; the service and its database have the real time."""
    return FakeClock()


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """The service, in this process."""
    async with Service(database_url).running() as service:
        yield service


@pytest.fixture
def pause(clock: FakeClock) -> Pause:
    """The sleep of the sources."""
    return Pause(clock)


class Stored:
    """The refresh tokens that a source had stored, and the request id of the next refresh."""

    def __init__(self) -> None:
        self.saved: list[str] = []
        self.request_id = ""

    def store(self, refresh_token: str, request_id: str) -> None:
        """Store them, as a database would."""
        self.saved.append(refresh_token)
        self.request_id = request_id


class Session(Stored):
    """A user's session, and what its source had stored."""

    def __init__(
        self, service: Service, clock: FakeClock, pause: Pause, first: str, request_id: str = ""
    ) -> None:
        super().__init__()
        self.first = first
        self.tokens = SessionTokens(
            service.channel,
            first,
            request_id=request_id,
            on_refresh_token=self.store,
            clock=clock,
            sleep=pause,
            jitter=lambda: 0.5,
        )


@pytest.fixture
async def session(service: Service, clock: FakeClock, pause: Pause) -> AsyncIterator[Session]:
    """A new session."""
    session = Session(service, clock, pause, await service.login())
    yield session
    await session.tokens.aclose()


# Asyncio


async def test_a_token_is_good_and_kept(service: Service, session: Session) -> None:
    """The service is called once, and the new refresh token is persisted."""
    token = await session.tokens.access_token()
    assert await service.is_active(token)
    assert await session.tokens.access_token() == token
    assert len(session.saved) == 1
    assert session.saved[0] != session.first
    assert await service.generation() == 1


async def test_a_token_is_renewed_ahead_of_expiry(
    service: Service, session: Session, clock: FakeClock
) -> None:
    """At 80 % of its lifetime, with the jitter in the middle."""
    token = await session.tokens.access_token()
    clock.advance(timedelta(minutes=12, seconds=-1))
    assert await session.tokens.access_token() == token
    clock.advance(timedelta(seconds=3))
    renewed = await session.tokens.access_token()
    assert renewed != token
    assert await service.is_active(renewed)
    assert await service.generation() == 2


async def test_concurrent_callers_share_one_refresh(
    service: Service, session: Session, clock: FakeClock
) -> None:
    """The first time, when no caller has a token, and later, when all have an old one."""
    for number in (1, 2):
        tokens = await asyncio.gather(*(session.tokens.access_token() for _ in range(200)))
        assert len(set(tokens)) == 1
        assert service.calls.made == len(session.saved) == number
        clock.advance(DUE)


async def test_the_refresh_token_is_persisted_before_the_access_token_is_handed_out(
    service: Service, clock: FakeClock
) -> None:
    """While the callback runs, no caller gets the new token and there is no other refresh."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def persist(_token: str, _request_id: str) -> None:
        begun.set()
        await go_on.wait()

    tokens = SessionTokens(
        service.channel, await service.login(), on_refresh_token=persist, clock=clock
    )
    callers = [asyncio.create_task(tokens.access_token()) for _ in range(3)]
    await begun.wait()
    with pytest.raises(Unavailable, match="not answered"):
        await tokens.access_token(timeout=0)
    assert not any(caller.done() for caller in callers)
    go_on.set()
    assert len(set(await asyncio.gather(*callers))) == 1
    assert service.calls.made == 1


async def test_a_refresh_token_that_could_not_be_persisted_is_persisted_later(
    service: Service, clock: FakeClock
) -> None:
    """The callers get the error. The token is not refreshed, because it is the only valid one."""
    saved: list[tuple[str, str]] = []

    def persist(refresh_token: str, request_id: str) -> None:
        saved.append((refresh_token, request_id))
        if len(saved) == 1:
            raise OSError("disk full")

    tokens = SessionTokens(
        service.channel, await service.login(), on_refresh_token=persist, clock=clock
    )
    with pytest.raises(OSError, match="disk full"):
        await tokens.access_token()
    clock.advance(timedelta(seconds=2))
    assert await service.is_active(await tokens.access_token())
    assert saved[0] == saved[1]
    assert await service.generation() == 1


async def test_the_old_token_is_used_while_the_service_is_away(
    service: Service, session: Session, clock: FakeClock, pause: Pause
) -> None:
    """The attempts continue in the background, and succeed once the connection is restored."""
    mended = asyncio.Event()
    token = await session.tokens.access_token()
    await service.line.cut()
    clock.advance(DUE)
    pause.then = mended.wait
    for _ in range(3):
        assert await session.tokens.access_token() == token
    assert len(pause.seconds) == 1
    await service.reconnect()
    mended.set()
    await session.tokens.aclose()
    assert await session.tokens.access_token() != token
    assert len(session.saved) == 2


async def test_calls_do_not_wait_for_a_service_that_was_just_unavailable(
    service: Service, session: Session, clock: FakeClock
) -> None:
    """After a failed renewal, the next one runs in the background for callers with an old token."""
    token = await session.tokens.access_token()
    await service.line.cut()
    clock.advance(DUE)
    assert await session.tokens.access_token() == token
    await session.tokens.aclose()
    made = service.calls.made
    assert await session.tokens.access_token() == token
    assert service.calls.made == made
    await service.reconnect()
    clock.advance(timedelta(seconds=15))
    assert await session.tokens.access_token() == token
    await session.tokens.aclose()
    assert await session.tokens.access_token() != token


async def test_without_a_token_the_error_is_clear_and_the_service_left_alone_for_a_while(
    service: Service, session: Session, clock: FakeClock, pause: Pause
) -> None:
    """A few attempts, then a pause without any; after it the source works again."""
    await service.line.cut()
    with pytest.raises(Unavailable, match="UNAVAILABLE") as raised:
        await session.tokens.access_token()
    assert len(pause.seconds) == 5
    made = service.calls.made
    with pytest.raises(Unavailable):
        await session.tokens.access_token()
    assert service.calls.made == made
    await service.reconnect()
    clock.advance(raised.value.retry_after)
    assert await service.is_active(await session.tokens.access_token())


async def test_a_lost_answer_is_asked_for_again_and_is_the_same(
    service: Service, session: Session, clock: FakeClock, pause: Pause
) -> None:
    """The service rotated; the retry returns the successor that was lost."""
    await session.tokens.access_token()
    clock.advance(DUE)
    service.line.withhold()
    caller = asyncio.create_task(session.tokens.access_token())

    async def rotated() -> bool:
        return await service.generation() == 2

    await eventually(rotated, what="rotation")
    pause.then = service.reconnect
    await service.line.cut()
    await caller
    await session.tokens.aclose()
    assert len(session.saved) == 2
    assert await service.generation() == 2
    assert session.saved[1] == (await service.refresh(session.saved[0])).refresh_token


async def lose_an_answer(service: Service, session: Session) -> None:
    """Let the service rotate while the response does not arrive, and then let six days pass."""
    service.line.withhold()
    before = await service.generation()
    caller = asyncio.create_task(session.tokens.access_token())

    async def rotated() -> bool:
        return await service.generation() == before + 1

    await eventually(rotated, what="rotation")
    caller.cancel()
    await service.age(timedelta(days=6))


async def test_a_lost_answer_is_asked_for_again_after_any_delay(
    service: Service, session: Session, clock: FakeClock, pause: Pause
) -> None:
    """Days later the same source gets the successor that was lost; nobody is logged out."""
    await session.tokens.access_token()
    clock.advance(DUE)
    await lose_an_answer(service, session)
    pause.then = service.reconnect
    await service.line.cut()
    await session.tokens.aclose()
    assert await service.is_active(await session.tokens.access_token())
    assert await service.generation() == 2
    assert len(set(session.saved)) == 2


async def test_a_restarted_program_gets_the_successor_that_was_lost(
    service: Service, session: Session, clock: FakeClock, pause: Pause
) -> None:
    """The refresh token and its request id were stored, and they are enough."""
    await session.tokens.access_token()
    stored, request_id = session.saved[-1], session.request_id
    clock.advance(DUE)
    await lose_an_answer(service, session)
    await service.line.cut()
    await session.tokens.aclose()  # the program ends without an answer
    await service.reconnect()
    again = Session(service, clock, pause, stored, request_id)
    assert await service.is_active(await again.tokens.access_token())
    assert await service.generation() == 2
    assert again.request_id not in ("", request_id)
    assert session.saved == [stored]


async def test_a_used_token_with_another_request_id_ends_the_session(
    service: Service, session: Session, clock: FakeClock, pause: Pause
) -> None:
    """Somebody who has only an old refresh token gets no new one."""
    await session.tokens.access_token()
    await service.age(timedelta(days=6))
    thief = Session(service, clock, pause, session.first)
    with pytest.raises(InvalidGrant):
        await thief.tokens.access_token()
    clock.advance(DUE)
    with pytest.raises(InvalidGrant):
        await session.tokens.access_token()


async def test_an_answer_that_does_not_come_is_asked_for_again(
    service: Service, clock: FakeClock, pause: Pause
) -> None:
    """Each attempt has its own timeout."""
    tokens = SessionTokens(
        service.channel,
        await service.login(),
        on_refresh_token=lambda _token, _request_id: None,
        clock=clock,
        sleep=pause,
        attempt_timeout=0.001,
    )
    service.line.withhold()
    with pytest.raises(Unavailable, match="DEADLINE_EXCEEDED"):
        await tokens.access_token()
    assert len(pause.seconds) >= 5


async def test_the_service_says_when_to_try_again(
    database_url: str, clock: FakeClock, pause: Pause
) -> None:
    """Without its database it answers UNAVAILABLE with a RetryInfo of one second."""
    database = Proxy(database_target(database_url))
    await database.open()
    async with Service(database_url).running(through(database_url, database)) as service:
        session = Session(service, clock, pause, await service.login())
        await database.cut()
        pause.then = database.open
        token = asyncio.create_task(session.tokens.access_token())
        await asyncio.wait([token])
        assert 1.0 < pause.seconds[0] <= 1.1
    await database.cut()


async def test_a_revoked_session_ends_its_source(
    service: Service, session: Session, clock: FakeClock
) -> None:
    """InvalidGrant at once, although the old token has not expired, and no further call."""
    await session.tokens.access_token()
    await service.revoke(session.saved[0])
    clock.advance(DUE)
    made = service.calls.made
    for _ in range(3):
        with pytest.raises(InvalidGrant, match="log in again"):
            await session.tokens.access_token()
        clock.advance(EXPIRED)
    assert service.calls.made == made + 1


async def test_a_cancelled_caller_leaves_the_refresh_to_the_others(
    service: Service, clock: FakeClock
) -> None:
    """Also if it is the caller that began the refresh."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def persist(_token: str, _request_id: str) -> None:
        begun.set()
        await go_on.wait()

    tokens = SessionTokens(
        service.channel, await service.login(), on_refresh_token=persist, clock=clock
    )
    first = asyncio.create_task(tokens.access_token())
    await begun.wait()
    second = asyncio.create_task(tokens.access_token())
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    go_on.set()
    assert await service.is_active(await second)
    assert service.calls.made == 1


async def test_a_refused_token_is_replaced_once(service: Service, session: Session) -> None:
    """No matter how many callers report it, and when."""
    token = await session.tokens.access_token()
    session.tokens.invalidate(token)
    session.tokens.invalidate(token)
    renewed = await session.tokens.access_token()
    assert renewed != token
    session.tokens.invalidate(token)
    assert await session.tokens.access_token() == renewed
    assert len(session.saved) == 2


async def test_a_service_account_logs_in_again(service: Service, clock: FakeClock) -> None:
    """It has no refresh token and does not need one."""
    await register_in(service.database_url, "orders")
    tokens = ServiceAccountTokens(
        service.channel, ACCOUNT, service.secret, audience=["orders"], scope=["read"], clock=clock
    )
    token = await tokens.access_token()
    assert await service.is_active(token)
    assert await tokens.access_token() == token
    clock.advance(DUE)
    assert await tokens.access_token() != token
    await tokens.aclose()


async def test_a_secret_that_is_a_function_is_read_at_each_login(
    service: Service, clock: FakeClock, database_url: str
) -> None:
    """A rotation needs no new source: the next login has the next secret."""
    secret = service.secret
    tokens = ServiceAccountTokens(service.channel, ACCOUNT, lambda: secret, clock=clock)
    first = await tokens.access_token()
    async with open_accounts(database_url) as accounts:
        (old,) = (await accounts.services.get(ACCOUNT)).secrets
        secret, _ = await accounts.services.create_secret(ACCOUNT)
        await accounts.services.delete_secret(ACCOUNT, old.id)
    clock.advance(DUE)
    second = await tokens.access_token()
    assert second != first
    assert await service.is_active(second)
    await tokens.aclose()


async def test_a_secret_that_cannot_be_read_fails_the_login_alone(
    service: Service, clock: FakeClock
) -> None:
    """The token before stays usable, and a later login reads the secret again."""
    secrets = [service.secret]
    tokens = ServiceAccountTokens(service.channel, ACCOUNT, lambda: secrets[0], clock=clock)
    first = await tokens.access_token()
    clock.advance(DUE)
    secrets.clear()
    assert await tokens.access_token() == first
    secrets.append(service.secret)
    clock.advance(timedelta(seconds=5))

    async def renewed() -> bool:
        return await tokens.access_token() != first

    await eventually(renewed, what="the token to be renewed")
    await tokens.aclose()


async def test_a_service_account_that_is_refused_says_so(
    service: Service, clock: FakeClock
) -> None:
    """It is not retried at once, but later, because an operator may enable the account."""
    tokens = ServiceAccountTokens(service.channel, ACCOUNT, "wrong", clock=clock)
    for _ in range(3):
        with pytest.raises(InvalidCredentials):
            await tokens.access_token()
    assert service.calls.made == 1
    clock.advance(timedelta(seconds=2))
    with pytest.raises(InvalidCredentials):
        await tokens.access_token()
    assert service.calls.made == 2


async def test_a_request_that_is_refused_says_why(service: Service) -> None:
    """The error has the text of the service."""
    tokens = ServiceAccountTokens(service.channel, ACCOUNT, service.secret, scope=["\n"])
    with pytest.raises(AuthError, match="INVALID_ARGUMENT"):
        await tokens.access_token()


async def test_no_token_shows(service: Service, session: Session) -> None:
    """Neither in the repr of a source nor in that of its parts."""
    account = ServiceAccountTokens(service.channel, ACCOUNT, service.secret)
    shown = [session.tokens, account]
    tokens = [await source.access_token() for source in shown]
    text = "".join(repr((source, vars(source), vars(source._renewals))) for source in shown)
    assert "<SessionTokens>" in text
    for secret in (*tokens, service.secret):
        assert secret not in text


# Threads


class Threads:
    """Runs functions in threads of their own, at the same time."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(50)

    async def run(self, work: Callable[[], T], times: int = 1) -> list[T]:
        """Return the results of the calls."""
        together = threading.Barrier(times)

        def one() -> T:
            together.wait()
            return work()

        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(self._pool, one) for _ in range(times)))

    async def call(self, work: Callable[[], T]) -> T:
        """Return the result of one call."""
        return (await self.run(work))[0]

    async def renewed(self) -> None:
        """Wait for the running renewals."""
        for thread in threading.enumerate():
            if thread.name == "access-token":
                await self.run(thread.join)

    def close(self) -> None:
        self._pool.shutdown()


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    """Threads beside the event loop that runs the service."""
    threads = Threads()
    yield threads
    threads.close()


class SyncSession(Stored):
    """A user's session for threads."""

    def __init__(self, service: Service, clock: FakeClock, first: str) -> None:
        super().__init__()
        self.may_sleep = threading.Event()
        self.tokens = SyncSessionTokens(
            service.sync_channel,
            first,
            on_refresh_token=self.store,
            clock=clock,
            sleep=lambda _: self.may_sleep.wait(TIMEOUT),
        )


@pytest.fixture
async def sync_session(
    service: Service, clock: FakeClock, threads: Threads
) -> AsyncIterator[SyncSession]:
    """A new session."""
    session = SyncSession(service, clock, await service.login())
    yield session
    session.may_sleep.set()
    await threads.renewed()


async def test_threads_share_one_refresh(
    service: Service, sync_session: SyncSession, threads: Threads, clock: FakeClock
) -> None:
    """The first time and later."""
    for number in (1, 2):
        tokens = await threads.run(sync_session.tokens.access_token, times=50)
        assert len(set(tokens)) == 1
        assert await service.is_active(tokens[0])
        assert service.sync_calls.made == len(sync_session.saved) == number
        clock.advance(DUE)
    assert await service.generation() == 2


async def test_threads_use_the_old_token_while_the_service_is_away(
    service: Service, sync_session: SyncSession, threads: Threads, clock: FakeClock
) -> None:
    """The attempts continue in a thread of the source."""
    lost = threading.Event()
    token = await threads.call(sync_session.tokens.access_token)
    service.plain_sync_channel.subscribe(
        lambda state: lost.set() if state is not grpc.ChannelConnectivity.READY else None
    )
    await service.line.cut()
    clock.advance(DUE)
    assert await threads.run(sync_session.tokens.access_token, times=10) == [token] * 10
    await threads.call(lambda: lost.wait(TIMEOUT))
    await service.line.open()
    ready = grpc.channel_ready_future(service.plain_sync_channel)
    await threads.call(lambda: ready.result(timeout=TIMEOUT))
    sync_session.may_sleep.set()
    await threads.renewed()
    assert await threads.call(sync_session.tokens.access_token) != token
    assert len(sync_session.saved) == 2


async def test_a_thread_waits_no_longer_than_it_wants(
    service: Service, sync_session: SyncSession, threads: Threads
) -> None:
    """The refresh continues without it."""
    service.line.withhold()
    with pytest.raises(Unavailable, match="not answered"):
        await threads.call(lambda: sync_session.tokens.access_token(timeout=0))
    service.line.forward()
    await service.line.cut()


async def test_a_revoked_session_ends_its_source_for_threads(
    service: Service, sync_session: SyncSession, threads: Threads
) -> None:
    """There is no further call."""
    token = await threads.call(sync_session.tokens.access_token)
    await service.revoke(sync_session.saved[0])
    sync_session.tokens.invalidate(token)
    for _ in range(3):
        with pytest.raises(InvalidGrant):
            await threads.call(sync_session.tokens.access_token)
    assert service.sync_calls.made == 2


async def test_a_service_account_logs_in_from_threads(
    service: Service, threads: Threads, clock: FakeClock
) -> None:
    """It logs in again when its token is due."""
    tokens = SyncServiceAccountTokens(service.sync_channel, ACCOUNT, service.secret, clock=clock)
    token = await threads.call(tokens.access_token)
    assert await service.is_active(token)
    clock.advance(DUE)
    assert await threads.call(tokens.access_token) != token
    assert repr(tokens) == "<SyncServiceAccountTokens>"


def test_a_coroutine_that_waits_cannot_be_finished() -> None:
    """A mistake in the library would be noticed."""

    async def waits() -> Any:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="suspended"):
        finish(waits())
