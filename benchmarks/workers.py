"""Two workers against one: Validate over many connections.

A worker a core leaves the load generator no core of its own: it takes its share from both, and
so does it in the comparison with one worker, which has a core to itself.
"""

import asyncio

from benchmarks.figures import Verdict, in_turn, medians, ratios, show
from benchmarks.load import Generator, Job
from benchmarks.processes import ALL_CPUS, Serving
from benchmarks.replicas import database
from benchmarks.validate import ACTIVE, VALIDATE, validate_request

CONNECTIONS = 64  # the kernel deals connections out among the workers; few would fall unevenly
SECONDS = 1.5
ROUNDS = 7


def main() -> list[Verdict]:
    """Print the rates."""
    return asyncio.run(_main())


async def _main() -> list[Verdict]:
    async with (
        database() as service,
        service.server(cpus=ALL_CPUS, arguments=("--workers", "1")) as one,
        service.server(cpus=ALL_CPUS, arguments=("--workers", "2")) as two,
    ):
        bodies = [validate_request(service.token()) for _ in range(100)]
        with Generator(ALL_CPUS) as generator:

            async def validate(server: Serving) -> float:
                job = Job(
                    server.address, VALIDATE, bodies, seconds=SECONDS, expect=ACTIVE,
                    connections=CONNECTIONS, in_flight=1,
                )  # fmt: skip
                return (await generator.run_async(job)).rate

            rates = await in_turn(
                {"one worker": lambda: validate(one), "two workers": lambda: validate(two)}, ROUNDS
            )
    show(rates, "/s")
    scale = ratios(rates["two workers"], rates["one worker"])
    return [Verdict("two workers, of one worker's rate", scale, 1.8, sides=medians(rates))]
