"""Bounds the requests that are in progress, in total and for each source address."""

from collections import Counter
from collections.abc import Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from auth_service.errors import RateLimited, Retryable, Unavailable
from auth_service.web.connections import Limits, source_of
from auth_service.web.responses import error_response

__all__ = ["RequestLimit"]


class RequestLimit:
    """Middleware that refuses requests beyond the limits, except on the `exempt` paths.

    Exempt are the probes: an orchestrator would restart a process that cannot answer them.
    """

    def __init__(self, app: ASGIApp, limits: Limits, exempt: Collection[str] = ()) -> None:
        self._app = app
        self._limits = limits
        self._exempt = frozenset(exempt)
        self._total = 0
        self._by_source: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI 3)."""
        if scope["type"] != "http" or scope["path"] in self._exempt:
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        source = source_of(client[0]) if client else ""
        if (error := self._excess(source)) is not None:
            response = error_response(error)
            response.headers["connection"] = "close"  # makes room for other clients
            await response(scope, receive, send)
            return
        self._total += 1
        self._by_source[source] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._total -= 1
            self._by_source[source] -= 1
            if not self._by_source[source]:
                del self._by_source[source]

    def _excess(self, source: str) -> Retryable | None:
        if self._total >= self._limits.connections:
            return Unavailable("this replica has too many requests in progress; try another")
        if self._by_source[source] >= self._limits.per_source:
            return RateLimited("too many requests of this address are in progress")
        return None
