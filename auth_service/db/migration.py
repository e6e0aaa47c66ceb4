"""Sessions of other systems that were traded for sessions of ours. Knows no rules.

Owns that of the replicas that are shown one, one begins a session.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from auth_service.db import rows
from auth_service.db.executor import Executor
from auth_service.db.sessions import insert_session
from auth_service.errors import InvalidCredentials
from auth_service.models import Session

__all__ = ["MigrationStore", "Trade"]


class Trade(NamedTuple):
    """What is traded for a session: the arguments of use_old_session and find_traded_session."""

    issuer: str
    once: bytes
    """Identifies the session of the other system, or its token."""
    until: datetime
    """From then on, by the database's clock, nothing is traded."""
    used_until: datetime
    """How long it is remembered."""
    request_hash: bytes | None
    """Identifies the request, if the client gave it an id."""
    grace: timedelta
    """For how long a request without an id is taken for a retry."""


class MigrationStore(Executor):
    """What was traded."""

    async def trade_session(
        self, session: Session, trade: Trade, revoked_before: datetime | None
    ) -> Session | None:
        """Add a session, or return the one that was added before if this is the retry of its trade.

        Returns None if it is no retry, if the session has ended or was refreshed, and after the
        end. Raises InvalidCredentials as `create_session`; then nothing was traded.
        """
        async with self._transaction() as connection:
            used = await connection.fetchrow(
                self._sql["use_old_session"], trade.issuer, trade.once, session.user_id,
                session.id, trade.request_hash, trade.used_until, trade.until,
            )  # fmt: skip
            if used is not None:
                row = await insert_session(connection, session, None, revoked_before)
                if row is None:
                    raise InvalidCredentials
                return rows.session(row)
            row = await connection.fetchrow(
                self._sql["find_traded_session"], trade.issuer, trade.once, session.user_id,
                trade.request_hash, trade.grace, trade.until,
            )  # fmt: skip
        return rows.session(row) if row else None
