"""A pool of connections to PostgreSQL.

Owns who has which connection, and when another one is opened. Opening is a task of the pool's own:
a caller waits for any connection, whether it is opened or given back, and its cancellation or
timeout stops no attempt. While attempts fail there is one at a time, with a growing pause between
two. Knows nothing of tables.
"""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeAlias

import asyncpg
import structlog

from auth_service.db.driver_errors import (
    UNAVAILABLE,
    details,
    is_lost,
    is_wrong_server,
    setup_errors,
    translated,
)
from auth_service.db.durability import commit_on_standby, require_standby
from auth_service.db.hosts import APPLICATION_NAME, Connector
from auth_service.errors import Unavailable

__all__ = [
    "Connection",
    "Pool",
    "connect",
    "open_connection",
]

log = structlog.get_logger(__name__)

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

STOPPING = "the service is stopping; try again"
RELEASE_TIMEOUT = 5.0
"""Seconds in which a connection must be free again after a cancellation."""
TIMED_OUT_TIMEOUT = 1.0
"""The same after a statement that the server did not end in time: it may hang."""
CLOSE_TIMEOUT = 5.0
"""Seconds in which callers must give their connections back when the pool closes."""
DISK_FULL_SECONDS = 10.0
"""For how long one write that finds the disk full speaks for others: no query can tell."""
FIRST_BACKOFF, MAX_BACKOFF = 0.05, 1.0
"""Seconds between two failing attempts to connect."""
IDLE_LIFETIME = 300.0
"""Seconds after which a connection above the minimum is closed if nobody has used it."""


class Pool:
    """Connections to one database, `min_size` to `max_size` of them.

    `replicated` makes transactions wait until a standby has them, see `transaction`.
    """

    def __init__(
        self,
        connector: Connector,
        *,
        min_size: int = 2,
        max_size: int = 10,
        replicated: bool = False,
    ) -> None:
        self._connector = connector
        self.replicated = replicated
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
        """Until when no attempt is made after one that failed."""
        self._disk_full_until = 0.0
        self._sweeper: asyncio.TimerHandle | None = None
        self._all_gone = asyncio.Event()
        self._closed = False

    async def start(self) -> None:
        """Open the first connection. Raises Unavailable, or ConfigError if no retry can help."""
        with translated(), setup_errors():
            connection = await self._connector.connect()
        self._take_in(connection)
        self._grow()
        self._sweep()

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """Lend a connection; the driver's errors are translated.

        Raises Unavailable if none is free within the time that connecting may take.
        """
        with translated():
            connection = self._next_idle() or await self._next_free()
            try:
                yield connection
            except BaseException as error:
                if isinstance(error, asyncpg.DiskFullError):
                    self._disk_full_until = asyncio.get_running_loop().time() + DISK_FULL_SECONDS
                self._give_back(connection, error)
                raise
            self._give_back(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Lend a connection in a transaction, which is committed at the end.

        With `replicated` it returns once a standby has the commit, and raises Unavailable if the
        server waits for none: the commit is then undone or, if the wait was cut short, uncertain.
        """
        async with self.acquire() as connection:
            await connection.execute("BEGIN")
            if self.replicated:
                await require_standby(connection)
            yield connection
            await (
                commit_on_standby(connection) if self.replicated else connection.execute("COMMIT")
            )

    @asynccontextmanager
    async def durable(self) -> AsyncIterator[Connection]:
        """Lend a connection for one statement, which is then as durable as `transaction`."""
        async with self.transaction() if self.replicated else self.acquire() as connection:
            yield connection

    async def execute(self, sql: str, *arguments: Any) -> str:
        """Run a statement; return its command tag."""
        async with self.acquire() as connection:
            return await connection.execute(sql, *arguments)

    async def fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """Return the rows of a statement."""
        async with self.acquire() as connection:
            return await connection.fetch(sql, *arguments)

    async def fetchrow(self, sql: str, *arguments: Any) -> asyncpg.Record | None:
        """Return the first row of a statement."""
        async with self.acquire() as connection:
            return await connection.fetchrow(sql, *arguments)

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        """Return the first column of the first row of a statement."""
        async with self.acquire() as connection:
            return await connection.fetchval(sql, *arguments)

    @property
    def disk_full(self) -> bool:
        """Whether a write failed for want of disk space in the last ten seconds."""
        return asyncio.get_running_loop().time() < self._disk_full_until

    @property
    def size(self) -> int:
        """How many connections are open."""
        return len(self._open)

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

    def _give_back(self, connection: Connection, error: BaseException | None = None) -> None:
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
            self._give_back(connection)

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


async def connect(
    url: str,
    *,
    min_size: int = 2,
    max_size: int = 10,
    statement_timeout: timedelta = timedelta(seconds=5),
    connect_timeout: timedelta = timedelta(seconds=5),
    transaction_pooling: bool = False,
    replicated: bool = False,
) -> Pool:
    """Open a pool. Raises Unavailable, or ConfigError if no retry can help."""
    connector = Connector(url, connect_timeout, statement_timeout, transaction_pooling)
    pool = Pool(connector, min_size=min_size, max_size=max_size, replicated=replicated)
    await pool.start()
    return pool


async def open_connection(
    url: str,
    *,
    application_name: str = APPLICATION_NAME,
    statement_timeout: timedelta = timedelta(seconds=5),
    connect_timeout: timedelta = timedelta(seconds=5),
    transaction_pooling: bool = False,
    writes: bool = True,
) -> Connection:
    """Open one connection outside of the pool. Raises as `connect` does."""
    connector = Connector(
        url, connect_timeout, statement_timeout, transaction_pooling, application_name, writes
    )
    with translated(), setup_errors():
        return await connector.connect()
