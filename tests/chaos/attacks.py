"""Slow and abusive clients by the thousand, while the workload runs beside them."""

import asyncio
import resource
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from authn.v1 import auth_service_pb2 as pb

from tests.chaos import floods
from tests.chaos.figures import Figures
from tests.chaos.fleet import Fleet, open_fleet
from tests.chaos.http2 import PREFACE
from tests.chaos.kills import audited
from tests.chaos.row import Row
from tests.chaos.slow_clients import Prober, half_open, http_flood, request, unread_http_responses
from tests.ports import free_port

__all__ = ["ATTACKS", "IN_SHORT", "attack"]

VALIDATE = "/authn.v1.AuthService/Validate"
LOGIN = "/authn.v1.AuthService/Login"
WATCH = "/authn.v1.VerifierService/Watch"
BODY = pb.ValidateRequest(access_token="x").SerializeToString()
CREDENTIALS = pb.LoginRequest(password=pb.PasswordCredentials(identifier="a", password="b"))
DESCRIPTORS = 65536
PROBED_WITHIN = 5.0  # seconds: beyond it an orchestrator counts a probe as failed
HELD = 2.0  # seconds
GROWTH = 300.0  # MiB of memory that an attack may leave behind


@dataclass(frozen=True)
class Target:
    """The ports of the replica that is attacked."""

    grpc: int
    http: int
    probes: int


Attack = Callable[[Target, int], Awaitable[int]]
"""Attacks with so many connections, frames or calls; returns how many were sent."""


async def _idle(port: int, count: int, sent: bytes) -> int:
    async with half_open(port, count, sent) as held:
        await asyncio.sleep(HELD)
        assert len(held.readers) == count
    return count


async def _unread_streams(target: Target, count: int) -> int:
    async with floods.unread_streams(target.grpc, WATCH, streams=count):
        await asyncio.sleep(HELD)
    return count


async def _unread_http(target: Target, count: int) -> int:
    sent = request("/.well-known/jwks.json") * 10
    figures = await unread_http_responses(target.http, sent, connections=count)
    return figures.connections


def _flood(begin: Callable[[Target, int], Awaitable[Figures]]) -> Attack:
    async def attacking(target: Target, count: int) -> int:
        return (await begin(target, count)).sent

    return attacking


ATTACKS: dict[str, tuple[Attack, int, int]] = {
    "idle connections, gRPC port": (lambda to, count: _idle(to.grpc, count, b""), 10_000, 1000),
    "idle connections, HTTP port": (lambda to, count: _idle(to.http, count, b""), 10_000, 1000),
    "slow-loris, gRPC port": (lambda to, count: _idle(to.grpc, count, PREFACE[:9]), 1000, 300),
    "slow-loris, HTTP port": (lambda to, count: _idle(to.http, count, b"G"), 1000, 300),
    "HTTP requests": (
        _flood(lambda to, count: http_flood(to.http, request("/auth"), requests=count)),
        20_000,
        2000,
    ),
    "unread HTTP responses": (_unread_http, 5, 2),
    "rapid resets": (
        _flood(
            lambda to, count: floods.rapid_reset(to.grpc, VALIDATE, streams=count, connections=10)
        ),
        100_000,
        10_000,
    ),
    "rapid resets of logins": (
        _flood(
            lambda to, count: floods.rapid_reset(
                to.grpc,
                LOGIN,
                streams=count,
                connections=10,
                payload=CREDENTIALS.SerializeToString(),
            )
        ),
        20_000,
        2000,
    ),
    "continuation frames": (
        _flood(lambda to, count: floods.continuation_flood(to.grpc, VALIDATE, frames=count)),
        50_000,
        5000,
    ),
    "pings": (
        _flood(lambda to, count: floods.ping_flood(to.grpc, pings=count)),
        50_000,
        5000,
    ),
    "messages of 4 MiB": (
        _flood(lambda to, count: floods.large_messages(to.grpc, VALIDATE, calls=count)),
        50,
        5,
    ),
    "calls with 15 KiB of metadata": (
        _flood(lambda to, count: floods.large_metadata(to.grpc, VALIDATE, calls=count)),
        5000,
        500,
    ),
    "unread responses": (
        _flood(lambda to, count: floods.unread_responses(to.grpc, VALIDATE, BODY, calls=count)),
        10_000,
        1000,
    ),
    "unread Watch streams": (_unread_streams, 500, 50),
}
"""Each attack, and its size in the long and in the short form."""


IN_SHORT = (
    "idle connections, gRPC port",
    "slow-loris, HTTP port",
    "rapid resets",
    "messages of 4 MiB",
    "unread Watch streams",
)


async def attack(names: Sequence[str] = tuple(ATTACKS), *, short: bool = False) -> list[Row]:
    """Make each attack on one of two replicas; probes are answered, and memory comes back."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, DESCRIPTORS), most))
    rows = []
    async with _attacked() as (fleet, target):
        for name in names:
            rows.append(Row(name))
            try:
                await _attack(rows[-1], fleet, target, short=short)
            except (AssertionError, OSError, TimeoutError) as error:
                rows[-1].failure = f"{type(error).__name__}: {error}"
    return rows


async def _attack(row: Row, fleet: Fleet, target: Target, *, short: bool) -> None:
    begin, long_size, short_size = ATTACKS[row.injected]
    pid = fleet.replicas[0].process.pid
    async with audited(row, fleet) as model:
        prober, before = Prober(target.probes), _resident(pid)
        async with prober.running():
            row.times = await begin(target, short_size if short else long_size)
            row.recovery = await model.write()
        prober.assert_all_answered(within=PROBED_WITHIN)
        grown = (_resident(pid) - before) / 2**20
        row.remark = f"slowest probe {max(prober.seconds):.2f} s, memory {grown:+.0f} MiB"
        assert grown < GROWTH, f"memory grew by {grown:.0f} MiB"


@asynccontextmanager
async def _attacked() -> AsyncIterator[tuple[Fleet, Target]]:
    http, probes = free_port(), free_port()
    async with open_fleet(0) as fleet:
        first = await fleet.add(
            AUTH_HTTP_ADDRESS=f"127.0.0.1:{http}", AUTH_PROBE_ADDRESS=f"127.0.0.1:{probes}"
        )
        await fleet.add()
        yield fleet, Target(int(first.address.rpartition(":")[2]), http, probes)


def _resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
