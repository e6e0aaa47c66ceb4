"""The metric objects, and their text in the format of Prometheus.

Several workers count in files of a directory that they share, each in the files of its slot. The
successor of a worker takes over its slot, so totals never fall and files never multiply.
"""

import os
from bisect import bisect_left
from collections import Counter as Counts
from typing import Any, ClassVar

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector

__all__ = [
    "AUDIT_DROPPED",
    "AUDIT_WAITING",
    "CLOCK_AHEAD",
    "HTTP_CLOSED",
    "HTTP_DURATION",
    "HTTP_TOTAL",
    "LOGINS_THROTTLED",
    "METRICS_CONTENT_TYPE",
    "METRICS_DIRECTORY",
    "RPC_DURATION",
    "RPC_TOTAL",
    "SIGNATURES_VERIFIED",
    "WORKER_SLOT",
    "WORKLOAD_KEYS_AGE",
    "Successes",
    "metrics_text",
]

METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST
METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""The variable with the directory in which workers count; prometheus_client reads it."""
WORKER_SLOT = "AUTH_WORKER_SLOT"
"""The variable with the slot of a worker, which names its files; the supervisor sets it."""

_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)

if METRICS_DIRECTORY in os.environ and (_slot := os.environ.get(WORKER_SLOT)):
    # Must precede the first metric, which decides where it counts. The default is the pid.
    values.ValueClass = values.MultiProcessValue(lambda: _slot)

RPC_TOTAL = Counter("auth_rpc_total", "Finished RPCs.", ["method", "code"])
RPC_DURATION = Histogram(
    "auth_rpc_duration_seconds", "How long RPCs took.", ["method"], buckets=_SECONDS
)
SIGNATURES_VERIFIED = Counter(
    "auth_signatures_verified_total",
    "Signatures of access tokens verified. A token found valid before is not counted again.",
)
HTTP_TOTAL = Counter("auth_http_requests_total", "Finished HTTP requests.", ["path", "status"])
HTTP_DURATION = Histogram(
    "auth_http_duration_seconds", "How long HTTP requests took.", ["path"], buckets=_SECONDS
)
HTTP_CLOSED = Counter(
    "auth_http_connections_closed_total",
    "HTTP connections that the service closed on a slow client, or to make room for another.",
    ["reason"],
)
LOGINS_THROTTLED = Counter(
    "auth_logins_throttled_total",
    "Logins refused because a bucket had no attempts left: that of the source, of the network, of "
    "the identifier, or the caller's own.",
    ["bucket"],
)
CLOCK_AHEAD = Gauge(
    "auth_clock_ahead_seconds",
    "How far this machine's clock is ahead of the database's.",
    multiprocess_mode="mostrecent",  # workers share the machine's clock
)
WORKLOAD_KEYS_AGE = Gauge(
    "auth_workload_keys_age_seconds",
    "How long ago the keys of an issuer of workload tokens were last read.",
    ["issuer"],
    multiprocess_mode="livemax",
)
AUDIT_DROPPED = Counter(
    "auth_audit_rows_dropped_total",
    "Rows of the audit log that were not written, because too many waited.",
)
AUDIT_WAITING = Gauge(
    "auth_audit_rows_waiting",
    "Rows of the audit log that wait for their batch. A crash of the process loses them.",
    multiprocess_mode="livesum",
)


class Successes:
    """The successful calls of one method, which are counted in batches several times a second.

    Counting each call as it ends takes several times as long: its data is not in the CPU's caches.
    """

    _all: ClassVar[dict[str, "Successes"]] = {}

    def __init__(self, method: str) -> None:
        self._duration: Any = RPC_DURATION.labels(method)
        self._total = RPC_TOTAL.labels(method, "OK")
        self.seconds: list[float] = []
        """The durations in seconds that are not counted yet; append to it."""

    @classmethod
    def of(cls, method: str) -> "Successes":
        """Return the object of a method."""
        return cls._all.setdefault(method, cls(method))

    def count(self) -> None:
        """Count the calls that are not counted yet."""
        waiting = self.seconds.copy()
        self.seconds.clear()
        if not waiting:
            return
        self._total.inc(len(waiting))
        # The same as observe() for each; one by one would take longer than everything else here.
        self._duration._sum.inc(sum(waiting))
        for bucket, count in Counts(bisect_left(_SECONDS, each) for each in waiting).items():
            self._duration._buckets[bucket].inc(count)

    @classmethod
    def count_all(cls) -> None:
        """Count the calls of every method."""
        for each in cls._all.values():
            each.count()


def metrics_text() -> bytes:
    """Return the metrics as METRICS_CONTENT_TYPE: of this process, or summed over all workers."""
    Successes.count_all()
    if METRICS_DIRECTORY not in os.environ:
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)
