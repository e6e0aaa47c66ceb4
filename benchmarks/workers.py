"""Two workers against one, over many connections.

With a worker a core the load generator has no core of its own. So the question is asked by
BatchValidate of tokens never seen, which costs a worker far more than the generator. Validate, of
which the generator and one worker fill two cores, is printed beside it; and so is what the machine
has to give: how much more two bare processes verify than one.
"""

import asyncio
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle

from authn.v1 import auth_service_pb2 as pb

from auth_service.clock import utc_now
from auth_service.keys import KeyRing, shared_key
from auth_service.revocation import RevocationList
from auth_service.tokens import TokenVerifier
from benchmarks.figures import Verdict, in_turn, medians, ratios, show
from benchmarks.load import Generator, Job
from benchmarks.processes import ALL_CPUS, Serving, run_on
from benchmarks.replicas import ISSUER, Service, database
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
        bare = ProcessPoolExecutor(
            2, multiprocessing.get_context("spawn"), initializer=run_on, initargs=(ALL_CPUS,)
        )
        with bare, Generator(ALL_CPUS) as generator:

            async def verify(processes: int) -> float:
                loop = asyncio.get_running_loop()
                each = [
                    loop.run_in_executor(bare, _verify_for_a_while, service)
                    for _ in range(processes)
                ]
                return sum(await asyncio.gather(*each))

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
                    "one bare process": lambda: verify(1),
                    "two bare processes": lambda: verify(2),
                },
                ROUNDS,
            )
    show(rates, "tokens/s")
    scale = ratios(rates["BatchValidate, two workers"], rates["BatchValidate, one worker"])
    machine = medians({"": ratios(rates["two bare processes"], rates["one bare process"])})[""]
    note = f"two bare processes verify {machine:.2f} times what one does"
    print(f"  {note}")
    question = "two workers, of one worker's BatchValidate"
    return [Verdict(question, scale, 1.8, sides=medians(rates), note=note)]


def _verify_for_a_while(service: Service) -> float:
    """Return how many tokens a second this process verifies, none of which it remembers."""
    key = shared_key(service.secret)
    verifier = TokenVerifier(
        KeyRing([key], key.kid), RevocationList(utc_now), issuer=ISSUER, clock=utc_now, cache_size=0
    )
    tokens = cycle([service.token() for _ in range(1000)])
    count, started = 0, time.perf_counter()
    while time.perf_counter() < started + SECONDS:
        verifier.verify(next(tokens))
        count += 1
    return count / (time.perf_counter() - started)


def _batch(service: Service) -> bytes:
    tokens = (pb.ValidateRequest(access_token=service.token()) for _ in range(BATCH))
    request: bytes = pb.BatchValidateRequest(requests=tokens).SerializeToString()
    return request
