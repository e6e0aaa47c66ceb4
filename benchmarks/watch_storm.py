"""A million live revocations and 500 services that connect at once to hear of them.

What the first costs and each after it, on the wire and in CPU time of the server, beside the bare
sending of the same bytes; what it does to Validate, with the same calls from the same number of
idle connections beside them; and how long the loops of the server and of one local verifier stand
still.

BENCH_REVOCATIONS=20000 asks the same of fewer.
"""

import asyncio
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import grpc
from authn.v1 import verifier_service_pb2 as pb

from auth_service import base64url
from auth_service.client import LocalVerifier
from auth_service.client.watch import FIRST_BACKOFF
from benchmarks import floor
from benchmarks.figures import Verdict, in_turn, medians, ratios, show
from benchmarks.jobs import Job
from benchmarks.load import Generator
from benchmarks.premises import require
from benchmarks.processes import OTHER_CPUS, SERVER_CPUS, Serving, free_address, run_on, served
from benchmarks.replicas import ISSUER, Service, database
from benchmarks.stalls import Probe
from benchmarks.tables import fill
from benchmarks.validate import ACTIVE, VALIDATE, validate_request

REVOCATIONS = int(os.environ.get("BENCH_REVOCATIONS", "1_000_000"))
WATCHERS = 500
STREAMS_A_CONNECTION = 50
ONE_AFTER_ANOTHER = 5
RESUMED = 20
VALIDATE_RATE = 400.0
SECONDS = 4.0
ROUNDS = 3
_METHOD = "/authn.v1.VerifierService/Watch"
_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


def main() -> list[Verdict]:
    """Print the figures."""
    return asyncio.run(_main())


async def _main() -> list[Verdict]:
    async with database() as service:
        await fill(service.database_url, revocations=REVOCATIONS)
        async with _probed(service) as (server, stalls):
            verdicts = await _one_after_another(server)
            verdicts += await _storm(service, server, stalls)
            return [*verdicts, await _local_verifier(service, server)]


