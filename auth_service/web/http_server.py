"""Serves the HTTP edge by uvicorn, in the event loop that is there.

A certificate is renewed by replacing the files, as for gRPC: each new connection gets what is
there, and files that are broken are logged, and the certificate before them stays.
"""

import asyncio
import contextlib
import math
import socket
import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from auth_service.errors import ConfigError

__all__ = ["HttpServer"]

log = structlog.get_logger(__name__)

_BACKLOG = 2048
_MAX_CONNECTIONS = 1000
_MAX_HEADER_BYTES = 16 * 1024


class HttpServer:
    """One listening socket and what serves it; with certificate files over TLS."""

    def __init__(
        self,
        app: ASGIApp,
        address: str,
        *,
        reuse_port: bool = False,
        certificate: tuple[Path, Path] | None = None,
        drain_timeout: timedelta = timedelta(seconds=10),
        idle_timeout: timedelta = timedelta(seconds=5),
    ) -> None:
        """Bind; raises ConfigError where that cannot be, or where the files cannot be used.

        `certificate` is the chain and its key. Connections wait until `start`.
        """
        tls = None if certificate is None else _Certificate(*certificate).context
        self._socket = _bind(address, reuse_port)
        self.port: int = self._socket.getsockname()[1]
        """The port that is served."""
        config = uvicorn.Config(
            app,
            http=_Protocol,  # another, were it installed, would not bound the headers
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            backlog=_BACKLOG,
            limit_concurrency=_MAX_CONNECTIONS,
            h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
            timeout_keep_alive=math.ceil(idle_timeout.total_seconds()),
            timeout_graceful_shutdown=math.ceil(drain_timeout.total_seconds()),
        )
        config.load()
        config.ssl = tls
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to serve."""
        self._task = asyncio.create_task(self._server.serve([self._socket]))

    async def stop(self) -> None:
        """Let requests in flight finish, within the drain timeout; safe to call twice."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()


class _Certificate:
    """A chain and its key in files, and the context that shows what they hold."""

    def __init__(self, chain: Path, key: Path) -> None:
        """Read the files; raises ConfigError where they cannot be used."""
        self._files = chain, key
        try:
            self._seen = self._stamp()
            self.context = self._current = self._read()
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(
                f"the TLS files cannot be used: {error}; AUTH_TLS_CERT_FILE and AUTH_TLS_KEY_FILE "
                "must be a certificate chain and its unencrypted key, in PEM"
            ) from error
        self.context.sni_callback = self._show

    def _show(self, connection: ssl.SSLObject, *_: object) -> None:
        """Give a new connection the certificate of now; called at each handshake."""
        try:
            if (stamp := self._stamp()) != self._seen:
                self._seen = stamp
                # A context of its own: one that failed to load a pair has none any more.
                self._current = self._read()
                log.info("certificate_reloaded", file=str(self._files[0]))
        except OSError as error:
            log.error("certificate_reload_failed", error=str(error))  # noqa: TRY400 - no traceback
        connection.context = self._current

    def _read(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        # Without a password OpenSSL would ask the terminal for that of an encrypted key.
        context.load_cert_chain(*self._files, password="")
        return context

    def _stamp(self) -> list[tuple[int, int, int]]:
        stats = [file.stat() for file in self._files]
        return [(each.st_mtime_ns, each.st_ino, each.st_size) for each in stats]


class _Protocol(H11Protocol):
    """uvicorn's, which closes idle connections before their first request as well as after."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait; what arrives ends the wait (uvicorn's own timer)."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the timer, whatever ended the connection."""
        self._unset_keepalive_if_required()
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to the process that it is a part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signal."""
        yield


def _bind(address: str, reuse_port: bool) -> socket.socket:
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
            listener.listen(_BACKLOG)  # or two could both bind, and one fail when nobody looks
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:  # a host name of the wrong form is the latter
        raise ConfigError(
            f"AUTH_HTTP_ADDRESS: cannot serve {address}: {error}; stop what serves there, choose "
            "another address of this machine, or set AUTH_HTTP_ADDRESS=off"
        ) from error
    return listener
