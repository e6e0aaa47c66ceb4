"""The periodic work of a serving process: metrics, key rotation, and pruning of the database.

Owns when each job runs, and that the failure of one affects neither the others nor its own next
run. What a job does is defined by what it calls.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from auth_service.core.signing_keys import SigningKeys
from auth_service.serving.memory import release_memory
from auth_service.serving.wiring import Database
from auth_service.telemetry.metrics import SIGNATURES_VERIFIED, Successes
from auth_service.telemetry.repeats import REPEATS

__all__ = ["Job", "Maintenance", "jobs"]

log = structlog.get_logger(__name__)

_METRICS_INTERVAL = 0.25  # seconds, like the others
_REPEATS_INTERVAL = 1.0
_AUDIT_INTERVAL = 0.5
_MEMORY_INTERVAL = 15.0
_ROTATION_INTERVAL = 10.0
_DATABASE_INTERVAL = 60.0

_KEY_EVENTS = timedelta(days=30)
"""For how long the dates of keys are written to the audit log when no process served."""
_OVERLAP = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Job:
    """Work that runs at once and then `interval` seconds after the end of its last run."""

    name: str
    interval: float
    work: Callable[[], Awaitable[object]]


class Maintenance:
    """Runs jobs, each in a task of its own, from `start` to `stop`."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._jobs = tuple(jobs)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start every job."""
        self._tasks = [
            asyncio.create_task(_repeat(job), name=f"maintenance {job.name}") for job in self._jobs
        ]

    async def stop(self) -> None:
        """Cancel every job, and return once all have ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []


def jobs(
    database: Database,
    keys: SigningKeys,
    announce_keys: Callable[[], object],
    signatures_verified: Callable[[], int],
    *,
    audit_retention: timedelta = timedelta(0),
) -> list[Job]:
    """Return the jobs of a serving process; `announce_keys` is called after a key rotation.

    With an `audit_retention` of zero the audit log is kept for ever.
    """
    store, key_store, clock = database.store, database.key_store, database.clock
    counted = 0

    async def count() -> None:
        nonlocal counted
        Successes.count_all()
        verified = signatures_verified()
        SIGNATURES_VERIFIED.inc(verified - counted)
        counted = verified

    async def sum_up_repeats() -> None:
        REPEATS.flush()

    async def rotate_keys() -> None:
        if await keys.rotate_if_due():
            announce_keys()

    audited_until: datetime | None = None

    async def audit_keys() -> None:
        nonlocal audited_until
        now = clock()
        await key_store.audit_dates((audited_until or now - _KEY_EVENTS) - _OVERLAP, now)
        audited_until = now

    async def prune_audit() -> None:
        if audit_retention:
            now = clock()
            await store.prune_audit(now - audit_retention, now)

    return [
        Job("count", _METRICS_INTERVAL, count),
        Job("sum_up_repeats", _REPEATS_INTERVAL, sum_up_repeats),
        Job("release_memory", _MEMORY_INTERVAL, release_memory),
        Job("flush_audit", _AUDIT_INTERVAL, store.flush_audit),
        Job("rotate_keys", _ROTATION_INTERVAL, rotate_keys),
        Job("audit_keys", _ROTATION_INTERVAL, audit_keys),
        Job("prune", _DATABASE_INTERVAL, lambda: store.prune(clock())),
        Job("prune_audit", _DATABASE_INTERVAL, prune_audit),
        Job("prune_keys", _DATABASE_INTERVAL, lambda: key_store.prune(clock())),
        Job("extend_audit_log", _DATABASE_INTERVAL, lambda: store.extend_audit_log(clock())),
    ]


async def _repeat(job: Job) -> None:
    while True:
        try:
            await job.work()
        except Exception as error:  # noqa: BLE001 - any failure is logged, and the job runs again
            log.warning("maintenance_failed", job=job.name, error=repr(error))
        await asyncio.sleep(job.interval)
