"""The position of a reader of revocations: the transactions that had ended when it last read.

Commit order is not the order of transaction ids, so one number cannot name a position exactly. A
cursor is a snapshot of PostgreSQL without its lower bound: a transaction had ended if its id is
below `end` and is not in `running`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

__all__ = ["START", "Cursor", "Position"]

MAX_RUNNING = 64
"""The longest `running`; it keeps the text of a cursor below about 1,300 characters."""
_MAX_ID = 2**64 - 1  # of an xid8
_MAX_DIGITS = len(str(_MAX_ID))


@dataclass(frozen=True, slots=True)
class Cursor:
    """What was read: every commit of a transaction below `end` that is not in `running`.

    Both hold top-level transaction ids (xid8). A cursor is comparable with others of the same
    epoch only.
    """

    end: int
    running: tuple[int, ...] = ()

    @classmethod
    def of_snapshot(cls, snapshot: tuple[int, int, Sequence[int]]) -> "Cursor":
        """Return the cursor after a read in a pg_snapshot: xmin, xmax and the list in progress.

        With more than MAX_RUNNING in progress, `end` is lower than it could be. The next read then
        returns some rows again, and skips none.
        """
        _, end, running = snapshot
        if len(running) > MAX_RUNNING:
            end = running[MAX_RUNNING]
        return cls(end, tuple(running[:MAX_RUNNING]))

    @classmethod
    def parse(cls, text: str) -> "Cursor | None":
        """Return the cursor of a text that `str` made; None if it is not such a text."""
        numbers = text.split(",", MAX_RUNNING + 1)
        if not all(n.isascii() and n.isdecimal() and len(n) <= _MAX_DIGITS for n in numbers):
            return None
        end, *running = map(int, numbers)
        if len(running) > MAX_RUNNING or max(end, *running, 0) > _MAX_ID:
            return None
        return cls(end, tuple(running))

    def __str__(self) -> str:
        return ",".join(map(str, (self.end, *self.running)))

    def covers(self, xid: int) -> bool:
        """Tell whether everything that a transaction committed was read."""
        return xid < self.end and xid not in self.running


@dataclass(frozen=True, slots=True)
class Position:
    """How far a read reaches."""

    epoch: str
    """Within what cursors are comparable, see database_epoch(); empty if the server cannot tell."""
    cursor: Cursor
    as_of: datetime
    """A moment of the primary's clock: every commit acknowledged before it was read."""

    @property
    def system(self) -> str:
        """The database system, which stays the same over a failover; empty if unknown."""
        return self.epoch.partition("-")[0]


START = Cursor(0)
"""Nothing was read."""
