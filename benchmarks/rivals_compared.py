"""Validate against what people would use instead; see benchmarks/rivals/."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from urllib.parse import urlencode
from uuid import UUID

import jwt

from auth_service import base64url
from benchmarks.figures import Verdict, in_turn, medians, ratios, show
from benchmarks.jobs import Job
from benchmarks.load import Generator
from benchmarks.premises import require, signatures_verified
from benchmarks.processes import OTHER_CPUS, Serving, free_address, served
from benchmarks.replicas import Service, database
from benchmarks.rivals.environment import python
from benchmarks.validate import ACTIVE, UNSEEN, VALIDATE, validate_request

IN_FLIGHT = 32  # on every side: over HTTP/1.1 that is as many connections
SECONDS = 1.0
ROUNDS = 5
NEVER_SEEN = "Validate, token never seen"
SECRET = "a secret of thirty-two bytes or more"


def main() -> list[Verdict]:
    """Print the rates."""
    return asyncio.run(_main())


async def _main() -> list[Verdict]:
    async with database() as service, AsyncExitStack() as stack:
        http = free_address()
        jobs = {"Validate": await _ours(service, stack, http)}
        jobs["grpc.aio, PyJWT, PostgreSQL"] = await _hand_written(service, stack, jobs["Validate"])
        jobs["fastapi-users"] = await _http(stack, "fastapi_users_app", "/me", [_fastapi_token()])
        jobs["simplejwt"] = await _http(stack, "simplejwt_app", "/me", [_simplejwt_token()])
        form = {"token": "0" * 40, "client_id": "orders", "client_secret": "orders-secret"}
        authlib = await _http(stack, "authlib_app", "/introspect", [], urlencode(form).encode())
        jobs["Authlib introspection"] = replace(
            authlib, expect=b'"active":true', content_type="application/x-www-form-urlencoded"
        )
        with Generator(OTHER_CPUS) as generator:

            def side(job: Job) -> Callable[[], Awaitable[float]]:
                async def run() -> float:
                    return (await generator.run_async(job)).rate

                return run

            async def never_seen() -> float:
                bodies = [validate_request(service.token()) for _ in range(UNSEEN)]
                before = await signatures_verified(http)
                job = replace(jobs["Validate"], bodies=bodies, calls=UNSEEN)
                outcome = await generator.run_async(job)
                count = await signatures_verified(http) - before
                require(count == UNSEEN, f"{count} signatures for {UNSEEN} new tokens")
                return outcome.rate

            sides = {name: side(job) for name, job in jobs.items()}
            rates = await in_turn({**sides, NEVER_SEEN: never_seen}, ROUNDS)
    show(rates, "/s")
    # The rivals see one token over and over, and remember none.
    return [
        Verdict(f"{ours}, of {name}", ratios(rates[ours], rates[name]), 1, sides=medians(rates))
        for ours in ("Validate", NEVER_SEEN)
        for name in jobs
        if name != "Validate"
    ]


async def _ours(service: Service, stack: AsyncExitStack, http: str) -> Job:
    server = await stack.enter_async_context(service.server({"AUTH_HTTP_ADDRESS": http}))
    bodies = [validate_request(service.token()) for _ in range(100)]
    return Job(
        server.address, VALIDATE, bodies, seconds=SECONDS, expect=ACTIVE, in_flight=IN_FLIGHT // 2
    )


async def _hand_written(service: Service, stack: AsyncExitStack, job: Job) -> Job:
    address = free_address()
    settings = {
        "RIVAL_DATABASE_URL": service.database_url,
        "RIVAL_SECRET": base64url.encode(service.secret),
    }
    command = [sys.executable, "-m", "benchmarks.rivals.grpc_pyjwt", address]
    await stack.enter_async_context(served(command, address, settings))
    return replace(job, address=address)


async def _http(
    stack: AsyncExitStack, module: str, path: str, bearers: list[str], body: bytes = b""
) -> Job:
    address = free_address()
    host, port = address.rsplit(":", 1)
    command = [
        python(), "-m", "uvicorn", f"benchmarks.rivals.{module}:app", "--host", host, "--port",
        port, "--workers", "1", "--no-access-log", "--log-level", "warning", "--loop", "uvloop",
        "--http", "httptools",
    ]  # fmt: skip
    settings = {"RIVAL_SECRET": SECRET, "RIVAL_TOKEN": "0" * 40}
    serving: Serving = await stack.enter_async_context(served(command, address, settings))
    return Job(
        serving.address, path, [body], bearers, seconds=SECONDS, connections=IN_FLIGHT,
        expect=b'"sub":', http1=True,
    )  # fmt: skip


def _fastapi_token() -> str:
    claims = {"sub": str(UUID(int=1)), "aud": ["fastapi-users:auth"], "exp": time.time() + 3600}
    return jwt.encode(claims, SECRET, "HS256")


def _simplejwt_token() -> str:
    now = int(time.time())
    claims = {
        "token_type": "access", "exp": now + 3600, "iat": now, "jti": "0" * 32, "user_id": "1"
    }  # fmt: skip
    return jwt.encode(claims, SECRET, "HS256")
