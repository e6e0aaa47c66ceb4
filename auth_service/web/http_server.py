"""Serves an ASGI application by uvicorn, in the running event loop, on one listening socket."""

import asyncio
import contextlib
import math
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from auth_service.errors import ConfigError
from auth_service.web.acceptor import Acceptor
from auth_service.web.connections import Limits
from auth_service.web.protocol import Protocol
from auth_service.web.tls import Certificate

__all__ = ["HttpServer"]

_BACKLOG = 2048
_MAX_HEADER_BYTES = 16 * 1024
_NEVER = 24 * 3600  # seconds


class HttpServer:
    """One listening socket and the server on it; with certificate files over TLS."""

    def __init__(
        self,
        app: ASGIApp,
        address: str,
        *,
        variable: str = "AUTH_HTTP_ADDRESS",
        reuse_port: bool = False,
        certificate: tuple[Path, Path] | None = None,
        client_authorities: Path | None = None,
        drain_timeout: timedelta = timedelta(seconds=10),
        limits: Limits | None = None,
    ) -> None:
        """Bind; raises ConfigError if the address or the files cannot be used.

        `certificate` is the chain and its key; with `client_authorities` clients may present
        certificates of theirs. `variable` is the setting of the address. Clients
        can connect at once, and wait until `start`.
        """
        tls = None if certificate is None else Certificate(*certificate, client_authorities)
        self._socket = _bind(variable, address, reuse_port)
        self.port: int = self._socket.getsockname()[1]
        """The TCP port."""
        config = uvicorn.Config(
            app,
            http=Protocol,
            lifespan="off",
            log_config=None,
            log_level="error",  # what is not HTTP is logged by the protocol
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
            timeout_keep_alive=_NEVER,  # the protocol has deadlines of its own
            timeout_graceful_shutdown=math.ceil(drain_timeout.total_seconds()),
        )
        self._server = _Server(config, tls, limits or Limits())
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start serving."""
        self._task = asyncio.create_task(self._server.serve([self._socket]))

    async def stop(self) -> None:
        """Stop; requests in flight have the drain timeout to finish. Safe to call twice."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()


class _Server(uvicorn.Server):
    """uvicorn's server with our acceptor; it leaves signals to the process that it is part of."""

    def __init__(self, config: uvicorn.Config, tls: Certificate | None, limits: Limits) -> None:
        super().__init__(config)
        self._tls = None if tls is None else tls.context
        self._limits = limits

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections."""
        listeners: Any = sockets
        self.servers: Any = [
            Acceptor(listener, self._limits, self._protocol, self._tls) for listener in listeners
        ]
        self.started = True

    def _protocol(self) -> Protocol:
        return Protocol(self.config, self.server_state, self._limits)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handler."""
        yield


def _bind(variable: str, address: str, reuse_port: bool) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        found: Any = socket.getaddrinfo(
            host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(found[0], socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(found[4])
            # Listen at once: two sockets can be bound to a port if neither listens.
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:  # UnicodeError: not a host name
        raise ConfigError(
            f"{variable}: cannot serve {address}: {error}; stop the other server, choose another "
            f"address of this machine, or {_REMEDIES[variable]}"
        ) from error
    return listener


_REMEDIES = {
    "AUTH_HTTP_ADDRESS": "set AUTH_HTTP_ADDRESS=off",
    "AUTH_PROBE_ADDRESS": "leave AUTH_PROBE_ADDRESS unset",
}
