"""A refresh that names its request, over gRPC and over HTTP."""

from collections.abc import AsyncIterator

import httpx
import pytest
from authn.v1 import auth_service_pb2 as pb

from auth_service.serving.server import Server
from auth_service.web.browser import CSRF_HEADER
from auth_service.web.cookies import REFRESH_COOKIE
from tests.acceptance.servers import PASSWORD, USER, Client, make_user
from tests.integration.serving import address, make_settings, query, refusal, running

REQUEST = "9f2b7c1e-refresh"
BAD = ["short", "x" * 129, "with a space"]
AFTER_THE_GRACE = """
    UPDATE sessions SET refreshed_at = refreshed_at - interval '11 seconds' RETURNING true
"""


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Server]:
    """A server with a user."""
    await make_user(database_url)
    async with running(make_settings(database_url)) as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    """Calls over gRPC."""
    client = await Client(address(server)).ready()
    yield client
    await client.channel.close()


@pytest.fixture
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    """Requests over HTTP, as a page of our own sends them."""
    base = f"http://127.0.0.1:{server.http_port}"
    headers = {CSRF_HEADER: "1", "origin": base}
    async with httpx.AsyncClient(base_url=base, headers=headers) as http:
        yield http


async def test_rpc_refresh_is_repeated_after_the_grace_by_its_request_id(
    client: Client, database_url: str
) -> None:
    """The same request is answered; the same token without it is reuse."""
    token = (await client.login()).refresh_token
    request = pb.RefreshRequest(refresh_token=token, request_id=REQUEST)
    await client.auth.Refresh(request)
    assert await query(database_url, AFTER_THE_GRACE)
    assert (await client.auth.Refresh(request)).tokens.refresh_token
    refused = await refusal(client.auth.Refresh(pb.RefreshRequest(refresh_token=token)))
    assert refused.reason == "INVALID_GRANT"
    assert (await refusal(client.auth.Refresh(request))).reason == "INVALID_GRANT"


@pytest.mark.parametrize("bad", BAD)
async def test_rpc_refresh_names_a_bad_request_id(client: Client, bad: str) -> None:
    """As INVALID_ARGUMENT with the field."""
    token = (await client.login()).refresh_token
    request = pb.RefreshRequest(refresh_token=token, request_id=bad)
    refused = await refusal(client.auth.Refresh(request))
    assert (refused.reason, refused.fields) == ("INVALID_ARGUMENT", ["request_id"])


@pytest.mark.parametrize("quoted", [False, True])
async def test_oauth_refresh_is_repeated_by_its_idempotency_key(
    client: Client, http: httpx.AsyncClient, database_url: str, quoted: bool
) -> None:
    """At the token endpoint, bare or in the quotes of the IETF draft."""
    token = (await client.login()).refresh_token
    form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": "first-party"}
    key = {"idempotency-key": f'"{REQUEST}"' if quoted else REQUEST}
    assert (await http.post("/oauth2/token", data=form, headers=key)).status_code == 200
    assert await query(database_url, AFTER_THE_GRACE)
    bare = {"idempotency-key": REQUEST}
    assert (await http.post("/oauth2/token", data=form, headers=bare)).status_code == 200
    assert (await http.post("/oauth2/token", data=form)).json()["error"] == "invalid_grant"


async def test_browser_refresh_is_repeated_by_its_idempotency_key(
    http: httpx.AsyncClient, database_url: str
) -> None:
    """At /v1/refresh, with the cookie of before."""
    login = await http.post("/v1/login", json={"identifier": USER, "password": PASSWORD})
    cookie = {"cookie": f"{REFRESH_COOKIE}={login.cookies[REFRESH_COOKIE]}"}
    key = {"idempotency-key": REQUEST}
    http.cookies.clear()
    assert (await http.post("/v1/refresh", headers=cookie | key)).status_code == 200
    http.cookies.clear()
    assert await query(database_url, AFTER_THE_GRACE)
    assert (await http.post("/v1/refresh", headers=cookie | key)).status_code == 200
    http.cookies.clear()
    assert (await http.post("/v1/refresh", headers=cookie)).status_code == 401


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("twice", [False, True])
async def test_http_names_a_bad_idempotency_key(
    client: Client, http: httpx.AsyncClient, bad: str, twice: bool
) -> None:
    """As 400 with the header; so is one that comes twice, whatever it says."""
    token = (await client.login()).refresh_token
    form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": "first-party"}
    headers = [("idempotency-key", REQUEST)] * 2 if twice else [("idempotency-key", bad)]
    answer = await http.post("/oauth2/token", data=form, headers=headers)
    assert answer.status_code == 400
    assert "idempotency-key" in answer.json()["error_description"]
