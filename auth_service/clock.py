"""The time: passed in wherever it matters, so that tests move it and never wait for it."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the time of this machine."""
    return datetime.now(UTC)


def seconds(clock: Clock) -> Callable[[], float]:
    """Return the same clock in seconds since the epoch; that of this machine costs the least."""
    return time.time if clock is utc_now else lambda: clock().timestamp()
