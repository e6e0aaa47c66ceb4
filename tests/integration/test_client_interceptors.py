"""Verification of access tokens on real servers: asyncio, threads, and threads under asyncio."""

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from auth_service.authz.admission import Rule, Verifier
from auth_service.client.interceptors import AuthInterceptor, SyncAuthInterceptor
from auth_service.client.principal import current_principal
from auth_service.client.rules import INFRASTRUCTURE, PUBLIC, Rules
from auth_service.client.step_up import step_up_demand
from auth_service.errors import RevocationsStale
from auth_service.models import Revocation, RevocationKind
from auth_service.tokens.access import AccessClaims, TokenSigner, TokenVerifier
from auth_service.tokens.keys import KeyRing, generate_key
from auth_service.tokens.revocation import RevocationList
from tests.channels import open_channel
from tests.clock import FakeClock

ISSUER = "https://auth.test"
SHAPES = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
STREAMS = SHAPES[1:]
KINDS = ("aio", "sync", "threads under aio")
TIMEOUT = 30.0  # seconds; no passing test takes as long
OFTEN = 0.01  # seconds between two checks of a stream's token
RULES = Rules(
    {
        **INFRASTRUCTURE,
        "/test.Public/*": PUBLIC,
        "/test.Ours/*": Rule("orders", public=True),
        "/test.Scope/*": Rule("orders", scope=("orders.read", "orders.write")),
        "/test.Role/*": Rule("orders", roles=("admin",)),
        "/test.Login/*": Rule("orders", max_age=timedelta(minutes=5), acr_values=("2fa", "phr")),
    },
    default=Rule("orders"),
)


@dataclass
class Issuer:
    """Issues tokens, and holds their verifier and revocations."""

    clock: Callable[[], datetime]

    def __post_init__(self) -> None:
        key = generate_key("HS256")
        ring = KeyRing([key], key.kid)
        self._signer = TokenSigner(ring)
        self.revocations = RevocationList(self.clock)
        self.verifier = TokenVerifier(ring, self.revocations, issuer=ISSUER, clock=self.clock)

    def token(self, *, lifetime: timedelta = timedelta(minutes=15), **changes: Any) -> str:
        """Return a token of ada for orders, with these claims changed."""
        now = self.clock()
        claims = AccessClaims(
            issuer=ISSUER,
            subject="ada",
            audience=("orders",),
            expires_at=int((now + lifetime).timestamp()),
            issued_at=int(now.timestamp()),
            token_id="token",
            session_id="session",
            client_id="tests",
            scope=("orders.read",),
            roles=("clerk",),
            auth_time=int(now.timestamp()),
            amr=("pwd",),
        )
        return self._signer.sign(claims._replace(**changes))

    def revoke(self, session: str = "session") -> None:
        """Revoke a session, as the feed would."""
        until = self.clock() + timedelta(hours=1)
        self.revocations.add(Revocation(RevocationKind.SESSION, session, until))


