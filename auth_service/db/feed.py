"""Revocations and keys from PostgreSQL into the RevocationList and the KeyRing of this process.

Makes sure that this process learns soon what any replica has written. A poll bounds the delay; a
NOTIFY only wakes it early. After a lost connection the feed goes on from its cursor if the
database is provably the same as before. Otherwise commits may be lost: the feed reads everything,
writes again what this process knows beyond that, and counts as fresh once the other replicas had
time to do the same.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog

from auth_service.db.cursor import START, Cursor, Position
from auth_service.db.key_store import KeyStore
from auth_service.db.listener import Listener
from auth_service.db.restore import Restorer
from auth_service.db.revocations import Page
from auth_service.db.store import Store
from auth_service.errors import Unavailable
from auth_service.models import Revocation, StoredKey
from auth_service.tokens.revocation import RevocationList

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from auth_service.db.pool import Connection

__all__ = ["RevocationFeed"]

log = structlog.get_logger(__name__)

FIRST_BACKOFF = 0.05  # seconds
MAX_BACKOFF = 1.0
SETTLE = timedelta(seconds=2)
"""How long the replicas have to write again what a failover lost: twice MAX_BACKOFF."""
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


def _ignore(*_: object) -> None:
    pass


class RevocationFeed:
    """Keeps a RevocationList up to date, and knows up to which moment it is."""

    def __init__(  # noqa: PLR0913 - what it feeds, and how often
        self,
        store: Store,
        url: str,
        revocations: RevocationList,
        *,
        restorer: Restorer | None = None,
        keys: KeyStore | None = None,
        on_keys: Callable[[list[StoredKey]], object] = _ignore,
        on_revocations: Callable[[list[Revocation], list[Revocation]], object] = _ignore,
        poll_interval: timedelta = timedelta(seconds=1),
        timeout: timedelta = timedelta(seconds=2),
        transaction_pooling: bool = False,
        settle: timedelta = SETTLE,
        on_poll: Callable[["Connection"], Awaitable[object]] | None = None,
    ) -> None:
        """`on_poll` is called with the connection before each poll.

        `on_revocations` gets all revocations read or made, and those of them that are new.
        """
        self._store = store
        self._revocations = revocations
        self._restorer = restorer or Restorer(revocations)
        self._keys = keys
        self._on_keys = on_keys
        self._on_revocations = on_revocations
        self._on_poll = on_poll
        self._poll_interval = poll_interval.total_seconds()
        self._timeout = timeout.total_seconds()
        self._settle = settle
        self._poll_now = asyncio.Event()
        self._listener = Listener(
            url, self._poll_now.set, timeout, transaction_pooling=transaction_pooling
        )
        self._cursor = START
        self.epoch = ""
        """Within what cursors are comparable, see Position; empty if the server cannot tell.

        It changes before the first revocation of a new epoch is read.
        """
        self._complete = False  # whether all of this epoch was read, and what it lost written
        self._system = ""  # of the last epoch that was complete
        self._as_of: datetime | None = None
        self._fresh_from = _LONG_AGO
        self._notify_now = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def as_of(self) -> datetime:
        """The moment of the primary's clock up to which revocations are known.

        Raises Unavailable before `start`.
        """
        if self._as_of is None:
            raise Unavailable("revocations are not known yet")
        return self._as_of

    @property
    def cursor(self) -> Cursor:
        """The transactions whose revocations are known."""
        return self._cursor

    async def start(self) -> None:
        """Learn all revocations, then keep up. Raises Unavailable if that is not possible.

        Just after a failover it waits until the replicas have written again what they know.
        """
        try:
            await self._sync()
            while self._as_of is None:
                await self._poll_now.wait()
                await self._sync()
        except BaseException:
            self._listener.drop()
            raise
        loops = (self._follow, self._notify)
        self._tasks = [asyncio.create_task(loop(), name=f"feed{loop.__name__}") for loop in loops]

    async def stop(self) -> None:
        """Stop following; what is known stays known."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._listener.close()

    def announce(self, revocation: Revocation) -> None:
        """Take in a revocation that was just committed here, and tell all replicas soon."""
        self._restorer.note([revocation], read=False)
        self._on_revocations([revocation], self._revocations.add_all([revocation]))
        self.wake()

    def wake(self) -> None:
        """Tell all replicas soon of what was committed before this call. Never blocks."""
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
                self._listener.drop()
                await asyncio.sleep(backoff)
                self._poll_now.set()
                backoff = min(2 * backoff, MAX_BACKOFF)

    async def _sync(self) -> None:
        """Take in what was committed since the last time; from a new epoch, everything."""
        self._poll_now.clear()
        connection = self._listener.connection
        if connection is None:
            connection = await self._listener.open()
            await self._recognise(connection)
        if self._on_poll is not None:
            async with self._in_time():
                await self._on_poll(connection)
        since = self._cursor
        position = await self._take_in(since, connection)
        if position.epoch != self.epoch or position.cursor.end < since.end:
            self._complete = False  # so that the next connection begins again
            raise Unavailable("another database answers, or an older copy of this one")
        if since == START:
            if await self._restorer.restore(connection, position.as_of):
                self.wake()
            self._poll_now.set()  # a million rows take seconds, which the next poll makes up for
        if self._keys is not None:  # after what was lost of them is there again
            async with self._in_time():
                changed = await self._keys.changed_since(since, connection)
            self._on_keys(changed)
        self._complete, self._system, self._cursor = True, position.system, position.cursor
        if position.as_of >= self._fresh_from:
            self._as_of = position.as_of
        else:
            self._poll_in(self._fresh_from - position.as_of)
        while self._revocations.prune():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)  # other calls have their turn, however many expire at once

    async def _recognise(self, connection: "Connection") -> None:
        """Go on from the cursor if this is the database of the last read; else begin again."""
        async with self._in_time():
            position = await self._store.position(connection)
            epoch = position.epoch
            if epoch and epoch == self.epoch and self._complete:
                return
            seen_at = await self._store.mark_epoch(epoch, connection) if epoch else _LONG_AGO
        if self._system and position.system == self._system:  # into another one nothing is written
            log.warning("database_epoch_changed", before=self.epoch, epoch=epoch)
            self._restorer.begin()
        self._fresh_from = seen_at + self._settle
        self.epoch, self._cursor, self._complete = epoch, START, False

    async def _take_in(self, since: Cursor, connection: "Connection") -> Position:
        """Take in what was committed since a cursor; return the position after it.

        Other calls have their turn between two pages, and each page has the whole timeout.
        """
        pages = self._store.pages_of_revocations(since, connection)
        position: Position  # there is at least one page
        async with contextlib.aclosing(pages):
            while page := await self._next(pages):
                found, position = page
                # Added, never replaced: this process may know of one that commits while we read.
                self._restorer.note(found)
                self._on_revocations(found, self._revocations.add_all(found))
        return position

    async def _next(self, pages: "AsyncGenerator[Page, None]") -> Page | None:
        async with self._in_time():
            return await anext(pages, None)

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except TimeoutError as error:
            raise Unavailable("the database does not answer in time") from error

    def _poll_in(self, delay: timedelta) -> None:
        asyncio.get_running_loop().call_later(delay.total_seconds(), self._poll_now.set)

    async def _notify(self) -> None:
        while True:
            await self._notify_now.wait()
            self._notify_now.clear()  # all calls of wake() until here are served by this one
            try:
                await self._store.notify_revocations()
            except Exception as error:  # noqa: BLE001 - a hint; the poll finds the revocation
                log.warning("revocation_notify_failed", error=repr(error))