@asynccontextmanager
async def _probed(service: Service) -> AsyncIterator[tuple[Serving, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        stalls = Path(folder) / "stalls"
        stalls.write_text("0")
        address, key = free_address(), base64url.encode(service.secret)
        settings = {
            "AUTH_SHARED_KEY": key,
            "AUTH_MASTER_KEY": key,
            "AUTH_DATABASE_URL": service.database_url,
            "AUTH_GRPC_ADDRESS": address,
            "AUTH_HTTP_ADDRESS": "off",
            "AUTH_LOG_LEVEL": "error",
        }
        command = [sys.executable, "-m", "benchmarks.stalls", str(stalls), "serve"]
        async with served(command, address, settings, SERVER_CPUS) as serving:
            yield serving, stalls


async def _longest(stalls: Path) -> float:
    """Return the longest stand-still of the server's loop since the last time, in ms."""
    stalls.write_text("")
    while not (text := stalls.read_text()):  # noqa: ASYNC110 - a file has no event
        await asyncio.sleep(0.01)
    return float(text) * 1000


def _watch(channel: grpc.aio.Channel, cursor: str = "") -> Any:
    """Open a stream, and leave its messages unparsed."""
    open_stream: Any = channel.unary_stream(_METHOD)
    return open_stream(pb.WatchRequest(cursor=cursor, accept_segments=True).SerializeToString())


async def _read_all(channel: grpc.aio.Channel) -> tuple[list[int], int]:
    """Open a stream and read until all is there; return the messages' sizes, and revocations."""
    call = _watch(channel)
    sizes, revocations = [], 0
    async for message in call:
        sizes.append(len(message))
        event = pb.WatchResponse.FromString(message)
        for group in event.revocation_segment.packed:
            revocations += (len(group.session_ids) + len(group.token_ids)) // 16
        if event.HasField("revocation_snapshot"):
            break
    call.cancel()
    return sizes, revocations


async def _one_after_another(server: Serving) -> list[Verdict]:
    cpu = []
    for _ in range(1 + ONE_AFTER_ANOTHER):
        async with grpc.aio.insecure_channel(server.address, _OPTIONS) as channel:
            await channel.channel_ready()
            before = server.cpu_seconds()
            sizes, revocations = await _read_all(channel)
            cpu.append(server.cpu_seconds() - before)
            require(revocations == REVOCATIONS, f"{revocations} revocations are live")
    first, *later = cpu
    resumed = await _resumed(server)
    print(f"  CPU of the server: first {first * 1000:.1f} ms, later {median(later) * 1000:.1f} ms")
    return [
        Verdict(
            f"{REVOCATIONS:,} live revocations on the wire", [sum(sizes) / 1e6],
            at_most=20, unit="MB",
        ),
        Verdict("CPU of the server for the first watcher", [first], at_most=0.2, unit="s"),
        Verdict("CPU of the server for each after it", later, at_most=0.002, unit="s"),
        Verdict("CPU of the server for each that resumes", resumed, at_most=0.002, unit="s"),
        await _against_floors(server, sizes[:-1]),  # the end of the snapshot varies in length
    ]  # fmt: skip


async def _against_floors(server: Serving, sizes: list[int]) -> Verdict:
    """Compare the CPU for a whole stream to what gRPC and TCP need for messages of these sizes."""
    settings = {floor.SIZES: " ".join(map(str, sizes))}
    async with AsyncExitStack() as stack:

        async def start(name: str) -> Serving:
            address = free_address()
            command = [sys.executable, "-m", "benchmarks.floor", name, address]
            return await stack.enter_async_context(served(command, address, settings))

        async def used(by: Serving, read: Callable[[Serving, int], Awaitable[None]]) -> float:
            before = by.cpu_seconds()
            await read(by, sum(sizes))
            return (by.cpu_seconds() - before) * 1000

        bare, tcp = await start("watch"), await start("tcp")
        cpu = await in_turn(
            {
                "a Watch stream": lambda: used(server, _read_grpc),
                "a bare stream of gRPC": lambda: used(bare, _read_grpc),
                "a bare TCP connection": lambda: used(tcp, _read_tcp),
            },
            4 * ROUNDS,
        )
    show(cpu, "ms", 1)
    ours, of_grpc, _ = cpu.values()
    return Verdict(
        "CPU of the server for each after it, of a bare stream of gRPC",
        ratios(ours, of_grpc), at_most=1.5, sides=medians(cpu),
    )  # fmt: skip


async def _read_grpc(server: Serving, size: int) -> None:
    """Read a stream up to so many bytes."""
    async with grpc.aio.insecure_channel(server.address, _OPTIONS) as channel:
        await channel.channel_ready()
        call = _watch(channel)
        while size > 0:
            size -= len(await call.read())
        call.cancel()


async def _read_tcp(server: Serving, size: int) -> None:
    """Read a connection to its end, after so many bytes."""
    host, port = server.address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**20)
    while data := await reader.read(2**20):
        size -= len(data)
    writer.close()
    require(size == 0, "each side sends the same bytes")


async def _resumed(server: Serving) -> list[float]:
    """Return the CPU of the server for streams that resume, each on a connection of its own."""
    async with grpc.aio.insecure_channel(server.address, _OPTIONS) as channel:
        cursor, _ = await _until_cursor(channel, "")
    cpu = []
    for _ in range(RESUMED):
        before = server.cpu_seconds()
        async with grpc.aio.insecure_channel(server.address, _OPTIONS) as channel:
            _, size = await _until_cursor(channel, cursor)
        cpu.append(server.cpu_seconds() - before)
        require(size < 10_000, f"a stream that resumes gets {size} bytes")
    return cpu


async def _until_cursor(channel: grpc.aio.Channel, cursor: str) -> tuple[str, int]:
    """Read a stream up to its first heartbeat with a cursor; return that, and the bytes."""
    call, size = _watch(channel, cursor), 0
    async for message in call:
        size += len(message)
        event = pb.WatchResponse.FromString(message)
        if event.HasField("heartbeat") and event.cursor:
            call.cancel()
            return event.cursor, size
    raise RuntimeError("the stream ended early")


def _watch_in_process(address: str, seconds: float) -> tuple[int, int]:
    """Connect all watchers, read for so long, and return bytes and streams that were served."""
    return asyncio.run(_watch_all(address, seconds))


async def _watch_all(address: str, seconds: float) -> tuple[int, int]:
    run_on(OTHER_CPUS)
    os.nice(19)  # they are other machines: on this core they must not delay the callers of Validate
    sizes = [0] * WATCHERS

    async def watch(number: int, channel: grpc.aio.Channel) -> None:
        await asyncio.sleep(random.uniform(0, FIRST_BACKOFF))  # as local verifiers do
        async for message in _watch(channel):
            sizes[number] += len(message)

    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(address, _OPTIONS))
            for _ in range(WATCHERS // STREAMS_A_CONNECTION)
        ]
        tasks = [
            asyncio.create_task(watch(number, channels[number % len(channels)]))
            for number in range(WATCHERS)
        ]
        await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return sum(sizes), sum(size > 0 for size in sizes)


