"""Real servers on a real PostgreSQL of the benchmark's own, on loopback."""

import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from auth_service import base64url
from auth_service.db.embedded import EmbeddedPostgres
from auth_service.db.migrate import migrate
from auth_service.tokens.access import AccessClaims, TokenSigner
from auth_service.tokens.keys import KeyRing, SigningKey, shared_key
from benchmarks.processes import (
    OTHER_CPUS,
    SERVER_CPUS,
    START_SECONDS,
    Serving,
    free_address,
    run_on,
    served,
)

ISSUER = "https://auth.internal"


@dataclass(frozen=True)
class Service:
    """A database, and the key of the servers that share it."""

    database_url: str
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    def token(
        self,
        user: str = "",
        session: str = "",
        key: SigningKey | None = None,
        roles: tuple[str, ...] = (),
    ) -> str:
        """Return a valid access token, as a login would; signed with the shared key or this one."""
        key = key or shared_key(self.secret)
        now = int(time.time())
        claims = AccessClaims(
            ISSUER, user or str(uuid4()), ("internal", ISSUER), now + 900, now,
            secrets.token_urlsafe(16), session or str(uuid4()), "bench", (), roles, now, ("pwd",),
        )  # fmt: skip
        return TokenSigner(KeyRing([key], key.kid)).sign(claims)

    @asynccontextmanager
    async def server(
        self,
        settings: Mapping[str, str] | None = None,
        cpus: set[int] = SERVER_CPUS,
        arguments: tuple[str, ...] = (),
    ) -> AsyncIterator[Serving]:
        """Start a server, lend it once it is healthy, and stop it."""
        address, key = free_address(), base64url.encode(self.secret)
        environment = {
            "AUTH_SHARED_KEY": key,
            "AUTH_MASTER_KEY": key,
            "AUTH_DATABASE_URL": self.database_url,
            "AUTH_GRPC_ADDRESS": address,
            "AUTH_HTTP_ADDRESS": "off",
            "AUTH_LOG_LEVEL": "error",
        } | dict(settings or {})
        command = [sys.executable, "-m", "auth_service", "serve", *arguments]
        async with served(command, address, environment, cpus) as serving:
            async with grpc.aio.insecure_channel(address) as channel:
                await health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=START_SECONDS
                )
            yield serving


@asynccontextmanager
async def database() -> AsyncIterator[Service]:
    """Start a database with the schema in it; stop and remove it at the end."""
    run_on(OTHER_CPUS)
    with tempfile.TemporaryDirectory(prefix="auth-bench-") as folder:
        Path(folder).chmod(0o711)
        async with EmbeddedPostgres(Path(folder) / "pg") as postgres:
            await migrate(postgres.dsn)
            yield Service(postgres.dsn)


async def another_database(service: Service, name: str) -> Service:
    """Return a second database of the same PostgreSQL, with the schema in it."""
    connection: Any = await asyncpg.connect(service.database_url)
    await connection.execute(f'CREATE DATABASE "{name}"')
    await connection.close()
    url = service.database_url.replace("@/auth?", f"@/{name}?")
    await migrate(url)
    return Service(url)


@dataclass(frozen=True)
class Replicas(Service):
    """Servers that share a database."""

    processes: list[Serving] = field(default_factory=list)

    @property
    def addresses(self) -> list[str]:
        """Where they serve."""
        return [process.address for process in self.processes]


@asynccontextmanager
async def replicas(count: int) -> AsyncIterator[Replicas]:
    """Start a database and that many servers; stop all at the end."""
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(database())
        started = [await stack.enter_async_context(service.server()) for _ in range(count)]
        yield Replicas(service.database_url, service.secret, started)
