"""Guarded handlers that are coroutines or async generators.

Owns how such a handler runs as its caller, and how its stream is ended. A timer checks the token
again and cancels the handler as `asyncio.timeout` does, so no task outlives its call.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import grpc

from auth_service.authz.admission import Admission, Refused
from auth_service.authz.status import status_of
from auth_service.client.guard import Guard
from auth_service.client.principal import acting_for

__all__ = ["AioCall"]

Result = TypeVar("Result")

Context = grpc.aio.ServicerContext[Any, Any]

_END = object()


class AioCall:
    """A guarded method of an asyncio server; it holds no state of a call."""

    def __init__(self, behavior: Callable[..., Any], guard: Guard) -> None:
        self._behavior = behavior
        self._guard = guard

    async def unary(self, request: Any, context: Context) -> Any:
        """Answer one request with one response; the token is checked once."""
        try:
            admission = self._guard.admit(context)
        except Refused as refused:
            await _abort(context, refused)
        with acting_for(admission):
            return await self._behavior(request, context)

    async def coroutine(self, request: Any, context: Context) -> Any:
        """Answer a stream of requests, or a handler that writes its responses itself."""
        try:
            with _Watch(self._guard, self._guard.admit(context)) as watch:
                return await watch.step(self._behavior, request, context)
        except Refused as refused:
            await _abort(context, refused)

    async def generator(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """Answer with the responses that the handler yields."""
        try:
            with _Watch(self._guard, self._guard.admit(context)) as watch:
                responses = self._behavior(request, context)
                try:
                    while (response := await watch.step(anext, responses, _END)) is not _END:
                        yield response
                finally:
                    with acting_for(watch.admission):
                        await responses.aclose()
        except Refused as refused:
            await _abort(context, refused)


class _Watch:
    """Checks a stream's token again, and ends the running step when it is no longer valid."""

    def __init__(self, guard: Guard, admission: Admission) -> None:
        self.admission = admission
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._scope: asyncio.Timeout | None = None  # of the running step, if there is one
        self._refused: Refused | None = None

    def __enter__(self) -> "_Watch":
        self._arm()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def step(self, behavior: Callable[..., Awaitable[Result]], *arguments: Any) -> Result:
        """Run a part of the handler as the caller; raises Refused once the token is invalid."""
        self._check()
        try:
            async with asyncio.timeout(None) as self._scope:
                with acting_for(self.admission):
                    result = await behavior(*arguments)
        except TimeoutError:
            self._check()
            raise  # the handler raised it
        finally:
            self._scope = None
        self._check()  # a handler may have swallowed its cancellation
        return result

    def _check(self) -> None:
        if self._refused is not None:
            raise self._refused

    def _arm(self) -> None:
        if (pause := self._guard.pause(self.admission)) is not None:
            self._timer = self._loop.call_later(pause, self._look)

    def _look(self) -> None:
        try:
            self.admission.renew()
        except Refused as refused:
            self._refused = refused
            # Between two steps the task waits for the client. A cancellation there would leave the
            # client without a status, so the next step is refused instead.
            if self._scope is not None:
                self._scope.reschedule(self._loop.time())
        else:
            self._arm()


async def _abort(context: Context, refused: Refused) -> NoReturn:
    code, text, trailers = status_of(refused)
    await context.abort(code, text, trailers)
