"""The channels of tests: each is connected before its first call.

A call on a channel that is still connecting fails if the connection attempt fails. An attempt takes
long on a busy machine if the server shares the process with the test.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc

__all__ = ["READY_TIMEOUT", "RECONNECT", "connected", "open_channel", "open_sync_channel"]

RECONNECT = [
    # Subchannels are shared within a process: a connection of its own for each channel.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Not grpc.min_reconnect_backoff_ms: it is also how long a connection attempt may take.
]
"""The options of a channel that does not share its connection and reconnects soon."""

READY_TIMEOUT = 60.0  # seconds; no passing test takes as long


async def connected(channel: grpc.aio.Channel) -> grpc.aio.Channel:
    """Return the channel once it is connected."""
    async with asyncio.timeout(READY_TIMEOUT):
        await channel.channel_ready()
    return channel


@asynccontextmanager
async def open_channel(
    address: str,
    credentials: grpc.ChannelCredentials | None = None,
    interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
) -> AsyncIterator[grpc.aio.Channel]:
    """Yield a connected channel, with TLS if there are credentials; close it at the end."""
    arguments: Any = {"options": RECONNECT, "interceptors": interceptors}
    if credentials is None:
        channel = grpc.aio.insecure_channel(address, **arguments)
    else:
        channel = grpc.aio.secure_channel(address, credentials, **arguments)
    async with channel:
        yield await connected(channel)


@asynccontextmanager
async def open_sync_channel(
    address: str, credentials: grpc.ChannelCredentials | None = None
) -> AsyncIterator[grpc.Channel]:
    """Yield a connected channel for threads; the event loop stays free for a server in it."""
    if credentials is None:
        channel = grpc.insecure_channel(address, RECONNECT)
    else:
        channel = grpc.secure_channel(address, credentials, RECONNECT)
    with channel:
        await asyncio.to_thread(grpc.channel_ready_future(channel).result, READY_TIMEOUT)
        yield channel
