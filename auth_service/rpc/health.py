"""Health checking v1 (grpc.health.v1): Check, List and Watch for each service.

Replaces the servicer of grpcio-health-checking, which has no List and does not end its Watch
streams when the server stops, so that stopping takes the whole drain timeout.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from auth_service.rpc.dispatcher import Context

__all__ = ["HealthServicer"]

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # it has no types
    """The health of the server: one status, under "" and the name of each service."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = ("", *services)
        self._serving = False
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def serving(self) -> bool:
        """Whether the server accepts calls."""
        return self._serving

    def set_serving(self, serving: bool) -> None:
        """Set the status; after `close` it stays NOT_SERVING."""
        if serving != self._serving and not self._closed:
            self._serving = serving
            self._wake()

    def close(self) -> None:
        """Set NOT_SERVING permanently, and end every Watch stream."""
        self._serving, self._closed = False, True
        self._wake()

    async def Check(self, request: Any, context: Context) -> Any:
        """Return the health of one service; NOT_FOUND if it is unknown."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service; see List")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def List(self, request: Any, context: Context) -> Any:
        """Return the health of every service."""
        statuses = {
            name: health_pb2.HealthCheckResponse(status=self._status(name))
            for name in self._services
        }
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """Send the health of one service, now and on every change."""
        last = None
        while True:
            changed = self._changed
            if (status := self._status(request.service)) != last:
                last = status
                yield health_pb2.HealthCheckResponse(status=status)
            elif self._closed:
                return
            else:
                await changed.wait()

    def _status(self, service: str) -> Any:
        if service not in self._services:
            return SERVICE_UNKNOWN
        return SERVING if self._serving else NOT_SERVING

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
