"""The outermost layer, around handlers of every shape on a real channel."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, NoReturn

import grpc
import pytest
import structlog
from google.rpc import error_details_pb2, status_pb2
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from auth_service.errors import InactiveReason, InvalidToken, NotFound
from auth_service.rpc import status
from auth_service.rpc.dispatcher import Dispatcher, in_bytes
from auth_service.telemetry.logs import configure_logging
from auth_service.telemetry.metrics import Successes
from tests.acceptance.servers import eventually
from tests.channels import open_channel

SHAPES = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
SECRET = "hunter2"  # stands in requests and in texts of exceptions
TIMEOUT = 30.0  # seconds, which no passing test takes

Call = Callable[..., Awaitable[list[bytes]]]


def parse(data: bytes) -> bytes:
    """Deserialize as protobuf does, whose errors quote the bytes."""
    if data.startswith(b"garbage"):
        raise ValueError(f"cannot parse {data!r}")
    return data


class Handlers:
    """Four handlers that do what the request says; `/test.Shapes/<shape>`."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.ended = asyncio.Event()

    def by_name(self) -> dict[str, Any]:
        """Return what a server is given."""
        shapes = {shape: shape for shape in SHAPES}
        shapes |= {"writing": "unary_stream", "Validate": "unary_unary"}
        shapes |= {"bytes_soon": "unary_unary", "bytes_at_once": "unary_unary"}
        handlers = {
            name: getattr(grpc, f"{shape}_rpc_method_handler")(
                getattr(self, name, self.unary_unary), request_deserializer=parse
            )
            for name, shape in shapes.items()
        }
        handlers["raw"] = grpc.unary_unary_rpc_method_handler(self.unary_unary)
        return handlers

    async def unary_unary(self, request: bytes, context: Any) -> bytes:
        return await self._obey(request, context)

    @in_bytes
    async def bytes_soon(self, request: bytes, context: Any) -> bytes:
        return await self._obey(request, context)

    @in_bytes
    def bytes_at_once(self, request: bytes, context: Any) -> bytes:
        if request == b"refuse":
            raise NotFound("no such session")
        return b"did " + request

    async def unary_stream(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        yield await self._obey(request, context)

    async def stream_unary(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b",".join([await self._obey(request, context) async for request in requests])

    async def stream_stream(
        self, requests: AsyncIterator[bytes], context: Any
    ) -> AsyncIterator[bytes]:
        async for request in requests:
            yield await self._obey(request, context)

    async def writing(self, request: bytes, context: Any) -> None:
        await context.write(b"first")
        await context.write(await self._obey(request, context))

    async def _obey(self, request: bytes, context: Any) -> bytes:
        match request.partition(b" ")[0]:
            case b"fail":
                raise RuntimeError(f"no user has the password {SECRET}")
            case b"break":
                request = request[1 // 0 :]
            case b"refuse":
                raise NotFound("no such session")
            case b"challenge":
                raise InvalidToken(InactiveReason.EXPIRED)
            case b"cancel":
                raise asyncio.CancelledError
            case b"abort":
                await context.abort(
                    grpc.StatusCode.FAILED_PRECONDITION, "as the handler says", (("x-why", "so"),)
                )
            case b"wait":
                await self._wait()
        return b"did " + request

    async def _wait(self) -> NoReturn:
        self.waiting.set()
        try:
            await asyncio.Event().wait()
            raise AssertionError
        finally:
            self.ended.set()


@pytest.fixture
def handlers() -> Handlers:
    """The handlers of this test."""
    return Handlers()


@pytest.fixture
async def channel(handlers: Handlers) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server with nothing but this layer and the handlers."""
    server = grpc.aio.server()
    Dispatcher(server).add_registered_method_handlers("test.Shapes", handlers.by_name())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


@pytest.fixture
def call(channel: grpc.aio.Channel) -> Call:
    """Calls a method as a client of some shape, and collects the responses."""

    async def call(shape: str, *requests: bytes, method: str = "") -> list[bytes]:
        begun = begin(channel, shape, *requests, method=method)
        if shape.endswith("unary"):
            return [await begun]
        return [response async for response in begun]

    return call


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    """The entries that are logged."""
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def _logging() -> Iterator[None]:
    """Resets the logs that a test has set up."""
    yield
    structlog.reset_defaults()


def begin(channel: grpc.aio.Channel, shape: str, *requests: bytes, method: str = "") -> Any:
    """Begin a call of this shape."""
    make: Any = getattr(channel, shape)(method or f"/test.Shapes/{shape}")
    return make(iter(requests) if shape.startswith("stream") else requests[0], timeout=TIMEOUT)


def details(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """Return the google.rpc.Status of a refusal."""
    trailers: dict[str, Any] = dict(error.trailing_metadata())
    return status_pb2.Status.FromString(trailers["grpc-status-details-bin"])


def reason(error: grpc.aio.AioRpcError) -> str:
    """Return the ErrorInfo reason of a refusal."""
    info = error_details_pb2.ErrorInfo()
    assert details(error).details[0].Unpack(info)
    assert info.domain == "authn"
    return str(info.reason)


async def refusal(call: Call, shape: str, *requests: bytes, method: str = "") -> Any:
    """Return the error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(shape, *requests, method=method)
    return caught.value


def count(method: str, code: str) -> float:
    """Return how many calls were counted."""
    labels = {"method": method, "code": code}
    Successes.count_all()
    return REGISTRY.get_sample_value("auth_rpc_total", labels) or 0.0


@pytest.mark.parametrize(
    ("shape", "responses"),
    [
        ("unary_unary", [b"did a"]),
        ("unary_stream", [b"first", b"did a"]),
        ("stream_unary", [b"did a,did b"]),
        ("stream_stream", [b"did a", b"did b"]),
    ],
)
async def test_a_call_that_succeeds_is_not_altered(
    call: Call, shape: str, responses: list[bytes]
) -> None:
    """Requests and responses pass as they are, in each shape."""
    requests = [b"a", b"b"] if shape.startswith("stream") else [b"a"]
    assert await call(shape, *requests) == responses


async def test_a_handler_may_write_its_responses(call: Call) -> None:
    """Handlers may write to the context instead of being generators."""
    written = await call("unary_stream", b"a", method="/test.Shapes/writing")
    assert written == [b"first", b"did a"]


@pytest.mark.parametrize("name", ["raw", "bytes_soon", "bytes_at_once"])
async def test_a_handler_may_take_bytes(call: Call, name: str) -> None:
    """A handler without a deserializer, or that is marked so, gets the bytes of the request."""
    method = f"/test.Shapes/{name}"
    assert await call("unary_unary", b"garbage", method=method) == [b"did garbage"]
    assert reason(await refusal(call, "unary_unary", b"refuse", method=method)) == "NOT_FOUND"
    assert (count(method, "OK"), count(method, "NOT_FOUND")) == (1, 1)


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_text_of_an_exception_does_not_reach_the_client(call: Call, shape: str) -> None:
    """INTERNAL always has the same text."""
    error = await refusal(call, shape, b"fail")
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, status.INTERNAL.text)
    assert reason(error) == "INTERNAL"
    assert SECRET not in repr(error)
    assert SECRET.encode() not in details(error).SerializeToString()


async def test_a_stream_that_fails_later_keeps_what_it_sent(channel: grpc.aio.Channel) -> None:
    """The status follows the responses that preceded the error."""
    begun = begin(channel, "stream_stream", b"a", b"fail")
    assert await begun.read() == b"did a"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await begun.read()
    assert caught.value.details() == status.INTERNAL.text


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_error_of_the_core_becomes_its_status(call: Call, shape: str) -> None:
    """Code, text and reason are those of the error's class."""
    error = await refusal(call, shape, b"refuse")
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "no such session")
    assert reason(error) == "NOT_FOUND"


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_challenge_arrives(call: Call, shape: str) -> None:
    """RFC 6750 section 3: www-authenticate is sent along with the status."""
    error = await refusal(call, shape, b"challenge")
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert dict(error.trailing_metadata())["www-authenticate"] == 'Bearer error="invalid_token"'


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_unparsable_message_is_an_invalid_argument(call: Call, shape: str) -> None:
    """An unreadable request is the client's error; the parser's text does not reach it."""
    error = await refusal(call, shape, b"garbage " + SECRET.encode())
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(error) == "INVALID_ARGUMENT"
    assert SECRET not in repr(error)
    bad = error_details_pb2.BadRequest()
    assert details(error).details[1].Unpack(bad)
    assert [violation.field for violation in bad.field_violations] == ["request"]


@pytest.mark.parametrize("shape", ["stream_unary", "stream_stream"])
async def test_an_unreadable_message_ends_a_stream(call: Call, shape: str) -> None:
    """Each message of a stream is parsed separately."""
    error = await refusal(call, shape, b"a", b"garbage", b"b")
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", ["/test.Shapes/Nothing", "/test.Nothing/unary_unary"])
async def test_an_unknown_method_is_unimplemented_with_a_reason(
    call: Call, shape: str, method: str
) -> None:
    """A client of any shape gets UNIMPLEMENTED and a hint."""
    error = await refusal(call, shape, b"a", method=method)
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED
    assert reason(error) == "UNIMPLEMENTED"


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_stray_cancellation_says_to_try_again(call: Call, shape: str) -> None:
    """A cancellation inside the service ends the call, which would else wait for its deadline."""
    error = await refusal(call, shape, b"cancel")
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert reason(error) == "UNAVAILABLE"
    assert details(error).details[1].Is(error_details_pb2.RetryInfo.DESCRIPTOR)


@pytest.mark.parametrize("shape", SHAPES)
async def test_an_abort_passes_unchanged(call: Call, shape: str) -> None:
    """Third-party servicers, such as reflection, decide their own statuses."""
    error = await refusal(call, shape, b"abort")
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert error.details() == "as the handler says"
    assert dict(error.trailing_metadata())["x-why"] == "so"


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_client_that_cancels_ends_the_handler(
    channel: grpc.aio.Channel, handlers: Handlers, logs: list[Any], shape: str
) -> None:
    """The handler is cancelled, and the call is recorded as CANCELLED rather than as a failure."""
    method = f"/test.Shapes/{shape}"
    before = count(method, "CANCELLED")
    begun = begin(channel, shape, b"wait")
    responses = asyncio.ensure_future(_collect(begun, shape))
    await handlers.waiting.wait()
    begun.cancel()
    with pytest.raises(asyncio.CancelledError):
        await responses
    await handlers.ended.wait()

    async def recorded() -> list[Any]:
        return [entry for entry in logs if entry["event"] == "rpc"]

    (entry,) = await eventually(recorded, what="the call is logged")
    assert (entry["method"], entry["code"]) == (method, "CANCELLED")
    assert count(method, "CANCELLED") == before + 1
    assert not [entry for entry in logs if entry["log_level"] == "error"]


async def _collect(begun: Any, shape: str) -> list[bytes]:
    if shape.endswith("unary"):
        return [await begun]
    return [response async for response in begun]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"a", "OK"),
        (b"fail", "INTERNAL"),
        (b"refuse", "NOT_FOUND"),
        (b"garbage", "INVALID_ARGUMENT"),
        (b"cancel", "UNAVAILABLE"),
        (b"abort", "FAILED_PRECONDITION"),
    ],
)
async def test_each_call_is_counted_and_logged_by_its_code(
    call: Call, logs: list[Any], shape: str, request_: bytes, code: str
) -> None:
    """Metrics and log have the method, status and duration of every call."""
    method = f"/test.Shapes/{shape}"
    before = count(method, code)
    if code == "OK":
        await call(shape, request_)
    else:
        assert (await refusal(call, shape, request_)).code().name == code

    async def recorded() -> list[Any]:
        return [entry for entry in logs if entry["event"] == "rpc"]

    (entry,) = await eventually(recorded, what="the call is logged")
    assert (entry["method"], entry["code"]) == (method, code)
    assert entry["ms"] >= 0
    assert entry["peer"].startswith("ipv4:127.0.0.1:")
    assert count(method, code) == before + 1


