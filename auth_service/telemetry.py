"""Logs and metrics: how they are set up, the metric objects, and their text.

Several workers count in files of a directory that they share, each in those of its slot. Once it
has ended another one gets the slot: so totals never fall, and files never multiply.

Nothing secret passes: requests are never logged, and a processor masks whatever is named like one.
"""

import logging
import os
import sys
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import MutableMapping
from typing import Any, ClassVar

import structlog
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector

__all__ = [
    "HTTP_CLOSED",
    "HTTP_DURATION",
    "HTTP_TOTAL",
    "METRICS_CONTENT_TYPE",
    "METRICS_DIRECTORY",
    "RPC_DURATION",
    "RPC_TOTAL",
    "SIGNATURES_VERIFIED",
    "WORKER_SLOT",
    "Successes",
    "configure_logging",
    "metrics_text",
]

METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST
METRICS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that names the directory in which workers count; read by prometheus_client."""
WORKER_SLOT = "AUTH_WORKER_SLOT"
"""The variable that tells a worker which files there are its own; set by the supervisor."""

_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)

if METRICS_DIRECTORY in os.environ and (_slot := os.environ.get(WORKER_SLOT)):
    # Before the first metric is made, which settles where it counts. The default is the pid.
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

# Without the local variables, among which a request with its password would be.
_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)
_SECRET_WORDS = ("password", "token", "secret", "authorization", "credential", "_key", "hash")


class Successes:
    """The successful calls of one method, which are to be counted several times a second.

    To count each as it ends takes several times as long, as nothing of it is in the CPU's caches.
    """

    _all: ClassVar[dict[str, "Successes"]] = {}

    def __init__(self, method: str) -> None:
        self._duration: Any = RPC_DURATION.labels(method)
        self._total = RPC_TOTAL.labels(method, "OK")
        self.seconds: list[float] = []
        """How long each took that is not counted yet; to be appended to."""

    @classmethod
    def of(cls, method: str) -> "Successes":
        """Return the one of a method."""
        return cls._all.setdefault(method, cls(method))

    def count(self) -> None:
        """Count what waits."""
        waiting = self.seconds.copy()
        self.seconds.clear()
        if not waiting:
            return
        self._total.inc(len(waiting))
        # What observe() does for one, done for all: one by one it takes longer than the rest here.
        self._duration._sum.inc(sum(waiting))
        for bucket, count in Counts(bisect_left(_SECONDS, each) for each in waiting).items():
            self._duration._buckets[bucket].inc(count)

    @classmethod
    def count_all(cls) -> None:
        """Count what waits anywhere in this process."""
        for each in cls._all.values():
            each.count()


def metrics_text() -> bytes:
    """Return the metrics as METRICS_CONTENT_TYPE: of this process, or the sums of all workers."""
    Successes.count_all()
    if METRICS_DIRECTORY not in os.environ:
        return generate_latest()
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return generate_latest(registry)


def configure_logging(level: str = "info", form: str = "console") -> None:
    """Send log entries of this level and above to stderr, as `console` text or `json` lines."""
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            mask_secrets,
            _TRACEBACKS if form == "json" else _keep,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        # One write an entry: lines of several workers on one stderr do not mix.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )


def mask_secrets(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Replace the value of every entry whose name sounds secret."""
    for name in event:
        if name != "event" and any(word in name.lower() for word in _SECRET_WORDS):
            event[name] = "**********"
    return event


def _keep(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    return event
