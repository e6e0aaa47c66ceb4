"""The connection of the feed: it listens for hints, and serves the polls.

One connection serves both, so every poll proves that the connection that listens is alive. Does
not know what the hints mean.
"""

import contextlib
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import asyncpg
import structlog

from auth_service.db.driver_errors import translated
from auth_service.db.pool import open_connection
from auth_service.errors import Unavailable

if TYPE_CHECKING:
    from auth_service.db.pool import Connection

__all__ = ["Listener"]

log = structlog.get_logger(__name__)

CHANNEL = "authn_feed"
CLOSE_TIMEOUT = 1.0  # seconds


class Listener:
    """Opens, closes and drops the connection. `wake` is called at a hint, and at its end."""

    def __init__(
        self,
        url: str,
        wake: Callable[[], object],
        timeout: timedelta,
        *,
        transaction_pooling: bool,
    ) -> None:
        """`timeout` bounds connecting to each host, and each statement.

        With `transaction_pooling` nothing is listened to, since another server connection may
        serve each statement.
        """
        self._url = url
        self._wake = wake
        self._timeout = timeout
        self._transaction_pooling = transaction_pooling
        self._connection: Connection | None = None

    @property
    def connection(self) -> "Connection | None":
        """The connection; None if it has to be opened."""
        return self._connection

    async def open(self) -> "Connection":
        """Connect and listen. Raises Unavailable if that is not possible."""
        self._connection = connection = await open_connection(
            self._url,
            application_name="auth-service feed",
            statement_timeout=self._timeout,
            connect_timeout=self._timeout,
            transaction_pooling=self._transaction_pooling,
            writes=False,
        )
        connection.add_termination_listener(self._on_event)
        if not self._transaction_pooling:
            await self._listen(connection)
        return connection

    async def _listen(self, connection: "Connection") -> None:
        with translated():
            try:
                await connection.add_listener(CHANNEL, self._on_event)
            except asyncpg.FeatureNotSupportedError:
                detail = "revocations are found by polling alone"
                log.warning("revocation_feed_cannot_listen", detail=detail)

    async def close(self) -> None:
        """End the connection in order, as far as the server answers."""
        if self._connection is not None:
            self._connection.remove_termination_listener(self._on_event)
            with contextlib.suppress(Unavailable), translated():
                await self._connection.close(timeout=CLOSE_TIMEOUT)
        self.drop()

    def drop(self) -> None:
        """Give the connection up without a word to the server."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.remove_termination_listener(self._on_event)
            connection.terminate()

    def _on_event(self, *_: object) -> None:
        self._wake()
