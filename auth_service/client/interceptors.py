"""Verification of access tokens in front of a service's own gRPC methods.

    rules = Rules({**INFRASTRUCTURE, "/orders.v1.Orders/Delete": Rule("orders", roles=("admin",))},
                  default=Rule("orders"))
    server = grpc.aio.server(interceptors=[AuthInterceptor(verifier, rules)])

Owns which guarded call wraps which kind of handler. The token is checked when the call runs, never
when its handler is looked up, because other interceptors may keep a handler for later calls. So
code of other interceptors that runs at look-up has no principal yet.
"""

import inspect
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import grpc

from auth_service.authz.admission import Verifier
from auth_service.authz.certificates import TrustedProxies
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
    """Admits only calls to a `grpc.aio` server whose access token satisfies the rules.

    The token comes as `authorization: Bearer <token>` (RFC 6750), exactly once; its claims are in
    `current_principal` while the handler runs. A refusal is UNAUTHENTICATED, PERMISSION_DENIED,
    UNAVAILABLE (the revocations are not known up to the allowed age; with RetryInfo), or INTERNAL
    if the verifier fails. Each has google.rpc.ErrorInfo, and www-authenticate if a token may help.

    A stream ends with the same statuses when its token expires or is revoked. The token is checked
    every `recheck_interval` seconds and at its expiry, and the handler is cancelled; a handler that
    suppresses its cancellation runs until it yields or returns. With `end_streams=False` the token
    is checked only when the stream begins. Raises ValueError if the interval is not above zero.

    A token that is bound to a client certificate (RFC 8705) needs that certificate on the call's
    connection. Behind proxies in `trusted_proxies`, networks such as "10.0.0.0/8", it is the one
    that the proxy names in x-forwarded-client-cert.
    """

    def __init__(
        self,
        verifier: Verifier,
        rules: Rules,
        *,
        end_streams: bool = True,
        recheck_interval: float = 1.0,
        trusted_proxies: Collection[str] = (),
    ) -> None:
        self._guard_of = _guards(verifier, rules, end_streams, recheck_interval, trusted_proxies)

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

    The handler of a stream runs in a thread of its own for that call, so the client gets its status
    in time even while the handler blocks. A handler that blocks on anything but its messages keeps
    that thread until it wakes; `context.add_callback` tells it when to, as for a client that
    disconnects. With `end_streams=False` handlers run in the server's threads.
    """

    def __init__(
        self,
        verifier: Verifier,
        rules: Rules,
        *,
        end_streams: bool = True,
        recheck_interval: float = 1.0,
        trusted_proxies: Collection[str] = (),
    ) -> None:
        self._guard_of = _guards(verifier, rules, end_streams, recheck_interval, trusted_proxies)

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
    verifier: Verifier,
    rules: Rules,
    end_streams: bool,
    recheck_interval: float,
    trusted_proxies: Collection[str],
) -> Callable[[str], Guard]:
    if not recheck_interval > 0:
        raise ValueError("recheck_interval must be above zero seconds")
    interval = recheck_interval if end_streams else None
    proxies = TrustedProxies(trusted_proxies)
    return lambda method: Guard(verifier, rules.of(method), interval, proxies)


def _guarded(handler: Any, guard: Guard, behavior_of: Callable[[Any, Guard], Any]) -> Any:
    if handler is None:
        return None
    shape = _SHAPES[handler.request_streaming, handler.response_streaming]
    # gRPC runs these handlers without a thread, and calls them in another way. The Watch of the
    # stock health service is one; with a thread each, a few watchers would fill the server's pool.
    if guard.rule.public and hasattr(getattr(handler, shape), "experimental_non_blocking"):
        return handler
    return getattr(grpc, f"{shape}_rpc_method_handler")(
        behavior_of(handler, guard),
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


def _aio_behavior(handler: Any, guard: Guard) -> Any:
    """Return a behavior of the same kind as the handler, because gRPC distinguishes the kinds."""
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
