"""Reads the database's clock over a connection."""

from typing import TYPE_CHECKING

from auth_service.clock import DatabaseClock, steady_seconds
from auth_service.db.driver_errors import translated
from auth_service.db.statements import statements

if TYPE_CHECKING:
    from datetime import datetime

    from auth_service.db.pool import Connection

__all__ = ["adjust_clock", "read_clock"]


async def read_clock(connection: "Connection") -> DatabaseClock:
    """Return the database's clock. Raises Unavailable."""
    return DatabaseClock(*await _reading(connection))


async def adjust_clock(clock: DatabaseClock, connection: "Connection") -> None:
    """Correct the estimate of the database's clock. Raises Unavailable."""
    clock.adjust(*await _reading(connection))


async def _reading(connection: "Connection") -> "tuple[datetime, float, float]":
    sent = steady_seconds()
    with translated():
        read: datetime = await connection.fetchval(statements()["read_clock"])
    return read, sent, steady_seconds()
