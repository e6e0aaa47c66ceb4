"""Exchange and BatchExchange against an empty method; Check with an exchange and without.

The parents were seen before, as in a service that is called again by the same users.
"""

import asyncio
import secrets
import sys
import time
from typing import Any
from uuid import uuid4

from authn.envoy.v1 import check_pb2
from authn.v1 import auth_service_pb2 as pb

from auth_service.clock import utc_now
from auth_service.core.audience_registry import AudienceRegistry
from auth_service.db import pool as pools
from auth_service.db.store import Store
from auth_service.models import ANY_SCOPE, ClientSecret, ServiceAccount
from auth_service.tokens.access import AccessClaims, TokenSigner
from auth_service.tokens.keys import KeyRing, shared_key
from benchmarks.figures import Verdict, in_turn, medians, ratios, show
from benchmarks.jobs import Job
from benchmarks.load import Generator
from benchmarks.premises import require, signatures_verified
from benchmarks.processes import OTHER_CPUS, Serving, free_address, served
from benchmarks.replicas import ISSUER, Service, database
from benchmarks.validate import ACTIVE, VALIDATE, validate_request

EXCHANGE = "/authn.v1.AuthService/Exchange"
BATCH_EXCHANGE = "/authn.v1.AuthService/BatchExchange"
CHECK = "/envoy.service.auth.v3.Authorization/Check"
ACTOR, TARGET = "orders", "ledger"
PARENTS = BATCH = 100
SECONDS = 0.5
ROUNDS = 15


def main() -> list[Verdict]:
    """Print the rates, and the CPU time of the server for each token."""
    return asyncio.run(_main())


async def _main() -> list[Verdict]:
    address, http = free_address(), free_address()
    floor = [sys.executable, "-m", "benchmarks.floor", "validate", address]
    settings = {
        "AUTH_HTTP_ADDRESS": http,
        "AUTH_GATEWAY_ACCOUNT": ACTOR,
        "AUTH_TRUSTED_PROXIES": "127.0.0.1",
    }
    async with database() as service:
        await _allow(service)
        async with (
            served(floor, address) as empty,
            service.server(settings) as server,
        ):
            with Generator(OTHER_CPUS) as generator:
                return await _measure(service, empty, server, generator, http)


async def _allow(service: Service) -> None:
    """Register the audience and the account that may exchange tokens for it."""
    pool = await pools.connect(service.database_url, min_size=1, max_size=1)
    try:
        store, now = Store(pool), utc_now()
        secret = ClientSecret(uuid4(), "unused", now)
        await store.create_service_account(ServiceAccount(ACTOR, (secret,), (), (), False, now))
        registry = AudienceRegistry(store, utc_now)
        await registry.create(TARGET, scope=[ANY_SCOPE])
        await registry.set_actor(TARGET, ACTOR)
    finally:
        await pool.close()


def _own_token(service: Service) -> str:
    """Return the actor's own token, as a login would."""
    key, now = shared_key(service.secret), int(time.time())
    claims = AccessClaims(
        ISSUER, ACTOR, ("internal", ISSUER), now + 900, now, secrets.token_urlsafe(16), "", ACTOR,
        (), (), now, ("client_secret",),
    )  # fmt: skip
    return TokenSigner(KeyRing([key], key.kid)).sign(claims)


def _check_request(token: str, **extensions: str) -> bytes:
    http = check_pb2.AttributeContext.HttpRequest(headers={"authorization": f"Bearer {token}"})
    attributes = check_pb2.AttributeContext(
        request=check_pb2.AttributeContext.Request(http=http), context_extensions=extensions
    )
    encoded: bytes = check_pb2.CheckRequest(attributes=attributes).SerializeToString()
    return encoded


async def _measure(
    service: Service, empty: Serving, server: Serving, generator: Generator, http: str
) -> list[Verdict]:
    cpu: dict[str, list[float]] = {}
    own = _own_token(service)
    parents = [service.token() for _ in range(PARENTS)]
    requests = [pb.ExchangeRequest(subject_token=each, audience=TARGET) for each in parents]
    batch = pb.BatchExchangeRequest(requests=requests).SerializeToString()
    # A token with a lifetime of its own is made anew each time.
    anew = [
        pb.ExchangeRequest(subject_token=each, audience=TARGET, lifetime={"seconds": 600})
        for each in parents
    ]
    validate = [validate_request(each) for each in parents]

    async def drive(name: str, serving: Serving, job: Job, tokens: int = 1) -> float:
        before = serving.cpu_seconds()
        outcome = await generator.run_async(job)
        used = serving.cpu_seconds() - before
        cpu.setdefault(name, []).append(used / outcome.calls / tokens * 1e6)
        return outcome.rate * tokens

    def job(path: str, bodies: list[bytes], expect: bytes = b"", **changes: Any) -> Job:
        bearers = [own] * len(bodies) if path in (EXCHANGE, BATCH_EXCHANGE) else ()
        return Job(
            changes.pop("address", server.address), path, bodies, bearers=bearers,
            seconds=SECONDS, expect=expect, **changes,
        )  # fmt: skip

    jobs = {
        "empty": job(VALIDATE, validate, ACTIVE, address=empty.address),
        "Exchange": job(EXCHANGE, [each.SerializeToString() for each in requests], b"\x0a"),
        "Exchange anew": job(EXCHANGE, [each.SerializeToString() for each in anew], b"\x0a"),
        "BatchExchange of 100": job(BATCH_EXCHANGE, [batch], b"\x0a", connections=1, in_flight=4),
        "Check": job(CHECK, [_check_request(each) for each in parents]),
        "Check with an exchange": job(
            CHECK, [_check_request(each, exchange_audience=TARGET) for each in parents]
        ),
    }

    def side(name: str) -> Any:
        of, tokens = (empty if name == "empty" else server), (BATCH if "Batch" in name else 1)
        return lambda: drive(name, of, jobs[name], tokens)

    for name in jobs:  # not counted: the first two sights of each token
        await side(name)()
    cpu.clear()
    verified = await signatures_verified(http)
    rates = await in_turn({name: side(name) for name in jobs}, ROUNDS)
    # The premise: no parent, and not the actor's own token, was new.
    again = await signatures_verified(http) - verified
    require(again == 0, f"tokens seen before cost {again} signatures")
    show(rates, "tokens/s")
    show(cpu, "µs of the server's CPU a token", 1)
    sides = medians(rates) | {f"{name}, CPU µs": value for name, value in medians(cpu).items()}
    return [
        Verdict(
            "Exchange, parent seen before, of an empty method",
            ratios(rates["Exchange"], rates["empty"]), 0.70, sides=sides,
        ),
        Verdict(
            "Exchange for a token that is made anew, of an empty method",
            ratios(rates["Exchange anew"], rates["empty"]), 0.60, sides=sides,
        ),
        Verdict(
            "BatchExchange of 100, tokens/s of Exchange",
            ratios(rates["BatchExchange of 100"], rates["Exchange"]), 8, sides=sides,
        ),
        Verdict(
            "CPU of Check with an exchange, of Check without",
            ratios(cpu["Check with an exchange"], cpu["Check"]), at_most=1.25, sides=sides,
        ),
    ]  # fmt: skip


if __name__ == "__main__":
    for verdict in main():
        print(verdict)
