"""Bearer tokens in calls of every shape, from the real service to a server that reports them."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest
import trustme
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc as rpc

from auth_service.client.bearer import (
    NoAccessToken,
    SyncBearerInterceptor,
    bearer_interceptors,
    call_credentials,
)
from auth_service.client.step_up import step_up_demand
from auth_service.client.token_sources import (
    ServiceAccountTokens,
    SessionTokens,
    SyncServiceAccountTokens,
    SyncSessionTokens,
    TokenSource,
)
from auth_service.errors import (
    AuthError,
    InsufficientUserAuthentication,
    InvalidCredentials,
    InvalidGrant,
    Unavailable,
)
from auth_service.rpc.status import of as status_of
from tests.acceptance.servers import eventually
from tests.channels import open_channel, open_sync_channel
from tests.clock import FakeClock
from tests.integration.client_side import ACCOUNT, Service

T = TypeVar("T")
Calling = Callable[[Callable[[], T]], Any]

SHAPES = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
STREAMS = SHAPES[1:]
TIMEOUT = 30.0  # seconds; no passing test takes as long
Code = grpc.StatusCode


class Echo:
    """Returns the authorization that it received, in all shapes; refuses given tokens."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.deadlines: list[float | None] = []
        self.refused: Callable[[str], bool] = lambda _: False
        self.code = Code.UNAUTHENTICATED
        self.trailers: tuple[tuple[str, str | bytes], ...] = ()
        self.waiting, self.cancelled = asyncio.Event(), asyncio.Event()
        self.go_on = asyncio.Event()

    def refuse_first(self) -> None:
        """Refuse the first token."""
        self.refused = lambda value: value == self.seen[0]

    def refuse_all(self, code: grpc.StatusCode = Code.UNAUTHENTICATED) -> None:
        """Refuse each token."""
        self.refused, self.code = lambda _: True, code

    def generic(self) -> grpc.GenericRpcHandler:
        """Return the handlers for a server."""
        handlers = {
            shape: getattr(grpc, f"{shape}_rpc_method_handler")(getattr(self, shape))
            for shape in SHAPES
        }
        handlers["wait"] = grpc.unary_stream_rpc_method_handler(self.wait)
        handlers["early"] = grpc.stream_stream_rpc_method_handler(self.early)
        handlers["hold"] = grpc.unary_unary_rpc_method_handler(self.hold)
        return grpc.method_handlers_generic_handler("test.Echo", handlers)

    async def unary_unary(self, _: bytes, context: Any) -> bytes:
        return await self._answer(context)

    async def unary_stream(self, _: bytes, context: Any) -> AsyncIterator[bytes]:
        yield await self._answer(context)
        yield b"end"

    async def stream_unary(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        async for _ in requests:
            pass
        return await self._answer(context)

    async def stream_stream(
        self, requests: AsyncIterator[bytes], context: Any
    ) -> AsyncIterator[bytes]:
        async for _ in requests:
            pass
        yield await self._answer(context)
        yield b"end"

    async def wait(self, _: bytes, context: Any) -> AsyncIterator[bytes]:
        yield await self._answer(context)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def early(self, _: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        yield await self._answer(context)

    async def hold(self, _: bytes, context: Any) -> bytes:
        self.waiting.set()
        await self.go_on.wait()
        return await self._answer(context)

    async def _answer(self, context: Any) -> bytes:
        values = [value for key, value in context.invocation_metadata() if key == "authorization"]
        value = ",".join(values)
        self.seen.append(value)
        self.deadlines.append(context.time_remaining())
        if self.refused(value):
            await context.abort(self.code, "not with this token", self.trailers)
        return value.encode()


class Server(Echo):
    """The echo, served on loopback in plaintext and with TLS."""

    async def start(self, certificates: trustme.CA) -> None:
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self.server.add_generic_rpc_handlers((self.generic(),))
        self.plain = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        pair = certificates.issue_cert("127.0.0.1")
        credentials = grpc.ssl_server_credentials(
            [(pair.private_key_pem.bytes(), pair.cert_chain_pems[0].bytes())]
        )
        self.tls = f"127.0.0.1:{self.server.add_secure_port('127.0.0.1:0', credentials)}"
        await self.server.start()


class Late:
    """A source that is created after its channel."""

    source: TokenSource

    async def access_token(self, timeout: float | None = None) -> str:
        return await self.source.access_token(timeout)

    def invalidate(self, token: str) -> None:
        self.source.invalidate(token)


class Watch(grpc.aio.StreamStreamClientInterceptor):
    """Shows the call that gRPC makes."""

    call: Any

    async def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        self.call = await continuation(client_call_details, request_iterator)
        return self.call


class Held(grpc.UnaryStreamClientInterceptor):
    """Returns a stream only after its end."""

    def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        call, ended = continuation(client_call_details, request), threading.Event()
        if call.add_callback(ended.set):
            ended.wait(TIMEOUT)
        return call


@pytest.fixture(scope="module")
def certificates() -> trustme.CA:
    """The certificate authority that both sides trust."""
    return trustme.CA()


@pytest.fixture
async def echo(certificates: trustme.CA) -> AsyncIterator[Server]:
    """The server that is called."""
    echo = Server()
    await echo.start(certificates)
    yield echo
    await echo.server.stop(None)


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
async def source(service: Service, clock: FakeClock) -> ServiceAccountTokens:
    """A service account's tokens."""
    return ServiceAccountTokens(service.channel, ACCOUNT, service.secret, clock=clock)


@pytest.fixture
def sync_source(service: Service, clock: FakeClock) -> SyncServiceAccountTokens:
    """A service account's tokens, for threads."""
    return SyncServiceAccountTokens(service.sync_channel, ACCOUNT, service.secret, clock=clock)


def argument(shape: str) -> Any:
    return iter([b"one", b"two"]) if shape.startswith("stream") else b"one"


async def call(channel: grpc.aio.Channel, shape: str, **options: Any) -> str:
    """Call a method of the echo, and return the authorization that it received."""
    method = getattr(channel, shape)(f"/test.Echo/{shape}")
    made = method(argument(shape), timeout=TIMEOUT, **options)
    if shape.endswith("unary"):
        return str((await made).decode())
    first, *_ = [answer async for answer in made]
    return str(first.decode())


def sync_call(channel: grpc.Channel, shape: str, **options: Any) -> str:
    """Do the same in a thread."""
    method = getattr(channel, shape)(f"/test.Echo/{shape}")
    made = method(argument(shape), timeout=TIMEOUT, **options)
    if shape.endswith("unary"):
        return str(made.decode())
    first, *_ = made
    return str(first.decode())


@pytest.fixture
async def channel(echo: Server, source: ServiceAccountTokens) -> AsyncIterator[grpc.aio.Channel]:
    """A plaintext channel to the echo, with the interceptors."""
    async with open_channel(echo.plain, interceptors=bearer_interceptors(source)) as channel:
        yield channel


@pytest.fixture
async def sync_channel(
    echo: Server, sync_source: SyncServiceAccountTokens
) -> AsyncIterator[grpc.Channel]:
    """The same for threads."""
    async with open_sync_channel(echo.plain) as channel:
        yield grpc.intercept_channel(channel, SyncBearerInterceptor(sync_source))


@pytest.fixture
def in_thread() -> Iterator[Any]:
    """Runs a function in a thread, as the servers run in this one."""
    with ThreadPoolExecutor() as threads:

        async def run(work: Callable[[], T]) -> T:
            return await asyncio.get_running_loop().run_in_executor(threads, work)

        yield run


# Asyncio


@pytest.mark.parametrize("shape", SHAPES)
async def test_each_shape_carries_the_token(
    echo: Server, channel: grpc.aio.Channel, source: ServiceAccountTokens, shape: str
) -> None:
    """Also on plaintext channels, besides other metadata, and exactly once."""
    token = await source.access_token()
    assert await call(channel, shape) == f"Bearer {token}"
    assert await call(channel, shape, metadata=(("x", "y"),)) == f"Bearer {token}"
    assert None not in echo.deadlines


@pytest.mark.parametrize("shape", STREAMS)
async def test_a_refused_stream_gets_a_new_token_for_the_next_call(
    echo: Server, channel: grpc.aio.Channel, source: ServiceAccountTokens, shape: str
) -> None:
    """The stream itself is not repeated."""
    echo.refuse_first()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(channel, shape)
    assert raised.value.code() is Code.UNAUTHENTICATED
    assert await call(channel, shape) == f"Bearer {await source.access_token()}"
    assert len(echo.seen) == len(set(echo.seen)) == 2


async def test_a_refused_unary_call_is_made_once_more(
    service: Service, echo: Server, channel: grpc.aio.Channel
) -> None:
    """With a new token; the caller sees no error."""
    echo.refuse_first()
    assert await call(channel, "unary_unary") == echo.seen[1]
    assert echo.seen[0] != echo.seen[1]
    assert service.calls.made == 2


DEMAND = status_of(InsufficientUserAuthentication(acr_values=("2fa", "phr")))


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_demand_for_another_login_is_the_callers(
    service: Service, echo: Server, channel: grpc.aio.Channel, shape: str
) -> None:
    """A refreshed token tells of the same login: nothing is repeated, and nothing renewed."""
    echo.refuse_first()
    echo.trailers = DEMAND.trailers
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(channel, shape)
    demanded = step_up_demand(raised.value)
    assert demanded is not None
    assert demanded.acr_values == ("2fa", "phr")
    assert len(echo.seen) == service.calls.made == 1


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_session_that_was_stepped_up_is_noticed_at_the_next_demand(
    service: Service, echo: Server, channel: grpc.aio.Channel, shape: str
) -> None:
    """Its next token tells of the new login; a unary call is made once more with that."""
    echo.refuse_first()
    echo.trailers = DEMAND.trailers
    for _ in range(1 if shape == "unary_unary" else 2):
        with pytest.raises(grpc.aio.AioRpcError):
            await call(channel, shape)
    assert await call(channel, shape) == echo.seen[2]
    assert echo.seen[0] == echo.seen[1] != echo.seen[2]
    assert service.calls.made == 2


async def test_a_unary_call_is_made_once_more_only(
    service: Service, echo: Server, channel: grpc.aio.Channel, clock: FakeClock
) -> None:
    """A server that refuses every token is called twice, then once; there is one refresh."""
    echo.refuse_all()
    for seen in (2, 3):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(channel, "unary_unary")
        assert raised.value.code() is Code.UNAUTHENTICATED
        assert len(echo.seen) == seen
    assert service.calls.made == 2
    clock.advance(timedelta(seconds=10))
    with pytest.raises(grpc.aio.AioRpcError):
        await call(channel, "unary_unary")
    assert service.calls.made == 3


@pytest.mark.parametrize("shape", SHAPES)
async def test_another_error_says_nothing_of_the_token(
    echo: Server, channel: grpc.aio.Channel, source: ServiceAccountTokens, shape: str
) -> None:
    """The caller gets it, and the token is kept."""
    token = await source.access_token()
    echo.refuse_all(Code.PERMISSION_DENIED)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(channel, shape)
    assert raised.value.code() is Code.PERMISSION_DENIED
    assert len(echo.seen) == 1
    assert await source.access_token() == token


async def test_a_refusal_that_overtakes_the_requests_is_seen(
    echo: Server, source: ServiceAccountTokens
) -> None:
    """gRPC may report INTERNAL at first; the next call still has a new token."""
    watch = Watch()

    async def requests() -> AsyncIterator[bytes]:
        # gRPC does this if the status of the server arrives before a request is sent.
        watch.call._cython_call.set_internal_error("sent too late")
        yield b""

    async with open_channel(
        echo.plain, interceptors=[*bearer_interceptors(source), watch]
    ) as channel:
        token = await source.access_token()
        echo.refuse_first()
        method: Any = channel.stream_stream("/test.Echo/early")
        made = method(requests(), timeout=TIMEOUT)
        assert await made.code() is Code.INTERNAL

        async def status() -> bool:
            return await made.code() is Code.UNAUTHENTICATED

        await eventually(status, what="the server's status")
        assert await call(channel, "unary_stream") != f"Bearer {token}"


async def test_an_internal_error_says_nothing_of_the_token(
    echo: Server, channel: grpc.aio.Channel, source: ServiceAccountTokens
) -> None:
    """No matter how often the call is inspected."""
    token = await source.access_token()
    echo.refuse_all(Code.INTERNAL)
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError):
            await call(channel, "unary_stream")
    assert await source.access_token() == token


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_authorization_of_the_callers_own_is_kept(
    service: Service, echo: Server, channel: grpc.aio.Channel, shape: str
) -> None:
    """A call with an authorization of its own is not changed."""
    assert await call(channel, shape, metadata=(("authorization", "Basic x"),)) == "Basic x"
    assert service.calls.made == 0


async def test_a_cancelled_call_is_cancelled_at_the_server(
    echo: Server, channel: grpc.aio.Channel
) -> None:
    """The interceptors pass it on."""
    wait: Any = channel.unary_stream("/test.Echo/wait")
    made = wait(b"")
    assert await made.read() == echo.seen[0].encode()
    made.cancel()
    await echo.cancelled.wait()
    assert await made.code() is Code.CANCELLED


async def test_after_a_refusal_that_ends_the_session_the_refusal_stands(
    service: Service, echo: Server, clock: FakeClock
) -> None:
    """The caller gets the server's status, and the next one the reason for no token."""
    saved: list[str] = []
    source = SessionTokens(
        service.channel,
        await service.login(),
        on_refresh_token=lambda token, _: saved.append(token),
        clock=clock,
    )
    await source.access_token()
    await service.revoke(saved[0])
    echo.refuse_all()
    async with open_channel(echo.plain, interceptors=bearer_interceptors(source)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(channel, "unary_unary")
        assert not isinstance(raised.value, NoAccessToken)
        with pytest.raises(NoAccessToken) as without:
            await call(channel, "unary_unary")
    assert without.value.code() is Code.UNAUTHENTICATED
    assert isinstance(without.value.__cause__, InvalidGrant)
    assert len(echo.seen) == 1


@pytest.mark.parametrize("shape", SHAPES)
async def test_without_a_token_no_call_is_made(service: Service, echo: Server, shape: str) -> None:
    """The status tells whether a retry may help; the cause is the source's error."""
    source = ServiceAccountTokens(service.channel, ACCOUNT, "wrong")
    async with open_channel(echo.plain, interceptors=bearer_interceptors(source)) as channel:
        with pytest.raises(NoAccessToken, match="credentials") as raised:
            await call(channel, shape)
    assert raised.value.code() is Code.UNAUTHENTICATED
    assert isinstance(raised.value.__cause__, InvalidCredentials)
    assert echo.seen == []


async def test_a_request_for_a_token_that_is_wrong_is_nothing_of_the_callers(
    service: Service, echo: Server
) -> None:
    """INTERNAL: the configuration of the program is wrong."""
    source = ServiceAccountTokens(service.channel, ACCOUNT, service.secret, scope=["\n"])
    async with open_channel(echo.plain, interceptors=bearer_interceptors(source)) as channel:
        with pytest.raises(NoAccessToken, match="INVALID_ARGUMENT") as raised:
            await call(channel, "unary_unary")
    assert raised.value.code() is Code.INTERNAL
    assert type(raised.value.__cause__) is AuthError


async def test_waiting_for_a_token_counts_towards_the_timeout(
    service: Service, echo: Server, channel: grpc.aio.Channel, source: ServiceAccountTokens
) -> None:
    """A call with a short timeout does not wait for a service that does not answer."""
    service.line.withhold()
    method: Any = channel.unary_unary("/test.Echo/unary_unary")
    with pytest.raises(NoAccessToken) as raised:
        await method(b"", timeout=0)
    assert raised.value.code() is Code.UNAVAILABLE
    assert isinstance(raised.value.__cause__, Unavailable)
    service.line.forward()
    await service.line.cut()
    await service.line.open()
    await source.aclose()


async def test_a_call_without_a_timeout_gets_none(echo: Server, channel: grpc.aio.Channel) -> None:
    """The interceptors set no deadline."""
    method: Any = channel.unary_unary("/test.Echo/unary_unary")
    await method(b"")
    assert echo.deadlines == [None]


async def test_a_source_may_share_its_channel_with_other_calls(
    service: Service, clock: FakeClock
) -> None:
    """Refresh has no token, because it would wait for itself; Revoke by id has one."""
    first = await service.login()

    late = Late()

    async with open_channel(service.address, interceptors=bearer_interceptors(late)) as channel:
        late.source = source = SessionTokens(
            channel, first, on_refresh_token=lambda _token, _request_id: None, clock=clock
        )
        everything = pb.RevokeRequest(all_sessions=pb.AllSessions())
        await rpc.AuthServiceStub(channel).Revoke(everything, timeout=TIMEOUT)
        source.invalidate(await source.access_token())
        with pytest.raises(InvalidGrant):
            await source.access_token()


# Threads


@pytest.mark.parametrize("shape", SHAPES)
async def test_each_shape_carries_the_token_from_threads(
    echo: Server, sync_channel: grpc.Channel, in_thread: Any, shape: str
) -> None:
    """Also on plaintext channels, besides other metadata, and exactly once."""
    first = await in_thread(lambda: sync_call(sync_channel, shape))
    assert first.startswith("Bearer ey")
    assert await in_thread(lambda: sync_call(sync_channel, shape, metadata=(("x", "y"),))) == first
    assert None not in echo.deadlines


@pytest.mark.parametrize("shape", STREAMS)
async def test_a_refused_stream_gets_a_new_token_for_the_next_call_of_a_thread(
    echo: Server,
    sync_channel: grpc.Channel,
    sync_source: SyncServiceAccountTokens,
    in_thread: Any,
    shape: str,
) -> None:
    """The stream itself is not repeated."""
    echo.refuse_first()
    refused = threading.Event()

    def first() -> None:
        method = getattr(sync_channel, shape)(f"/test.Echo/{shape}")
        start = method.future if shape == "stream_unary" else method
        made = start(argument(shape), timeout=TIMEOUT)
        if not made.add_callback(refused.set):  # after that of the interceptor
            refused.set()
        with pytest.raises(grpc.RpcError) as raised:
            made.result() if shape == "stream_unary" else list(made)
        assert raised.value.code() is Code.UNAUTHENTICATED
        refused.wait(TIMEOUT)

    await in_thread(first)
    second = await in_thread(lambda: sync_call(sync_channel, shape))
    assert second == f"Bearer {await in_thread(sync_source.access_token)}"
    assert len(echo.seen) == len(set(echo.seen)) == 2


async def test_a_refused_blocking_call_with_a_stream_of_requests_gets_a_new_token_next(
    echo: Server, sync_channel: grpc.Channel, in_thread: Any
) -> None:
    """Its refusal is known before its caller continues."""
    echo.refuse_first()

    def both() -> str:
        with pytest.raises(grpc.RpcError):
            sync_call(sync_channel, "stream_unary")
        return sync_call(sync_channel, "stream_unary")

    assert await in_thread(both) == echo.seen[1]


async def test_a_stream_that_has_ended_already_is_judged_too(
    echo: Server, sync_source: SyncServiceAccountTokens, in_thread: Any
) -> None:
    """Another interceptor may have waited for it."""
    echo.refuse_first()
    async with open_sync_channel(echo.plain) as plain:
        channel = grpc.intercept_channel(plain, SyncBearerInterceptor(sync_source), Held())

        with pytest.raises(grpc.RpcError):
            await in_thread(lambda: sync_call(channel, "unary_stream"))
    assert echo.seen != [f"Bearer {await in_thread(sync_source.access_token)}"]


async def test_a_dropped_stream_is_cancelled(
    echo: Server, sync_channel: grpc.Channel, in_thread: Any
) -> None:
    """As without the interceptor: only the caller refers to it."""

    def drop() -> None:
        method: Any = sync_channel.unary_stream("/test.Echo/wait")
        made = method(b"", timeout=TIMEOUT)
        next(iter(made))
        del made

    await in_thread(drop)
    await echo.cancelled.wait()


async def test_a_refused_unary_call_of_a_thread_is_made_once_more(
    service: Service, echo: Server, sync_channel: grpc.Channel, in_thread: Any
) -> None:
    """With a new token; the caller sees no error."""
    echo.refuse_first()
    assert await in_thread(lambda: sync_call(sync_channel, "unary_unary")) == echo.seen[1]
    assert echo.seen[0] != echo.seen[1]
    assert service.sync_calls.made == 2


@pytest.mark.parametrize("shape", ["unary_unary", "unary_stream"])
async def test_a_demand_for_another_login_is_treated_so_in_a_thread(
    service: Service, echo: Server, sync_channel: grpc.Channel, in_thread: Any, shape: str
) -> None:
    """The first is the caller's; at the second for the same token, there may be a better one."""
    echo.refuse_first()
    echo.trailers = DEMAND.trailers
    for _ in range(1 if shape == "unary_unary" else 2):
        with pytest.raises(grpc.RpcError) as raised:
            await in_thread(lambda: sync_call(sync_channel, shape))
        assert step_up_demand(raised.value) is not None
    assert await in_thread(lambda: sync_call(sync_channel, shape)) == echo.seen[2]
    assert echo.seen[0] == echo.seen[1] != echo.seen[2]
    assert service.sync_calls.made == 2


async def test_a_unary_call_of_a_thread_is_made_once_more_only(
    service: Service, echo: Server, sync_channel: grpc.Channel, in_thread: Any
) -> None:
    """A server that refuses every token is called twice, then once; there is one refresh."""
    echo.refuse_all()
    for seen in (2, 3):
        with pytest.raises(grpc.RpcError) as raised:
            await in_thread(lambda: sync_call(sync_channel, "unary_unary"))
        assert raised.value.code() is Code.UNAUTHENTICATED
        assert len(echo.seen) == seen
    assert service.sync_calls.made == 2


async def test_a_refused_future_is_not_made_again(
    echo: Server, sync_channel: grpc.Channel, in_thread: Any
) -> None:
    """A repetition would block its caller; the next call has the new token."""
    echo.refuse_first()
    method: Any = sync_channel.unary_unary("/test.Echo/hold")
    made = await in_thread(lambda: method.future(b"", timeout=TIMEOUT))
    await echo.waiting.wait()
    refused = threading.Event()
    made.add_done_callback(lambda _: refused.set())
    echo.go_on.set()
    await in_thread(lambda: refused.wait(TIMEOUT))
    assert made.code() is Code.UNAUTHENTICATED
    second = await in_thread(lambda: sync_call(sync_channel, "unary_unary"))
    assert echo.seen == [echo.seen[0], second]


async def test_after_a_refusal_that_ends_the_session_the_refusal_stands_for_threads(
    service: Service, echo: Server, clock: FakeClock, in_thread: Any
) -> None:
    """The caller gets the server's status, and the next one the reason for no token."""
    saved: list[str] = []
    source = SyncSessionTokens(
        service.sync_channel,
        await service.login(),
        on_refresh_token=lambda token, _: saved.append(token),
        clock=clock,
    )
    await in_thread(source.access_token)
    await service.revoke(saved[0])
    echo.refuse_all()
    async with open_sync_channel(echo.plain) as plain:
        channel = grpc.intercept_channel(plain, SyncBearerInterceptor(source))
        with pytest.raises(grpc.RpcError) as raised:
            await in_thread(lambda: sync_call(channel, "unary_unary"))
        assert not isinstance(raised.value, NoAccessToken)
        for shape in SHAPES:
            with pytest.raises(NoAccessToken) as without:
                await in_thread(lambda shape=shape: sync_call(channel, shape))
            assert without.value.code() is Code.UNAUTHENTICATED
            assert isinstance(without.value.__cause__, InvalidGrant)
    assert len(echo.seen) == 1


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_authorization_of_a_threads_own_is_kept(
    service: Service, echo: Server, sync_channel: grpc.Channel, in_thread: Any, shape: str
) -> None:
    """A call with an authorization of its own is not changed."""
    own = (("authorization", "Basic x"),)
    assert await in_thread(lambda: sync_call(sync_channel, shape, metadata=own)) == "Basic x"
    assert service.sync_calls.made == 0


# Call credentials


@pytest.fixture
def tls(certificates: trustme.CA) -> grpc.ChannelCredentials:
    """The TLS credentials of a client."""
    return grpc.ssl_channel_credentials(certificates.cert_pem.bytes())


@pytest.mark.parametrize("kind", ["asyncio", "threads"])
async def test_credentials_carry_the_token_on_every_channel(
    echo: Server,
    source: ServiceAccountTokens,
    sync_source: SyncServiceAccountTokens,
    tls: grpc.ChannelCredentials,
    in_thread: Any,
    kind: str,
) -> None:
    """Each kind of source on each kind of channel, in every shape of call."""
    credentials = call_credentials(source if kind == "asyncio" else sync_source)
    both = grpc.composite_channel_credentials(tls, credentials)
    for shape in SHAPES:
        async with open_channel(echo.tls, both) as channel:
            first = await call(channel, shape)
        async with open_sync_channel(echo.tls, both) as sync:
            assert await in_thread(lambda sync=sync, shape=shape: sync_call(sync, shape)) == first
    assert first.startswith("Bearer ey")
    assert len(set(echo.seen)) == 1


@pytest.mark.parametrize("kind", ["asyncio", "threads"])
async def test_credentials_without_a_token_fail_the_call(
    service: Service, echo: Server, tls: grpc.ChannelCredentials, kind: str
) -> None:
    """With the text of the source."""
    source = (
        ServiceAccountTokens(service.channel, ACCOUNT, "wrong")
        if kind == "asyncio"
        else SyncServiceAccountTokens(service.sync_channel, ACCOUNT, "wrong")
    )
    both = grpc.composite_channel_credentials(tls, call_credentials(source))
    async with open_channel(echo.tls, both) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="credentials are not valid"):
            await call(channel, "unary_unary")
    assert echo.seen == []


async def test_credentials_whose_loop_is_closed_fail_the_call(
    echo: Server, source: ServiceAccountTokens, tls: grpc.ChannelCredentials
) -> None:
    """At once, not at the deadline of the call."""
    closed = asyncio.new_event_loop()
    closed.close()
    both = grpc.composite_channel_credentials(tls, call_credentials(source, closed))
    async with open_channel(echo.tls, both) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="closed"):
            await call(channel, "unary_unary")


async def test_a_source_may_share_its_channel_with_calls_that_have_credentials(
    database_url: str, certificates: trustme.CA, tls: grpc.ChannelCredentials, tmp_path: Path
) -> None:
    """Login has no token, because it would wait for itself; Revoke by id has one."""
    pair = certificates.issue_cert("127.0.0.1")
    chain, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    pair.cert_chain_pems[0].write_to_path(chain)
    pair.private_key_pem.write_to_path(key)
    key.chmod(0o600)

    late = Late()

    both = grpc.composite_channel_credentials(tls, call_credentials(late))
    async with (
        Service(database_url).running(certificate=(chain, key), credentials=tls) as service,
        open_channel(service.address, both) as channel,
    ):
        late.source = ServiceAccountTokens(channel, ACCOUNT, service.secret)
        everything = pb.RevokeRequest(all_sessions=pb.AllSessions())
        await rpc.AuthServiceStub(channel).Revoke(everything, timeout=TIMEOUT)
