"""Interceptors that put an access token into every outgoing call, on any channel.

Owns what happens when a service refuses the token. The tokens come from a source, and
`call_credentials` has the form in which a call carries one.

A call that already has an `authorization` keeps it.
"""

import contextlib
import time
import weakref
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc

from auth_service.client.call_credentials import (
    AUTHORIZATION,
    WITHOUT,
    bearer,
    call_credentials,
)
from auth_service.client.exchange import ExchangedTokens, SyncExchangedTokens
from auth_service.client.renewal import finish
from auth_service.client.step_up import Demands, Trailers
from auth_service.client.token_sources import SyncTokenSource, TokenSource
from auth_service.errors import AuthError, Retryable, Unauthenticated

__all__ = ["NoAccessToken", "SyncBearerInterceptor", "bearer_interceptors", "call_credentials"]


class NoAccessToken(grpc.aio.AioRpcError):
    """The call was not made because its source had no token; `__cause__` is the source's error.

    The code is UNAUTHENTICATED if only another login helps, and UNAVAILABLE if a retry may.
    """


def bearer_interceptors(
    source: TokenSource,
    *,
    exchange_for: str = "",
    channel: grpc.aio.Channel | None = None,
) -> list[grpc.aio.ClientInterceptor]:
    """Return interceptors for a grpc.aio channel, plaintext or TLS, one for each shape of call.

    If a service answers UNAUTHENTICATED, the token is invalidated, so that the next call gets a
    new one; a unary-unary call is made once more with it. If the service demands another login of
    the user (`step_up_demand`), that is done at the second demand for the same token: the session
    may have been stepped up in between. The time to get a token counts towards the timeout of the
    call. Raises NoAccessToken if there is none.

    With `exchange_for`, calls are made in the name of the caller at hand: the token that this
    service received is exchanged for one for that audience (RFC 8693). `channel` leads to the
    authentication service, and `source` is that of this service's own token there. An exchanged
    token is kept for its life, and concurrent calls make one exchange. Raises ValueError without
    `channel`.
    """
    if exchange_for:
        if channel is None:
            raise ValueError("exchange_for needs a channel to the authentication service")
        source = ExchangedTokens(channel, source, exchange_for)
    refusals = _Refusals(source)
    return [
        kind(source, refusals) for kind in (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)
    ]


def _no_access_token(cause: AuthError) -> NoAccessToken:
    code = grpc.StatusCode.INTERNAL
    if isinstance(cause, Unauthenticated):
        code = grpc.StatusCode.UNAUTHENTICATED
    elif isinstance(cause, Retryable):
        code = grpc.StatusCode.UNAVAILABLE
    empty = grpc.aio.Metadata()
    return NoAccessToken(code, empty, empty, details=f"no access token: {cause.text}")


