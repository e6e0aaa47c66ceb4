"""What 500 Watch streams cost one process, and how soon a revocation has reached all of them."""

import asyncio
import time
from typing import Any

import grpc
from authn.v1 import auth_service_pb2 as auth_pb
from authn.v1 import auth_service_pb2_grpc as auth_rpc
from authn.v1 import verifier_service_pb2 as pb
from authn.v1 import verifier_service_pb2_grpc as rpc

from benchmarks.figures import spread
from benchmarks.replicas import Replicas, replicas

STREAMS = 500
STREAMS_A_CONNECTION = 100
ROUNDS = 20


def main() -> None:
    """Print memory a stream and the spread of delays."""
    asyncio.run(_main())


async def _main() -> None:
    async with replicas(1) as one:
        channels = [
            grpc.aio.insecure_channel(
                one.addresses[0], options=[("grpc.use_local_subchannel_pool", 1)]
            )
            for _ in range(STREAMS // STREAMS_A_CONNECTION + 1)
        ]
        try:
            await _measure(one, channels)
        finally:
            await asyncio.gather(*(channel.close() for channel in channels))


async def _measure(one: Replicas, channels: list[grpc.aio.Channel]) -> None:
    auth = auth_rpc.AuthServiceStub(channels.pop())
    await auth.Revoke(auth_pb.RevokeRequest(access_token=one.token()))
    before = one.processes[0].resident()
    ready, arrivals = asyncio.Semaphore(0), asyncio.Queue[float]()
    streams = [
        asyncio.create_task(_follow(rpc.VerifierServiceStub(channel), ready, arrivals))
        for channel in channels
        for _ in range(STREAMS_A_CONNECTION)
    ]
    for _ in streams:
        await ready.acquire()
    after = one.processes[0].resident()
    last: list[float] = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        await auth.Revoke(auth_pb.RevokeRequest(access_token=one.token()))
        last.append(max([await arrivals.get() for _ in streams]) - started)
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    print(f"{len(streams)} streams: {(after - before) / len(streams) / 1024:.0f} KiB a stream")
    print(f"a revocation has reached all of them: {spread(last)}")


async def _follow(stub: Any, ready: asyncio.Semaphore, arrivals: "asyncio.Queue[float]") -> None:
    known = False
    async for event in stub.Watch(pb.WatchRequest()):
        kind = event.WhichOneof("event")
        if kind == "revocation_snapshot" and not known:
            known = True
            ready.release()
        elif kind == "revocation":
            arrivals.put_nowait(time.perf_counter())
