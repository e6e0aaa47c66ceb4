"""The stream of keys and revocations, followed against a peer that plays what a test writes."""

import asyncio
import logging
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from random import Random
from typing import Any, NamedTuple
from uuid import UUID

import grpc
import pytest
import trustme
from authn.v1 import verifier_service_pb2 as pb

from auth_service import base64url
from auth_service.client.feed import Feed
from auth_service.client.verifier import LocalVerifier, SyncLocalVerifier
from auth_service.client.watch import Watch
from auth_service.errors import (
    InactiveReason,
    InvalidToken,
    PermissionDenied,
    RevocationsStale,
    Unavailable,
)
from auth_service.tokens.keys import KeyRing
from auth_service.tokens.revocation import RevocationList
from tests.clock import FakeClock
from tests.watch_events import (
    CLAIMS,
    PUBLIC,
    SHARED,
    START,
    event,
    heartbeat,
    key_set,
    revocation,
    revoked,
    segment,
    snapshot,
    token_of,
)

OPENING = [key_set(PUBLIC), snapshot(), heartbeat("1")]
RESUMED = [key_set(PUBLIC), heartbeat("2")]
PATIENCE = timedelta(seconds=60)  # which no passing test takes
NO_TIME = timedelta(0)

Step = pb.WatchResponse | bytes | grpc.StatusCode | asyncio.Event
Script = list[Step]


class Opened(NamedTuple):
    """How a stream was opened."""

    cursor: str
    authorization: str


class Peer:
    """A VerifierService. Each stream plays the next script, and those after the last are silent.

    A step is an event, bytes in place of one, a moment to wait for, or the status to end with; the
    end of a script ends the stream with OK.
    """

    def __init__(self, scripts: tuple[Script, ...]) -> None:
        self._scripts = iter(scripts)
        self.opened: asyncio.Queue[Opened] = asyncio.Queue()
        self.requests: list[pb.WatchRequest] = []
        self.cancelled = asyncio.Event()
        self.address = ""

    async def watch(self, request: pb.WatchRequest, context: Any) -> None:
        """Play a script."""
        metadata = dict(context.invocation_metadata())
        self.requests.append(request)
        self.opened.put_nowait(Opened(request.cursor, metadata.get("authorization", "")))
        try:
            for step in next(self._scripts, [silence()]):
                await self._play(step, context)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def _play(self, step: Step, context: Any) -> None:
        if isinstance(step, asyncio.Event):
            await step.wait()
        elif isinstance(step, grpc.StatusCode):
            await context.abort(step, "as the script says")
        else:
            await context.write(step)

    def generic(self) -> grpc.GenericRpcHandler:
        """Return what a server is given."""
        handler = grpc.unary_stream_rpc_method_handler(
            self.watch, request_deserializer=pb.WatchRequest.FromString, response_serializer=encode
        )
        return grpc.method_handlers_generic_handler("authn.v1.VerifierService", {"Watch": handler})


def encode(step: pb.WatchResponse | bytes) -> bytes:
    """Serialize a step of a script."""
    return step if isinstance(step, bytes) else step.SerializeToString()


def silence() -> asyncio.Event:
    """Return a moment that never comes."""
    return asyncio.Event()


@asynccontextmanager
async def serving(peer: Peer, credentials: grpc.ServerCredentials | None) -> AsyncIterator[Peer]:
    """Have a peer listen."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((peer.generic(),))
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    peer.address = f"127.0.0.1:{port}"
    await server.start()
    try:
        yield peer
    finally:
        await server.stop(None)


Start = Callable[..., Awaitable[Peer]]


@pytest.fixture
async def start_peer() -> AsyncIterator[Start]:
    """Starts peers."""
    async with AsyncExitStack() as stack:

        async def start(
            *scripts: Script, credentials: grpc.ServerCredentials | None = None
        ) -> Peer:
            return await stack.enter_async_context(serving(Peer(scripts), credentials))

        yield start


@pytest.fixture
def refusing() -> Iterator[str]:
    """An address at which nobody will ever listen."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


