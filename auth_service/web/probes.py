"""What orchestrators and monitoring ask: alive, ready, and the metrics."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from auth_service.telemetry import METRICS_CONTENT_TYPE, metrics_text

__all__ = ["probe_routes"]

_FRESH = {"cache-control": "no-store"}


def probe_routes(ready: Callable[[], bool]) -> list[Route]:
    """Return /healthz, /readyz and /metrics; `ready` tells whether calls are answered."""

    async def healthz(_request: Request) -> Response:
        """Answer 200 as long as the process answers at all: otherwise it should be restarted."""
        return PlainTextResponse("ok\n", headers=_FRESH)

    async def readyz(_request: Request) -> Response:
        """Answer 200 while calls are answered, else 503: no traffic, but no restart either."""
        if ready():
            return PlainTextResponse("ready\n", headers=_FRESH)
        return PlainTextResponse("not ready\n", 503, _FRESH)

    async def metrics(_request: Request) -> Response:
        """Answer the metrics in Prometheus' text format."""
        return Response(metrics_text(), media_type=METRICS_CONTENT_TYPE, headers=_FRESH)

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]