async def test_the_cause_of_an_internal_error_is_logged(call: Call, logs: list[Any]) -> None:
    """The log has the cause that the client does not see."""
    await refusal(call, "unary_unary", b"fail")
    (entry,) = [entry for entry in logs if entry["event"] == "rpc_failed"]
    assert isinstance(entry["exc_info"], RuntimeError)
    assert (entry["method"], entry["log_level"]) == ("/test.Shapes/unary_unary", "error")


async def test_unknown_methods_are_counted_under_one_name(call: Call) -> None:
    """Invented method names do not grow the metrics without bound."""
    before = count("unknown", "UNIMPLEMENTED")
    for name in ("A", "B", "C"):
        await refusal(call, "unary_unary", b"a", method=f"/test.Shapes/{name}")

    async def counted() -> bool:
        return count("unknown", "UNIMPLEMENTED") == before + 3

    assert await eventually(counted, what="the calls are counted")
    assert count("/test.Shapes/A", "UNIMPLEMENTED") == 0


async def test_a_method_that_is_called_too_often_is_logged_only_when_it_fails(
    call: Call, logs: list[Any]
) -> None:
    """A line for each Validate would cost more than the Validate."""
    method = "/test.Shapes/Validate"
    await call("unary_unary", b"a", method=method)
    await refusal(call, "unary_unary", b"refuse", method=method)

    async def recorded() -> list[Any]:
        return [entry["code"] for entry in logs if entry["event"] == "rpc"]

    assert await eventually(recorded, what="the refusal is logged") == ["NOT_FOUND"]


