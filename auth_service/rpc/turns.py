"""The work of all streams, spread over time, so that calls are answered in between."""

import asyncio
import heapq
from itertools import count

__all__ = ["BYTES_PER_SECOND", "LEAST", "OPENING", "Turns"]

BYTES_PER_SECOND = 200e6
"""Of all streams of this process together, if the event loop has nothing else to do."""
LEAST = 20e6
"""The same however late the event loop is: a twentieth of a core. Other work of the machine may
make it late all the time."""
OPENING = 1_200_000
"""The size that the opening of a stream counts as, in bytes: 6 ms. It takes one or two of them, so
500 streams that come at once open within 3 s, and most calls find the loop free."""
DEFERENCE = 4
"""Seconds by which the next turn is delayed for each second that the loop was late."""


class Turns:
    """Gives streams turns, one after another; the stream that was opened first goes first.

    Streams finish one after the other this way. A stream that is not read asks for no turn, so it
    delays no other.
    """

    def __init__(self) -> None:
        self._numbers = count()
        self._asking: list[tuple[int, int, asyncio.Future[None]]] = []
        self._free_at = 0.0
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def number(self) -> int:
        """Return the place of a new stream: after all that came before it."""
        return next(self._numbers)

    def ask(self, number: int, size: int) -> "asyncio.Future[None]":
        """Return a future that is done once a message of this size may be sent."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        heapq.heappush(self._asking, (number, size, turn))
        if self._timer is None:
            self._schedule(loop)
        return turn

    def _give(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        late = now - self._due
        while self._asking:
            _, size, turn = heapq.heappop(self._asking)
            if not turn.done():  # a stream that ended has cancelled its own
                turn.set_result(None)
                pause = size / BYTES_PER_SECOND + DEFERENCE * late
                self._free_at = now + min(pause, size / LEAST)
                break
        if self._asking:
            self._schedule(loop)

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = max(self._free_at, loop.time())
        self._timer = loop.call_at(self._due, self._give, loop)
