"""Guarded handlers that run in threads.

Owns how such a handler runs as its caller, and how its stream is ended. A thread cannot be stopped
from outside. So the handler of a stream runs in a thread of its own, one step after another, and
the server's thread waits for it. The server's thread checks the token again, and ends the call in
time and with the right status even while the handler blocks. A handler that waits for messages then
wakes. A handler that waits for anything else must wake by `context.add_callback`, as it must for a
client that disconnects; its thread exists until then.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, NoReturn, Protocol

import grpc

from auth_service.authz.admission import Admission, Refused
from auth_service.authz.status import status_of
from auth_service.client.guard import Guard
from auth_service.client.principal import acting_for

__all__ = ["SyncCall"]

_END = object()


class SyncCall:
    """A guarded method whose handler is no coroutine; it holds no state of a call."""

    def __init__(self, behavior: Callable[..., Any], guard: Guard, takes_stream: bool) -> None:
        self._behavior = behavior
        self._guard = guard
        self._takes_stream = takes_stream

    def unary(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer one request with one response; the token is checked once."""
        try:
            admission = self._guard.admit(context)
        except Refused as refused:
            _abort(context, refused)
        with acting_for(admission):
            return self._behavior(request, context)

    def gathering(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        """Answer a stream of requests with one response."""
        try:
            with _steps(self._guard, context) as steps:
                return steps.run(self._behavior, steps.requests(requests), context)
        except Refused as refused:
            _abort(context, refused)

    def streaming(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """Answer one request, or a stream of requests, with a stream of responses."""
        try:
            with _steps(self._guard, context) as steps:
                given = steps.requests(request) if self._takes_stream else request
                responses = iter(steps.run(self._behavior, given, context))
                try:
                    while (response := steps.run(next, responses, _END)) is not _END:
                        yield response
                finally:
                    steps.last(getattr(responses, "close", _nothing))
        except Refused as refused:
            # Not an abort: under asyncio gRPC may still write the last response, and a status that
            # is sent meanwhile is lost.
            _set_status(context, refused)


class _Steps(Protocol):
    """Runs the steps of a handler one after another, as the caller."""

    def run(self, part: Callable[..., Any], *arguments: Any) -> Any: ...
    def last(self, part: Callable[[], Any]) -> None: ...
    def requests(self, requests: Iterable[Any]) -> Iterable[Any]: ...


class _Unwatched:
    """Runs the steps in the server's thread; the token is not checked again."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def run(self, part: Callable[..., Any], *arguments: Any) -> Any:
        with acting_for(self._admission):
            return part(*arguments)

    def last(self, part: Callable[[], Any]) -> None:
        self.run(part)

    def requests(self, requests: Iterable[Any]) -> Iterable[Any]:
        return requests


class _Watched:
    """Runs the steps in a thread of their own, while the server's thread checks the token again."""

    def __init__(
        self, admission: Admission, pause: Callable[[], float], thread: futures.Executor
    ) -> None:
        self._admission = admission
        self._pause = pause
        self._thread = thread
        with acting_for(admission):
            self._context = copy_context()
        self._due = time.monotonic() + pause()
        self._refused: Refused | None = None

    def run(self, part: Callable[..., Any], *arguments: Any) -> Any:
        """Return the result of the part; raises Refused once the token is no longer valid."""
        if time.monotonic() >= self._due:
            self._renew()
        running = self._thread.submit(self._context.run, part, *arguments)
        while not futures.wait((running,), max(0, self._due - time.monotonic())).done:
            self._renew()
        return running.result()

    def last(self, part: Callable[[], Any]) -> None:
        self._thread.submit(self._context.run, part)  # after the running part

    def requests(self, requests: Iterable[Any]) -> Iterator[Any]:
        """Yield the requests; raises RpcError, as gRPC does if the client has disconnected."""
        for request in requests:
            self._check()
            yield request
        self._check()  # the end of the requests may be that of a refused call

    def _check(self) -> None:
        if self._refused is not None:
            raise grpc.RpcError("the caller's access token is no longer valid")

    def _renew(self) -> None:
        try:
            self._admission.renew()
        except Refused as refused:
            self._refused = refused
            raise
        self._due = time.monotonic() + self._pause()


@contextmanager
def _steps(guard: Guard, context: grpc.ServicerContext) -> Iterator[_Steps]:
    admission = guard.admit(context)
    pause = guard.pause(admission)
    if pause is None:
        yield _Unwatched(admission)
        return
    thread = futures.ThreadPoolExecutor(1, "auth-stream")
    try:
        yield _Watched(admission, lambda: guard.pause(admission) or 0, thread)
    finally:
        thread.shutdown(wait=False)


def _nothing() -> None:
    """The `close` of an iterator that has none."""


def _set_status(context: grpc.ServicerContext, refused: Refused) -> None:
    code, text, trailers = status_of(refused)
    context.set_trailing_metadata(trailers)
    context.set_code(code)
    context.set_details(text)


def _abort(context: grpc.ServicerContext, refused: Refused) -> NoReturn:
    code, text, trailers = status_of(refused)
    context.set_trailing_metadata(trailers)
    context.abort(code, text)