class Counting:
    """Verifies, and counts its calls."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self.seen = threading.Semaphore(0)
        self.count = 0

    def verify(self, token: str, **wanted: Any) -> AccessClaims:
        self.count += 1
        self.seen.release()
        return self._verifier.verify(token, **wanted)


class Failing:
    """A verifier that does something else from its nth call on."""

    def __init__(self, verifier: Verifier, outcome: Any, after: int = 0) -> None:
        self._verifier = verifier
        self._outcome = outcome
        self._left = after

    def verify(self, token: str, **wanted: Any) -> Any:
        if self._left > 0:
            self._left -= 1
            return self._verifier.verify(token, **wanted)
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


def who() -> bytes:
    """Return the principal of this code."""
    claims = current_principal.get()
    return claims.subject.encode() if claims else b"nobody"


class Handlers:
    """What both kinds of handlers share: the requests, and how the calls ended."""

    def __init__(self) -> None:
        self.asked: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.ended: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.release = threading.Event()
        self.senders: queue.SimpleQueue[Callable[[bytes | None], None]] = queue.SimpleQueue()

    def unthreaded(self, _request: bytes, _context: Any, send: Any) -> None:
        """Respond from any thread by `send`, as gRPC allows for a handler with this mark."""
        send(who())
        self.senders.put(send)

    unthreaded.experimental_non_blocking = True  # type: ignore[attr-defined]

    def generic(self, *services: str) -> list[grpc.GenericRpcHandler]:
        """Return the handlers for a server: `/service/<shape>`, and some more."""
        named = {shape: shape for shape in SHAPES} | {"plain": "unary_stream"}
        named |= {"busy": "unary_stream", "unthreaded": "unary_stream"}
        handlers = {
            name: getattr(grpc, f"{shape}_rpc_method_handler")(getattr(self, name))
            for name, shape in named.items()
        }
        return [grpc.method_handlers_generic_handler(service, handlers) for service in services]


class AioHandlers(Handlers):
    """Coroutines and async generators."""

    async def unary_unary(self, request: bytes, context: Any) -> bytes:
        return await self._obey(request, context)

    async def unary_stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            yield await self._obey(request, context)
            yield await self._obey(b"again", context)
        finally:
            self.ended.put(who())

    async def busy(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        while True:
            yield who()

    async def plain(self, request: bytes, context: Any) -> None:
        await context.write(await self._obey(request, context))

    async def stream_unary(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        try:
            return b",".join([await self._obey(request, context) async for request in requests])
        finally:
            self.ended.put(who())

    async def stream_stream(
        self, requests: AsyncIterator[bytes], context: Any
    ) -> AsyncIterator[bytes]:
        try:
            async for request in requests:
                yield await self._obey(request, context)
        finally:
            self.ended.put(who())

    async def _obey(self, request: bytes, context: Any) -> bytes:
        self.asked.put(request)
        match request:
            case b"fail":
                raise TimeoutError("of its own")
            case b"abort":
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as it says")
            case b"wait":
                await asyncio.Event().wait()
            case b"stubborn":
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    return b"went on"
        return who()


class SyncHandlers(Handlers):
    """Functions and generators."""

    def unary_unary(self, request: bytes, context: Any) -> bytes:
        return self._obey(request, context)

    def unary_stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        try:
            yield self._obey(request, context)
            yield self._obey(b"again", context)
        finally:
            self.ended.put(who())

    def busy(self, _request: bytes, _context: Any) -> Iterator[bytes]:
        while True:
            yield who()

    def plain(self, request: bytes, context: Any) -> Iterator[bytes]:
        return iter([self._obey(request, context)])

    def stream_unary(self, requests: Iterator[bytes], context: Any) -> bytes:
        try:
            return b",".join([self._obey(request, context) for request in requests])
        finally:
            self.ended.put(who())

    def stream_stream(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        try:
            for request in requests:
                yield self._obey(request, context)
        finally:
            self.ended.put(who())

    def _obey(self, request: bytes, context: Any) -> bytes:
        self.asked.put(request)
        match request:
            case b"fail":
                raise TimeoutError("of its own")
            case b"abort":
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as it says")
            case b"wait" | b"stubborn":
                assert self.release.wait(TIMEOUT)
        return who()


@dataclass
class Served:
    """A server of one kind, and a channel to it."""

    handlers: Handlers
    channel: grpc.aio.Channel

    def begin(
        self,
        shape: str,
        *requests: bytes,
        token: Any = None,
        service: str = "test.Any",
        method: str = "",
        complete: bool = False,
    ) -> Any:
        """Begin a call; `token` may be metadata too.

        A stream of requests is left open unless the call is to be complete: a client that still
        writes while it is refused may take its own failure for the outcome.
        """
        make: Any = getattr(self.channel, shape)(f"/{service}/{method or shape}")
        metadata = (("authorization", f"Bearer {token}"),) if isinstance(token, str) else token
        sent: Any = (requests or (b"a",))[0]
        if shape.startswith("stream"):
            sent = _stream(requests, complete)
        return make(sent, timeout=TIMEOUT, metadata=metadata)

    def open(self, shape: str, token: str) -> tuple[Any, "asyncio.Queue[bytes | None]"]:
        """Begin a call; the requests are put into a queue one by one."""
        requests: asyncio.Queue[bytes | None] = asyncio.Queue()

        async def taken() -> AsyncIterator[bytes]:
            while (request := await requests.get()) is not None:
                yield request

        make: Any = getattr(self.channel, shape)(f"/test.Any/{shape}")
        metadata = (("authorization", f"Bearer {token}"),)
        return make(taken(), timeout=TIMEOUT, metadata=metadata), requests

    async def call(self, shape: str, *requests: bytes, **given: Any) -> list[bytes]:
        """Make a call and return the responses."""
        return await collect(self.begin(shape, *requests, complete=True, **given), shape)

    async def refusal(self, shape: str, *requests: bytes, **given: Any) -> grpc.aio.AioRpcError:
        """Return the error of a call."""
        return await ending(self.begin(shape, *requests, **given), shape)


async def _stream(requests: tuple[bytes, ...], complete: bool) -> AsyncIterator[bytes]:
    for request in requests:
        yield request
    if not complete:
        await asyncio.Event().wait()


async def collect(begun: Any, shape: str) -> list[bytes]:
    """Return the responses of a call."""
    return [await begun] if shape.endswith("unary") else [each async for each in begun]


async def ending(begun: Any, shape: str) -> grpc.aio.AioRpcError:
    """Return the error of a call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(begun, shape)
    return caught.value


