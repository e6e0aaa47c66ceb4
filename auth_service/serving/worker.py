"""A worker's side of the connection to its supervisor.

Owns the lines that the two exchange. Does not know what is served, or how it stops.
"""

import asyncio
import contextlib
import signal
import socket
from datetime import timedelta

from auth_service.serving.shared_port import may_have_clients

__all__ = ["RETIRE", "report_serving"]

RETIRE = b"retire\n"
"""Sent by the supervisor to a worker when its successor serves."""
SERVING, RETIRED = b"serving\n", b"retired\n"
SETTLE = 1.0  # seconds to accept the last connection and to tell its client of its age
AGE_JITTER = 1.1  # gRPC adds up to a tenth to the age of each connection
CHECK_INTERVAL = 0.1  # seconds between two checks for remaining connections


async def report_serving(line: int, connection_age: timedelta) -> None:
    """Report to the supervisor that this process serves, and raise SIGTERM when it has gone.

    `line` is this process's end of a socket pair. After RETIRE it reports again once no client is
    connected, which takes as long as connections may last (`connection_age`). Stopping earlier
    would refuse calls in transit: gRPC sends GOAWAY and refuses further calls at the same time.
    """
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=line))
    with contextlib.suppress(ConnectionError):
        writer.write(SERVING)
        if await reader.readline() == RETIRE:
            gone = asyncio.create_task(reader.read())
            left = asyncio.create_task(_left_alone(connection_age))
            await asyncio.wait({gone, left}, return_when=asyncio.FIRST_COMPLETED)
            writer.write(RETIRED)
            await gone
    signal.raise_signal(signal.SIGTERM)


async def _left_alone(connection_age: timedelta) -> None:
    await asyncio.sleep(SETTLE)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(connection_age.total_seconds() * AGE_JITTER):
            while may_have_clients():  # noqa: ASYNC110 - gRPC has no event for it
                await asyncio.sleep(CHECK_INTERVAL)
