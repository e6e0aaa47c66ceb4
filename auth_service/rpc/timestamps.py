"""Moments on the wire."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

__all__ = ["timestamp"]


def timestamp(moment: datetime) -> Timestamp:
    """Return an aware moment after 1970 as a message.

    `Timestamp.FromDatetime` does the same, but takes as long as signing a token does.
    """
    return Timestamp(seconds=int(moment.timestamp()), nanos=moment.microsecond * 1000)