async def taken(from_: "queue.SimpleQueue[bytes]") -> bytes:
    """Wait for the next step of a handler."""
    return await asyncio.to_thread(from_.get, timeout=TIMEOUT)


@asynccontextmanager
async def serving(
    kind: str,
    verifier: Verifier,
    *others: Any,
    pool: ThreadPoolExecutor | None = None,
    **options: Any,
) -> AsyncIterator[Served]:
    """Serve the handlers behind `others` and then the interceptor, in this kind of server."""
    names = ("Any", "Public", "Ours", "Scope", "Role", "Login")
    services = [f"test.{name}" for name in names]
    handlers = AioHandlers() if kind == "aio" else SyncHandlers()
    async with AsyncExitStack() as stack:
        threads = pool or ThreadPoolExecutor(8)
        stack.push_async_callback(asyncio.to_thread, threads.shutdown)  # the loop must keep running
        if kind == "sync":
            auth: Any = SyncAuthInterceptor(verifier, RULES, **options)
            server: Any = grpc.server(threads, interceptors=[*others, auth])
        else:
            auth = AuthInterceptor(verifier, RULES, **options)
            server = grpc.aio.server(threads, interceptors=[*others, auth])
        server.add_generic_rpc_handlers(tuple(handlers.generic(*services)))
        health_pb2_grpc.add_HealthServicer_to_server(
            health.HealthServicer() if kind == "sync" else health.aio.HealthServicer(), server
        )
        port = server.add_insecure_port("127.0.0.1:0")
        started = server.start()
        if started is not None:
            await started
        try:
            async with open_channel(f"127.0.0.1:{port}") as channel:
                yield Served(handlers, channel)
        finally:
            handlers.release.set()
            stopped = server.stop(None)
            await (asyncio.to_thread(stopped.wait, TIMEOUT) if kind == "sync" else stopped)
            await asyncio.to_thread(join_streams)


def join_streams() -> None:
    """Wait for the threads of streams; no thread may outlive its call."""
    for thread in threading.enumerate():
        if thread.name.startswith("auth-stream"):
            thread.join(TIMEOUT)
            assert not thread.is_alive()