async def _storm(service: Service, server: Serving, stalls: Path) -> list[Verdict]:
    bodies = [validate_request(service.token()) for _ in range(100)]
    standstills: list[float] = []
    spawn = multiprocessing.get_context("spawn")
    with Generator(OTHER_CPUS) as generator, ProcessPoolExecutor(1, spawn) as watchers:

        async def validate() -> float:
            job = Job(
                server.address, VALIDATE, bodies, seconds=SECONDS, rate=VALIDATE_RATE,
                expect=ACTIVE, connections=4,
            )  # fmt: skip
            outcome = await generator.run_async(job)
            require(outcome.rate > 0, "Validate answers")
            return outcome.p99 * 1000

        async def in_a_storm() -> float:
            await _longest(stalls)
            started = time.perf_counter()
            work = watchers.submit(_watch_in_process, server.address, SECONDS + 1)
            p99 = await validate()
            standstills.append(await _longest(stalls))
            size, served = await asyncio.wrap_future(work)
            print(f"  as all of them leave, the loop stands for {await _longest(stalls):.1f} ms")
            print(f"  {served} streams, {size / 1e6 / (time.perf_counter() - started):.0f} MB/s")
            require(served == WATCHERS, f"only {served} of {WATCHERS} watchers were served")
            return p99

        p99s = await in_turn({"alone": validate, "in the storm": in_a_storm}, ROUNDS)
    show(p99s, "ms", 2)
    return [
        Verdict(
            f"p99 of Validate while {WATCHERS} watchers connect, of the same without",
            ratios(p99s["in the storm"], p99s["alone"]), at_most=2, sides=medians(p99s),
        ),
        Verdict("longest stand-still of the server's loop", standstills, at_most=10, unit="ms"),
    ]  # fmt: skip


async def _local_verifier(service: Service, server: Serving) -> Verdict:
    probe = Probe()
    verifier: Any = LocalVerifier(
        issuer=ISSUER, addresses=[server.address], shared_key=base64url.encode(service.secret)
    )
    before = time.process_time()
    async with verifier:
        used = time.process_time() - before
        known = len(verifier._feed._revocations)
        require(known == REVOCATIONS, f"the local verifier knows {known}")
        longest = probe.longest() * 1000
    probe.stop()
    print(f"  CPU of a local verifier until it knows all: {used:.2f} s")
    return Verdict("longest stand-still of a local verifier", [longest], at_most=10, unit="ms")


if __name__ == "__main__":
    for verdict in main():
        print(verdict)
