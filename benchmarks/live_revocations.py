"""Validate with a million live revocations, and sessions by the million, against none.

BENCH_SESSIONS=10000000 makes ten million sessions of it, which takes about 6 GB of disk.
"""

import asyncio
import hashlib
import os
from uuid import UUID

from benchmarks.figures import Verdict, in_turn, medians, ratios, show
from benchmarks.jobs import Job
from benchmarks.load import Generator
from benchmarks.premises import require, verdict
from benchmarks.processes import OTHER_CPUS, Serving
from benchmarks.replicas import Service, another_database, database
from benchmarks.tables import fill
from benchmarks.validate import ACTIVE, VALIDATE, validate_request

REVOCATIONS = 1_000_000
SESSIONS = int(os.environ.get("BENCH_SESSIONS", "1_000_000"))
SECONDS = 0.5
ROUNDS = 15


def main() -> list[Verdict]:
    """Print the rates, and the memory of the set."""
    return asyncio.run(_main())


async def _main() -> list[Verdict]:
    async with database() as service:
        full = await another_database(service, "full")
        await fill(full.database_url, sessions=SESSIONS, revocations=REVOCATIONS)
        async with service.server() as none, full.server() as many:
            with Generator(OTHER_CPUS) as generator:
                return await _measure((service, none), (full, many), generator)


async def _measure(
    none: tuple[Service, Serving], many: tuple[Service, Serving], generator: Generator
) -> list[Verdict]:
    bodies = {
        side: [validate_request(side[0].token()) for _ in range(100)] for side in (none, many)
    }

    async def validate(side: tuple[Service, Serving]) -> float:
        job = Job(side[1].address, VALIDATE, bodies[side], seconds=SECONDS, expect=ACTIVE)
        return (await generator.run_async(job)).rate

    # The premise: the revocations are there, and only there.
    for number in (1, REVOCATIONS // 2, REVOCATIONS):
        session = str(UUID(hashlib.md5(f"revoked{number}".encode()).hexdigest()))  # noqa: S324
        for side, active in ((none, True), (many, False)):
            told = await verdict(side[1].address, side[0].token(session=session))
            require(told.active is active, f"of a revoked session a server says {told.active}")
    names = "none", f"{REVOCATIONS:,} revocations, {SESSIONS:,} sessions"
    rates = await in_turn(
        {names[0]: lambda: validate(none), names[1]: lambda: validate(many)}, ROUNDS
    )
    show(rates, "/s")
    each = (many[1].resident() - none[1].resident()) / REVOCATIONS
    memory = {"none, MiB": none[1].resident() / 2**20, "many, MiB": many[1].resident() / 2**20}
    print(f"  resident memory: {memory}")
    return [
        Verdict(
            f"Validate with {REVOCATIONS:,} live revocations and {SESSIONS:,} sessions, of none",
            ratios(rates[names[1]], rates[names[0]]), 0.95, sides=medians(rates),
        ),
        Verdict("memory of a live revocation", [each], at_most=64, unit="bytes", sides=memory),
    ]  # fmt: skip
