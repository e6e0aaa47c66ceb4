"""Guarded handlers that run in threads.

Owns how such a handler runs as its caller, and how its stream is ended. No thread can be stopped
from outside, so a stream's handler runs in a thread of its own, one step after another, and the
server's thread waits beside it: that one looks at the token again, and ends the call in time and
with the right status even while the handler blocks. A handler that waits for messages wakes then,
and one that waits for something else must do as for a client that goes away: wake by
`context.add_callback`. Until it wakes, its thread stays.
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
from auth_service.client.principal import acting_as

__all__ = ["SyncCall"]

_END = object()


class SyncCall:
    """A guarded method whose handler is no coroutine; it keeps nothing of any one call."""

    def __init__(self, behavior: Callable[..., Any], guard: Guard, takes_stream: bool) -> None:
        self._behavior = behavior
        self._guard = guard
        self._takes_stream = takes_stream

    def unary(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer one request with one response; the token is looked at once."""
        try:
            admission = self._guard.admit(context)
        except Refused as refused:
            _abort(context, refused)
        with acting_as(admission.claims):
            return self._behavior(request, context)

    def gathering(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        """Answer a stream of requests with one response."""
        try:
            with _steps(self._guard, context) as steps:
                return steps.run(self._behavior, steps.requests(requests), context)
        except Refused as refused:
            _abort(context, refused)

    def streaming(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        """Answer one request, or a stream of them, with a stream of responses."""
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
            _abort(context, refused)


class _Steps(Protocol):
    """Runs the parts of one call's handler, one after another, as its caller."""

    def run(self, part: Callable[..., Any], *arguments: Any) -> Any: ...
    def last(self, part: Callable[[], Any]) -> None: ...
    def requests(self, requests: Iterable[Any]) -> Iterable[Any]: ...


class _Unwatched:
    """Runs them in the server's own thread: the token was looked at, and that is all."""

    def __init__(self, admission: Admission) -> None:
        self._claims = admission.claims

    def run(self, part: Callable[..., Any], *arguments: Any) -> Any:
        with acting_as(self._claims):
            return part(*arguments)

    def last(self, part: Callable[[], Any]) -> None:
        self.run(part)

    def requests(self, requests: Iterable[Any]) -> Iterable[Any]:
        return requests


class _Watched:
    """Runs them in a thread beside, while the server's thread looks at the token again."""

    def __init__(
        self, admission: Admission, pause: Callable[[], float], thread: futures.Executor
    ) -> None:
        self._admission = admission
        self._pause = pause
        self._thread = thread
        with acting_as(admission.claims):
            self._context = copy_context()
        self._due = time.monotonic() + pause()
        self._refused: Refused | None = None

    def run(self, part: Callable[..., Any], *arguments: Any) -> Any:
        """Return what the part returns; raises Refused once the token is no good."""
        if time.monotonic() >= self._due:
            self._renew()
        running = self._thread.submit(self._context.run, part, *arguments)
        while not futures.wait((running,), max(0, self._due - time.monotonic())).done:
            self._renew()
        return running.result()

    def last(self, part: Callable[[], Any]) -> None:
        self._thread.submit(self._context.run, part)  # when the part that runs has returned

    def requests(self, requests: Iterable[Any]) -> Iterator[Any]:
        """Yield the requests; raises RpcError, as gRPC does for a client that went away."""
        for request in requests:
            self._check()
            yield request
        self._check()  # a call that was refused seems like one whose client has said all

    def _check(self) -> None:
        if self._refused is not None:
            raise grpc.RpcError("the caller's access token is no longer good")

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
    """Stand for the `close` that a plain iterator does not have."""


def _abort(context: grpc.ServicerContext, refused: Refused) -> NoReturn:
    code, text, trailers = status_of(refused)
    context.set_trailing_metadata(trailers)
    context.abort(code, text)