@pytest.fixture
def issuer(clock: FakeClock) -> Issuer:
    """The issuer of the test's tokens."""
    return Issuer(clock)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of server."""
    return str(request.param)


@pytest.fixture
async def served(kind: str, issuer: Issuer) -> AsyncIterator[Served]:
    """A server that checks the tokens of streams often."""
    async with serving(kind, issuer.verifier, recheck_interval=OFTEN) as served:
        yield served


def assert_refused(
    error: grpc.aio.AioRpcError, code: str, reason: str, challenge: str | None
) -> status_pb2.Status:
    """Check the complete refusal, and return the status with its details."""
    trailers: dict[str, Any] = dict(tuple(error.trailing_metadata()))
    assert (error.code().name, trailers.get("www-authenticate")) == (code, challenge)
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (status.code, status.message) == (error.code().value[0], error.details())
    assert (info.domain, info.reason) == ("authn", reason)
    return status


def assert_ended(error: grpc.aio.AioRpcError) -> None:
    """Check that a stream was ended because of its token."""
    assert_refused(error, "UNAUTHENTICATED", "INVALID_TOKEN", 'Bearer error="invalid_token"')


@pytest.mark.parametrize(
    ("shape", "responses"),
    [
        ("unary_unary", [b"ada"]),
        ("unary_stream", [b"ada", b"ada"]),
        ("stream_unary", [b"ada,ada"]),
        ("stream_stream", [b"ada", b"ada"]),
    ],
)
@pytest.mark.parametrize("end_streams", [True, False])
async def test_a_good_token_makes_its_holder_the_principal(
    kind: str, issuer: Issuer, shape: str, responses: list[bytes], end_streams: bool
) -> None:
    """In every part of every kind of handler, including its clean-up."""
    async with serving(kind, issuer.verifier, end_streams=end_streams) as served:
        requests = [b"a", b"b"] if shape.startswith("stream") else [b"a"]
        assert await served.call(shape, *requests, token=issuer.token()) == responses
        if shape != "unary_unary":
            assert await taken(served.handlers.ended) == b"ada"


async def test_principals_of_calls_at_once_are_kept_apart(served: Served, issuer: Issuer) -> None:
    """Streams that alternate on one server each have their own caller."""
    tokens = [issuer.token(subject=name) for name in ("ada", "bob")]
    calls = [served.open("stream_stream", token) for token in tokens]
    for _ in range(3):
        for (call, requests), name in zip(calls, (b"ada", b"bob"), strict=True):
            await requests.put(b"a")
            assert await call.read() == name
    for call, requests in calls:
        await requests.put(None)
        assert await call.read() is grpc.aio.EOF


@pytest.mark.parametrize("end_streams", [True, False])
async def test_a_thread_is_left_without_a_principal(issuer: Issuer, end_streams: bool) -> None:
    """The threads of the server serve other callers next."""
    pool = ThreadPoolExecutor(1)
    options: Any = {"pool": pool, "end_streams": end_streams}
    async with serving("threads under aio", issuer.verifier, **options) as served:
        for shape in SHAPES:
            await served.call(shape, b"a", token=issuer.token())
            assert await asyncio.wrap_future(pool.submit(current_principal.get)) is None


def spoiled(issuer: Issuer, clock: FakeClock) -> dict[str, Any]:
    """Return the metadata of callers without a valid token, by the fault."""
    good = issuer.token()
    metadata = {
        "duplicated": (("authorization", f"Bearer {good}"), ("authorization", f"Bearer {good}")),
        "joined": (("authorization", f"Bearer {good}, Bearer {good}"),),
        "empty": (("authorization", "Bearer "),),
        "scheme alone": (("authorization", "bearer"),),
        "two words": (("authorization", f"Bearer {good} {good}"),),
        "no token68": (("authorization", "Bearer a!b"),),
        "no JWT": (("authorization", "Bearer abc"),),
    }
    other = Issuer(clock)
    tokens = {
        "expired": issuer.token(lifetime=timedelta(0)),
        "forged": other.token(),
        "cut": good[:-1],
        "wrong audience": issuer.token(audience=("billing",)),
        "wrong issuer": issuer.token(issuer="https://else.test"),
        "revoked": issuer.token(session_id="gone"),
    }
    issuer.revoke("gone")
    return metadata | tokens


SPOILED = (
    *("duplicated", "joined", "empty", "scheme alone", "two words", "no token68", "no JWT"),
    *("expired", "forged", "cut", "wrong audience", "wrong issuer", "revoked"),
)


@pytest.mark.parametrize("shape", SHAPES)
async def test_no_bad_token_gets_in(
    served: Served, issuer: Issuer, clock: FakeClock, shape: str
) -> None:
    """Each ends the call before the handler runs, with the same response."""
    cases = spoiled(issuer, clock)
    assert set(cases) == set(SPOILED)
    for token in cases.values():
        assert_ended(await served.refusal(shape, token=token))
    assert served.handlers.asked.empty()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", "Basic YWRhOnB3"),),
        (("authorization", "Bearerabc"),),
        (("x-authorization", "Bearer abc"),),
    ],
)
async def test_who_shows_no_token_is_asked_for_one(
    served: Served, shape: str, metadata: Any
) -> None:
    """RFC 6750 section 3.1: a challenge without an error, because there is no token."""
    error = await served.refusal(shape, token=metadata)
    assert_refused(error, "UNAUTHENTICATED", "INVALID_TOKEN", "Bearer")
    assert served.handlers.asked.empty()


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "bEaReR", "Bearer  "])
async def test_the_scheme_is_read_in_any_case(served: Served, issuer: Issuer, scheme: str) -> None:
    """RFC 9110 section 11.1."""
    metadata = (("authorization", f"{scheme} {issuer.token()}"),)
    assert await served.call("unary_unary", b"a", token=metadata) == [b"ada"]


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_token_that_may_not_is_told_what_it_lacks(
    served: Served, issuer: Issuer, shape: str
) -> None:
    """A missing scope or role is PERMISSION_DENIED; a token that has it is admitted."""
    for service, challenge in (
        ("test.Scope", 'Bearer error="insufficient_scope", scope="orders.read orders.write"'),
        ("test.Role", 'Bearer error="insufficient_scope"'),
    ):
        error = await served.refusal(shape, token=issuer.token(), service=service)
        assert_refused(error, "PERMISSION_DENIED", "PERMISSION_DENIED", challenge)
        assert served.handlers.asked.empty()
    able = issuer.token(scope=("orders.write", "orders.read"), roles=("admin",))
    for service in ("test.Scope", "test.Role"):
        assert await served.call(shape, b"a", token=able, service=service)
        while not served.handlers.asked.empty():
            served.handlers.asked.get()


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_public_method_takes_everybody(
    served: Served, issuer: Issuer, clock: FakeClock, shape: str
) -> None:
    """A valid token identifies the caller; with an invalid one the caller is anonymous."""
    for token in (None, *spoiled(issuer, clock).values()):
        if token == issuer.token(audience=("billing",)):
            continue  # PUBLIC names no audience
        responses = await served.call(shape, b"a", token=token, service="test.Public")
        assert responses[0] == b"nobody"
    given = {"token": issuer.token(), "service": "test.Public"}
    assert (await served.call(shape, b"a", **given))[0] == b"ada"


async def test_a_public_method_may_name_its_audience(served: Served, issuer: Issuer) -> None:
    """A token for another audience, passed on by a service, sets no principal."""
    for audience, expected in (("billing", b"nobody"), ("orders", b"ada")):
        token = issuer.token(audience=(audience,))
        given = {"token": token, "service": "test.Ours"}
        assert await served.call("unary_unary", b"a", **given) == [expected]


@pytest.mark.parametrize("token", [False, True])
async def test_an_unknown_method_stays_unknown(served: Served, issuer: Issuer, token: bool) -> None:
    """The server answers as without the interceptor; the fallback of grpcurl relies on this."""
    given = {"token": issuer.token() if token else None, "method": "Nothing"}
    error = await served.refusal("unary_unary", **given)
    assert (error.code(), error.details()) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


async def test_health_is_there_for_load_balancers(served: Served) -> None:
    """Check and Watch of the stock health service need no token."""
    stub: Any = health_pb2_grpc.HealthStub(served.channel)
    request = health_pb2.HealthCheckRequest()
    serving_status = health_pb2.HealthCheckResponse.SERVING
    assert (await stub.Check(request, timeout=TIMEOUT)).status == serving_status
    watch = stub.Watch(request, timeout=TIMEOUT)
    assert (await watch.read()).status == serving_status


async def test_a_public_handler_without_a_thread_stays_without_one(issuer: Issuer) -> None:
    """More calls than threads, as in the Watch of the stock health service."""
    pool = ThreadPoolExecutor(2)
    async with serving("sync", issuer.verifier, pool=pool) as served:
        given: Any = {"service": "test.Public", "method": "unthreaded"}
        calls = [aiter(served.begin("unary_stream", b"a", **given)) for _ in range(5)]
        for call in calls:
            assert await anext(call) == b"nobody"
        for _ in calls:
            served.handlers.senders.get(timeout=TIMEOUT)(None)
        for call in calls:
            assert [each async for each in call] == []
        error = await served.refusal("unary_stream", method="unthreaded")
        assert_refused(error, "UNAUTHENTICATED", "INVALID_TOKEN", "Bearer")


@pytest.mark.parametrize("shape", SHAPES)
async def test_stale_revocations_fail_closed(kind: str, issuer: Issuer, shape: str) -> None:
    """The client learns when to retry, and gets no challenge because its token may be valid."""
    stale = RevocationsStale("revocations are not known", timedelta(seconds=2))
    async with serving(kind, Failing(issuer.verifier, stale)) as served:
        error = await served.refusal(shape, token=issuer.token())
        status = assert_refused(error, "UNAVAILABLE", "REVOCATIONS_STALE", None)
        retry = error_details_pb2.RetryInfo()
        assert status.details[1].Unpack(retry)
        assert retry.retry_delay.ToTimedelta() == timedelta(seconds=2)
        assert served.handlers.asked.empty()
        assert await served.call(shape, b"a", token="x", service="test.Public")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("outcome", [RuntimeError("the key is hunter2"), None, True])
async def test_an_error_of_the_verifier_denies_access(
    kind: str, issuer: Issuer, caplog: pytest.LogCaptureFixture, shape: str, outcome: Any
) -> None:
    """Neither an exception nor a wrong kind of result is accepted; the log has the cause."""
    async with serving(kind, Failing(issuer.verifier, outcome)) as served:
        error = await served.refusal(shape, token=issuer.token())
        assert_refused(error, "INTERNAL", "INTERNAL", None)
        assert error.details() == "internal error; the log has the cause"
        assert served.handlers.asked.empty()
    (record,) = [each for each in caplog.records if each.name == "auth_service.client"]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert issuer.token() not in caplog.text


@pytest.mark.parametrize("way", ["revoked", "expired"])
@pytest.mark.parametrize("shape", STREAMS)
async def test_a_stream_whose_handler_waits_is_ended(
    served: Served, issuer: Issuer, clock: FakeClock, shape: str, way: str
) -> None:
    """Although the handler is idle."""
    call = served.begin(shape, b"wait", token=issuer.token())
    assert await taken(served.handlers.asked) == b"wait"
    issuer.revoke() if way == "revoked" else clock.advance(timedelta(minutes=15))
    assert_ended(await ending(call, shape))
    served.handlers.release.set()
    assert await taken(served.handlers.ended) == b"ada"


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_login_that_does_not_suffice_is_asked_to_be_made_again(
    served: Served, issuer: Issuer, shape: str
) -> None:
    """The client reads from the error which login is demanded (RFC 9470)."""
    challenge = (
        'Bearer error="insufficient_user_authentication", '
        'error_description="a login by other or more factors is required", '
        'acr_values="2fa phr", max_age="300"'
    )
    error = await served.refusal(shape, token=issuer.token(acr="1fa"), service="test.Login")
    assert_refused(error, "UNAUTHENTICATED", "INSUFFICIENT_USER_AUTHENTICATION", challenge)
    demanded = step_up_demand(error)
    assert demanded is not None
    assert (demanded.max_age, demanded.acr_values) == (timedelta(minutes=5), ("2fa", "phr"))
    assert served.handlers.asked.empty()
    strong = issuer.token(acr="2fa")
    assert await served.call(shape, b"a", token=strong, service="test.Login")


async def test_a_stream_whose_login_becomes_too_old_is_ended(
    served: Served, issuer: Issuer, clock: FakeClock
) -> None:
    """With the challenge, while its token lives on."""
    token = issuer.token(acr="phr")
    call = served.begin("unary_stream", b"wait", token=token, service="test.Login")
    assert await taken(served.handlers.asked) == b"wait"
    clock.advance(timedelta(minutes=6))
    demanded = step_up_demand(await ending(call, "unary_stream"))
    assert demanded is not None
    assert demanded.max_age == timedelta(minutes=5)
    served.handlers.release.set()
    assert await taken(served.handlers.ended) == b"ada"


@pytest.mark.parametrize("way", ["revoked", "expired"])
@pytest.mark.parametrize("shape", ["stream_unary", "stream_stream"])
async def test_a_stream_that_waits_for_its_client_is_ended(
    served: Served, issuer: Issuer, clock: FakeClock, shape: str, way: str
) -> None:
    """Its handler does not take the end for the end of the client's requests."""
    call, requests = served.open(shape, issuer.token())
    await requests.put(b"a")
    assert await taken(served.handlers.asked) == b"a"
    issuer.revoke() if way == "revoked" else clock.advance(timedelta(minutes=15))
    assert_ended(await ending(call, shape))
    assert await taken(served.handlers.ended) == b"ada"


