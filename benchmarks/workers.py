"""Two workers against one, over many connections.

With a worker a core the load generator has no core of its own. So the question is asked by
BatchValidate of tokens never seen, which costs a worker far more than the generator. Validate, of
which the generator and one worker fill two cores, is printed beside it.
"""

import asyncio

from authn.v1 import auth_service_pb2 as pb

from benchmarks.figures import Verdict, in_turn, medians, ratios, show
from benchmarks.load import Generator, Job
from benchmarks.processes import ALL_CPUS, Serving
from benchmarks.replicas import Service, database
from benchmarks.validate import (
    ACTIVE,
    BATCH,
    BATCH_VALIDATE,
    UNSEEN,
    VALIDATE,
    validate_request,
)

CONNECTIONS = 16  # the kernel deals them out among the workers; few would fall unevenly
SECONDS = 1.5
ROUNDS = 5


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
        # Each worker sees half of them, which are more than it remembers.
        batches = [_batch(service) for _ in range(2 * UNSEEN // BATCH)]
        with Generator(ALL_CPUS) as generator:

            async def validate(server: Serving) -> float:
                job = Job(
                    server.address, VALIDATE, bodies, seconds=SECONDS, expect=ACTIVE,
                    connections=CONNECTIONS, in_flight=4,
                )  # fmt: skip
                return (await generator.run_async(job)).rate

            async def validate_batch(server: Serving) -> float:
                job = Job(
                    server.address, BATCH_VALIDATE, batches, seconds=SECONDS,
                    connections=CONNECTIONS, in_flight=1,
                )  # fmt: skip
                return (await generator.run_async(job)).rate * BATCH

            rates = await in_turn(
                {
                    "BatchValidate, one worker": lambda: validate_batch(one),
                    "BatchValidate, two workers": lambda: validate_batch(two),
                    "Validate, one worker": lambda: validate(one),
                    "Validate, two workers": lambda: validate(two),
                },
                ROUNDS,
            )
    show(rates, "tokens/s")
    scale = ratios(rates["BatchValidate, two workers"], rates["BatchValidate, one worker"])
    return [Verdict("two workers, of one worker's BatchValidate", scale, 1.8, sides=medians(rates))]


def _batch(service: Service) -> bytes:
    tokens = (pb.ValidateRequest(access_token=service.token()) for _ in range(BATCH))
    request: bytes = pb.BatchValidateRequest(requests=tokens).SerializeToString()
    return request
