"""Cold start to the first answer, and resident memory, against a bare server with reflection.

The service starts its embedded PostgreSQL too, in a directory where it has run before.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc as rpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from benchmarks.figures import Verdict, in_turn, medians, show
from benchmarks.processes import ALL_CPUS, Serving, free_address, launch

ROUNDS = 5
CALLS = 2000  # before memory is looked at, so that what the first calls allocate is there


def main() -> list[Verdict]:
    """Print seconds and memory."""
    return asyncio.run(_main())


async def _main() -> list[Verdict]:
    memory: dict[str, list[float]] = {"bare": [], "service": []}
    with tempfile.TemporaryDirectory(prefix="auth-bench-") as folder:
        Path(folder).chmod(0o711)
        settings = {"AUTH_EMBEDDED_DIR": str(Path(folder) / "data"), "AUTH_LOG_LEVEL": "error"}

        async def bare() -> float:
            address = free_address()
            command = [sys.executable, "-m", "benchmarks.floor", "bare", address]
            return await _start(command, address, {}, _list_services, memory["bare"])

        async def service() -> float:
            address = free_address()
            command = [sys.executable, "-m", "auth_service", "serve"]
            own = settings | {"AUTH_GRPC_ADDRESS": address, "AUTH_HTTP_ADDRESS": free_address()}
            return await _start(command, address, own, _validate, memory["service"])

        await service()  # makes the database
        memory["service"].clear()
        seconds = await in_turn({"bare": bare, "service": service}, ROUNDS)
    show(seconds, "s to the first answer", 2)
    show(memory, "MB resident")
    later = [a - b for a, b in zip(seconds["service"], seconds["bare"], strict=True)]
    more = [a - b for a, b in zip(memory["service"], memory["bare"], strict=True)]
    return [
        Verdict(
            "cold start to the first answer, more than a bare server", later, at_most=2, unit="s",
            sides=medians(seconds),
        ),
        Verdict(
            "resident memory, more than a bare server", more, at_most=60, unit="MB",
            sides=medians(memory),
        ),
    ]  # fmt: skip


async def _start(
    command: Sequence[str],
    address: str,
    settings: Mapping[str, str],
    call: Any,
    memory: list[float],
) -> float:
    """Return the seconds from the start of a process to its first answer; note its memory."""
    started = time.perf_counter()
    serving: Serving = launch(command, address, settings, cpus=ALL_CPUS)
    try:
        await serving.answers()
        async with grpc.aio.insecure_channel(address) as channel:
            await call(channel)
            seconds = time.perf_counter() - started
            for _ in range(CALLS):
                await call(channel)
        memory.append(serving.resident() / 1e6)
    finally:
        await serving.stop()
    return seconds


async def _list_services(channel: grpc.aio.Channel) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    await stub.ServerReflectionInfo(iter([request]), wait_for_ready=True, timeout=30).read()


async def _validate(channel: grpc.aio.Channel) -> None:
    stub: Any = rpc.AuthServiceStub(channel)
    await stub.Validate(
        pb.ValidateRequest(access_token="no token"), wait_for_ready=True, timeout=30
    )
