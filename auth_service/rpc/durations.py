"""Spans of time on the wire."""

from datetime import timedelta
from typing import Any

from auth_service.errors import InvalidArgument

__all__ = ["span"]

_LONGEST = 315_576_000_000  # seconds of a google.protobuf.Duration: about 10,000 years


def span(request: Any, field: str, path: str = "") -> timedelta | None:
    """Return the Duration in a field of a request, None if it is unset.

    Raises InvalidArgument if it is negative or out of range; `path` leads to the request.
    """
    if not request.HasField(field):
        return None
    given = getattr(request, field)
    if not (0 <= given.seconds <= _LONGEST and 0 <= given.nanos < 1_000_000_000):
        raise InvalidArgument(f"{path}{field}", "must be a duration of zero or more")
    return timedelta(seconds=given.seconds, microseconds=given.nanos / 1000)
