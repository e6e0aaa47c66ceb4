"""Does the clean-up of expired sessions slow Refresh down?

There are a million sessions, and half of them expire at once. Refresh runs at half of the capacity
of the server: before that, while the server removes the expired ones, and afterwards.
"""

import asyncio

import asyncpg

from benchmarks.figures import Verdict, show
from benchmarks.jobs import Job
from benchmarks.load import Generator
from benchmarks.premises import require
from benchmarks.processes import OTHER_CPUS, Serving
from benchmarks.refreshing import REFRESH, Refreshing
from benchmarks.replicas import Service, database
from benchmarks.tables import fill, session_rows

SESSIONS = 1_000_000
IN_USE = 2000
CHUNKS = 8  # of IN_USE calls each, before the clean-up and after it


def main() -> list[Verdict]:
    """Print the 99th percentiles."""
    return asyncio.run(_main())


async def _main() -> list[Verdict]:
    async with database() as service:
        await fill(service.database_url, sessions=SESSIONS)
        sessions = await session_rows(service.database_url, IN_USE)
        async with service.server() as server:
            with Generator(OTHER_CPUS) as generator:
                return await _measure(service, server, generator, sessions)


async def _expire(url: str, sessions: list[asyncpg.Record]) -> None:
    """Let half of the sessions have expired, none of them in use."""
    connection = await asyncpg.connect(url, timeout=60, command_timeout=None)
    await connection.execute(
        "UPDATE sessions SET expires_at = now() - interval '3 days' WHERE id IN ("
        "SELECT id FROM sessions WHERE id <> ALL ($1::uuid[]) "
        "ORDER BY md5(id::text) DESC LIMIT $2)",
        [row["id"] for row in sessions], SESSIONS // 2,
    )  # fmt: skip
    await connection.execute("VACUUM (ANALYZE) sessions")
    await connection.execute("CHECKPOINT")
    await connection.close()


async def _measure(
    service: Service,
    server: Serving,
    generator: Generator,
    sessions: list[asyncpg.Record],
) -> list[Verdict]:
    refreshing = await Refreshing.of(service, sessions)

    async def drive(rate: float = 0.0) -> tuple[float, float]:
        """Refresh each session once; return the rate, and the 99th percentile in ms."""
        bodies = refreshing.next_requests()
        job = Job(server.address, REFRESH, bodies, calls=len(bodies), rate=rate, expect=b"\x0a")
        outcome = await generator.run_async(job)
        require(outcome.statuses == {"OK": len(bodies)}, f"refreshes: {outcome.statuses}")
        return outcome.rate, outcome.p99 * 1000

    half = sorted([(await drive())[0] for _ in range(5)])[2] / 2
    p99: dict[str, list[float]] = {"without": [], "during": []}
    p99["without"] += [(await drive(half))[1] for _ in range(CHUNKS)]
    await _expire(service.database_url, sessions)
    most = left = await _expired(service.database_url)
    while left:
        before, (_, seen) = left, await drive(half)
        left = await _expired(service.database_url)
        if left < before:  # the clean-up runs once a minute
            p99["during"].append(seen)
    require(len(p99["during"]) >= CHUNKS, "the clean-up was over too soon")
    p99["without"] += [(await drive(half))[1] for _ in range(CHUNKS)]
    show(p99, "ms, p99 of Refresh", 2)
    medians = {name: sorted(each)[len(each) // 2] for name, each in p99.items()}
    return [
        Verdict(
            f"p99 of Refresh while {most:,} sessions are removed, of that without",
            [medians["during"] / medians["without"]], at_most=1.5,
            sides=medians | {"Refresh, calls/s": half, "chunks during": len(p99["during"])},
        )
    ]  # fmt: skip


async def _expired(url: str) -> int:
    connection = await asyncpg.connect(url)
    count: int = await connection.fetchval(
        "SELECT count(*) FROM sessions WHERE expires_at < now() - interval '1 day'"
    )
    await connection.close()
    return count
