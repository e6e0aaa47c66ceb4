"""Validate and BatchValidate against an empty method with the same messages on the same loop."""

import asyncio
import sys
from collections.abc import Awaitable, Callable

from authn.v1 import auth_service_pb2 as pb

from benchmarks.figures import Verdict, in_turn, medians, ratios, show
from benchmarks.jobs import Job
from benchmarks.load import Generator
from benchmarks.processes import OTHER_CPUS, Serving, free_address, served
from benchmarks.replicas import Service, database

VALIDATE = "/authn.v1.AuthService/Validate"
BATCH_VALIDATE = "/authn.v1.AuthService/BatchValidate"
ACTIVE = b"\x08\x01"  # what an active answer begins with
CACHE = 10_000  # AUTH_VERIFIED_CACHE_SIZE by default
UNSEEN = 3 * CACHE
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
    async with database() as service, served(floor, address) as empty, service.server() as server:
        with Generator(OTHER_CPUS) as generator:
            return await _measure(service, empty, server, generator)


async def _measure(
    service: Service, empty: Serving, server: Serving, generator: Generator
) -> list[Verdict]:
    cpu: dict[str, list[float]] = {}
    seen = [validate_request(service.token()) for _ in range(100)]
    # Of more tokens than are remembered, in a circle, each has been forgotten when it comes again.
    unseen = [validate_request(service.token()) for _ in range(UNSEEN)]
    batch = pb.BatchValidateRequest(requests=map(pb.ValidateRequest.FromString, seen))

    def side(
        name: str, serving: Serving, bodies: list[bytes], path: str = VALIDATE, tokens: int = 1
    ) -> Callable[[], Awaitable[float]]:
        # A batch answers for many tokens and begins otherwise; it is checked by its length.
        expect = ACTIVE if tokens == 1 else b""
        job = Job(serving.address, path, bodies, seconds=SECONDS, expect=expect)
        if tokens > 1:
            job = Job(serving.address, path, bodies, seconds=SECONDS, connections=1, in_flight=4)

        async def run() -> float:
            before = serving.cpu_seconds()
            outcome = await generator.run_async(job)
            used = serving.cpu_seconds() - before
            cpu.setdefault(name, []).append(used / outcome.calls / tokens * 1e6)
            return outcome.rate * tokens

        return run

    rates = await in_turn(
        {
            "empty": side("empty", empty, seen),
            "Validate, seen": side("Validate, seen", server, seen),
            "Validate, never seen": side("Validate, never seen", server, unseen),
            "BatchValidate of 100": side(
                "BatchValidate of 100", server, [batch.SerializeToString()], BATCH_VALIDATE, BATCH
            ),
        },
        ROUNDS,
    )
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
