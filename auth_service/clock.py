"""The time: passed in wherever it matters, so that tests move it and never wait for it."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial

__all__ = ["Clock", "DatabaseClock", "seconds", "steady", "steady_seconds", "utc_now"]

Clock = Callable[[], datetime]

# Goes on while the machine sleeps, unlike Linux's CLOCK_MONOTONIC; no setting of the time moves it.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def utc_now() -> datetime:
    """Return the time of this machine."""
    return datetime.now(UTC)


steady_seconds: Callable[[], float] = partial(time.clock_gettime, _STEADY)
"""Returns seconds since an arbitrary moment, which only time itself moves on."""


class DatabaseClock:
    """The time of the database, estimated between two readings: the one clock of all replicas.

    It runs on this machine's steady clock. Whatever time the machine believes it is, two replicas
    of one database agree on the time to within a round trip.
    """

    def __init__(
        self,
        read: datetime,
        sent: float,
        received: float,
        *,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = steady_seconds,
    ) -> None:
        """Start from a first reading, see `adjust`."""
        self._wall = wall
        self.steady = steady
        self._offset = read.timestamp() - (sent + received) / 2

    def __call__(self) -> datetime:
        """Return the time."""
        return datetime.fromtimestamp(self.seconds(), UTC)

    def seconds(self) -> float:
        """Return the time in seconds since the epoch."""
        return self.steady() + self._offset

    def adjust(self, read: datetime, sent: float, received: float) -> None:
        """Take in a reading of the database's clock.

        `sent` and `received` are the steady seconds around the query. The database read its clock
        in between, which bounds the offset; an estimate within the bounds stays as it is, so a
        slow answer does not move the clock.
        """
        moment = read.timestamp()
        self._offset = min(max(self._offset, moment - received), moment - sent)

    def ahead(self) -> timedelta:
        """Return how far the time of this machine is ahead of the database's."""
        return timedelta(seconds=self._wall() - self.seconds())


def seconds(clock: Clock) -> Callable[[], float]:
    """Return the same clock in seconds since the epoch, without a detour if it has one."""
    if isinstance(clock, DatabaseClock):
        return clock.seconds
    return time.time if clock is utc_now else lambda: clock().timestamp()


def steady(clock: Clock) -> Callable[[], float]:
    """Return a clock in seconds that measures durations: no correction moves it."""
    return clock.steady if isinstance(clock, DatabaseClock) else seconds(clock)