class Dice(Random):
    """Begins with the first address, and always draws the longest wait."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[tuple[float, float]] = []

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        """Draw the first."""
        return 0

    def uniform(self, a: float, b: float) -> float:
        """Draw the highest."""
        self.ranges.append((a, b))
        return b


class Pauses:
    """Takes the place of sleeping: each pause lasts until the test has seen it."""

    def __init__(self) -> None:
        self._lengths: asyncio.Queue[float] = asyncio.Queue()
        self._seen = asyncio.Semaphore(0)

    async def __call__(self, seconds: float) -> None:
        self._lengths.put_nowait(seconds)
        await self._seen.acquire()

    async def next(self) -> float:
        """Wait for a pause, and end it; return how long it would have been."""
        seconds = await self._lengths.get()
        self._seen.release()
        return seconds


async def no_pause(_: float) -> None:
    """Take no time."""


class Follower:
    """A Watch with dice and pauses in the test's hand."""

    def __init__(self, *addresses: str, **options: Any) -> None:
        clock = FakeClock(START)
        self.revocations = RevocationList(clock)
        self.feed = Feed(KeyRing([]), self.revocations, [], clock)
        self.dice = Dice()
        self.pauses = Pauses()
        settings: dict[str, Any] = {
            "random": self.dice,
            "sleep": self.pauses,
            "idle_timeout": PATIENCE,
        }
        self.watch = Watch(self.feed, addresses, **(settings | options))

    async def __aenter__(self) -> "Follower":
        self.starting = asyncio.create_task(self.watch.start(PATIENCE))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.starting.cancel()
        await asyncio.wait([self.starting])
        await self.watch.close()


def tokens(*values: str) -> Callable[[], Awaitable[str]]:
    """Return a source that gives one token after the other."""
    left = iter(values)

    async def next_token() -> str:
        return next(left)

    return next_token


async def own_token() -> str:
    """Return the token of a service account."""
    return "t1"


def settings_of(peer: Peer, **options: Any) -> dict[str, Any]:
    """Return the arguments of a verifier that follows the peer."""
    return {
        "issuer": CLAIMS.issuer,
        "addresses": [peer.address],
        "clock": FakeClock(START),
    } | options


def watch_tasks() -> list[asyncio.Task[Any]]:
    """Return the tasks that follow a stream."""
    return [task for task in asyncio.all_tasks() if task.get_name() == "auth-service watch"]


def watch_threads() -> list[threading.Thread]:
    """Return the threads that follow a stream."""
    return [thread for thread in threading.enumerate() if thread.name == "auth-service watch"]


def reason_against(verifier: LocalVerifier | SyncLocalVerifier, token: str) -> str:
    """Return why a token is refused; empty if it is not."""
    try:
        verifier.verify(token)
    except InvalidToken as error:
        return error.inactive_reason
    return ""


# Starting and closing


async def test_a_started_verifier_knows_keys_and_revocations(start_peer: Start) -> None:
    """From the first token on."""
    bad = revocation(token_id="bad")
    peer = await start_peer([key_set(PUBLIC, SHARED), snapshot(bad), silence()])
    async with LocalVerifier(**settings_of(peer)) as verifier:
        assert verifier.revocations_as_of == START
        assert verifier.verify(token_of(PUBLIC)) == verifier.verify(token_of(SHARED)) == CLAIMS
        assert reason_against(verifier, token_of(token_id="bad")) == InactiveReason.TOKEN_REVOKED
    assert await peer.opened.get() == Opened("", "")


@pytest.mark.parametrize("source", [own_token, lambda: "t1"], ids=["async", "plain"])
async def test_the_stream_is_opened_with_the_verifiers_own_token(
    start_peer: Start, source: Callable[[], Any]
) -> None:
    """As a bearer token (RFC 6750 section 2.1)."""
    peer = await start_peer([*OPENING, silence()])
    async with LocalVerifier(**settings_of(peer, access_token=source)):
        assert (await peer.opened.get()).authorization == "Bearer t1"


