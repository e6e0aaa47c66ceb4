"""Batches one statement over many callers: one round trip and one commit for all of them.

Owns which call goes with which batch. The calls that arrive while a batch is under way form the
next one, so the cost of a call falls as the load rises.
"""

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

if TYPE_CHECKING:
    from auth_service.db.pool import Pool

__all__ = ["Batcher"]

QUIET_TURNS = 8
"""A batch begins when no call has joined it for this many turns of the event loop. An idle loop
makes these turns in microseconds; a busy one admits the calls that have arrived by then."""
MAX_TURNS = 40
"""The most turns of the event loop for which a batch waits."""
BATCH_SIZE = 100  # calls; their rows stay locked until the whole batch is committed

Key = tuple[object, object]


class _Call(NamedTuple):
    arguments: tuple[Any, ...]
    answer: "asyncio.Future[asyncpg.Record | None]"


class Batcher:
    """Runs a statement that changes one row.

    The first two arguments of the statement are the row's key; `key` names the same two columns in
    its result. The statement must not wait for a row lock: the whole batch would wait with it.
    """

    def __init__(self, pool: "Pool", sql: str, key: tuple[str, str]) -> None:
        self._pool = pool
        self._sql = sql
        self._key = key
        self._waiting: dict[Key, _Call] = {}
        self._task: asyncio.Task[None] | None = None

    async def row(self, *arguments: Any) -> asyncpg.Record | None:
        """Return the row that the statement yields, or None. Raises Unavailable as the pool does.

        Also returns None if another call for the same row waits already: within one batch neither
        would see what the other did. A call that is cancelled before its batch begins changes
        nothing; afterwards the batch completes without it.
        """
        key = arguments[0], arguments[1]
        if key in self._waiting and not self._waiting[key].answer.done():
            return None
        call = _Call(arguments, asyncio.get_running_loop().create_future())
        self._waiting[key] = call
        if self._task is None:
            self._start()
        return await call.answer

    def _start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="batcher")

    async def _run(self) -> None:
        """Run batch after batch, on one connection, until no call waits."""
        batch: dict[Key, _Call] = {}
        try:
            async with self._pool.acquire() as connection:
                while self._waiting:
                    await self._gather()
                    batch = self._take()
                    if not batch:
                        continue
                    found = await connection.fetchmany(
                        self._sql, [call.arguments for call in batch.values()]
                    )
                    first, second = self._key
                    rows = {(row[first], row[second]): row for row in found}
                    for key, call in batch.items():
                        if not call.answer.done():  # the caller may have been cancelled
                            call.answer.set_result(rows.get(key))
        except Exception as error:  # noqa: BLE001 - each caller raises it
            for call in (batch or self._take()).values():
                if not call.answer.done():
                    call.answer.set_exception(error)
        finally:
            self._task = None
            if self._waiting:
                self._start()

    async def _gather(self) -> None:
        waiting = quiet = 0
        for _ in range(MAX_TURNS):
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._waiting) == waiting else 0
            waiting = len(self._waiting)
            if quiet == QUIET_TURNS:
                break

    def _take(self) -> dict[Key, _Call]:
        """Return the next batch, without the calls that were cancelled while they waited."""
        taken = {key: self._waiting.pop(key) for key in list(self._waiting)[:BATCH_SIZE]}
        return {key: call for key, call in taken.items() if not call.answer.done()}
