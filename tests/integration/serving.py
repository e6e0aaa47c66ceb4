"""A Server in this process, on a port of loopback, and what its tests send and look at."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from auth_service.config.loading import Settings, load_settings
from auth_service.serving.server import Server
from tests.acceptance.servers import KEYS, eventually, open_accounts

MASTER_KEY = KEYS["AUTH_MASTER_KEY"]
SHARED_KEY = KEYS["AUTH_SHARED_KEY"]
SERVICE = "billing"


def make_settings(database_url: str, **changes: Any) -> Settings:
    """Return settings with cheap hashes and both keys, any of them changed.

    The database has more time than by default, for a busy machine.
    """
    values = {
        "database_url": database_url,
        "master_key": MASTER_KEY,
        "shared_key": SHARED_KEY,
        "grpc_address": "127.0.0.1:0",
        "http_address": "127.0.0.1:0",
        "argon2_memory_kib": 7168,
        "argon2_time_cost": 1,
        "database_statement_timeout": "30s",
    }
    return load_settings(None, **(values | changes))


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Server]:
    """Start a server, and stop it afterwards."""
    server = Server(settings)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def address(server: Server) -> str:
    """Return where a server is served."""
    return f"127.0.0.1:{server.port}"


async def make_service_account(database_url: str, client_id: str = SERVICE) -> str:
    """Create a service account with the scope `read` and return its secret."""
    async with open_accounts(database_url) as accounts:
        return await accounts.services.create(client_id, roles=("verifier",), scope=("read",))


async def query(database_url: str, sql: str) -> Any:
    """Return the one value of a statement."""
    connection = await asyncpg.connect(database_url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def until(database_url: str, sql: str, *, what: str) -> None:
    """Return once a statement answers true."""

    async def probe() -> bool:
        return bool(await query(database_url, sql))

    await eventually(probe, what=what)


class Refusal:
    """What a client sees of a call that fails."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        trailers: Any = error.trailing_metadata() or ()
        self.code = error.code()
        self.text = error.details()
        self.trailers = dict(trailers)
        self.reason = ""
        self.fields: list[str] = []
        self.retry = False
        details = self.trailers.get("grpc-status-details-bin", b"")
        for box in status_pb2.Status.FromString(details).details:
            info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            if box.Unpack(info):
                assert info.domain == "authn"
                self.reason = info.reason
            elif box.Unpack(bad):
                self.fields = [violation.field for violation in bad.field_violations]
            self.retry |= box.Is(error_details_pb2.RetryInfo.DESCRIPTOR)


async def refusal(call: Awaitable[Any]) -> Refusal:
    """Return how a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return Refusal(caught.value)
