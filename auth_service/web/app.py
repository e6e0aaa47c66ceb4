"""The HTTP edge as one ASGI application: turns errors into responses, times and logs requests.

A client sees the text of our own errors only, never that of other exceptions. Queries and bodies
are never logged.
"""

import time
from collections.abc import Collection, Iterable
from functools import partial
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from auth_service import audit
from auth_service.audit import Origin
from auth_service.authz.certificates import TrustedProxies
from auth_service.authz.sources import Sources
from auth_service.telemetry.metrics import HTTP_DURATION, HTTP_TOTAL
from auth_service.web.connections import Limits
from auth_service.web.request_limit import RequestLimit
from auth_service.web.responses import HANDLERS

__all__ = ["answering", "create_app"]

log = structlog.get_logger(__name__)

_QUIET_PATHS = ("/auth", "/healthz", "/readyz", "/metrics", "/.well-known/jwks.json")
"""Paths that are requested too often to log each success."""


def create_app(
    routes: Iterable[BaseRoute],
    limits: Limits | None = None,
    exempt: Collection[str] = (),
    sources: Sources | None = None,
) -> ASGIApp:
    """Return the application of these routes; the limits do not apply to the `exempt` paths.

    `sources` tells the audit log where a request comes from.
    """
    app = answering(routes)
    limited = RequestLimit(app, limits or Limits(), exempt)
    return _Middleware(limited, _paths(app.routes), sources or Sources(TrustedProxies()))


def answering(routes: Iterable[BaseRoute]) -> Starlette:
    """Return an application of these routes that answers all errors, and unknown paths."""
    app = Starlette(routes=list(routes), exception_handlers=HANDLERS)
    app.router.redirect_slashes = False  # a redirect would use the client's Host header
    return app


def _paths(routes: Iterable[BaseRoute], prefix: str = "") -> frozenset[str]:
    """Return the paths that have metrics of their own; all others are counted as one."""
    found: set[str] = set()
    for route in routes:
        if isinstance(route, Mount):
            found |= _paths(route.routes, prefix + route.path)
        elif isinstance(route, Route):
            found.add(prefix + route.path)
    return frozenset(found)


class _Middleware:
    """The outermost middleware."""

    def __init__(self, app: ASGIApp, paths: frozenset[str], sources: Sources) -> None:
        self._app = app
        self._paths = paths
        self._sources = sources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI 3)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0
        if scope["path"] not in _QUIET_PATHS:
            audit.begin(partial(_origin, scope, self._sources))

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-content-type-options"] = "nosniff"
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception:  # already answered, without its text
            log.exception("http_failed", path=self._known(scope))
        finally:
            self._record(scope, status, time.perf_counter() - started)

    def _known(self, scope: Scope) -> str:
        path: str = scope["path"]
        return path if path in self._paths else "other"

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        known = self._known(scope)
        HTTP_TOTAL.labels(known, str(status)).inc()
        HTTP_DURATION.labels(known).observe(seconds)
        if status < 400 and known in _QUIET_PATHS:
            return
        entry: dict[str, Any] = {"method": scope["method"], "path": known, "status": status}
        log.info("http", **entry, ms=round(seconds * 1000, 2))


def _origin(scope: Scope, sources: Sources) -> Origin:
    """Return where a request comes from, for the audit log."""
    client, headers = scope.get("client"), Headers(scope=scope)  # a Unix socket has no client
    forwarded = headers.getlist(sources.header)
    return Origin.of(sources.of_host(client[0] if client else None, forwarded), headers)