async def test_a_stream_that_is_busy_is_ended(served: Served, issuer: Issuer) -> None:
    """The token is also checked while messages follow each other closely."""
    call = served.begin("unary_stream", b"a", token=issuer.token(), method="busy")
    responses = aiter(call)
    assert await anext(responses) == b"ada"
    issuer.revoke()
    assert_ended(await ending(responses, "unary_stream"))


async def test_a_stream_that_writes_its_responses_is_ended(issuer: Issuer) -> None:
    """A handler may write to the context instead of yielding."""
    async with serving("aio", issuer.verifier, recheck_interval=OFTEN) as served:
        given: Any = {"token": issuer.token(), "method": "plain"}
        assert await served.call("unary_stream", b"a", **given) == [b"ada"]
        call = served.begin("unary_stream", b"wait", **given)
        assert await taken(served.handlers.asked) == b"a"
        assert await taken(served.handlers.asked) == b"wait"
        issuer.revoke()
        assert_ended(await ending(call, "unary_stream"))


@pytest.mark.parametrize("shape", STREAMS)
async def test_a_handler_that_swallows_its_cancellation_gets_no_further(
    issuer: Issuer, shape: str
) -> None:
    """Later responses do not reach the client."""
    async with serving("aio", issuer.verifier, recheck_interval=OFTEN) as served:
        call = served.begin(shape, b"stubborn", token=issuer.token(), complete=True)
        assert await taken(served.handlers.asked) == b"stubborn"
        issuer.revoke()
        assert_ended(await ending(call, shape))


