"""Slow and abusive clients against a real server process: it stays up, and probes are answered."""

import asyncio
import json
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from authn.v1 import auth_service_pb2 as pb

from tests.acceptance.conftest import StartServer
from tests.acceptance.servers import Client, ServerProcess, eventually
from tests.chaos import floods
from tests.chaos.figures import Figures
from tests.chaos.slow_clients import Prober, half_open, http_flood, request
from tests.ports import free_port

TLS_RECORD = b"\x16\x03\x01"
ARENA_SIZE = 64 * 1024 * 1024  # bytes; glibc aligns its arenas to it


class Target:
    """A server process with HTTP, and the port of that."""

    def __init__(self, process: ServerProcess, http_port: int) -> None:
        self.process = process
        self.http_port = http_port
        self.grpc_port = int(process.address.rpartition(":")[2])
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
    """Each with 200. How soon is for `make chaos` to show, which asks for a second."""
    prober = Prober(target.http_port)
    async with prober.running(), half_open(target.http_port, 1000, sent):
        for _ in range(50):
            await prober.probe()
    prober.assert_all_answered(at_least=50)


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


async def test_the_threads_of_a_server_share_arenas(target: Target) -> None:
    """What a flood leaves in use keeps pages in each of them; the first lies in the heap."""
    lines = Path(f"/proc/{target.pid}/maps").read_text().splitlines()
    anonymous = [line for line in lines if len(line.split()) == 5 and " rw-p " in line]
    starts = [int(line.partition("-")[0], 16) for line in anonymous]
    # One arena besides the heap; it has several parts once it is larger than 64 MiB.
    assert 1 <= sum(start % ARENA_SIZE == 0 for start in starts) <= 3


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


# HTTP/2

VALIDATE = "/authn.v1.AuthService/Validate"
LOGIN = "/authn.v1.AuthService/Login"
WATCH = "/authn.v1.VerifierService/Watch"
REQUEST = pb.ValidateRequest(access_token="x").SerializeToString()
LOGIN_REQUEST = pb.LoginRequest(password=pb.PasswordCredentials(identifier="a", password="b"))


@asynccontextmanager
async def calls_succeed(target: Target) -> AsyncIterator[None]:
    """Make calls on another connection; none of them fails."""
    client, ended, count = Client(target.process.address), asyncio.Event(), 0
    await client.validate("x")

    async def call() -> None:
        nonlocal count
        while not ended.is_set():
            await client.validate("x")
            count += 1

    calls = [asyncio.create_task(call()) for _ in range(4)]
    try:
        yield
    finally:
        ended.set()
        await asyncio.gather(*calls)
        await client.channel.close()
    assert count >= len(calls)


FLOODS: dict[str, Callable[[int], Awaitable[Figures]]] = {
    "rapid reset": lambda port: floods.rapid_reset(port, VALIDATE, streams=20_000),
    "rapid reset on many connections": lambda port: floods.rapid_reset(
        port, VALIDATE, streams=60_000, connections=20
    ),
    "rapid reset of whole calls": lambda port: floods.rapid_reset(
        port, VALIDATE, streams=20_000, connections=20, payload=REQUEST
    ),
    "rapid reset of logins": lambda port: floods.rapid_reset(
        port, LOGIN, streams=20_000, connections=20, payload=LOGIN_REQUEST.SerializeToString()
    ),
    "continuation": lambda port: floods.continuation_flood(port, VALIDATE, frames=20_000),
    "pings": lambda port: floods.ping_flood(port, pings=20_000),
    "large metadata": lambda port: floods.large_metadata(port, VALIDATE, calls=1000),
    "large messages": lambda port: floods.large_messages(port, VALIDATE, calls=5),
    "unread responses": lambda port: floods.unread_responses(port, VALIDATE, REQUEST, calls=2000),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_a_flood_fails_no_call_of_another_client(
    target: Target, flood: Callable[[int], Awaitable[Figures]]
) -> None:
    """Each flood asserts that it took place."""
    async with calls_succeed(target):
        await flood(target.grpc_port)


async def test_streams_that_are_never_read_fail_no_call_of_another_client(
    target: Target,
) -> None:
    """Each is on a connection of its own."""
    async with (
        calls_succeed(target),
        floods.unread_streams(target.grpc_port, WATCH, streams=50) as figures,
    ):
        assert figures.connections == 50


async def test_a_connection_that_never_speaks_http2_is_closed(target: Target) -> None:
    """After the time for a handshake; gRPC's own is two minutes."""
    async with half_open(target.grpc_port, 10, b"PRI * HTTP") as attack:
        assert await attack.all_closed() < 30
