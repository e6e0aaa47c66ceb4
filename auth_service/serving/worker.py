"""What a serving process owes to the supervisor that started it.

Owns the lines that the two exchange; knows nothing of what is served, nor how it is stopped.
"""

import asyncio
import contextlib
import signal
import socket
from datetime import timedelta

from auth_service.serving.shared_port import may_have_clients

__all__ = ["RETIRE", "report_serving"]

RETIRE = b"retire\n"
"""What the supervisor writes to a worker whose successor serves."""
SERVING, RETIRED = b"serving\n", b"retired\n"
SETTLE = 1.0  # seconds in which the last connection is accepted and its client hears of its age
AGE_JITTER = 1.1  # gRPC lets each connection get up to a tenth older than it is told
LOOK_INTERVAL = 0.1  # seconds between two looks at the connections that are left


async def report_serving(line: int, connection_age: timedelta) -> None:
    """Tell the supervisor that this process serves; stop as by SIGTERM when the supervisor is gone.

    `line` is our end of a socket pair. At RETIRE we report once more, when our clients have gone
    elsewhere, which they do as no connection gets older than `connection_age`. To stop before would
    refuse the calls that are on their way: gRPC tells clients to go and takes no more at one time.
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
            while may_have_clients():  # noqa: ASYNC110 - gRPC tells nobody of them
                await asyncio.sleep(LOOK_INTERVAL)
