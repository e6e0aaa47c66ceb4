"""Slow and abusive clients against a real server process: it stays up, and probes are answered."""

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import StartServer
from tests.acceptance.servers import ServerProcess, eventually
from tests.chaos.slow_clients import Prober, half_open, http_flood, request
from tests.ports import free_port

TLS_RECORD = b"\x16\x03\x01"


class Target:
    """A server process with HTTP, and the port of that."""

    def __init__(self, process: ServerProcess, http_port: int) -> None:
        self.process = process
        self.http_port = http_port
        self.pid = process.process.pid


@pytest.fixture
async def target(start_server: StartServer) -> AsyncIterator[Target]:
    """A server process with HTTP."""
    port = free_port()
    process = await asyncio.to_thread(start_server, AUTH_HTTP_ADDRESS=f"127.0.0.1:{port}")
    yield Target(process, port)
    assert process.process.poll() is None, process.output()[-2000:]
    assert "Traceback" not in process.output()


@pytest.mark.parametrize("sent", [b"G", TLS_RECORD], ids=["one byte", "not HTTP"])
async def test_probes_are_answered_while_a_thousand_connections_are_half_open(
    target: Target, sent: bytes
) -> None:
    """Each within a second."""
    prober = Prober(target.http_port)
    async with prober.running(), half_open(target.http_port, 1000, sent):
        for _ in range(50):
            await prober.probe()
    prober.assert_all_answered(within=1, at_least=50)


async def test_without_a_file_descriptor_left_waiting_connections_give_way(
    target: Target,
) -> None:
    """The server says so, and does not spin meanwhile."""
    descriptors = len(list(Path(f"/proc/{target.pid}/fd").iterdir()))
    resource.prlimit(target.pid, resource.RLIMIT_NOFILE, (descriptors + 5, descriptors + 5))
    prober = Prober(target.http_port)
    async with half_open(target.http_port, 30):
        await prober.probe()
    assert prober.answers == {"200": 1}
    assert 1 <= target.process.output().count("http_accept_failed") <= 30


async def test_a_flood_of_requests_does_not_flood_the_log(target: Target) -> None:
    """Each request is written or summed up, and the sum comes without another request."""
    figures = await http_flood(target.http_port, request("/auth"), requests=5000)
    assert figures.answers == {"401": 5000}

    async def told() -> bool:
        entries = map(json.loads, target.process.output().splitlines())
        found = [e for e in entries if e.get("path") == "/auth"]
        return bool(sum(entry.get("times", 1) for entry in found) == 5000)

    await eventually(told, what="every request is told of")
    assert len(target.process.output()) < 5000 * figures.seconds + 20_000
