"""The check of access tokens in front of a service's own gRPC methods.

    rules = Rules({**INFRASTRUCTURE, "/orders.v1.Orders/Delete": Rule("orders", roles=("admin",))},
                  default=Rule("orders"))
    server = grpc.aio.server(interceptors=[AuthInterceptor(verifier, rules)])

Owns which guarded call stands for which kind of handler. A caller is decided on when its call
runs, never when its handler is looked up: other interceptors may keep a handler for later calls.
So code of other interceptors that runs at look-up has no principal yet.
"""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from auth_service.authz.admission import Verifier
from auth_service.client.aio_calls import AioCall
from auth_service.client.guard import Guard
from auth_service.client.rules import Rules
from auth_service.client.sync_calls import SyncCall

__all__ = ["AuthInterceptor", "SyncAuthInterceptor"]

_SHAPES = {  # by whether requests and responses are streams
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Lets only those calls through to a `grpc.aio` server whose access token satisfies the rules.

    The token comes as `authorization: Bearer <token>` (RFC 6750), exactly once; its claims are in
    `current_principal` while the handler runs. Refusals are UNAUTHENTICATED, PERMISSION_DENIED,
    UNAVAILABLE (revocations not known well enough; with RetryInfo), or INTERNAL when the verifier
    itself fails; each with google.rpc.ErrorInfo, and with www-authenticate where a token may help.

    A stream is ended with the same statuses when its token expires or is revoked: the token is
    looked at every `recheck_interval` seconds and at its expiry, and the handler is cancelled; one
    that swallows its cancellation goes on until it yields or returns. `end_streams=False` looks at
    it only when the stream begins. Raises ValueError for an interval that is not above zero.
    """

    def __init__(
        self,
        verifier: Verifier,
        rules: Rules,
        *,
        end_streams: bool = True,
        recheck_interval: float = 1.0,
    ) -> None:
        self._guard_of = _guards(verifier, rules, end_streams, recheck_interval)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the method's handler, guarded; None for an unknown method."""
        handler = await continuation(handler_call_details)
        guard = self._guard_of(str(handler_call_details.method))
        return _guarded(handler, guard, _aio_behavior)


class SyncAuthInterceptor(grpc.ServerInterceptor):
    """Does for `grpc.server` what AuthInterceptor does for `grpc.aio`.

    The handler of a stream runs in a thread of its own for that call, so that the stream can be
    ended while its handler blocks: the client gets its status in time. A handler that blocks on
    anything but its messages keeps that thread until it wakes; `context.add_callback` tells it to,
    as when a client goes away. `end_streams=False` runs handlers in the server's threads.
    """

    def __init__(
        self,
        verifier: Verifier,
        rules: Rules,
        *,
        end_streams: bool = True,
        recheck_interval: float = 1.0,
    ) -> None:
        self._guard_of = _guards(verifier, rules, end_streams, recheck_interval)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Any],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the method's handler, guarded; None for an unknown method."""
        handler = continuation(handler_call_details)
        guard = self._guard_of(str(handler_call_details.method))
        return _guarded(handler, guard, _sync_behavior)


def _guards(
    verifier: Verifier, rules: Rules, end_streams: bool, recheck_interval: float
) -> Callable[[str], Guard]:
    if not recheck_interval > 0:
        raise ValueError("recheck_interval must be above zero seconds")
    interval = recheck_interval if end_streams else None
    return lambda method: Guard(verifier, rules.of(method), interval)


def _guarded(handler: Any, guard: Guard, behavior_of: Callable[[Any, Guard], Any]) -> Any:
    if handler is None:
        return None
    shape = _SHAPES[handler.request_streaming, handler.response_streaming]
    # gRPC runs these without a thread, and calls them unlike others. The stock health service's
    # Watch is one: in a thread each, a handful of watchers would fill the server's pool.
    if guard.rule.public and hasattr(getattr(handler, shape), "experimental_non_blocking"):
        return handler
    return getattr(grpc, f"{shape}_rpc_method_handler")(
        behavior_of(handler, guard),
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _aio_behavior(handler: Any, guard: Guard) -> Any:
    """Return a behavior of the kind that the handler has, as gRPC and others go by the kind."""
    behavior = getattr(handler, _SHAPES[handler.request_streaming, handler.response_streaming])
    call = AioCall(behavior, guard)
    if inspect.isasyncgenfunction(behavior):
        return call.generator
    if not inspect.iscoroutinefunction(behavior):
        return _sync_behavior(handler, guard)  # gRPC runs it in a thread
    streams = handler.request_streaming or handler.response_streaming
    return call.coroutine if streams else call.unary


def _sync_behavior(handler: Any, guard: Guard) -> Any:
    behavior = getattr(handler, _SHAPES[handler.request_streaming, handler.response_streaming])
    call = SyncCall(behavior, guard, handler.request_streaming)
    if handler.response_streaming:
        return call.streaming
    return call.gathering if handler.request_streaming else call.unary
