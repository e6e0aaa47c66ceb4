"""Validate's p99 while ten times as many logins come in as the hash pool can do.

The storm comes from another process, and Validate is called at a steady rate, whether or not
answers have come, so that a slow server does not lower its own load. All share all cores.
"""

import asyncio
import time
from typing import Any

import grpc
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc as rpc
from google.rpc import error_details_pb2, status_pb2

from benchmarks.figures import Verdict, in_turn, medians, ratios, show
from benchmarks.jobs import Job
from benchmarks.load import Generator, Outcome
from benchmarks.login import LOGIN, login_requests
from benchmarks.processes import ALL_CPUS, Serving
from benchmarks.replicas import Service, database
from benchmarks.validate import ACTIVE, VALIDATE, validate_request

UNKNOWN = 20_000  # accounts that do not exist; a login of one takes as long
VALIDATE_RATE = 400.0
SECONDS = 2.5
ROUNDS = 8
REFUSED = "status 8"  # RESOURCE_EXHAUSTED


def main() -> list[Verdict]:
    """Print both spreads, the memory, and what the refused were told."""
    return asyncio.run(_main())


async def _main() -> list[Verdict]:
    async with database() as service, service.server(cpus=ALL_CPUS) as server:
        with Generator(ALL_CPUS) as calls, Generator(ALL_CPUS) as storm:
            return await _measure(service, server, calls, storm)


async def _measure(
    service: Service, server: Serving, calls: Generator, storm: Generator
) -> list[Verdict]:
    requests = login_requests(UNKNOWN)
    validations = [validate_request(service.token()) for _ in range(100)]
    pool = await _hash_rate(server, requests, storm)
    before = server.resident()
    retry_infos: list[bool] = []
    logins: list[Outcome] = []

    async def validate() -> float:
        job = Job(
            server.address, VALIDATE, validations, seconds=SECONDS, rate=VALIDATE_RATE,
            expect=ACTIVE, connections=4,
        )  # fmt: skip
        outcome = await calls.run_async(job)
        assert outcome.rate > 0
        return outcome.p99 * 1000

    async def stormy() -> float:
        job = Job(
            server.address, LOGIN, requests, seconds=SECONDS + 1, rate=10 * pool, connections=16
        )
        raging = asyncio.create_task(storm.run_async(job))
        await asyncio.sleep(0.5)
        found, _ = await asyncio.gather(validate(), _ask_for_retry_info(server, retry_infos))
        logins.append(await raging)
        return found

    p99 = await in_turn({"idle": validate, "in a storm": stormy}, ROUNDS)
    statuses = sum((outcome.statuses for outcome in logins), start=type(logins[0].statuses)())
    others = {name: count for name, count in statuses.items() if name not in {REFUSED, "status 16"}}
    grown = (server.peak() - before) / 2**20
    show(p99, "ms p99 of Validate", 2)
    print(f"  the pool verifies {pool:.0f}/s; logins: {dict(statuses)}")
    print(f"  {sum(retry_infos)} of {len(retry_infos)} refused logins came with RetryInfo")
    print(f"  memory at its highest: {grown:.0f} MiB above that before the storm")
    told = sum(retry_infos) / max(1, len(retry_infos))
    good = 0.0 if others or not retry_infos else told
    sides = medians(p99) | {"logins refused": statuses[REFUSED], "logins hashed": pool}
    return [
        Verdict(
            "Validate p99 in a login storm, of its p99 idle",
            ratios(p99["in a storm"], p99["idle"]), at_most=2, sides=sides,
        ),
        Verdict("memory in a login storm, more than before", [grown], at_most=100, unit="MiB"),
        Verdict("refused logins that are RESOURCE_EXHAUSTED with RetryInfo", [good], 1, unit=""),
    ]  # fmt: skip


async def _hash_rate(server: Serving, requests: list[bytes], storm: Generator) -> float:
    """Return how many logins a second the pool does when it is never without work."""
    job = Job(server.address, LOGIN, requests, seconds=SECONDS, connections=1, in_flight=16)
    outcome = await storm.run_async(job)
    assert set(outcome.statuses) == {"status 16"}, outcome.statuses
    return outcome.statuses["status 16"] / outcome.seconds


async def _ask_for_retry_info(server: Serving, found: list[bool]) -> None:
    """Log in by an ordinary client, and look at the details of what is refused."""
    until = time.monotonic() + SECONDS
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub: Any = rpc.AuthServiceStub(channel)
        number = 0
        while time.monotonic() < until:
            number += 1
            password = pb.PasswordCredentials(identifier=f"guest-{number}", password="x" * 20)
            try:
                await stub.Login(pb.LoginRequest(password=password), timeout=20)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    found.append(_has_retry_info(error))
            await asyncio.sleep(0.2)  # now and then: this client takes CPU time from the server


def _has_retry_info(error: grpc.aio.AioRpcError) -> bool:
    trailers = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    return any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
