"""Refresh, against the same UPDATE by bare asyncpg through an otherwise empty method."""

import asyncio
import sys

from authn.v1 import auth_service_pb2 as pb

from benchmarks.figures import Verdict, in_turn, medians, ratios, show
from benchmarks.floor import DATABASE
from benchmarks.jobs import Job
from benchmarks.load import Generator
from benchmarks.premises import require
from benchmarks.processes import OTHER_CPUS, Serving, free_address, served
from benchmarks.refreshing import REFRESH, Refreshing
from benchmarks.replicas import Service, database
from benchmarks.tables import fill, session_rows

SESSIONS = 2000  # a round steps half of them through the service, half through the floor
ROUNDS = 15


def main() -> list[Verdict]:
    """Print the rates."""
    return asyncio.run(_main())


async def _main() -> list[Verdict]:
    address = free_address()
    floor = [sys.executable, "-m", "benchmarks.floor", "refresh", address]
    async with database() as service:
        await fill(service.database_url, sessions=SESSIONS)
        settings = {DATABASE: service.database_url}
        async with served(floor, address, settings) as bare, service.server() as server:
            with Generator(OTHER_CPUS) as generator:
                return await _measure(service, bare, server, generator)


async def _measure(
    service: Service, bare: Serving, server: Serving, generator: Generator
) -> list[Verdict]:
    found = await session_rows(service.database_url, SESSIONS)
    ours, theirs = found[::2], found[1::2]
    refreshing = await Refreshing.of(service, ours)
    generation = -1
    cpu: dict[str, list[float]] = {"bare": [], "Refresh": []}

    async def drive(name: str, serving: Serving, bodies: list[bytes]) -> float:
        before = serving.cpu_seconds()
        job = Job(serving.address, REFRESH, bodies, calls=len(bodies), expect=b"\x0a")
        outcome = await generator.run_async(job)
        cpu[name].append((serving.cpu_seconds() - before) / outcome.calls * 1e6)
        return outcome.rate

    async def rotate() -> float:
        return await drive("Refresh", server, refreshing.next_requests())

    async def update() -> float:
        nonlocal generation
        generation += 1
        names = [
            f"{row['user_id']} {row['id']} {generation} {row['seed'].hex()} ".ljust(420, "x")
            for row in theirs
        ]
        bodies = [pb.RefreshRequest(refresh_token=name).SerializeToString() for name in names]
        return await drive("bare", bare, bodies)

    rates = await in_turn({"bare": update, "Refresh": rotate}, ROUNDS)
    # The premise: each call rotated one session once.
    after = await session_rows(service.database_url, SESSIONS)
    steps = {row["generation"] for row in after}
    require(steps == {ROUNDS}, f"sessions stand at generations {steps}, not all at {ROUNDS}")
    show(rates, "/s")
    show(cpu, "µs of the server's CPU a call", 1)
    return [
        Verdict(
            "Refresh, of its bare UPDATE", ratios(rates["Refresh"], rates["bare"]), 0.80,
            sides=medians(rates) | {f"{k}, CPU µs": v for k, v in medians(cpu).items()},
        )
    ]  # fmt: skip
