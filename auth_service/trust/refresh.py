"""Keeps the keys of an issuer up to date: at the start, and on a schedule that nobody else moves.

Owns when keys are read again, and that the last good ones stay when a reading fails. An unknown
`kid` in a token triggers nothing: that would let anybody make the service send requests.
"""

import asyncio
import random
from collections.abc import Callable, Collection, Iterable
from datetime import timedelta

import structlog

from auth_service.clock import Clock
from auth_service.telemetry.metrics import WORKLOAD_KEYS_AGE
from auth_service.tokens.foreign_keys import TrustedKeys, foreign_keys
from auth_service.trust.sources import FetchFailed, Source

__all__ = ["KeyRefresh", "KeyRefreshes"]

log = structlog.get_logger(__name__)

JITTER = 0.2  # of the interval, so that replicas which started together do not ask together
LONGEST_RETRY = 15.0  # seconds after a failure, if the interval is not shorter
_START_PATIENCE = 3.0  # seconds that the start of the server waits for the first keys


class KeyRefresh:
    """The keys of one issuer."""

    def __init__(
        self,
        name: str,
        source: Source,
        keys: TrustedKeys,
        *,
        uses: Collection[str],
        interval: timedelta,
        stale_after: timedelta,
        clock: Clock,
    ) -> None:
        self.name = name
        self._source = source
        self._keys = keys
        self._uses = uses
        self._interval = interval.total_seconds()
        self._stale_after = stale_after
        self._clock = clock
        self._age = WORKLOAD_KEYS_AGE.labels(name)
        self._left_out: list[str] = []
        self._started_at = clock()
        self._warned = False

    @property
    def stale(self) -> bool:
        """Whether the keys are older than an operator wants to know of; they are used still."""
        return self._clock() - (self._keys.fetched_at or self._started_at) > self._stale_after

    async def refresh(self) -> bool:
        """Read the keys once; if that fails, keep those that are known, and return False."""
        try:
            keys, left_out = foreign_keys(await self._source.fetch(), self._uses)
        except (FetchFailed, ValueError) as error:
            log.warning("workload_keys_not_read", issuer=self.name, error=str(error))
            return False
        if left_out and left_out != self._left_out:
            log.info("workload_keys_left_out", issuer=self.name, reasons=left_out[:3])
        self._left_out = left_out
        if set(keys) != set(self._keys.kids):
            log.info("workload_keys_changed", issuer=self.name, kids=sorted(keys))
        self._keys.replace(keys, self._clock())
        return True

    def observe(self) -> None:
        """Set the metric, and warn once when the keys have become stale."""
        since = self._keys.fetched_at or self._started_at
        self._age.set((self._clock() - since).total_seconds())
        if self.stale and not self._warned:
            log.warning("workload_keys_stale", issuer=self.name, since=since.isoformat())
        self._warned = self.stale

    def delay(self, good: bool, jitter: Callable[[], float] = random.random) -> float:
        """Return the seconds until the next reading, after one that was good or not."""
        interval = self._interval if good else min(self._interval, LONGEST_RETRY)
        return interval * (1 - JITTER * jitter())


class KeyRefreshes:
    """Those of all issuers, from `start` to `stop`."""

    def __init__(self, refreshes: Iterable[KeyRefresh]) -> None:
        self._refreshes = tuple(refreshes)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to read; return when all keys are known, or after a moment."""
        first = [asyncio.Event() for _ in self._refreshes]
        self._tasks = [
            asyncio.create_task(_follow(refresh, event), name=f"keys of {refresh.name}")
            for refresh, event in zip(self._refreshes, first, strict=True)
        ]
        waiting = [asyncio.create_task(event.wait()) for event in first]
        if waiting:
            await asyncio.wait(waiting, timeout=_START_PATIENCE)
        for task in waiting:
            task.cancel()

    async def stop(self) -> None:
        """Stop reading."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def warnings(self) -> list[str]:
        """Return what an operator should look at: issuers whose keys are stale."""
        return [f"the keys of {each.name} are stale" for each in self._refreshes if each.stale]

    async def observe(self) -> None:
        """Set the metrics of all issuers."""
        for each in self._refreshes:
            each.observe()


async def _follow(refresh: KeyRefresh, first: asyncio.Event) -> None:
    while True:
        try:
            good = await refresh.refresh()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next reading comes
            log.warning("workload_keys_not_read", issuer=refresh.name, error=repr(error))
            good = False
        first.set()
        await asyncio.sleep(refresh.delay(good))
