"""Real server processes, and proxies that interrupt their connections."""

import asyncio
import base64
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

import grpc
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc as rpc
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from auth_service.core.accounts import Accounts
from auth_service.core.password_policy import PasswordPolicy
from auth_service.core.passwords import Argon2Profile, PasswordHasher
from auth_service.core.session_policy import SessionPolicy
from auth_service.db import pool as pools
from auth_service.db.store import Store
from auth_service.models import Revocation, User
from tests.channels import RECONNECT, connected
from tests.clock import FakeClock
from tests.ports import free_address, free_port

T = TypeVar("T")

PROJECT = Path(__file__).resolve().parents[2]
PASSWORD = "correct horse battery staple"
USER = "ada@example.com"
KEYS = {
    "AUTH_MASTER_KEY": base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip("="),
    "AUTH_SHARED_KEY": base64.urlsafe_b64encode(bytes(range(32, 64))).decode().rstrip("="),
}
START_TIMEOUT = 90.0  # seconds


def environment(database_url: str, **settings: str) -> dict[str, str]:
    """Return the environment of a server, without the AUTH_* variables of this process."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AUTH_")}
    path = os.pathsep.join([str(PROJECT), str(PROJECT / "generated"), *filter(None, sys.path)])
    cheap = {"AUTH_ARGON2_MEMORY_KIB": "7168", "AUTH_ARGON2_TIME_COST": "1"}
    own = {"PYTHONPATH": path, "AUTH_DATABASE_URL": database_url, "AUTH_LOG_FORMAT": "json"}
    own |= {"AUTH_HTTP_ADDRESS": "off"}
    return clean | KEYS | cheap | own | settings


class ServerProcess:
    """`python -m auth_service serve` on a free loopback port, stopped by its process id."""

    def __init__(self, database_url: str, log: Path, **settings: str) -> None:
        self._environment = environment(database_url, **settings)
        self._log = log
        self.process: subprocess.Popen[bytes]
        self.address = ""

    def start(self, address: str = "") -> "ServerProcess":
        """Start at an address, or at a free one; block until health is SERVING."""
        for _ in range(3):
            self.address = address or free_address()
            with self._log.open("ab") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "auth_service", "serve"],
                    env=self._environment | {"AUTH_GRPC_ADDRESS": self.address},
                    cwd=PROJECT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            if self._await_serving():
                return self
        raise AssertionError(f"the server does not start:\n{self.output()[-4000:]}")

    def output(self) -> str:
        """Return the output of the process so far."""
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        """Send SIGTERM to the process."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Stop the process if it runs; blocks."""
        if self.process.poll() is None:
            self.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def _await_serving(self) -> bool:
        deadline = time.monotonic() + START_TIMEOUT
        with grpc.insecure_channel(self.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while time.monotonic() < deadline and self.process.poll() is None:
                with contextlib.suppress(grpc.RpcError):
                    reply = stub.Check(
                        health_pb2.HealthCheckRequest(), timeout=1, wait_for_ready=True
                    )
                    if reply.status == health_pb2.HealthCheckResponse.SERVING:
                        return True
                time.sleep(0.02)
        if self.process.poll() is None:
            self.kill()
        return False


class Client:
    """The calls of the tests, on one channel."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.aio.insecure_channel(address, options=RECONNECT)
        self.auth = rpc.AuthServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    async def ready(self) -> Self:
        """Return once the channel is connected."""
        await connected(self.channel)
        return self

    async def login(self) -> pb.TokenPair:
        """Log the user in."""
        credentials = pb.PasswordCredentials(identifier=USER, password=PASSWORD)
        reply: pb.LoginResponse = await self.auth.Login(
            pb.LoginRequest(password=credentials), timeout=30
        )
        return reply.tokens

    async def refresh(self, token: str) -> pb.TokenPair:
        """Refresh a session."""
        reply: pb.RefreshResponse = await self.auth.Refresh(
            pb.RefreshRequest(refresh_token=token), timeout=30
        )
        return reply.tokens

    async def validate(self, token: str) -> pb.ValidateResponse:
        """Validate an access token."""
        reply: pb.ValidateResponse = await self.auth.Validate(
            pb.ValidateRequest(access_token=token), timeout=10
        )
        return reply

    async def serving(self) -> bool:
        """Return whether health is SERVING."""
        try:
            reply = await self.health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        except grpc.aio.AioRpcError:
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


class Proxy:
    """Forwards TCP connections to a host and port or to a Unix socket, until it is cut."""

    def __init__(self, target: tuple[str, int] | str) -> None:
        self._target = target
        self._forwarding = asyncio.Event()
        self._forwarding.set()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = free_port()
        """The port of the proxy; after `cut`, `open` listens on it again."""
        self.withheld = b""
        self.accepted = 0
        """How many connections were made so far."""

    @property
    def connections(self) -> int:
        """How many connections there are now."""
        return len(self._tasks)

    async def open(self) -> None:
        """Listen on the port, for the first time or again."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    def withhold(self) -> None:
        """From now on, withhold the data that the target sends."""
        self._forwarding.clear()

    async def cut(self) -> None:
        """Reset all connections and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            if isinstance(self._target, str):
                there = await asyncio.open_unix_connection(self._target)
            else:
                there = await asyncio.open_connection(*self._target)
            self._writers.add(there[1])
            back = asyncio.create_task(self._back(there[0], writer))
            try:
                await self._forth(reader, there[1])
            finally:
                back.cancel()
                await asyncio.gather(back, return_exceptions=True)
                there[1].transport.abort()
                self._writers.discard(there[1])
        except (OSError, asyncio.CancelledError):
            pass  # asyncio reports a handler that is cancelled as an error
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _forth(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self._forwarding.is_set():
                self.withheld += data
                continue
            writer.write(data)
            await writer.drain()
        writer.transport.abort()


def database_target(url: str) -> tuple[str, int] | str:
    """Return the address of a database as the target of a Proxy."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    host = parts.hostname or query.get("host", ["/tmp"])[0]  # noqa: S108 - the default of libpq
    port = parts.port or int(query.get("port", ["5432"])[0])
    return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)


