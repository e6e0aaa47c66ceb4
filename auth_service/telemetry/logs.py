"""How logs are written, and what they must not hold.

Requests are never logged, and a processor masks every value whose name sounds secret.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from auth_service.telemetry.repeats import REPEATS

__all__ = ["configure_logging", "mask_secrets"]

# Without the local variables, among which a request with its password would be.
_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)
_SECRET_WORDS = ("password", "token", "secret", "authorization", "credential", "_key", "hash")


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
            REPEATS,
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