async def test_start_gives_up_with_a_clear_text(refusing: str) -> None:
    """Which address, how long, and what is missing; it may be started again."""
    verifier = LocalVerifier(issuer=CLAIMS.issuer, addresses=[refusing])
    text = f"did not arrive from {refusing} within 0 s: nothing has been received"
    for _ in range(2):
        with pytest.raises(Unavailable, match=text):
            await verifier.start(NO_TIME)
        assert watch_tasks() == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"access_token": own_token}, "connected, but no keys: this login lacks the verifier role"),
        ({}, "connected, but no keys: .* there is no access_token"),
        ({"on_stale": "allow"}, "connected, but no keys"),
    ],
)
async def test_start_says_at_once_that_there_are_no_keys(
    start_peer: Start, options: dict[str, Any], text: str
) -> None:
    """No waiting brings them to a login without the role."""
    peer = await start_peer([key_set(), silence()], [key_set(), silence()])
    verifier = LocalVerifier(**settings_of(peer, **options))
    with pytest.raises(PermissionDenied, match=text):
        await verifier.start(PATIENCE)
    assert watch_tasks() == []

    def start_twin() -> None:
        with pytest.raises(PermissionDenied, match=text):
            SyncLocalVerifier(**settings_of(peer, **options)).start(PATIENCE)

    await in_executor(start_twin)


async def test_with_a_key_and_allow_the_service_may_be_away(
    refusing: str, start_peer: Start
) -> None:
    """Start returns at once, and what is revoked arrives once the service is back."""
    secret = base64url.encode(SHARED.secret)
    away = LocalVerifier(
        issuer=CLAIMS.issuer, addresses=[refusing], shared_key=secret, on_stale="allow",
        clock=FakeClock(START),
    )  # fmt: skip
    async with away as verifier:
        assert verifier.verify(token_of(SHARED)) == CLAIMS
        with pytest.raises(RevocationsStale):
            verifier.verify(token_of(SHARED), on_stale="deny")
    gate = asyncio.Event()
    peer = await start_peer([gate, key_set(), snapshot(revocation(session_id="sid")), silence()])
    async with LocalVerifier(**settings_of(peer, shared_key=secret, on_stale="allow")) as verifier:
        assert reason_against(verifier, token_of(SHARED)) == ""
        gate.set()
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while verifier.revocations_as_of is None:
                await asyncio.sleep(0)
        assert reason_against(verifier, token_of(SHARED)) == InactiveReason.SESSION_REVOKED


async def test_what_failed_is_told(refusing: str) -> None:
    """In the words of the last attempt."""
    async with Follower(refusing) as follower:
        await follower.pauses.next()
        with pytest.raises(RuntimeError, match="started already"):
            await follower.watch.start(PATIENCE)
        assert f"{refusing}: UNAVAILABLE" in str(follower.watch._late(NO_TIME))


async def test_a_start_that_is_cancelled_leaves_nothing_behind(start_peer: Start) -> None:
    """Neither a task nor an open stream."""
    peer = await start_peer([silence()])
    starting = asyncio.create_task(LocalVerifier(**settings_of(peer)).start())
    await peer.opened.get()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await peer.cancelled.wait()
    assert watch_tasks() == []


async def test_close_ends_the_stream_and_the_task(start_peer: Start) -> None:
    """More than once does no harm, and what is known stays known."""
    peer = await start_peer([*OPENING, silence()])
    before = asyncio.all_tasks()
    verifier = LocalVerifier(**settings_of(peer))
    await verifier.start()
    assert len(watch_tasks()) == 1
    await verifier.close()
    await verifier.close()
    assert watch_tasks() == []
    await peer.cancelled.wait()
    assert {task for task in asyncio.all_tasks() - before if "watch" in task.get_name()} == set()
    assert verifier.verify(token_of()) == CLAIMS


# Reconnecting


async def test_a_stream_that_ended_resumes_after_the_last_event(start_peer: Start) -> None:
    """And what was revoked in between arrives."""
    missed = revoked(revocation(token_id="bad"), "2")
    peer = await start_peer(OPENING, [key_set(PUBLIC), missed, silence()])
    async with Follower(peer.address) as follower:
        await follower.pauses.next()
        assert [(await peer.opened.get()).cursor for _ in range(2)] == ["", "1"]
        await follower.starting