@pytest.mark.usefixtures("_logging")
@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("order", ["do", "refuse", "challenge", "garbage", "cancel", "abort"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_the_log_holds_nothing_of_a_request(
    call: Call, capsys: pytest.CaptureFixture[str], shape: str, order: str, form: str
) -> None:
    """A request may hold a password, so no request is logged, whatever its outcome."""
    configure_logging("debug", form)
    request = f"{order} {SECRET}".encode()
    if order == "do":
        await call(shape, request)
    else:
        await refusal(call, shape, request)
    text = ""

    async def logged() -> bool:
        nonlocal text
        text += capsys.readouterr().err
        return f"/test.Shapes/{shape}" in text

    assert await eventually(logged, what="the call is logged")
    assert SECRET not in text
    assert "Traceback" not in text


async def test_calls_go_on_after_errors(call: Call) -> None:
    """An error of one call does not affect the next one on the connection."""
    for order in (b"fail", b"garbage", b"cancel", b"abort"):
        await refusal(call, "unary_unary", order)
    assert await call("unary_unary", b"a") == [b"did a"]


@pytest.mark.usefixtures("_logging")
@pytest.mark.parametrize("form", ["json", "console"])
async def test_the_traceback_of_a_failure_holds_nothing_of_the_request(
    call: Call, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    """A traceback in the log shows where it went wrong, and no values of variables."""
    configure_logging("info", form)
    await refusal(call, "unary_unary", b"break " + SECRET.encode())
    text = capsys.readouterr().err
    assert "ZeroDivisionError" in text
    assert SECRET not in text
