"""Health: what a Watch stream sends while the status changes."""

from typing import Any

from grpc_health.v1 import health_pb2

from auth_service.rpc.health import NOT_SERVING, SERVING, HealthServicer


async def test_a_watch_sends_a_change_that_came_while_it_was_sending() -> None:
    """A stop right after the first message is NOT_SERVING and then the end of the stream."""
    health = HealthServicer([])
    health.set_serving(True)
    context: Any = None  # Watch does not use it
    watch = aiter(health.Watch(health_pb2.HealthCheckRequest(), context))
    assert (await anext(watch)).status == SERVING
    health.close()
    assert [message.status async for message in watch] == [NOT_SERVING]