async def test_a_drained_replica_is_left_for_the_next_address(start_peer: Start) -> None:
    """Which takes the cursor of the other, and after which it is the first one's turn again."""
    first = await start_peer(OPENING, RESUMED)
    second = await start_peer([key_set(PUBLIC), heartbeat("2")])
    async with Follower(first.address, second.address) as follower:
        await follower.pauses.next()
        await follower.pauses.next()
        cursors = [(await peer.opened.get()).cursor for peer in (first, second, first)]
    assert cursors == ["", "1", "2"]


async def test_a_refusing_address_is_passed_over(start_peer: Start, refusing: str) -> None:
    """A replica that is down costs one attempt."""
    peer = await start_peer([*OPENING, silence()])
    async with Follower(refusing, peer.address) as follower:
        await follower.pauses.next()
        await follower.starting


async def test_the_waits_double_up_to_a_bound(refusing: str) -> None:
    """Each is drawn between nothing and the ceiling: full jitter."""
    async with Follower(refusing) as follower:
        drawn = [await follower.pauses.next() for _ in range(8)]
    assert drawn == [0.5, 1.0, 2.0, 3.0, 3.0, 3.0, 3.0, 3.0]
    assert follower.dice.ranges[:8] == [(0, ceiling) for ceiling in drawn]


async def test_a_useful_stream_ends_the_growing_of_waits(start_peer: Start) -> None:
    """A stream that brought news of a later moment is tried again soon."""
    refusals: list[Script] = [[grpc.StatusCode.UNAVAILABLE]] * 3
    peer = await start_peer(*refusals, OPENING, *refusals)
    async with Follower(peer.address) as follower:
        drawn = [await follower.pauses.next() for _ in range(6)]
    assert drawn == [0.5, 1.0, 2.0, 0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    "useless",
    [[key_set(PUBLIC)], [key_set(PUBLIC), event(heartbeat=pb.Heartbeat(), as_of=None)], RESUMED],
)
async def test_a_stream_that_fails_before_it_is_useful_makes_waits_grow(
    start_peer: Start, useless: Script
) -> None:
    """A server with an error sends its keys all the same, and must not be called without end."""
    failing: list[Script] = [[*useless, grpc.StatusCode.INTERNAL]] * 4
    peer = await start_peer(OPENING, *failing)
    async with Follower(peer.address) as follower:
        drawn = [await follower.pauses.next() for _ in range(4)]
    assert drawn == [0.5, 1.0, 2.0, 3.0]


async def test_revocations_are_asked_for_in_segments_and_taken_in(start_peer: Start) -> None:
    """A service of the release before ignores that, and sends a snapshot."""
    later = int((START + timedelta(minutes=15)).timestamp())
    ids = b"".join(number.to_bytes(16) for number in range(5000))
    packed = segment(pb.PackedRevocations(expires_at=later, session_ids=ids))
    peer = await start_peer([key_set(PUBLIC), packed, *OPENING[1:], silence()])
    async with LocalVerifier(**settings_of(peer)) as verifier:
        assert peer.requests[0].accept_segments
        revoked_session = token_of(session_id=str(UUID(int=4999)))
        assert reason_against(verifier, revoked_session) == InactiveReason.SESSION_REVOKED
        assert reason_against(verifier, token_of(session_id=str(UUID(int=5000)))) == ""


async def test_a_silent_stream_is_left_for_the_next_address(start_peer: Start) -> None:
    """A replica that hangs looks connected, and is not."""
    hanging = await start_peer([key_set(PUBLIC), silence()])
    good = await start_peer(*[[*OPENING, silence()]] * 100)
    async with Follower(
        hanging.address, good.address, idle_timeout=timedelta(seconds=0.3), sleep=no_pause
    ) as follower:
        await follower.starting
        await hanging.cancelled.wait()


