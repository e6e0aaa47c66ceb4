"""For the tests of clients: the real service in this process, behind a proxy that can be cut."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import grpc
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc as rpc

from auth_service.config.loading import Settings
from auth_service.serving.server import Server
from tests.acceptance.servers import KEYS, PASSWORD, USER, Proxy, make_user, open_accounts
from tests.channels import open_channel, open_sync_channel
from tests.clock import FakeClock

ACCOUNT = "batch"


class Line(Proxy):
    """A proxy that can forward again what it withheld for a while."""

    @property
    def is_cut(self) -> bool:
        """Whether connections are refused."""
        return self._server is None

    def forward(self) -> None:
        """Forward everything from now on."""
        self._forwarding.set()


class Calls(grpc.aio.UnaryUnaryClientInterceptor):
    """Counts the calls that asyncio programs make to the service."""

    def __init__(self) -> None:
        self.made = 0

    async def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        self.made += 1
        return await continuation(client_call_details, request)


class SyncCalls(grpc.UnaryUnaryClientInterceptor):
    """Counts the calls that threads make to the service."""

    def __init__(self) -> None:
        self.made = 0

    def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        self.made += 1
        return continuation(client_call_details, request)


class Pause:
    """Does not sleep: notes the seconds, moves the clock, and runs the next step of the test."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.seconds: list[float] = []
        self.then: Callable[[], Awaitable[object]] | None = None

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self._clock.advance(timedelta(seconds=seconds))
        if self.then is not None:
            await self.then()


class Service:
    """The service on the test's database, with a user and a service account.

    `channel` and `sync_channel` lead through `line` and count the calls; the methods need neither.
    """

    def __init__(self, database_url: str) -> None:
        self.database_url = database_url
        self.secret = ""

    @contextlib.asynccontextmanager
    async def running(
        self,
        database_url: str = "",
        certificate: tuple[Path, Path] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> AsyncIterator["Service"]:
        """Serve, from another URL of the same database if one is given.

        `credentials` are those of clients, for a server with a certificate.
        """
        await make_user(self.database_url)
        async with open_accounts(self.database_url) as accounts:
            self.secret = await accounts.services.create(ACCOUNT, scope=("read", "write"))
        names = ("tls_cert_file", "tls_key_file")
        settings = Settings.model_validate(
            {
                "database_url": database_url or self.database_url,
                "master_key": KEYS["AUTH_MASTER_KEY"],
                "shared_key": KEYS["AUTH_SHARED_KEY"],
                "argon2_memory_kib": 7168,
                "argon2_time_cost": 1,
                "grpc_address": "127.0.0.1:0",
                "http_address": "off",
            }
            | dict(zip(names, certificate or (), strict=False))
        )
        server = Server(settings)
        await server.start()
        self.line = Line(("127.0.0.1", server.port))
        self.calls, self.sync_calls = Calls(), SyncCalls()
        try:
            await self.line.open()
            self.address = f"127.0.0.1:{self.line.port}"
            async with (
                open_channel(self.address, credentials, [self.calls]) as self.channel,
                open_channel(f"127.0.0.1:{server.port}", credentials) as own,
                open_sync_channel(self.address, credentials) as self.plain_sync_channel,
            ):
                self.stub = rpc.AuthServiceStub(own)
                self.sync_channel = grpc.intercept_channel(self.plain_sync_channel, self.sync_calls)
                yield self
        finally:
            await self.line.cut()
            await server.stop()

    async def login(self) -> str:
        """Return the refresh token of a new session."""
        credentials = pb.PasswordCredentials(identifier=USER, password=PASSWORD)
        reply = await self.stub.Login(pb.LoginRequest(password=credentials), timeout=30)
        token: str = reply.tokens.refresh_token
        return token

    async def refresh(self, refresh_token: str) -> pb.TokenPair:
        """Refresh a session without a request id."""
        reply: pb.RefreshResponse = await self.stub.Refresh(
            pb.RefreshRequest(refresh_token=refresh_token), timeout=30
        )
        return reply.tokens

    async def revoke(self, refresh_token: str) -> None:
        """End a session."""
        await self.stub.Revoke(pb.RevokeRequest(refresh_token=refresh_token), timeout=30)

    async def is_active(self, access_token: str) -> bool:
        """Whether the service finds a token valid."""
        request = pb.ValidateRequest(access_token=access_token)
        return bool((await self.stub.Validate(request, timeout=30)).active)

    async def generation(self) -> int:
        """Return how often the only session was refreshed."""
        connection = await asyncpg.connect(self.database_url)
        try:
            return int(await connection.fetchval("SELECT generation FROM sessions"))
        finally:
            await connection.close()

    async def age(self, by: timedelta) -> None:
        """Move the last refresh of the only session into the past."""
        connection = await asyncpg.connect(self.database_url)
        try:
            await connection.execute(
                "UPDATE sessions SET refreshed_at = refreshed_at - $1::interval", by
            )
        finally:
            await connection.close()

    async def reconnect(self) -> None:
        """Restore the connection if it is cut, and wait until the channel has noticed both."""
        if self.line.is_cut:
            while self.channel.get_state() is grpc.ChannelConnectivity.READY:
                await self.channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
            self.line.forward()
            await self.line.open()
        await self.channel.channel_ready()