def through(url: str, proxy: Proxy) -> str:
    """Return the URL of the database through a proxy."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    user = parts.username or query.get("user", ["postgres"])[0]
    password = f":{parts.password}" if parts.password else ""
    name = quote(parts.path.lstrip("/") or query.get("database", query.get("dbname", ["auth"]))[0])
    return f"postgresql://{user}{password}@127.0.0.1:{proxy.port}/{name}?sslmode=disable"


@contextlib.asynccontextmanager
async def open_accounts(database_url: str) -> AsyncIterator[Accounts]:
    """Yield the accounts in the database of a server, with cheap hashes."""
    pool = await pools.connect(database_url, min_size=1, max_size=1)
    hasher = PasswordHasher(Argon2Profile(7168, 1))
    policy = SessionPolicy(issuer="", default_audience=())
    revocations: list[Revocation] = []
    try:
        yield Accounts(
            Store(pool), hasher, policy, revocations.append, FakeClock(), passwords=PasswordPolicy()
        )
    finally:
        hasher.close()
        await pool.close()


async def make_user(
    database_url: str, identifier: str = USER, *, roles: tuple[str, ...] = ()
) -> User:
    """Create a user with PASSWORD in the database of a server."""
    async with open_accounts(database_url) as accounts:
        return await accounts.create_user(
            [identifier], PASSWORD, roles=roles, scope=("read", "write")
        )


async def eventually(
    probe: Callable[[], Awaitable[T | None]], *, within: float = 60.0, what: str = "condition"
) -> T:
    """Return the first true result of a probe; fail after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        if answer := await probe():
            return answer
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        await asyncio.sleep(0.02)


def error_of(error: grpc.RpcError) -> tuple[str, bool]:
    """Return the ErrorInfo reason of an error, and whether it has RetryInfo."""
    reason, retry = "", False
    trailing: Any = error.trailing_metadata() or ()
    for key, value in trailing:
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    assert info.domain == "authn"
                    reason = info.reason
                retry |= detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR)
    return reason, retry
