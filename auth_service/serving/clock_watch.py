"""Tells whether this machine's clock agrees with the database's.

Tokens are dated by the database's clock, so a wrong clock here does no harm to them. It is still a
fault of the machine: it misleads other programs there, and the readers of the log.
"""

from datetime import timedelta

import structlog

from auth_service.clock import DatabaseClock
from auth_service.telemetry.metrics import CLOCK_AHEAD

__all__ = ["ClockWatch"]

log = structlog.get_logger(__name__)


class ClockWatch:
    """Compares the clocks, counts the difference, and logs each change of the verdict."""

    def __init__(self, clock: DatabaseClock, allowed: timedelta) -> None:
        self._clock = clock
        self._allowed = allowed
        self._agreed = True

    def agrees(self) -> bool:
        """Tell whether the clocks differ by no more than AUTH_CLOCK_SKEW."""
        ahead = self._clock.ahead()
        CLOCK_AHEAD.set(ahead.total_seconds())
        agrees = abs(ahead) <= self._allowed
        if agrees != self._agreed:
            self._agreed = agrees
            report = log.info if agrees else log.error
            report(
                "clock_agrees" if agrees else "clock_differs",
                ahead_of_database=ahead.total_seconds(),
                allowed=self._allowed.total_seconds(),
            )
        return agrees
