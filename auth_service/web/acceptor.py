"""Accepts the connections of a listening socket, each at its place.

asyncio's own server would count a connection only after the TLS handshake, for which it allows a
minute.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Any

import structlog

from auth_service.web.connections import Connections, Limits, source_of
from auth_service.web.protocol import Protocol

__all__ = ["Acceptor"]

log = structlog.get_logger(__name__)

_BATCH = 64  # connections that are accepted before other work gets its turn
_PAUSE = 0.1  # seconds without accepting, if the process has no file descriptor or memory left
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Accepts from its creation until `close`; stands in for asyncio.Server in uvicorn's."""

    def __init__(
        self,
        listener: socket.socket,
        limits: Limits,
        make_protocol: Callable[[], Protocol],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._listener = listener
        self._connections = Connections(limits)
        self._make_protocol = make_protocol
        self._tls: dict[str, Any] = {}
        if tls is not None:
            timeout = limits.client_timeout.total_seconds()
            self._tls = {
                "ssl": tls,
                "ssl_handshake_timeout": timeout,
                "ssl_shutdown_timeout": timeout,
            }
        self._loop = asyncio.get_running_loop()
        self._starting: set[asyncio.Task[Any]] = set()
        self._pause: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        self._resume()

    def close(self) -> None:
        """Accept no more; connections in the handshake are closed."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener.fileno())
        for task in self._starting:
            task.cancel()

    async def wait_closed(self) -> None:
        """Return once no connection is in the handshake."""
        if self._starting:
            await asyncio.wait(self._starting)

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(_BATCH):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:  # the client has gone already
                    continue
                log.error("http_accept_failed", error=str(error))  # noqa: TRY400 - no traceback
                self._connections.evict_oldest(_BATCH)
                self._loop.remove_reader(self._listener.fileno())
                self._pause = self._loop.call_later(_PAUSE, self._resume)
                return
            self._begin(connection, address[0])

    def _begin(self, connection: socket.socket, host: str) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        protocol = self._make_protocol()
        task = self._loop.create_task(
            self._loop.connect_accepted_socket(lambda: protocol, connection, **self._tls)
        )

        def evict() -> None:
            task.cancel()  # of a handshake that is not complete
            protocol.evict()

        protocol.place = self._connections.enter(source_of(host), evict)
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)
        task.add_done_callback(lambda _: _leave_if_failed(task, protocol))


def _leave_if_failed(task: asyncio.Task[Any], protocol: Protocol) -> None:
    """Free the place of a connection that has never been made."""
    if task.cancelled() or task.exception() is not None:
        protocol.place.leave()
