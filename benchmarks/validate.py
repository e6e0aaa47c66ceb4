"""Validate and BatchValidate against an empty method with the same messages on the same loop."""

import asyncio
import itertools
import sys

from authn.v1 import auth_service_pb2 as pb

from benchmarks.figures import Verdict, in_turn, medians, ratios, show
from benchmarks.jobs import Job
from benchmarks.load import Generator
from benchmarks.premises import require, signatures_verified
from benchmarks.processes import OTHER_CPUS, Serving, free_address, served
from benchmarks.replicas import Service, database

VALIDATE = "/authn.v1.AuthService/Validate"
BATCH_VALIDATE = "/authn.v1.AuthService/BatchValidate"
ACTIVE = b"\x08\x01"  # what an active answer begins with
UNSEEN = 3_000  # tokens a round, each presented once in the whole run
BATCH = 100
SECONDS = 0.5
ROUNDS = 15


def main() -> list[Verdict]:
    """Print the rates, and the CPU time of the server for each call."""
    return asyncio.run(_main())


def validate_request(token: str) -> bytes:
    """Return a request in bytes."""
    request: bytes = pb.ValidateRequest(access_token=token).SerializeToString()
    return request


async def _main() -> list[Verdict]:
    address = free_address()
    floor = [sys.executable, "-m", "benchmarks.floor", "validate", address]
    http = free_address()
    settings = {"AUTH_HTTP_ADDRESS": http}  # for its metrics
    async with (
        database() as service,
        served(floor, address) as empty,
        service.server(settings) as server,
    ):
        with Generator(OTHER_CPUS) as generator:
            return await _measure(service, empty, server, generator, http)


async def _measure(
    service: Service, empty: Serving, server: Serving, generator: Generator, http: str
) -> list[Verdict]:
    cpu: dict[str, list[float]] = {}
    seen = [validate_request(service.token()) for _ in range(100)]
    unseen = (validate_request(service.token()) for _ in itertools.repeat(None))
    batch = pb.BatchValidateRequest(requests=map(pb.ValidateRequest.FromString, seen))

    async def drive(name: str, serving: Serving, job: Job, tokens: int = 1) -> float:
        before = serving.cpu_seconds()
        outcome = await generator.run_async(job)
        used = serving.cpu_seconds() - before
        cpu.setdefault(name, []).append(used / outcome.calls / tokens * 1e6)
        return outcome.rate * tokens

    async def of_empty() -> float:
        job = Job(empty.address, VALIDATE, seen, seconds=SECONDS, expect=ACTIVE)
        return await drive("empty", empty, job)

    async def of_seen() -> float:
        job = Job(server.address, VALIDATE, seen, seconds=SECONDS, expect=ACTIVE)
        return await drive("Validate, seen", server, job)

    async def of_unseen() -> float:
        bodies = list(itertools.islice(unseen, UNSEEN))
        job = Job(server.address, VALIDATE, bodies, calls=UNSEEN, expect=ACTIVE)
        verified = await signatures_verified(http)
        rate = await drive("Validate, never seen", server, job)
        # The premise: the service verified a signature for each call of this round.
        count = await signatures_verified(http) - verified
        require(count == UNSEEN, f"{count} signatures for {UNSEEN} new tokens")
        return rate

    async def of_batch() -> float:
        # The answers of a batch have no common beginning.
        bodies = [batch.SerializeToString()]
        job = Job(
            server.address, BATCH_VALIDATE, bodies, seconds=SECONDS, connections=1, in_flight=4
        )
        return await drive("BatchValidate of 100", server, job, BATCH)

    await of_seen()  # not counted: the first two sights of each of these tokens
    await of_batch()
    cpu.clear()
    verified = await signatures_verified(http)
    rates = await in_turn(
        {
            "empty": of_empty,
            "Validate, seen": of_seen,
            "Validate, never seen": of_unseen,
            "BatchValidate of 100": of_batch,
        },
        ROUNDS,
    )
    # The premise of the others: tokens that come once displace none of the hundred.
    new = ROUNDS * UNSEEN
    again = await signatures_verified(http) - verified - new
    require(again == 0, f"tokens seen before cost {again} signatures")
    show(rates, "tokens/s")
    show(cpu, "µs of the server's CPU a token", 1)
    sides = medians(rates) | {f"{name}, CPU µs": value for name, value in medians(cpu).items()}
    for name in ("Validate, seen", "Validate, never seen"):
        by_cpu = medians({"": ratios(cpu["empty"], cpu[name])})[""]
        print(f"  by CPU time {name} has {by_cpu:.2f} of the rate of the empty method")
    return [
        Verdict(
            "Validate, token seen before, of an empty method",
            ratios(rates["Validate, seen"], rates["empty"]), 0.90, sides=sides,
        ),
        Verdict(
            "Validate, token never seen, of an empty method",
            ratios(rates["Validate, never seen"], rates["empty"]), 0.75, sides=sides,
        ),
        Verdict(
            "BatchValidate of 100, tokens/s of Validate",
            ratios(rates["BatchValidate of 100"], rates["Validate, seen"]), 30, sides=sides,
        ),
    ]  # fmt: skip
