"""Moments on the wire."""

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from auth_service.errors import InvalidArgument

__all__ = ["moment", "timestamp"]


def timestamp(moment: datetime) -> Timestamp:
    """Return an aware moment after 1970 as a message.

    `Timestamp.FromDatetime` does the same, but takes as long as signing a token does.
    """
    return Timestamp(seconds=int(moment.timestamp()), nanos=moment.microsecond * 1000)


def moment(message: Timestamp, field: str) -> datetime:
    """Return a message as an aware moment. Raises InvalidArgument if it is none."""
    try:
        return message.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(field, "must be a time between the years 1 and 9999") from error