async def test_another_token_is_asked_for_after_one_was_refused(start_peer: Start) -> None:
    """It may run out while the stream is open."""
    peer = await start_peer(
        [*OPENING, grpc.StatusCode.UNAUTHENTICATED],
        [grpc.StatusCode.UNAUTHENTICATED],
        [*RESUMED, silence()],
    )
    async with Follower(peer.address, access_token=tokens("t1", "t2", "t3")) as follower:
        await follower.pauses.next()
        await follower.pauses.next()
        opened = [await peer.opened.get() for _ in range(3)]
    assert opened == [Opened("", "Bearer t1"), Opened("1", "Bearer t2"), Opened("1", "Bearer t3")]


@pytest.mark.parametrize("error", [RuntimeError("no token"), asyncio.CancelledError()])
async def test_a_source_that_fails_is_asked_again(start_peer: Start, error: BaseException) -> None:
    """Whatever it raises: the stream is followed for as long as the verifier lives."""
    outcomes: Iterator[BaseException | str] = iter([error, "t2"])

    async def source() -> str:
        outcome = next(outcomes)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    peer = await start_peer([*OPENING, silence()])
    async with Follower(peer.address, access_token=source) as follower:
        await follower.pauses.next()
        await follower.starting
    assert (await peer.opened.get()).authorization == "Bearer t2"


@pytest.mark.parametrize(
    "nonsense",
    [event(cursor="9"), revoked(pb.Revocation(), "9"), b"\xff"],
    ids=["no event", "no target", "no protobuf"],
)
async def test_nonsense_is_logged_and_the_next_stream_is_a_fresh_one(
    start_peer: Start, nonsense: Step, caplog: pytest.LogCaptureFixture
) -> None:
    """As a cursor that led to it is not to be trusted; nor is the service called again at once."""
    peer = await start_peer(*[[*OPENING, nonsense, silence()]] * 3)
    with caplog.at_level(logging.WARNING, "auth_service.client"):
        async with Follower(peer.address) as follower:
            drawn = [await follower.pauses.next() for _ in range(3)]
    assert [(await peer.opened.get()).cursor for _ in range(3)] == ["", "", ""]
    assert drawn == [0.5, 1.0, 2.0]
    assert [record.levelname for record in caplog.records].count("WARNING") >= 3


async def test_a_refused_cursor_is_forgotten(start_peer: Start) -> None:
    """The next stream is a fresh one."""
    peer = await start_peer(OPENING, [grpc.StatusCode.INVALID_ARGUMENT])
    async with Follower(peer.address) as follower:
        await follower.pauses.next()
        await follower.pauses.next()
        assert [(await peer.opened.get()).cursor for _ in range(3)] == ["", "1", ""]


