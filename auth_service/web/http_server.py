"""Serves the HTTP edge by uvicorn, in the event loop that is there."""

import asyncio
import contextlib
import math
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp

from auth_service.errors import ConfigError

__all__ = ["HttpServer"]

log = structlog.get_logger(__name__)

_RELOAD_SECONDS = 5
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
    ) -> None:
        """Bind; raises ConfigError where that cannot be. `certificate` is the chain and its key."""
        self._certificate = certificate
        self._seen: list[tuple[int, int, int]] = []
        self._socket = _bind(address, reuse_port)
        self.port: int = self._socket.getsockname()[1]
        """The port that is served."""
        self._config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            limit_concurrency=_MAX_CONNECTIONS,
            h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
            timeout_graceful_shutdown=math.ceil(drain_timeout.total_seconds()),
            ssl_certfile=certificate and str(certificate[0]),
            ssl_keyfile=certificate and str(certificate[1]),
            callback_notify=self._reload_certificate,
            timeout_notify=_RELOAD_SECONDS,
        )
        self._server = _Server(self._config)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to serve; raises ConfigError for certificate files that cannot be used."""
        try:
            self._seen = self._stamp()
            self._config.load()
        except OSError as error:  # ssl.SSLError is one
            self._socket.close()
            raise ConfigError(
                f"the TLS files cannot be used: {error}; AUTH_TLS_CERT_FILE and AUTH_TLS_KEY_FILE "
                "must be a certificate chain and its unencrypted key, in PEM"
            ) from error
        self._task = asyncio.create_task(self._server.serve([self._socket]))

    async def stop(self) -> None:
        """Let requests in flight finish, within the drain timeout; safe to call twice."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task

    async def _reload_certificate(self) -> None:
        """Give new connections the certificate of files that were replaced."""
        if self._certificate is None or self._config.ssl is None:
            return
        try:
            if (stamp := self._stamp()) != self._seen:
                self._config.ssl.load_cert_chain(*self._certificate)
                self._seen = stamp
        except OSError as error:  # the one before it stays
            log.error("certificate_reload_failed", error=str(error))  # noqa: TRY400 - no traceback

    def _stamp(self) -> list[tuple[int, int, int]]:
        stats = [file.stat() for file in self._certificate or ()]
        return [(each.st_mtime_ns, each.st_ino, each.st_size) for each in stats]


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
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"AUTH_HTTP_ADDRESS: cannot serve {address}: it is in use, or not an address of this "
            "machine; stop what serves there, choose another, or set AUTH_HTTP_ADDRESS=off"
        ) from error
    return listener
