"""A server under steady load for an hour: does its memory stay flat?

    python -m benchmarks.soak [--minutes N] [--rate N] [--write]

Clients log in, refresh and revoke, watchers come and go, and a generator calls Validate, half of
the calls with a token that was never seen before. The rate of Validate is half of what the same
server answers when the generator never waits, measured just before beside the same clients.
Samples are taken every ten seconds; the slope is that of the least squares after the warm-up.
"""

import argparse
import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import grpc
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc as rpc
from authn.v1 import verifier_service_pb2 as verifier_pb
from authn.v1 import verifier_service_pb2_grpc as verifier_rpc

from benchmarks.figures import Verdict
from benchmarks.jobs import Job
from benchmarks.load import Generator
from benchmarks.login import argon2
from benchmarks.premises import require, signatures_verified
from benchmarks.processes import ALL_CPUS, Serving, free_address
from benchmarks.replicas import Service, database
from benchmarks.report import COMMITTED, SCRATCH, machine
from benchmarks.tables import PASSWORD, fill
from benchmarks.validate import ACTIVE, VALIDATE, validate_request

USERS = 1000
CLIENTS = 20
PAUSE = 2.0  # seconds between two calls of a client, on average
REFRESHES = 10  # before a client revokes its session and logs in again
WATCHERS = 20
WATCH_SECONDS = 60.0  # that a stream stays, on average
SEEN = 1000
SEEN_SECONDS = 10.0  # before other tokens come again, so that the caches are full within minutes
CONNECTIONS = 16  # a server that stands still for a moment refuses no call of so many
CHUNK_SECONDS = 10.0  # between two samples
RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
WARM_UP = 600.0  # seconds that the slope leaves out
HOUR = 3600.0
MEBIBYTE = 2**20


@dataclass
class Soak:
    """What was seen of the server so far."""

    server: Serving
    started: float = field(default_factory=time.monotonic)
    samples: list[tuple[float, float, float]] = field(default_factory=list)
    """Seconds since the start, resident MiB, and the share of a core since the last sample."""
    calls: dict[str, int] = field(default_factory=dict)
    p99: list[float] = field(default_factory=list)
    """Of Validate, in seconds, one a sample."""
    _last: tuple[float, float] = (0.0, 0.0)

    def count(self, name: str, calls: int = 1) -> None:
        """Count calls that were answered as expected."""
        self.calls[name] = self.calls.get(name, 0) + calls

    def sample(self) -> None:
        """Note memory and CPU time."""
        now, cpu = time.monotonic(), self.server.cpu_seconds()
        then, used = self._last
        share = (cpu - used) / (now - then) if then else 0.0
        self._last = now, cpu
        self.samples.append((now - self.started, self.server.resident() / MEBIBYTE, share))

    def slope(self, after: float) -> float:
        """Return by how many MiB an hour the memory grows, by the least squares."""
        points = [(seconds, mib) for seconds, mib, _ in self.samples if seconds >= after]
        mean_x = sum(x for x, _ in points) / len(points)
        mean_y = sum(y for _, y in points) / len(points)
        over = sum((x - mean_x) * (y - mean_y) for x, y in points)
        return over / sum((x - mean_x) ** 2 for x, _ in points) * HOUR


async def run(minutes: float, rate: float) -> tuple[Soak, float]:
    """Return what was seen, and the rate of Validate in calls a second."""
    http = free_address()
    async with database() as service:
        hashed = argon2().hash(PASSWORD)
        await fill(service.database_url, sessions=5 * USERS, argon2_hash=hashed)
        settings = {"AUTH_HTTP_ADDRESS": http}
        async with service.server(settings, cpus=ALL_CPUS) as server:
            soak = Soak(server)
            async with beside(soak):
                with Generator(ALL_CPUS) as generator:
                    bodies = mixed(service)
                    rate = rate or await capacity(server, generator, bodies) / 2
                    print(f"Validate at {rate:.0f} calls a second", flush=True)
                    before = await signatures_verified(http)
                    await load(soak, generator, bodies, rate, minutes * 60)
                    new = await signatures_verified(http) - before
    half = soak.calls["Validate"] // 2
    require(new >= half, f"{new} signatures for {half} tokens that were never seen")
    refused = sum(calls for name, calls in soak.calls.items() if "," in name)
    require(refused <= soak.calls["Validate"] / 1000, f"answers that were not good: {soak.calls}")
    for name in ("Login", "Refresh", "Revoke", "Watch"):
        require(soak.calls.get(name, 0) > 0, f"no {name} was answered")
    return soak, rate


def mixed(service: Service) -> Iterator[bytes]:
    """Return requests: in turn one of a token that comes again, and one of a new token."""
    while True:
        seen = [validate_request(service.token()) for _ in range(SEEN)]
        until = time.monotonic() + SEEN_SECONDS
        while time.monotonic() < until:
            yield random.choice(seen)
            yield validate_request(service.token())