async def test_an_iterator_without_close_is_served(served: Served, issuer: Issuer) -> None:
    """A handler may return an iterator that is no generator."""
    given = {"token": issuer.token(), "method": "plain"}
    assert await served.call("unary_stream", b"a", **given) == [b"ada"]


@pytest.mark.parametrize("shape", STREAMS)
@pytest.mark.parametrize(
    ("outcome", "code", "reason"),
    [
        (RuntimeError("broken"), "INTERNAL", "INTERNAL"),
        (RevocationsStale("not known"), "UNAVAILABLE", "REVOCATIONS_STALE"),
    ],
)
async def test_a_stream_ends_when_its_token_can_no_longer_be_checked(
    kind: str, issuer: Issuer, shape: str, outcome: Exception, code: str, reason: str
) -> None:
    """It fails closed, in the middle of a stream as at its beginning."""
    verifier = Failing(issuer.verifier, outcome, after=2)
    async with serving(kind, verifier, recheck_interval=OFTEN) as served:
        error = await served.refusal(shape, b"wait", token=issuer.token())
        assert_refused(error, code, reason, None)


@pytest.mark.parametrize("shape", STREAMS)
async def test_a_stream_ends_at_its_tokens_expiry(kind: str, shape: str) -> None:
    """Not only at the next check, which would be an hour later."""
    issuer = Issuer(lambda: datetime.now(UTC))
    async with serving(kind, issuer.verifier, recheck_interval=3600) as served:
        token = issuer.token(lifetime=timedelta(seconds=2))
        assert_ended(await served.refusal(shape, b"wait", token=token))


