"""Commits that a standby has (AUTH_DURABILITY=replicated).

PostgreSQL waits for a standby only while `synchronous_standby_names` names one, and says so to
nobody. Owns that a commit is acknowledged only if the server did wait.
"""

from typing import TYPE_CHECKING, Any

import asyncpg
import structlog

from auth_service.db.statements import statements
from auth_service.errors import Unavailable

if TYPE_CHECKING:
    from auth_service.db.hosts import Connection

__all__ = ["commit_on_standby", "require_standby"]

log = structlog.get_logger(__name__)

NOT_REPLICATED = "the database has no standby to confirm the change; try again"


async def require_standby(connection: "Connection") -> None:
    """Have the present transaction wait for a standby. Raises Unavailable if none is named.

    The transaction also writes to the log itself. So it waits even if the change is there already,
    as after a retry, and that change may not have reached the standby yet.
    """
    if not await connection.fetchval(statements()["require_standby"]):
        log.error("durability_not_met", detail="synchronous_standby_names is empty")
        raise Unavailable(NOT_REPLICATED)


async def commit_on_standby(connection: "Connection") -> None:
    """Commit. Raises Unavailable if the server gave up the wait: it then warns, and commits."""
    warnings: list[Any] = []

    def collect(_connection: object, message: object) -> None:
        if isinstance(message, asyncpg.PostgresWarning):
            warnings.append(message)

    connection.add_log_listener(collect)
    try:
        await connection.execute("COMMIT")
    finally:
        if not connection.is_closed():
            connection.remove_log_listener(collect)
    if warnings:
        log.error("durability_not_met", detail="the wait for a standby was cancelled")
        raise Unavailable(NOT_REPLICATED)
