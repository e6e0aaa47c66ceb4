"""Two workers against one, over many connections.

With a worker for each core the load generator has no core of its own. The question is therefore
asked by what costs a worker most and the generator least: BatchValidate of tokens that are not
remembered, signed with Ed25519. Printed beside it are Validate, for which the generator and one
worker fill two cores, and how much more two bare processes verify than one.
"""

import asyncio
import multiprocessing
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle

import grpc
from authn.v1 import auth_service_pb2 as pb

from auth_service.clock import utc_now
from auth_service.db.key_store import KeyStore
from auth_service.db.pool import connect
from auth_service.tokens.access import TokenVerifier
from auth_service.tokens.keys import KeyRing, MasterKey, SigningKey, encrypt_key, generate_key
from auth_service.tokens.revocation import RevocationList
from benchmarks.figures import Verdict, in_turn, medians, ratios, show
from benchmarks.jobs import Job
from benchmarks.load import Generator
from benchmarks.premises import require, signatures_verified
from benchmarks.processes import ALL_CPUS, Serving, free_address, run_on
from benchmarks.replicas import ISSUER, Service, database
from benchmarks.validate import (
    ACTIVE,
    BATCH,
    BATCH_VALIDATE,
    VALIDATE,
    validate_request,
)

CONNECTIONS = 16  # the kernel deals them out among the workers; few would fall unevenly
SECONDS = 2.0
ROUNDS = 5


def main() -> list[Verdict]:
    """Print the rates."""
    return asyncio.run(_main())


async def _main() -> list[Verdict]:
    async with database() as service:
        key = await _ed25519_key(service)
        http = free_address(), free_address()
        async with (
            service.server(_settings(http[0]), ALL_CPUS, ("--workers", "1")) as one,
            service.server(_settings(http[1]), ALL_CPUS, ("--workers", "2")) as two,
        ):
            return await _measure(service, key, {one: http[0], two: http[1]})


def _settings(http: str) -> dict[str, str]:
    """Return those of a server that remembers no token, and tells how many it verified."""
    return {"AUTH_VERIFIED_CACHE_SIZE": "0", "AUTH_HTTP_ADDRESS": http}


async def _measure(
    service: Service, key: SigningKey, servers: Mapping[Serving, str]
) -> list[Verdict]:
    one, two = servers
    bodies = [validate_request(service.token()) for _ in range(100)]
    batches = [_batch(service, key) for _ in range(20)]
    for server in servers:
        await _require_active(server, batches[0])
    tokens = dict.fromkeys(servers, BATCH)
    bare = ProcessPoolExecutor(
        2, multiprocessing.get_context("spawn"), initializer=run_on, initargs=(ALL_CPUS,)
    )
    with bare, Generator(ALL_CPUS) as generator:

        async def verify(processes: int) -> float:
            loop = asyncio.get_running_loop()
            each = [loop.run_in_executor(bare, _verify_for_a_while) for _ in range(processes)]
            return sum(await asyncio.gather(*each))

        async def validate(server: Serving) -> float:
            job = Job(
                server.address, VALIDATE, bodies, seconds=SECONDS, expect=ACTIVE,
                connections=CONNECTIONS, in_flight=4,
            )  # fmt: skip
            outcome = await generator.run_async(job)
            tokens[server] += outcome.calls
            return outcome.rate

        async def validate_batch(server: Serving) -> float:
            job = Job(
                server.address, BATCH_VALIDATE, batches, seconds=SECONDS,
                connections=CONNECTIONS, in_flight=1,
            )  # fmt: skip
            outcome = await generator.run_async(job)
            tokens[server] += outcome.calls * BATCH
            return outcome.rate * BATCH

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
    for server, address in servers.items():  # the premise: no answer came from memory
        count = await signatures_verified(address)
        require(count == tokens[server], f"{count} signatures for {tokens[server]} tokens")
    show(rates, "tokens/s")
    scale = ratios(rates["BatchValidate, two workers"], rates["BatchValidate, one worker"])
    machine = medians({"": ratios(rates["two bare processes"], rates["one bare process"])})[""]
    note = f"two bare processes verify {machine:.2f} times what one does"
    print(f"  {note}")
    question = "two workers, of one worker's BatchValidate"
    return [Verdict(question, scale, 1.8, sides=medians(rates), note=note)]


async def _ed25519_key(service: Service) -> SigningKey:
    """Return a key that the servers to come will trust."""
    key, now = generate_key("EdDSA"), utc_now()
    pool = await connect(service.database_url)
    stored = encrypt_key(key, MasterKey(service.secret), now, now)
    await KeyStore(pool).change(lambda _: [stored])
    await pool.close()
    return key


def _batch(service: Service, key: SigningKey) -> bytes:
    tokens = (pb.ValidateRequest(access_token=service.token(key=key)) for _ in range(BATCH))
    request: bytes = pb.BatchValidateRequest(requests=tokens).SerializeToString()
    return request


async def _require_active(server: Serving, batch: bytes) -> None:
    """Check that the tokens are valid: to refuse one costs less than to accept it."""
    async with grpc.aio.insecure_channel(server.address) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(BATCH_VALIDATE)
        answer = await call(batch, wait_for_ready=True)
    assert all(each.active for each in pb.BatchValidateResponse.FromString(answer).responses)


def _verify_for_a_while() -> float:
    """Return how many new tokens this process verifies in a second."""
    key = generate_key("EdDSA")
    ring = KeyRing([key], key.kid)
    verifier = TokenVerifier(
        ring, RevocationList(utc_now), issuer=ISSUER, clock=utc_now, cache_size=0
    )
    tokens = cycle([Service("").token(key=key) for _ in range(1000)])
    count, started = 0, time.perf_counter()
    while time.perf_counter() < started + SECONDS:
        verifier.verify(next(tokens))
        count += 1
    return count / (time.perf_counter() - started)