@pytest.mark.parametrize("shape", STREAMS)
async def test_a_stream_of_a_good_token_goes_on(kind: str, issuer: Issuer, shape: str) -> None:
    """The checks of its token do not disturb it."""
    verifier = Counting(issuer.verifier)
    async with serving(kind, verifier, recheck_interval=OFTEN) as served:
        if shape == "unary_stream":
            assert await served.call(shape, b"a", token=issuer.token()) == [b"ada", b"ada"]
            return
        call, requests = served.open(shape, issuer.token())
        for _ in range(5):
            assert await asyncio.to_thread(verifier.seen.acquire, timeout=TIMEOUT)
        await requests.put(b"a")
        await requests.put(None)
        assert await collect(call, shape) == [b"ada"]


@pytest.mark.parametrize("shape", STREAMS)
async def test_streams_may_be_left_to_go_on(kind: str, issuer: Issuer, shape: str) -> None:
    """With end_streams=False a token is checked once."""
    verifier = Counting(issuer.verifier)
    options: Any = {"end_streams": False, "recheck_interval": OFTEN}
    async with serving(kind, verifier, **options) as served:
        call = served.begin(shape, b"a", token=issuer.token(), complete=True)
        assert await taken(served.handlers.asked) == b"a"
        issuer.revoke()
        assert (await collect(call, shape))[0] == b"ada"
        assert verifier.count == 1


@pytest.mark.parametrize("shape", SHAPES)
async def test_errors_of_a_handler_pass(served: Served, issuer: Issuer, shape: str) -> None:
    """An abort of the handler is kept, and its exception is not taken for the end of a token."""
    error = await served.refusal(shape, b"abort", token=issuer.token())
    assert (error.code(), error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "as it says")
    error = await served.refusal(shape, b"fail", token=issuer.token())
    assert error.code() is grpc.StatusCode.UNKNOWN
    assert "of its own" in (error.details() or "")


# Under asyncio, gRPC loses the thread of a handler that yields to a disconnected client.
@pytest.mark.parametrize("kind", ["aio", "sync"])
@pytest.mark.parametrize("shape", STREAMS)
async def test_a_client_that_leaves_ends_the_handler(kind: str, issuer: Issuer, shape: str) -> None:
    """As without the interceptor, nothing is left, and the handler cleans up as its caller."""
    async with serving(kind, issuer.verifier, recheck_interval=OFTEN) as served:
        call = served.begin(shape, b"wait", token=issuer.token())
        assert await taken(served.handlers.asked) == b"wait"
        call.cancel()
        served.handlers.release.set()
        assert await taken(served.handlers.ended) == b"ada"
        await asyncio.to_thread(join_streams)


@pytest.mark.parametrize("end", ["completes", "is ended"])
@pytest.mark.parametrize("shape", STREAMS)
async def test_nothing_is_left_of_a_stream(kind: str, issuer: Issuer, shape: str, end: str) -> None:
    """No thread outlives it, and its token is not checked any more."""
    verifier = Counting(issuer.verifier)
    async with serving(kind, verifier, recheck_interval=OFTEN) as served:
        if end == "completes":
            await served.call(shape, b"a", token=issuer.token())
        else:
            call = served.begin(shape, b"wait", token=issuer.token())
            assert await taken(served.handlers.asked) == b"wait"
            issuer.revoke()
            assert_ended(await ending(call, shape))
            served.handlers.release.set()
        await taken(served.handlers.ended)
        await asyncio.to_thread(join_streams)
        looks = verifier.count
        for _ in range(20):
            await served.call("unary_unary", b"a", token=issuer.token(session_id="other"))
        assert verifier.count == looks + 20


