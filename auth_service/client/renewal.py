"""The renewal of an access token: one at a time, for all callers that wait for it.

Owns the order of the steps: ask the service, persist the refresh token, return the access token.
When to renew and what a failure means is in `token_life`; the source knows which call to make.

One coroutine serves both kinds of program. On an event loop it runs as a task. Among threads it
runs in a thread of its own, where awaiting never suspends.
"""

import asyncio
import contextlib
import inspect
import random
import secrets
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, TypedDict, TypeVar

from auth_service.client.token_life import AHEAD, TokenLife
from auth_service.clock import utc_now

__all__ = ["EventLoop", "Grant", "Renewals", "Threads", "Timing", "finish"]

_ATTEMPT_TIMEOUT = 3.0  # seconds
_REQUEST_ID_BYTES = 16

T = TypeVar("T")


class Timing(TypedDict, total=False):
    """Options of every token source.

    `ahead`: the share of a token's lifetime that is left when it is renewed; 0.2 by default.
    `attempt_timeout`: seconds that one call to the service may take; 3 by default.
    `clock`, `sleep` (seconds) and `jitter` (draws from [0, 1)): for tests.
    """

    ahead: float
    attempt_timeout: float
    clock: Callable[[], datetime]
    jitter: Callable[[], float]
    sleep: Callable[[float], object]


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that never suspends; raises RuntimeError if it does."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise RuntimeError("the coroutine suspended")


class _Runtime(Protocol):
    def event(self) -> Any: ...
    def start(self, work: Coroutine[Any, Any, None]) -> None: ...
    async def wait(self, event: Any, timeout: float | None) -> None: ...
    async def result(self, value: Any) -> Any: ...


class EventLoop:
    """A renewal is a task, so cancelling a caller does not cancel it."""

    def event(self) -> asyncio.Event:
        """Return an event for `wait`."""
        return asyncio.Event()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.create_task(work)  # the loop holds no strong reference

    async def wait(self, event: asyncio.Event, timeout: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), timeout)

    async def result(self, value: Any) -> Any:
        return await value if inspect.isawaitable(value) else value


class Threads:
    """A renewal is a thread, and no daemon: a program does not end before a token is persisted."""

    def event(self) -> threading.Event:
        return threading.Event()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        threading.Thread(target=finish, args=(work,), name="access-token").start()

    async def wait(self, event: threading.Event, timeout: float | None) -> None:
        event.wait(timeout)

    async def result(self, value: Any) -> Any:
        return value


@dataclass(frozen=True, slots=True)
class Grant:
    """What a renewal presents: a refresh token, empty for a service account, and its request id.

    Each attempt presents the same two until the successor is persisted. So the service recognizes
    a retry after any delay, and gives the same successor.
    """

    refresh_token: str = field(repr=False)
    request_id: str = field(repr=False)

    @classmethod
    def of(cls, refresh_token: str, request_id: str = "") -> "Grant":
        """Return a grant with this request id, or with a new one if it is empty."""
        return cls(refresh_token, request_id or secrets.token_urlsafe(_REQUEST_ID_BYTES))


@dataclass(frozen=True, slots=True)
class _Pending:
    pair: Any = field(repr=False)  # the tokens of the response
    grant: Grant  # the next one


@dataclass(frozen=True, slots=True)
class _Renewal:
    answered: Any  # an event: the first attempt has succeeded or failed
    ended: Any


class Renewals:
    """Runs one renewal at a time, and lets callers wait for it."""

    def __init__(
        self,
        runtime: _Runtime,
        ask: Callable[[Grant, float], Any],
        grant: Grant,
        persist: Callable[[str, str], object],
        timing: Timing,
    ) -> None:
        """`ask` takes a grant and a timeout in seconds, and returns a response with `tokens`.

        `persist` takes a refresh token and the request id of the refresh that will use it.
        """
        self._runtime = runtime
        self._ask = ask
        self._grant = grant
        self._persist = persist
        self._timeout = timing.get("attempt_timeout", _ATTEMPT_TIMEOUT)
        self._sleep = timing["sleep"]
        self._life = TokenLife(
            clock=timing.get("clock", utc_now),
            ahead=timing.get("ahead", AHEAD),
            jitter=timing.get("jitter", random.random),
        )
        self._lock = threading.Lock()
        self._renewal: _Renewal | None = None
        self._pending: _Pending | None = None  # received, and not persisted yet

    async def obtain(self, timeout: float | None) -> str:
        """Return a token. If one is usable, wait for the first attempt at most."""
        with self._lock:
            token = self._life.current()
            if token is not None:
                return token
            renewal = self._renewal or self._begin()
            event = renewal.answered if self._life.usable() else renewal.ended
        await self._runtime.wait(event, timeout)
        with self._lock:
            return self._life.outcome()

    def invalidate(self, token: str) -> None:
        """Make the renewal of a refused token due."""
        with self._lock:
            self._life.invalidate(token)

    async def settle(self) -> None:
        """Wait for the end of the running renewal, if there is one."""
        if renewal := self._renewal:
            await self._runtime.wait(renewal.ended, None)

    def _begin(self) -> _Renewal:
        renewal = _Renewal(self._runtime.event(), self._runtime.event())
        if not self._life.healthy:  # the service was just unavailable: callers do not wait for it
            renewal.answered.set()
        self._runtime.start(self._renew(renewal))
        self._renewal = renewal
        return renewal

    async def _renew(self, renewal: _Renewal) -> None:
        try:
            while (delay := await self._attempt()) is not None:
                renewal.answered.set()
                await self._runtime.result(self._sleep(delay))
        finally:
            with self._lock:
                self._renewal = None
            renewal.answered.set()
            renewal.ended.set()

    async def _attempt(self) -> float | None:
        """Return the seconds until the next attempt, or None if there is none.

        If a pair could not be persisted, the next attempt persists the same pair: its refresh token
        is the only valid one of the session.
        """
        try:
            if self._pending is None:
                reply = await self._runtime.result(self._ask(self._grant, self._timeout))
                self._pending = _Pending(reply.tokens, Grant.of(reply.tokens.refresh_token))
            pair, grant = self._pending.pair, self._pending.grant
            if grant.refresh_token:
                await self._runtime.result(self._persist(grant.refresh_token, grant.request_id))
        except Exception as error:  # noqa: BLE001 - raised in the waiting callers
            with self._lock:
                return self._life.failed(error)
        self._grant, self._pending = grant, None
        with self._lock:
            self._life.accept(pair.access_token, pair.access_expires_at.ToDatetime(UTC))
        return None
