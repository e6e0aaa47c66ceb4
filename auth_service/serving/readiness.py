"""Whether this process answers all calls, as health and /readyz report it.

Owns what readiness depends on: fresh revocations, the clock of the machine, a database that takes
writes. Its jobs run with those of `maintenance`, so that no failure ends them.
"""

import time
from collections.abc import Callable
from datetime import datetime

from auth_service.config.loading import Settings
from auth_service.rpc.health import HealthServicer
from auth_service.serving.clock_watch import ClockWatch
from auth_service.serving.maintenance import Job
from auth_service.serving.wiring import Database

__all__ = ["Readiness"]

_HEALTH_INTERVAL = 0.25  # seconds, like the other
_WRITES_INTERVAL = 1.0


class Readiness:
    """Keeps health up to date, and answers /readyz."""

    def __init__(
        self,
        settings: Settings,
        health: HealthServicer,
        database: Database,
        revocations_as_of: Callable[[], datetime],
        warnings: Callable[[], list[str]] = list,
    ) -> None:
        """`revocations_as_of` returns the time up to which revocations are known.

        `warnings` returns what an operator should look at; it makes no replica unready.
        """
        self.warnings = warnings
        self._health = health
        self._database = database
        self._revocations_as_of = revocations_as_of
        self._freshness_limit = settings.freshness_limit
        self._clock_watch = ClockWatch(database.clock, settings.clock_skew)
        self._written_at = time.monotonic()

    def jobs(self) -> list[Job]:
        """Return the jobs that check what readiness depends on."""
        return [
            Job("check_health", _HEALTH_INTERVAL, self.check_health),
            Job("check_writes", _WRITES_INTERVAL, self._check_writes),
        ]

    async def check_health(self) -> None:
        """Report SERVING if Validate would answer and the clock of the machine is right."""
        fresh = self._database.clock() - self._revocations_as_of() <= self._freshness_limit
        self._health.set_serving(self._clock_watch.agrees() and fresh)

    def is_ready(self) -> bool:
        """Return whether all calls are answered, reads and writes.

        A failover shorter than AUTH_FRESHNESS_LIMIT takes no replica out of service.
        """
        unwritten = time.monotonic() - self._written_at
        limit = self._freshness_limit.total_seconds()
        return self._health.serving and unwritten <= limit + _WRITES_INTERVAL

    async def _check_writes(self) -> None:
        if await self._database.store.takes_writes():
            self._written_at = time.monotonic()