class Keeping(grpc.aio.ServerInterceptor):
    """Looks up a handler once, and keeps it for all calls of the method."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        method = handler_call_details.method
        if method not in self._known:
            self._known[method] = await continuation(handler_call_details)
        return self._known[method]


class KeepingSync(grpc.ServerInterceptor):
    """The same for threads."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        method = handler_call_details.method
        if method not in self._known:
            self._known[method] = continuation(handler_call_details)
        return self._known[method]


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_handler_that_another_interceptor_keeps_admits_no_other_call(
    kind: str, issuer: Issuer, shape: str
) -> None:
    """The first caller does not decide for later callers."""
    keeping = KeepingSync() if kind == "sync" else Keeping()
    async with serving(kind, issuer.verifier, keeping) as served:
        for name in ("ada", "bob"):
            responses = await served.call(shape, b"a", token=issuer.token(subject=name))
            assert responses[0] == name.encode()
        error = await served.refusal(shape)
        assert_refused(error, "UNAUTHENTICATED", "INVALID_TOKEN", "Bearer")


class Iterating(grpc.aio.ServerInterceptor):
    """Wraps generators in generators, as tracing does."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        behavior = (await continuation(handler_call_details)).unary_stream

        async def wrapped(request: bytes, context: Any) -> AsyncIterator[bytes]:
            async for response in behavior(request, context):
                assert current_principal.get() is None
                yield response

        return grpc.unary_stream_rpc_method_handler(wrapped)


async def test_a_generator_stays_a_generator_for_other_interceptors(issuer: Issuer) -> None:
    """They distinguish the kinds of handlers, and the principal does not leak to them."""
    async with serving("aio", issuer.verifier, Iterating()) as served:
        assert await served.call("unary_stream", b"a", token=issuer.token()) == [b"ada", b"ada"]
        assert (await served.refusal("unary_stream")).code().name == "UNAUTHENTICATED"


class Context:
    """The context of a call without a server."""

    def __init__(self, token: str) -> None:
        self._metadata = (("authorization", f"Bearer {token}"),)
        self.set_trailing_metadata = dict
        self.code: grpc.StatusCode | None = None

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, _text: str) -> None: ...

    def invocation_metadata(self) -> Any:
        return self._metadata

    def abort(self, code: grpc.StatusCode, text: str, *_trailers: Any) -> NoReturn:
        raise grpc.aio.AbortError(code, text)  # before the first await


async def looked_up(auth: Any, handlers: Handlers) -> Any:
    """Return the guarded handler of a stream of responses."""
    (generic,) = handlers.generic("test.Any")
    details: Any = type("Details", (), {"method": "/test.Any/unary_stream"})

    async def continuation(_details: Any) -> Any:
        return generic.service(details)

    if isinstance(auth, SyncAuthInterceptor):
        return auth.intercept_service(generic.service, details).unary_stream
    return (await auth.intercept_service(continuation, details)).unary_stream


async def test_a_token_that_ends_between_two_responses_ends_the_stream_at_the_next(
    issuer: Issuer,
) -> None:
    """A stream is not cut while a response waits for a slow client; it ends after that response."""
    verifier, handlers = Counting(issuer.verifier), AioHandlers()
    auth = AuthInterceptor(verifier, RULES, recheck_interval=OFTEN)
    responses = (await looked_up(auth, handlers))(b"a", Context(issuer.token()))
    assert await anext(responses) == b"ada"
    issuer.revoke()
    looks = verifier.count
    while verifier.count == looks:
        await asyncio.sleep(0)
    with pytest.raises(grpc.aio.AbortError):
        await anext(responses)
    assert (handlers.asked.get(), handlers.ended.get()) == (b"a", b"ada")
    assert handlers.asked.empty()


async def test_a_look_that_is_due_comes_before_the_next_response(issuer: Issuer) -> None:
    """A thread has no timer, and checks the token before the handler continues.

    The stream ends with a status and not by an abort, because gRPC loses the status of an abort
    while it still sends the last response.
    """
    handlers = SyncHandlers()
    auth = SyncAuthInterceptor(issuer.verifier, RULES, recheck_interval=1e-9)
    context = Context(issuer.token())
    responses = (await looked_up(auth, handlers))(b"a", context)
    assert next(responses) == b"ada"
    issuer.revoke()
    assert list(responses) == []
    assert context.code is grpc.StatusCode.UNAUTHENTICATED
    assert (handlers.asked.get(), handlers.ended.get(timeout=TIMEOUT)) == (b"a", b"ada")
    assert handlers.asked.empty()


@pytest.mark.parametrize("interceptor", [AuthInterceptor, SyncAuthInterceptor])
@pytest.mark.parametrize("interval", [0, -1, float("nan")])
def test_an_interval_is_above_zero(issuer: Issuer, interceptor: Any, interval: float) -> None:
    """The interval between two checks must be above zero."""
    with pytest.raises(ValueError, match="above zero"):
        interceptor(issuer.verifier, RULES, recheck_interval=interval)