async def test_a_loss_is_warned_of_once(
    refusing: str, start_peer: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """However many attempts the recovery takes."""
    peer = await start_peer(OPENING)
    with caplog.at_level(logging.DEBUG, "auth_service.client"):
        async with Follower(peer.address, refusing, refusing) as follower:
            for _ in range(3):
                await follower.pauses.next()
    lost = [record.levelname for record in caplog.records if "lost" in record.message]
    assert lost == ["WARNING", "DEBUG", "DEBUG"]


async def test_the_stream_may_be_encrypted(start_peer: Start) -> None:
    """With the authorities that the program trusts."""
    authority = trustme.CA()
    own = authority.issue_cert("127.0.0.1")
    peer = await start_peer(
        [*OPENING, silence()],
        credentials=grpc.ssl_server_credentials(
            [(own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes())]
        ),
    )
    roots = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    async with LocalVerifier(**settings_of(peer, channel_credentials=roots)) as verifier:
        assert verifier.verify(token_of()) == CLAIMS


async def test_an_address_is_any_target_of_grpc(start_peer: Start) -> None:
    """As a name to resolve; the bound on staleness may be absent."""
    peer = await start_peer([*OPENING, silence()])
    target = f"dns:///{peer.address}"
    async with LocalVerifier(
        **settings_of(peer, addresses=[target], max_staleness=None)
    ) as verifier:
        assert verifier.verify(token_of()) == CLAIMS


# The twin for programs with threads


async def in_executor(work: Callable[..., Any], *arguments: Any) -> Any:
    """Run what blocks, while the peer serves."""
    return await asyncio.get_running_loop().run_in_executor(None, work, *arguments)


async def test_eight_threads_see_a_revocation(start_peer: Start) -> None:
    """While they verify, and each of them."""
    ready, revoke = threading.Barrier(9), asyncio.Event()
    bad = revoked(revocation(session_id="sid"), "2")
    peer = await start_peer([key_set(PUBLIC, SHARED), snapshot(), revoke, bad, silence()])
    twin = SyncLocalVerifier(**settings_of(peer, cache_size=4))

    def work(number: int) -> str:
        good = [token_of(SHARED, token_id=f"{number}-{i}", session_id="other") for i in range(8)]
        assert reason_against(twin, token_of()) == ""
        ready.wait()
        while not (reason := reason_against(twin, token_of())):
            assert {reason_against(twin, token) for token in good} == {""}
        return reason

    await in_executor(twin.start)
    with ThreadPoolExecutor(8) as executor:
        reasons = [executor.submit(work, number) for number in range(8)]
        await in_executor(ready.wait)
        revoke.set()
        results = await asyncio.gather(*map(asyncio.wrap_future, reasons))
    assert results == [InactiveReason.SESSION_REVOKED] * 8
    await in_executor(twin.close)
    await peer.cancelled.wait()


@pytest.mark.parametrize("source", [own_token, lambda: "t1"], ids=["async", "plain"])
async def test_the_twin_takes_tokens_of_either_kind(
    start_peer: Start, source: Callable[[], Any]
) -> None:
    """A plain function may block: it is not called in the thread of the stream."""
    peer = await start_peer([*OPENING, silence()])

    def use() -> None:
        with SyncLocalVerifier(**settings_of(peer, access_token=source)) as twin:
            assert len(watch_threads()) == 1
            assert (twin.verify(token_of()), twin.revocations_as_of) == (CLAIMS, START)
            with pytest.raises(RuntimeError, match="started already"):
                twin.start()
        twin.close()
        assert watch_threads() == []

    await in_executor(use)
    assert (await peer.opened.get()).authorization == "Bearer t1"


def test_the_start_of_the_twin_gives_up_too(refusing: str) -> None:
    """Without a thread left, so that it may be started again."""
    twin = SyncLocalVerifier(issuer=CLAIMS.issuer, addresses=[refusing])
    for _ in range(2):
        with pytest.raises(Unavailable, match="did not arrive"):
            twin.start(NO_TIME)
        assert watch_threads() == []


def test_a_source_that_never_answers_does_not_hold_up_the_twin(refusing: str) -> None:
    """Close does not wait for it, and a waiting start raises."""
    asked, answer = threading.Event(), threading.Event()

    def source() -> str:
        asked.set()
        answer.wait()
        return "t1"

    twin = SyncLocalVerifier(issuer=CLAIMS.issuer, addresses=[refusing], access_token=source)
    with ThreadPoolExecutor(1) as executor:
        starting = executor.submit(twin.start, PATIENCE)
        asked.wait()
        twin.close()
        with pytest.raises(Unavailable, match="was closed"):
            starting.result()
    assert watch_threads() == []
    answer.set()


def test_a_source_that_fails_does_not_end_the_twin(refusing: str) -> None:
    """It is asked again until the verifier is closed, also from another thread."""
    asked = threading.Semaphore(0)

    def source() -> str:
        asked.release()
        raise OSError("no token")

    twin = SyncLocalVerifier(
        issuer=CLAIMS.issuer,
        addresses=[refusing],
        shared_key=base64url.encode(SHARED.secret),
        access_token=source,
    )
    with ThreadPoolExecutor(1) as executor:
        starting = executor.submit(twin.start, PATIENCE)
        assert [asked.acquire() for _ in range(3)]
        twin.close()
        with pytest.raises(Unavailable, match="was closed"):
            starting.result()
    assert watch_threads() == []
