"""The connections of a pool: who has which one, and when another one is opened.

Opening is a task of its own: a caller waits for any connection, whether it is opened or given back,
and its cancellation or timeout stops no attempt. While attempts fail there is one at a time, with a
growing pause between two. Knows no statement but ROLLBACK.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Coroutine
from typing import Any

import structlog

from auth_service.db.driver_errors import (
    UNAVAILABLE,
    details,
    is_lost,
    is_wrong_server,
    setup_errors,
    translated,
)
from auth_service.db.hosts import Connection, Connector
from auth_service.errors import Unavailable

__all__ = ["Connections"]

log = structlog.get_logger(__name__)

STOPPING = "the service is stopping; try again"
RELEASE_TIMEOUT = 5.0
"""Seconds in which a connection must be free again after a cancellation."""
TIMED_OUT_TIMEOUT = 1.0
"""The same after a statement that the server did not end in time: it may hang."""
CLOSE_TIMEOUT = 5.0
"""Seconds in which callers must give their connections back at the end."""
FIRST_BACKOFF, MAX_BACKOFF = 0.05, 1.0
"""Seconds between two failing attempts to connect."""
IDLE_LIFETIME = 300.0
"""Seconds after which a connection above the minimum is closed if nobody has used it."""


class Connections:
    """Connections to one database, `min_size` to `max_size` of them."""

    def __init__(self, connector: Connector, min_size: int, max_size: int) -> None:
        self._connector = connector
        self._min_size = min_size
        self._max_size = max_size
        self._wait = connector.connect_timeout.total_seconds()
        self._open: set[Connection] = set()
        self._idle: deque[tuple[Connection, float]] = deque()
        """The connections that nobody has, each with when it was given back; the latest last."""
        self._waiters: deque[asyncio.Future[Connection]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening = 0
        self._failures = 0
        self._timer: asyncio.TimerHandle | None = None
        """Set between an attempt that failed and the next one."""
        self._sweeper: asyncio.TimerHandle | None = None
        self._all_gone = asyncio.Event()
        self._closed = False

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._open)

    async def start(self) -> None:
        """Open the first connections. Raises Unavailable, or ConfigError if no retry can help.

        One is enough: the others may come later.
        """
        with translated(), setup_errors():
            connection = await self._connector.connect()
        self._take_in(connection)
        self._sweep()
        self._grow()
        try:
            await asyncio.gather(*self._tasks)
        except asyncio.CancelledError:
            self.terminate()
            raise

    async def take(self) -> Connection:
        """Return a connection, once one is free. Raises TimeoutError, or Unavailable if all fail.

        The caller has to give it back.
        """
        return self._next_idle() or await self._next_free()

    def give_back(self, connection: Connection, error: BaseException | None = None) -> None:
        """Take a connection back, and with it the error that ended its use, if any."""
        if connection.is_closed():
            self._end(connection)  # the driver does not always tell that it lost one
        elif self._closed:
            self._start_task(_close(connection))
        elif isinstance(error, TimeoutError):
            self._start_task(self._roll_back(connection, TIMED_OUT_TIMEOUT))
        elif isinstance(error, asyncio.CancelledError):
            self._start_task(self._roll_back(connection, RELEASE_TIMEOUT))
        elif error is not None and is_lost(error):
            self._end(connection)
        elif error is not None and is_wrong_server(error):
            self._end(connection)
            self._close_idle(len(self._idle))
        elif connection.is_in_transaction():
            self._start_task(self._roll_back(connection, RELEASE_TIMEOUT))
        else:
            self._lend(connection)

    async def close(self) -> None:
        """Close all connections, once callers have given them back or five seconds have passed."""
        self._stop()
        for connection, _ in self._idle:
            self._start_task(_close(connection))
        self._idle.clear()
        if self._open:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    await self._all_gone.wait()
        self.terminate()

    def terminate(self) -> None:
        """Close all connections at once; statements under way fail."""
        self._stop()
        for task in self._tasks:
            task.cancel()
        self._idle.clear()
        for connection in list(self._open):
            connection.terminate()

    def _stop(self) -> None:
        self._closed = True
        for timer in (self._timer, self._sweeper):
            if timer is not None:
                timer.cancel()
        self._fail_waiters(STOPPING)

    def _next_idle(self) -> "Connection | None":
        while self._idle:
            connection, _ = self._idle.pop()
            if not connection.is_closed():
                return connection
            self._end(connection)
        return None

    async def _next_free(self) -> Connection:
        """Wait for a connection that is opened or given back."""
        if self._closed:
            raise Unavailable(STOPPING)
        waiter: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._grow()
        try:
            async with asyncio.timeout(self._wait):
                return await waiter
        except BaseException:
            if waiter.cancelled() or not waiter.done():
                with contextlib.suppress(ValueError):
                    self._waiters.remove(waiter)
            elif waiter.exception() is None:  # lent in the moment in which the caller went away
                self._lend(waiter.result())
            raise

    async def _roll_back(self, connection: Connection, limit: float) -> None:
        """Wait for a cancelled statement to end, and leave no transaction open."""
        try:
            async with asyncio.timeout(limit):
                await connection.execute("ROLLBACK")
                await connection.reset()  # the driver forgets its own record of the transaction
        except TimeoutError:
            # The server or the network hangs, so that each of the others would cost a caller the
            # same time.
            self._end(connection)
            self._close_idle(len(self._idle))
        except Exception:  # noqa: BLE001 - whatever it is, this connection serves nobody
            self._end(connection)
        else:
            self.give_back(connection)

    def _lend(self, connection: Connection) -> None:
        """Give a connection to the caller who has waited longest, or keep it."""
        if connection.is_closed():
            self._end(connection)
            return
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        self._idle.append((connection, asyncio.get_running_loop().time()))

    def _take_in(self, connection: Connection) -> None:
        if self._closed:
            connection.terminate()
            return
        self._open.add(connection)
        self._all_gone.clear()
        connection.add_termination_listener(self._lost)
        self._lend(connection)

    def _end(self, connection: Connection) -> None:
        connection.terminate()
        self._lost(connection)

    def _lost(self, connection: Any) -> None:
        self._open.discard(connection)
        if not self._open:
            self._all_gone.set()
        self._grow()

    def _grow(self) -> None:
        """Start the attempts to connect that are wanted and allowed."""
        if self._closed or self._timer is not None:
            return
        opened = len(self._open) + self._opening
        wanted = max(len(self._waiters), self._min_size - len(self._open)) - self._opening
        allowed = 1 - self._opening if self._failures else wanted
        for _ in range(min(wanted, allowed, self._max_size - opened)):
            self._opening += 1
            self._start_task(self._connect())

    async def _connect(self) -> None:
        try:
            connection = await self._connector.connect()
        except Exception as error:  # noqa: BLE001 - whatever it is, the pool goes on
            self._opening -= 1
            self._connect_failed(error)
        else:
            self._opening -= 1
            if self._failures:
                log.info("database_connection_restored", failures=self._failures)
            self._failures = 0
            self._take_in(connection)
            self._grow()

    def _connect_failed(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == 1:
            log.warning("database_connection_failed", **details(error), open=len(self._open))
        if not self._open and not self._opening:
            self._fail_waiters(UNAVAILABLE)
        pause = min(FIRST_BACKOFF * 2 ** min(self._failures, 10), MAX_BACKOFF)
        if self._timer is None and not self._closed:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(random.uniform(pause / 2, pause), self._retry)  # noqa: S311

    def _retry(self) -> None:
        self._timer = None
        self._grow()

    def _fail_waiters(self, text: str) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(Unavailable(text))

    def _sweep(self) -> None:
        """Close what nobody has used for long, and look again in a while."""
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(IDLE_LIFETIME / 5, self._sweep)
        latest = loop.time() - IDLE_LIFETIME
        unused = sum(since < latest for _, since in self._idle)
        self._close_idle(min(unused, len(self._open) - self._min_size))

    def _close_idle(self, count: int) -> None:
        """Close so many of the connections that nobody has, the least recently used first."""
        for _ in range(count):
            self._end(self._idle.popleft()[0])

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _close(connection: Connection) -> None:
    with contextlib.suppress(Exception):
        await connection.close(timeout=CLOSE_TIMEOUT)