async def capacity(server: Serving, generator: Generator, bodies: Iterator[bytes]) -> float:
    """Return how many calls a second are answered when the generator never waits."""
    found = []
    for _ in range(5):
        requests = [next(bodies) for _ in range(8000)]
        job = Job(server.address, VALIDATE, requests, calls=len(requests), expect=ACTIVE)
        found.append((await generator.run_async(job)).rate)
    return sorted(found)[len(found) // 2]


async def load(
    soak: Soak, generator: Generator, bodies: Iterator[bytes], rate: float, seconds: float
) -> None:
    """Call Validate at a steady rate, and take a sample after each chunk."""
    soak.started = time.monotonic()
    soak.sample()
    while time.monotonic() - soak.started < seconds:
        requests = [next(bodies) for _ in range(int(rate * CHUNK_SECONDS))]
        job = Job(
            soak.server.address, VALIDATE, requests, calls=len(requests), rate=rate,
            expect=ACTIVE, connections=CONNECTIONS,
        )  # fmt: skip
        outcome = await generator.run_async(job)
        soak.count("Validate", outcome.statuses.pop("OK", 0))
        for status, calls in outcome.statuses.items():
            soak.count(f"Validate, {status}", calls)
        soak.p99.append(outcome.p99)
        soak.sample()
        if len(soak.samples) % 30 == 0:
            at, mib, share = soak.samples[-1]
            print(f"  {at / 60:5.1f} min {mib:7.1f} MiB {share:.2f} of a core", flush=True)


@contextlib.asynccontextmanager
async def beside(soak: Soak) -> AsyncIterator[None]:
    """Let clients and watchers do their work; one that fails ends the soak."""
    address = soak.server.address
    async with grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as group:
        tasks = [group.create_task(_client(soak, channel)) for _ in range(CLIENTS)]
        tasks += [group.create_task(_watcher(soak, channel)) for _ in range(WATCHERS)]
        yield
        for task in tasks:
            task.cancel()


async def _client(soak: Soak, channel: grpc.aio.Channel) -> None:
    stub = rpc.AuthServiceStub(channel)

    async def call(name: str, request: Any) -> Any:
        """Repeat a call that the service could not answer, as its documentation says."""
        while True:
            try:
                answer = await getattr(stub, name)(request, timeout=30)
            except grpc.aio.AioRpcError as error:
                if error.code() not in RETRIED:
                    raise
                soak.count(f"{name}, {error.code().name}")
                await asyncio.sleep(random.uniform(0, PAUSE))
            else:
                soak.count(name)
                return answer

    while True:
        identifier = f"user-{random.randint(1, USERS)}"
        credentials = pb.PasswordCredentials(identifier=identifier, password=PASSWORD)
        answer = await call("Login", pb.LoginRequest(password=credentials))
        for _ in range(REFRESHES):
            await asyncio.sleep(random.uniform(0, 2 * PAUSE))
            token, request_id = answer.tokens.refresh_token, uuid4().hex
            request = pb.RefreshRequest(refresh_token=token, request_id=request_id)
            answer = await call("Refresh", request)
        await call("Revoke", pb.RevokeRequest(refresh_token=answer.tokens.refresh_token))


async def _watcher(soak: Soak, channel: grpc.aio.Channel) -> None:
    stub = verifier_rpc.VerifierServiceStub(channel)
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(random.uniform(0, 2 * WATCH_SECONDS)):
                async for _ in stub.Watch(verifier_pb.WatchRequest()):
                    pass
        soak.count("Watch")


def chart(soak: Soak, slope: float) -> str:
    """Return the resident memory over time as a line."""
    width, height, left, top = 760, 300, 60, 40
    last = max(seconds for seconds, _, _ in soak.samples)
    highest = max(mib for _, mib, _ in soak.samples) * 1.2
    points = " ".join(
        f"{left + seconds / last * width:.1f},{top + height - mib / highest * height:.1f}"
        for seconds, mib, _ in soak.samples
    )
    marks = [
        f'<text x="{left + minute * 60 / last * width:.0f}" y="{top + height + 16}" '
        f'text-anchor="middle">{minute}</text>'
        for minute in range(0, int(last / 60) + 1, 10)
    ] + [
        f'<text x="{left - 6}" y="{top + height - mib / highest * height + 4:.0f}" '
        f'text-anchor="end">{mib}</text>'
        for mib in range(0, int(highest) + 1, 25)
    ]
    size = f'width="{left + width + 20}" height="{top + height + 40}"'
    caption = (
        f"resident memory in MiB over minutes; {slope:+.2f} MiB an hour "
        f"after the first {WARM_UP / 60:.0f} minutes"
    )
    lines = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        "<style>text { font: 12px sans-serif }</style>",
        f'<rect {size} fill="#ffffff"/>',
        f'<text x="{left}" y="20">{caption}</text>',
        *marks,
        f'<polyline points="{points}" fill="none" stroke="#2f7d4f"/>',
        f'<path d="M{left},{top} v{height} h{width}" fill="none" stroke="#444444"/>',
        "</svg>",
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run, print the figures, and write them down."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--write", action="store_true", help="put the files in docs/benchmarks")
    parser.add_argument(
        "--rate", type=float, default=0.0, help="calls of Validate a second, where that is known"
    )
    arguments = parser.parse_args()
    soak, rate = asyncio.run(run(arguments.minutes, arguments.rate))
    shares = [share for _, _, share in soak.samples[1:]]
    slope = soak.slope(min(WARM_UP, arguments.minutes * 60 / 2))
    verdict = Verdict("growth of memory in an hour", [slope], at_most=1, unit="MiB")
    print(verdict)
    print(f"calls: {soak.calls}; {sum(shares) / len(shares):.2f} of a core on average")
    print(f"p99 of Validate: {sorted(soak.p99)[len(soak.p99) // 2] * 1000:.2f} ms (median)")
    folder = COMMITTED if arguments.write else SCRATCH
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        "machine": machine(),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "validate_calls_per_second": round(rate),
        "calls": soak.calls,
        "mib_per_hour": round(slope, 3),
        "samples": [[round(at), round(mib, 2), round(share, 3)] for at, mib, share in soak.samples],
    }
    (folder / "soak.json").write_text(json.dumps(results) + "\n")
    (folder / "soak.svg").write_text(chart(soak, slope))
    print(f"written: {folder / 'soak.json'} and soak.svg")


if __name__ == "__main__":  # the load generator's process imports this module again
    main()
