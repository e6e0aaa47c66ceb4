"""Revocations and keys from PostgreSQL into the RevocationList and the KeyRing of this process.

Owns how soon, and how surely, what any replica has written is known here. A poll
bounds the delay; a NOTIFY only wakes it early. One connection serves both, so that every poll
proves that the connection which listens is alive. After a lost one the feed goes on from its cursor
where the database is provably the same as before, and else reads everything anew.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import asyncpg
import structlog

from auth_service.db.cursor import START, Cursor
from auth_service.db.driver_errors import translated
from auth_service.db.key_store import KeyStore
from auth_service.db.pool import open_connection
from auth_service.db.store import Store
from auth_service.errors import Unavailable
from auth_service.models import Revocation, StoredKey
from auth_service.tokens.revocation import RevocationList

if TYPE_CHECKING:
    DedicatedConnection = asyncpg.Connection[asyncpg.Record]

__all__ = ["RevocationFeed"]

log = structlog.get_logger(__name__)

CHANNEL = "authn_feed"
FIRST_BACKOFF = 0.05  # seconds
MAX_BACKOFF = 1.0
CLOSE_TIMEOUT = 1.0


Page = tuple[list[Revocation], Cursor]
Pages = AsyncGenerator[Page, None]


def _ignore(*_: object) -> None:
    pass


class RevocationFeed:
    """Keeps a RevocationList up to date, and knows up to which moment it is."""

    def __init__(  # noqa: PLR0913 - what it feeds, and how often
        self,
        store: Store,
        url: str,
        revocations: RevocationList,
        clock: Callable[[], datetime],
        *,
        keys: KeyStore | None = None,
        on_keys: Callable[[list[StoredKey]], object] = _ignore,
        on_revocations: Callable[[list[Revocation], list[Revocation]], object] = _ignore,
        poll_interval: timedelta = timedelta(seconds=1),
        timeout: timedelta = timedelta(seconds=2),
        transaction_pooling: bool = False,
    ) -> None:
        """`on_revocations` gets all revocations read or made, and those of them that are new."""
        self._store = store
        self._url = url
        self._transaction_pooling = transaction_pooling
        self._revocations = revocations
        self._clock = clock
        self._keys = keys
        self._on_keys = on_keys
        self._on_revocations = on_revocations
        self._poll_interval = poll_interval.total_seconds()
        self._timeout = timeout
        self._connection: DedicatedConnection | None = None
        self._cursor = START
        self.epoch = ""
        """Within what cursors are comparable, see Store.epoch; empty where it cannot tell."""
        self._as_of: datetime | None = None
        self._poll_now = asyncio.Event()
        self._notify_now = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def as_of(self) -> datetime:
        """The moment up to which revocations are known. Raises Unavailable before `start`."""
        if self._as_of is None:
            raise Unavailable("revocations are not known yet")
        return self._as_of

    @property
    def cursor(self) -> Cursor:
        """The transactions whose revocations are known."""
        return self._cursor

    async def start(self) -> None:
        """Learn all revocations, then keep up. Raises Unavailable where that is not possible."""
        try:
            await self._sync()
        except BaseException:
            self._disconnect()
            raise
        loops = (self._follow, self._notify)
        self._tasks = [asyncio.create_task(loop(), name=f"feed{loop.__name__}") for loop in loops]

    async def stop(self) -> None:
        """Stop to follow; what is known stays known."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._connection is not None:
            self._connection.remove_termination_listener(self._wake_poll)
            with contextlib.suppress(Unavailable), translated():
                await self._connection.close(timeout=CLOSE_TIMEOUT)
        self._disconnect()

    def announce(self, revocation: Revocation) -> None:
        """Take in a revocation that was just committed here, and tell all replicas, soon."""
        self._on_revocations([revocation], self._revocations.add_all([revocation]))
        self.wake()

    def wake(self) -> None:
        """Tell all replicas, soon, of revocations committed before this call. Never blocks."""
        self._notify_now.set()

    async def _follow(self) -> None:
        backoff = FIRST_BACKOFF
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_interval):
                    await self._poll_now.wait()
            try:
                await self._sync()
                backoff = FIRST_BACKOFF
            except Exception as error:  # noqa: BLE001 - whatever it is, the feed goes on
                log.warning("revocation_feed_failed", error=repr(error), retry_in=backoff)
                self._disconnect()
                await asyncio.sleep(backoff)
                self._poll_now.set()
                backoff = min(2 * backoff, MAX_BACKOFF)

    async def _sync(self) -> None:
        """Take in what was committed since the last time; from a new epoch, everything."""
        self._poll_now.clear()
        connection = self._connection or await self._connect()
        as_of, since = self._clock(), self._cursor
        cursor = await self._take_in(since, connection)
        if cursor.end < since.end:  # another database answers, with transaction ids of its own
            since = START
            cursor = await self._take_in(since, connection)
        if self._keys is not None:
            async with self._in_time():
                changed = await self._keys.changed_since(since, connection)
            self._on_keys(changed)
        self._cursor, self._as_of = cursor, as_of
        while self._revocations.prune():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)  # other calls have their turn, however many expire at once
        if since == START:  # a million rows take seconds, of which the next poll makes up at once
            self._poll_now.set()

    async def _take_in(self, since: Cursor, connection: "DedicatedConnection") -> Cursor:
        """Take in what was committed since a cursor; return the next cursor.

        Other calls have their turn between two pages, and each page has the whole timeout.
        """
        cursor = since
        pages = self._store.pages_of_revocations(since, connection)
        async with contextlib.aclosing(pages):
            while page := await self._next(pages):
                found, cursor = page
                # Never replaced, only added to: this process may know of one that commits as we
                # read, and a failover may have lost one. What is in excess expires.
                self._on_revocations(found, self._revocations.add_all(found))
        return cursor

    async def _next(self, pages: Pages) -> Page | None:
        async with self._in_time():
            return await anext(pages, None)

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout.total_seconds()):
                yield
        except TimeoutError as error:
            raise Unavailable("the database does not answer in time") from error

    async def _connect(self) -> "DedicatedConnection":
        self._connection = connection = await open_connection(
            self._url,
            application_name="auth-service feed",
            statement_timeout=self._timeout,
            connect_timeout=self._timeout,
            transaction_pooling=self._transaction_pooling,
            writes=False,
        )
        connection.add_termination_listener(self._wake_poll)
        if not self._transaction_pooling:
            await self._listen(connection)
        epoch = await self._store.epoch(connection)
        if not epoch or epoch != self.epoch:
            self._cursor = START
        self.epoch = epoch
        return connection

    async def _listen(self, connection: "DedicatedConnection") -> None:
        """Have hints wake the poll; called before the first read, so that none is missed."""
        with translated():
            try:
                await connection.add_listener(CHANNEL, self._wake_poll)
            except asyncpg.FeatureNotSupportedError:
                detail = "revocations are found by polling alone"
                log.warning("revocation_feed_cannot_listen", detail=detail)

    def _wake_poll(self, *_: object) -> None:
        self._poll_now.set()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.remove_termination_listener(self._wake_poll)
            connection.terminate()

    async def _notify(self) -> None:
        while True:
            await self._notify_now.wait()
            self._notify_now.clear()  # all calls of wake() until here are served by this one
            try:
                await self._store.notify_revocations()
            except Exception as error:  # noqa: BLE001 - a hint; the poll finds the revocation
                log.warning("revocation_notify_failed", error=repr(error))
