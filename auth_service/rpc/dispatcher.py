"""Dispatches each call to its handler; turns every error into a status, times and logs every call.

It also wraps the parsing of requests, because gRPC would answer an unreadable request with the
parser's own text. A client sees the text of our own errors only, never that of other exceptions.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import grpc
import structlog
from google.protobuf import descriptor_pool

from auth_service.authz.admission import Refused
from auth_service.errors import AuthError, InvalidArgument, Unavailable, Unsupported
from auth_service.rpc import status
from auth_service.rpc.audits import Audits
from auth_service.telemetry.metrics import RPC_DURATION, RPC_TOTAL, Successes

__all__ = ["Context", "Dispatcher", "encodes", "in_bytes", "parse"]

log = structlog.get_logger(__name__)

_UNREADABLE = object()
"""The result of parsing an unreadable request; the call answers it with INVALID_ARGUMENT."""

_QUIET_METHODS = (
    "/Validate",
    "/BatchValidate",
    "/Exchange",
    "/BatchExchange",
    "/Check",
    "/ServerReflectionInfo",
)
"""Methods that are called too often to log each success."""

_UNAUDITED_METHODS = ("/Validate", "/BatchValidate", "/Exchange", "/BatchExchange", "/Check")
"""Methods that write nothing to the audit log, so that no time goes into it."""

_SHAPES = {  # by whether requests and responses are streams
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}

Context = grpc.aio.ServicerContext[Any, Any]
"""The context of a call, as servicers are given it."""
Handler = TypeVar("Handler", bound=Callable[..., Any])


def in_bytes(handler: Handler) -> Handler:
    """Mark a unary method that takes its request and returns its response as bytes.

    The method may be a plain function instead of a coroutine function.
    """
    handler.in_bytes = True  # type: ignore[attr-defined]
    return handler


def encodes(handler: Handler) -> Handler:
    """Mark a method with a stream of responses that yields each of them as bytes."""
    handler.encodes = True  # type: ignore[attr-defined]
    return handler


def parse(message: Any, data: bytes, field: str = "request") -> Any:
    """Return a message of this class; raises InvalidArgument if the data cannot be parsed."""
    try:
        return message.FromString(data)
    except Exception as error:  # the parser is given arbitrary bytes
        raise _unreadable(field) from error


class Dispatcher(grpc.GenericRpcHandler):
    """The one generic handler of a server. Services register their methods here, not at the server.

    Each handler is wrapped once, when it is registered; a gRPC interceptor would wrap it in every
    call. The server costs one microsecond a call for each method that is registered with it, so it
    knows this one handler only.
    """

    def __init__(self, server: grpc.aio.Server, audits: Audits | None = None) -> None:
        """`audits` audits the calls of the methods that it covers."""
        self._audits = audits
        self._methods: dict[str, Any] = {}
        self._unknown: Any = grpc.stream_stream_rpc_method_handler(
            _Call("unknown", _unknown, None).streaming
        )
        server.add_generic_rpc_handlers((self,))

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.ServiceRpcHandler]) -> None:
        """Add the handlers of generated services, whose descriptors name the methods."""
        for handler in handlers:
            service: Any = descriptor_pool.Default().FindServiceByName(handler.service_name())
            found = {
                method.name: handler.service(_Method(f"/{service.full_name}/{method.name}"))
                for method in service.methods
            }
            self.add_registered_method_handlers(service.full_name, found)

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Add the handlers of a service, by method name, as newer generated code does as well."""
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            self._methods[method] = _wrap(method, handler, self._audits)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a method, or one that answers UNIMPLEMENTED."""
        return self._methods.get(handler_call_details.method, self._unknown)


@dataclass(frozen=True, slots=True)
class _Method(grpc.HandlerCallDetails):
    method: str
    invocation_metadata: Any = ()


class _Call:
    """A wrapped method; one object serves all its calls."""

    def __init__(self, method: str, behavior: Callable[..., Any], audits: Audits | None) -> None:
        self._method = method
        self._audits = None if method.endswith(_UNAUDITED_METHODS) else audits
        self._behavior = behavior
        self._quiet = method.endswith(_QUIET_METHODS)
        self._successes = Successes.of(method).seconds

    async def unary(self, request: Any, context: Context) -> Any:
        """Answer a call with one response."""
        started = time.perf_counter()
        try:
            if request is _UNREADABLE:
                raise _unreadable()
            if self._audits is not None:
                self._audits.begin(context)
            response = self._behavior(request, context)
            if type(response) is not bytes:
                response = await response
        except BaseException as error:  # noqa: BLE001 - becomes a status or is raised again
            await self._refuse(error, context, started)
        seconds = time.perf_counter() - started
        self._successes.append(seconds)
        if not self._quiet:
            self._log(context, seconds, "OK", None)
        return response

    async def streaming(self, request: Any, context: Context) -> None:
        """Answer a call with any number of responses."""
        started = time.perf_counter()
        try:
            if request is _UNREADABLE:
                raise _unreadable()
            if self._audits is not None:
                self._audits.begin(context)
            answer = self._behavior(request, context)
            if hasattr(answer, "__aiter__"):
                async for response in answer:
                    await context.write(response)
            else:
                await answer
        except BaseException as error:  # noqa: BLE001 - becomes a status or is raised again
            await self._refuse(error, context, started)
        seconds = time.perf_counter() - started
        self._successes.append(seconds)
        if not self._quiet:
            self._log(context, seconds, "OK", None)

    async def _refuse(self, error: BaseException, context: Context, started: float) -> NoReturn:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError):
            if task is not None and task.cancelling():  # the client cancelled, or the server stops
                self._record(context, started, "CANCELLED")
                raise error
            # Something inside was cancelled; re-raised, it would leave the client without a status.
            error = Unavailable("the call was interrupted; try again")
        if isinstance(error, grpc.aio.AbortError) or not isinstance(error, Exception):
            self._record(context, started, _code_name(context))
            raise error
        if not isinstance(error, (AuthError, Refused)):
            log.error("rpc_failed", method=self._method, exc_info=error)
            error = status.INTERNAL
        code, text, trailers = status.of(error)
        self._record(context, started, code.name, error.reason)
        await context.abort(code, text, trailers)

    def _record(
        self, context: Context, started: float, code: str, reason: str | None = None
    ) -> None:
        seconds = time.perf_counter() - started
        RPC_DURATION.labels(self._method).observe(seconds)
        RPC_TOTAL.labels(self._method, code).inc()
        self._log(context, seconds, code, reason)

    def _log(self, context: Context, seconds: float, code: str, reason: str | None) -> None:
        log.info(
            "rpc",
            method=self._method,
            code=code,
            reason=reason,
            ms=round(seconds * 1000, 2),
            peer=context.peer(),
        )


def _wrap(method: str, handler: Any, audits: Audits | None) -> Any:
    shape = _SHAPES[handler.request_streaming, handler.response_streaming]
    behavior = getattr(handler, shape)
    called = _of_readable(behavior) if handler.request_streaming else behavior
    if audits is not None:
        called = audits.wrap(method, called, streams=handler.response_streaming)
    call = _Call(method, called, audits)
    if getattr(behavior, "in_bytes", False):
        return grpc.unary_unary_rpc_method_handler(call.unary)
    deserializer = handler.request_deserializer
    return getattr(grpc, f"{shape}_rpc_method_handler")(
        call.streaming if handler.response_streaming else call.unary,
        request_deserializer=deserializer and _forgiving(deserializer),
        response_serializer=(
            None if getattr(behavior, "encodes", False) else handler.response_serializer
        ),
    )


def _forgiving(deserializer: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def deserialize(data: bytes) -> Any:
        try:
            return deserializer(data)
        except Exception:  # noqa: BLE001 - the parser is given arbitrary bytes
            return _UNREADABLE

    return deserialize


def _of_readable(behavior: Callable[..., Any]) -> Callable[..., Any]:
    """Return the behavior with a request stream that fails at the first unreadable request."""
    return lambda requests, context: behavior(_each_readable(requests), context)


async def _each_readable(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        if request is _UNREADABLE:
            raise _unreadable()
        yield request


def _unreadable(field: str = "request") -> InvalidArgument:
    return InvalidArgument(
        field, "is not a valid protobuf message of this method, with text in UTF-8"
    )


async def _unknown(_requests: Any, _context: Any) -> NoReturn:
    raise Unsupported("unknown service or method; see protos/, or list them with grpcurl")


def _code_name(context: Context) -> str:
    code: Any = context.code()  # None, an int or a StatusCode
    return code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"