class _Budget:
    """The rest of a call's timeout."""

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout

    def left(self) -> float | None:
        """Return the seconds left, 0 at least; None for no timeout."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())


def _goes_without(details: Any) -> bool:
    method = details.method.decode() if isinstance(details.method, bytes) else details.method
    return method in WITHOUT or any(
        key.lower() == AUTHORIZATION for key, _ in details.metadata or ()
    )


class _Refusals:
    """Tells from the end of a stream whether its token was refused.

    If a request cannot be sent because the server has ended the call, gRPC reports INTERNAL first
    and the server's status later. So such a call is looked at again before the next call.
    """

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._demands = Demands()
        self._unsure: tuple[str, Any] | None = None

    def ended(self, token: str, call: Any) -> None:
        """Look at a call that has ended; at once, because a task would run after the caller."""
        code = finish(call.code())
        if code is grpc.StatusCode.UNAUTHENTICATED:
            self.refused(token, finish(call.trailing_metadata()))
        elif code is grpc.StatusCode.INTERNAL:
            self._unsure = token, call

    def refused(self, token: str, trailers: Trailers) -> bool:
        """Invalidate a token that a service refused; tell whether another one may help."""
        if replace := self._demands.replace(token, trailers):
            self._source.invalidate(token)
        return replace

    def look_again(self) -> None:
        """Look again at the last call that ended with INTERNAL."""
        if self._unsure:
            (token, call), self._unsure = self._unsure, None
            self.ended(token, call)


class _Asyncio:
    def __init__(self, source: TokenSource, refusals: _Refusals) -> None:
        self._source = source
        self._refusals = refusals

    async def _authorize(self, details: Any, budget: _Budget) -> tuple[str, Any]:
        self._refusals.look_again()
        try:
            token = await self._source.access_token(budget.left())
        except AuthError as error:
            raise _no_access_token(error) from error
        metadata = grpc.aio.Metadata(*(details.metadata or ()), bearer(token))
        return token, grpc.aio.ClientCallDetails(
            details.method, budget.left(), metadata, details.credentials, details.wait_for_ready
        )

    async def _watched(self, continuation: Any, details: Any, request: Any) -> Any:
        """Make a call that cannot be repeated, because its caller may have written or read."""
        if _goes_without(details):
            return await continuation(details, request)
        token, details = await self._authorize(details, _Budget(details.timeout))
        call = await continuation(details, request)
        call.add_done_callback(partial(self._refusals.ended, token))
        return call

    async def _refused(self, token: str, call: Any) -> bool:
        try:
            await call
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                return self._refusals.refused(token, error.trailing_metadata())
        return False


class _UnaryUnary(_Asyncio, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        if _goes_without(client_call_details):
            return await continuation(client_call_details, request)
        budget = _Budget(client_call_details.timeout)
        token, details = await self._authorize(client_call_details, budget)
        call = await continuation(details, request)
        if not await self._refused(token, call):
            return call
        with contextlib.suppress(NoAccessToken):  # then the caller gets the refusal
            fresh, details = await self._authorize(client_call_details, budget)
            if fresh != token:
                call = await continuation(details, request)
                await self._refused(fresh, call)
        return call


class _UnaryStream(_Asyncio, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return await self._watched(continuation, client_call_details, request)


class _StreamUnary(_Asyncio, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await self._watched(continuation, client_call_details, request_iterator)


class _StreamStream(_Asyncio, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return await self._watched(continuation, client_call_details, request_iterator)


@dataclass(frozen=True, slots=True)
class _Details(grpc.ClientCallDetails):
    method: str
    timeout: float | None
    metadata: Any
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class SyncBearerInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Does what `bearer_interceptors` does, for grpc.intercept_channel and all shapes of call.

    A unary-unary call made with `.future()` is not repeated, because that would block its caller.
    """

    def __init__(
        self,
        source: SyncTokenSource,
        *,
        exchange_for: str = "",
        channel: grpc.Channel | None = None,
    ) -> None:
        if exchange_for:
            if channel is None:
                raise ValueError("exchange_for needs a channel to the authentication service")
            source = SyncExchangedTokens(channel, source, exchange_for)
        self._source = source
        self._demands = Demands()

    def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """Make the call, and once more if its token is refused."""
        if _goes_without(client_call_details):
            return continuation(client_call_details, request)
        budget = _Budget(client_call_details.timeout)
        token, details = self._authorize(client_call_details, budget)
        call = continuation(details, request)
        if not call.done():
            call.add_done_callback(partial(self._judge, token))
        elif self._judge(token, call):
            with contextlib.suppress(NoAccessToken):  # then the caller gets the refusal
                fresh, details = self._authorize(client_call_details, budget)
                if fresh != token:
                    call = continuation(details, request)
                    self._judge(fresh, call)
        return call

    def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        """Make the call."""
        return self._watched(continuation, client_call_details, request)

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Make the call."""
        if _goes_without(client_call_details):
            return continuation(client_call_details, request_iterator)
        token, details = self._authorize(client_call_details, _Budget(client_call_details.timeout))
        call = continuation(details, request_iterator)
        call.add_done_callback(partial(self._judge, token))
        return call

    def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        """Make the call."""
        return self._watched(continuation, client_call_details, request_iterator)

    def _authorize(self, details: Any, budget: _Budget) -> tuple[str, _Details]:
        try:
            token = self._source.access_token(budget.left())
        except AuthError as error:
            raise _no_access_token(error) from error
        return token, _Details(
            details.method,
            budget.left(),
            (*(details.metadata or ()), bearer(token)),
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )

    def _watched(self, continuation: Any, details: Any, request: Any) -> Any:
        if _goes_without(details):
            return continuation(details, request)
        token, details = self._authorize(details, _Budget(details.timeout))
        call = continuation(details, request)
        # A weak reference: gRPC cancels a stream once nothing refers to it.
        judge = partial(self._judge, token, weakref.proxy(call))
        if not call.add_callback(judge):
            judge()
        return call

    def _judge(self, token: str, call: Any) -> bool:
        with contextlib.suppress(ReferenceError):
            if call.code() is grpc.StatusCode.UNAUTHENTICATED and self._demands.replace(
                token, call.trailing_metadata()
            ):
                self._source.invalidate(token)
                return True
        return False
