"""A Server of this process with its HTTP edge, and what tests of the edge send and look at."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import structlog
from authn.v1 import auth_service_pb2 as pb

from auth_service.serving.server import Server
from tests.acceptance.servers import PASSWORD, USER, Client, make_user
from tests.integration.serving import address, make_service_account, make_settings, query, running

BILLING, ORDERS, CLOSED = "billing", "orders", "closed"
"""Service accounts; the last one is disabled."""
ACCOUNTS = (BILLING, ORDERS, CLOSED)
TIMEOUT = 30.0  # seconds, which no passing test takes


@dataclass(frozen=True)
class Edge:
    """A server, clients of both its ports, and the secrets of its service accounts."""

    server: Server
    http: httpx.AsyncClient
    rpc: Client
    database_url: str
    secrets: dict[str, str]

    async def login(self, client_id: str = "", scope: tuple[str, ...] = ()) -> pb.TokenPair:
        """Begin a session of USER's at a client."""
        credentials = pb.PasswordCredentials(identifier=USER, password=PASSWORD)
        request = pb.LoginRequest(password=credentials, client_id=client_id, scope=scope)
        reply: pb.LoginResponse = await self.rpc.auth.Login(request, timeout=TIMEOUT)
        return reply.tokens

    async def service_token(self, client_id: str = BILLING) -> str:
        """Return an access token of a service account."""
        answer = await self.post("token", client_id, grant_type="client_credentials")
        token: str = answer.json()["access_token"]
        return token

    async def post(self, endpoint: str, client: str = "", **form: str) -> httpx.Response:
        """Post a form to an OAuth endpoint, as a service account by HTTP Basic if one is named."""
        auth = (client, self.secrets[client]) if client else httpx.USE_CLIENT_DEFAULT
        return await self.http.post(f"/oauth2/{endpoint}", data=form, auth=auth)

    async def active(self, access_token: str) -> bool:
        """Tell whether an access token is active."""
        return (await self.rpc.validate(access_token)).active


@asynccontextmanager
async def edge(database_url: str, **settings: Any) -> AsyncIterator[Edge]:
    """Start a server on an empty database; add a user and the service accounts."""
    await make_user(database_url, roles=("staff", "a,b%"))
    secrets = {name: await make_service_account(database_url, name) for name in ACCOUNTS}
    await query(
        database_url,
        f"UPDATE service_accounts SET disabled = true WHERE client_id = '{CLOSED}'",  # noqa: S608
    )
    async with serving(database_url, secrets, **settings) as made:
        yield made


@asynccontextmanager
async def serving(
    database_url: str, secrets: Mapping[str, str] | None = None, **settings: Any
) -> AsyncIterator[Edge]:
    """Start a server on a database as it is."""
    with pytest.MonkeyPatch.context() as variables:
        for name in [name for name in os.environ if name.startswith("AUTH_")]:
            variables.delenv(name)
        configured = make_settings(database_url, **settings)
    try:
        async with (
            running(configured) as server,
            httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{server.http_port}", timeout=TIMEOUT, trust_env=False
            ) as http,
        ):
            rpc = await Client(address(server)).ready()
            yield Edge(server, http, rpc, database_url, dict(secrets or {}))
            await rpc.channel.close()
    finally:
        structlog.reset_defaults()  # a server sets up the logs of its process


def assert_error(answer: httpx.Response, status: int, error: str, reason: str) -> str:
    """Check the form of an error, and return its description."""
    assert answer.status_code == status, answer.text
    content = answer.json()
    assert content.keys() == {"error", "error_description", "reason"}
    assert (content["error"], content["reason"]) == (error, reason)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    text: str = content["error_description"]
    # RFC 6749 section 5.2
    assert text
    assert all(" " <= char <= "~" and char not in '"\\' for char in text)
    return text
