"""One statement for many callers: who asks while it is under way goes with the next round.

Owns who is in which round. A round is one round trip, one transaction and one commit, so that the
more callers there are, the less each of them costs.
"""

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

from auth_service.db.pool import acquire

if TYPE_CHECKING:
    from auth_service.db.pool import Pool

__all__ = ["Rounds"]

QUIET_TURNS = 8
"""A round begins once nobody has joined it for so many turns of the event loop. Where nothing else
is to be done they take microseconds; under load they let in the calls that have arrived by now."""
MAX_TURNS = 40
"""A round waits for others no longer than that."""
ROUND_SIZE = 100  # callers; their rows stay locked until all of them are through

Key = tuple[object, object]


class _Asked(NamedTuple):
    arguments: tuple[Any, ...]
    answer: "asyncio.Future[asyncpg.Record | None]"


class Rounds:
    """A statement over one row, which its first two arguments name, and two columns of its result.

    It must not wait for a lock of the row: all others of the round would wait with it.
    """

    def __init__(self, pool: "Pool", sql: str, key: tuple[str, str]) -> None:
        self._pool = pool
        self._sql = sql
        self._key = key
        self._waiting: dict[Key, _Asked] = {}
        self._task: asyncio.Task[None] | None = None

    async def row(self, *arguments: Any) -> asyncpg.Record | None:
        """Return the row that the statement gives, if any; raises Unavailable as the pool does.

        None as well where another caller waits with the same row already: of two in one round
        neither could see what the other did. A caller who is cancelled leaves the round as it is.
        """
        key = arguments[0], arguments[1]
        if key in self._waiting:
            return None
        asked = _Asked(arguments, asyncio.get_running_loop().create_future())
        self._waiting[key] = asked
        if self._task is None:
            self._start()
        return await asked.answer

    def _start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="rounds")

    async def _run(self) -> None:
        """Go round after round, on one connection, until nobody waits."""
        round_: dict[Key, _Asked] = {}
        try:
            async with acquire(self._pool) as connection:
                while self._waiting:
                    await self._gather()
                    round_ = self._take()
                    arguments = [asked.arguments for asked in round_.values()]
                    found = await connection.fetchmany(self._sql, arguments)
                    first, second = self._key
                    rows = {(row[first], row[second]): row for row in found}
                    for key, asked in round_.items():
                        if not asked.answer.done():  # the caller may have gone
                            asked.answer.set_result(rows.get(key))
        except Exception as error:  # noqa: BLE001 - it is the callers'
            for asked in (round_ or self._take()).values():
                if not asked.answer.done():
                    asked.answer.set_exception(error)
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

    def _take(self) -> dict[Key, _Asked]:
        return {key: self._waiting.pop(key) for key in list(self._waiting)[:ROUND_SIZE]}
