"""Real servers on a real PostgreSQL of the benchmark's own, on loopback."""

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from auth_service import base64url
from auth_service.db.embedded import EmbeddedPostgres
from auth_service.db.migrate import migrate
from auth_service.keys import KeyRing, shared_key
from auth_service.tokens import AccessClaims, TokenSigner

ISSUER = "https://auth.internal"
START_SECONDS = 60.0


@dataclass(frozen=True)
class Replicas:
    """Servers that share a database, and the key that they sign with."""

    addresses: list[str]
    processes: list[subprocess.Popen[bytes]]
    database_url: str
    secret: bytes

    def token(self) -> str:
        """Return a good access token, as a login would."""
        key = shared_key(self.secret)
        now = int(time.time())
        claims = AccessClaims(
            ISSUER, "user", ("internal",), now + 900, now, secrets.token_urlsafe(16),
            secrets.token_urlsafe(16), "bench", (), (), now, ("pwd",),
        )  # fmt: skip
        return TokenSigner(KeyRing([key], key.kid)).sign(claims)


@asynccontextmanager
async def replicas(count: int) -> AsyncIterator[Replicas]:
    """Start a database and that many servers; stop all at the end."""
    with tempfile.TemporaryDirectory(prefix="auth-bench-") as folder:
        Path(folder).chmod(0o711)
        async with EmbeddedPostgres(Path(folder) / "pg") as postgres:
            await migrate(postgres.dsn)
            started = Replicas([], [], postgres.dsn, secrets.token_bytes(32))
            try:
                for _ in range(count):
                    await _start(started)
                yield started
            finally:
                for process in started.processes:
                    process.send_signal(signal.SIGTERM)
                for process in started.processes:
                    await asyncio.to_thread(process.wait, 30)


async def _start(started: Replicas) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AUTH_")}
    key = base64url.encode(started.secret)
    keys = {"AUTH_SHARED_KEY": key, "AUTH_MASTER_KEY": key}
    environment = kept | {
        "AUTH_DATABASE_URL": started.database_url,
        "AUTH_GRPC_ADDRESS": address,
        "AUTH_HTTP_ADDRESS": "off",
        "AUTH_LOG_LEVEL": "error",
    }
    started.processes.append(
        subprocess.Popen([sys.executable, "-m", "auth_service", "serve"], env=environment | keys)
    )
    async with grpc.aio.insecure_channel(address) as channel:
        await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=START_SECONDS
        )
    started.addresses.append(address)
