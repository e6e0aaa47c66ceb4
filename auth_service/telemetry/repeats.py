"""Sums up log entries that repeat, so that a flood of requests does not flood the log.

Owns which entries are the same, and how many of them are written each second.
"""

import logging
import sys
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

__all__ = ["REPEATS", "Repeats"]

MAX_REPEATED = 20  # entries that are the same, in each window
MAX_DISTINCT = 500  # kinds of entries that are told apart, in each window
WINDOW = 1.0  # seconds

_VARYING = frozenset({"ms", "peer", "source"})
"""Fields in which entries may differ and be the same: durations and clients."""

log = structlog.get_logger(__name__)

Entry = MutableMapping[str, Any]
Kind = tuple[tuple[str, str], ...]


class Repeats:
    """A processor of structlog that drops the entries of a kind beyond MAX_REPEATED a second.

    At the end of the second one entry `repeated` has the kind and how many entries were dropped.
    Each entry ends the seconds before it; `flush` does so without one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: dict[Kind, int] = {}
        self._end = 0.0

    def __call__(self, _logger: object, _method: str, entry: Entry) -> Entry:
        """Return the entry; raises structlog.DropEvent if there were too many of its kind."""
        self.flush()
        kind = _kind(entry)
        if kind not in self._counts and len(self._counts) >= MAX_DISTINCT:
            kind = _kind({key: entry[key] for key in ("event", "level") if key in entry})
        count = self._counts[kind] = self._counts.get(kind, 0) + 1
        if count > MAX_REPEATED:
            raise structlog.DropEvent
        return entry

    def flush(self) -> None:
        """Write how many entries were dropped, if the second is over."""
        now = self._clock()
        if now < self._end:
            return
        # First of all, because each entry that is written here comes here as well.
        self._end, counts, self._counts = now + WINDOW, self._counts, {}
        for kind, count in counts.items():
            if count > MAX_REPEATED:
                fields = dict(kind)
                level = logging.getLevelNamesMapping()[fields.pop("level", "info").upper()]
                of = fields.pop("event")
                log.log(level, "repeated", of=of, times=count - MAX_REPEATED, **fields)


def _kind(entry: Entry) -> Kind:
    return tuple(
        # A value of exc_info would be taken for an exception again.
        ("exception", _class_name(value)) if key == "exc_info" else (key, str(value))
        for key, value in entry.items()
        if key not in _VARYING and value is not None
    )


def _class_name(exc_info: object) -> str:
    if isinstance(exc_info, BaseException):
        return type(exc_info).__name__
    kind = sys.exc_info()[0]
    return "" if kind is None else kind.__name__


REPEATS = Repeats()
"""The processor of this process."""
