"""The endpoints of orchestrators and monitoring: liveness, readiness and metrics."""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from auth_service.telemetry.metrics import METRICS_CONTENT_TYPE, metrics_text

__all__ = ["HEALTH_PATHS", "probe_routes"]

HEALTH_PATHS = ("/healthz", "/readyz")
"""The paths that are answered whatever the load."""

_FRESH = {"cache-control": "no-store"}


def probe_routes(
    ready: Callable[[], bool], warnings: Callable[[], list[str]] = list
) -> list[Route]:
    """Return /healthz, /readyz and /metrics; `ready` tells whether calls are answered.

    `warnings` returns what an operator should look at; /readyz has them in its body.
    """

    async def healthz(_request: Request) -> Response:
        """Return 200; a process that does not answer should be restarted."""
        return PlainTextResponse("ok\n", headers=_FRESH)

    async def readyz(_request: Request) -> Response:
        """Return 200 while calls are answered, else 503: no traffic, but no restart either."""
        if ready():
            lines = ["ready", *(f"warning: {text}" for text in warnings())]
            return PlainTextResponse("\n".join([*lines, ""]), headers=_FRESH)
        return PlainTextResponse("not ready\n", 503, _FRESH)

    async def metrics(_request: Request) -> Response:
        """Return the metrics in the text format of Prometheus."""
        return Response(metrics_text(), media_type=METRICS_CONTENT_TYPE, headers=_FRESH)

    return [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]
