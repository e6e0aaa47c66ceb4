"""Sessions of browsers over HTTP: cookies, retries, logout, and who may not call."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg
import httpx
import jwt
import pytest
import pytest_asyncio
import structlog
from authn.v1 import account_service_pb2 as account_pb
from authn.v1 import auth_service_pb2 as pb
from authn.v1.account_service_pb2_grpc import AccountServiceStub
from structlog.testing import capture_logs

from auth_service.serving.server import Server
from auth_service.web.cookies import ACCESS_COOKIE, DEVICE_COOKIE, REFRESH_COOKIE
from tests.acceptance.servers import (
    PASSWORD,
    USER,
    Client,
    Proxy,
    database_target,
    eventually,
    make_user,
    through,
)
from tests.integration.serving import (
    SERVICE,
    address,
    make_service_account,
    make_settings,
    query,
    running,
    until,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

APP = "https://app.example.com"
PUBLIC = "https://auth.example.com"
FOREIGN = "https://evil.example"
GOOD = {"identifier": USER, "password": PASSWORD}
TIMEOUT = 30.0  # seconds, which no passing test takes
WAITS_FOR_A_LOCK = """
    SELECT count(*) > 0 FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


class Page:
    """A page of a server's own origin, and the browser's cookies for it.

    They are sent by hand, since httpx rightly sends no Secure cookie to http://.
    """

    def __init__(self, server: Server, http: httpx.AsyncClient) -> None:
        self.url = f"http://127.0.0.1:{server.http_port}"
        self.http = http
        self.cookies: dict[str, str] = {}
        self.headers = {"origin": self.url, "x-requested-with": "fetch"}

    async def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request with the page's headers and cookies, and keep what is set."""
        cookies = options.pop("cookies", self.cookies)
        headers = self.headers | options.pop("headers", {})
        headers |= {"cookie": "; ".join(f"{k}={v}" for k, v in cookies.items())} if cookies else {}
        given = {name: value for name, value in headers.items() if value is not None}
        response = await self.http.request(method, self.url + path, headers=given, **options)
        for name, (value, attributes) in set_cookies(response).items():
            if attributes["Max-Age"] == "0":
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value
        return response

    async def login(self, **members: Any) -> dict[str, Any]:
        """Log the user in, and return the body."""
        response = await self.send("POST", "/v1/login", json=GOOD | members)
        assert response.status_code == 200, response.text
        content: dict[str, Any] = response.json()
        return content

    async def refresh(self, cookie: str | None = None, **options: Any) -> httpx.Response:
        """Refresh by the browser's cookie, or another."""
        if cookie is not None:
            options["cookies"] = {REFRESH_COOKIE: cookie}
        return await self.send("POST", "/v1/refresh", **options)

    @property
    def cookie(self) -> str:
        """The refresh cookie's value."""
        return self.cookies[REFRESH_COOKIE]


def set_cookies(response: httpx.Response) -> dict[str, tuple[str, dict[str, str]]]:
    """Return the value and the attributes of each cookie that a response sets."""
    found = {}
    for header in response.headers.get_list("set-cookie"):
        first, *rest = header.split("; ")
        name, _, value = first.partition("=")
        parts = (each.partition("=") for each in rest)
        found[name] = value.strip('"'), {key: value for key, _, value in parts}
    return found


def bearer(token: str) -> dict[str, str]:
    """Return the header of a caller with an access token."""
    return {"authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def database_url(module_database_url: str) -> str:
    """The module's one database."""
    return module_database_url


@pytest.fixture(scope="module", autouse=True)
def _process() -> Iterator[None]:
    """Clear the AUTH_* variables of this process, and reset the logs that a server sets up."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AUTH_")]:
            patch.delenv(name)
        yield
    structlog.reset_defaults()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(database_url: str) -> AsyncIterator[Server]:
    """A server as it is by default, with the user ada."""
    await make_user(database_url)
    async with running(make_settings(database_url)) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica(server: Server, database_url: str) -> AsyncIterator[Server]:
    """Another one, known to browsers as PUBLIC, with an application and the access cookie."""
    settings = make_settings(
        database_url,
        public_url="https://Auth.example.com:443/",
        browser_origins="https://App.example.com:443,https://admin.example.com:8443",
        access_cookie=True,
        login_burst=1,
        login_refill="1h",
    )
    async with running(settings) as replica:
        yield replica


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client."""
    async with httpx.AsyncClient(timeout=TIMEOUT, trust_env=False) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rpc(server: Server) -> AsyncIterator[Client]:
    """A gRPC client of the server."""
    client = await Client(address(server)).ready()
    yield client
    await client.channel.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replica_rpc(replica: Server) -> AsyncIterator[Client]:
    """A gRPC client of the replica."""
    client = await Client(address(replica)).ready()
    yield client
    await client.channel.close()


@pytest.fixture
def page(server: Server, http: httpx.AsyncClient) -> Page:
    """A page at the server."""
    return Page(server, http)


@pytest.fixture
def app(replica: Server, http: httpx.AsyncClient) -> Page:
    """A page of the application at the replica."""
    page = Page(replica, http)
    page.headers["origin"] = APP
    return page


async def soon_inactive(client: Client, token: str) -> None:
    """Return once a server answers that an access token is inactive."""

    async def inactive() -> bool:
        return not (await client.validate(token)).active

    await eventually(inactive, what="the revocation has arrived")


def past_the_grace(database_url: str, sid: str) -> Any:
    """Let a session's last refresh be a minute ago."""
    return earlier(database_url, sid, "1 minute")


def earlier(database_url: str, sid: str, interval: str) -> Any:
    """Let a session's last refresh be longer ago."""
    change = f"refreshed_at = refreshed_at - interval '{interval}'"
    return query(database_url, f"UPDATE sessions SET {change} WHERE id = '{sid}'")  # noqa: S608


def session_column(database_url: str, page: Page, column: str) -> Any:
    """Return a column of the page's session."""
    sid = jwt_claims(page.cookie)["sid"]
    return query(database_url, f"SELECT {column} FROM sessions WHERE id = '{sid}'")  # noqa: S608


def jwt_claims(token: str) -> dict[str, Any]:
    """Return what a token says, unchecked."""
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


@asynccontextmanager
async def row_lock(database_url: str, page: Page) -> AsyncIterator[None]:
    """Hold the row of the page's session, so that its refresh waits."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            sid = jwt_claims(page.cookie)["sid"]
            await connection.execute("SELECT 1 FROM sessions WHERE id = $1 FOR UPDATE", sid)
            yield
    finally:
        await connection.close()


# Login


async def test_the_refresh_token_is_in_a_cookie_that_no_script_reads_and_nowhere_else(
    page: Page,
) -> None:
    """The body has the access token alone; without AUTH_ACCESS_COOKIE no cookie has it."""
    response = await page.send("POST", "/v1/login", json=GOOD)
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    cookies = set_cookies(response)
    assert cookies.keys() == {"__Host-refresh", "__Host-device"}
    token, attributes = cookies[REFRESH_COOKIE]
    claims = jwt_claims(token)
    age = int(attributes.pop("Max-Age"))
    assert 0 <= claims["exp"] - claims["iat"] - age <= TIMEOUT
    assert attributes == {"HttpOnly": "", "Path": "/", "SameSite": "strict", "Secure": ""}
    content = response.json()
    assert token not in response.text
    assert content.keys() == {"access_token", "token_type", "expires_in", "scope", "session_id"}
    assert content["session_id"] == claims["sid"]


async def test_a_device_is_known_after_logout_however_often_strangers_guessed(
    app: Page, database_url: str
) -> None:
    """By a cookie that no script reads; the throttle has room for it, and none for a stranger."""
    response = await app.send("POST", "/v1/login", json=GOOD)
    token, attributes = set_cookies(response)[DEVICE_COOKIE]
    claims = jwt_claims(token)
    age = int(attributes.pop("Max-Age"))
    assert 0 <= claims["exp"] - claims["iat"] - age <= TIMEOUT
    assert attributes == {"HttpOnly": "", "Path": "/", "SameSite": "strict", "Secure": ""}
    assert token not in response.text
    assert (await app.send("POST", "/v1/logout")).status_code == 204
    assert app.cookies == {DEVICE_COOKIE: token}
    wrong = GOOD | {"password": "wrong"}
    stranger = [
        await app.send("POST", "/v1/login", json=each, cookies={}) for each in (wrong, GOOD)
    ]
    assert [each.status_code for each in stranger] == [401, 429]
    assert int(stranger[1].headers["retry-after"]) > 0
    try:
        await app.login()
    finally:
        await query(database_url, "DELETE FROM login_buckets")


async def test_a_live_session_is_known_by_its_cookie(app: Page, database_url: str) -> None:
    """Even without the cookie of the device."""
    await app.login()
    wrong = GOOD | {"password": "wrong"}
    assert (await app.send("POST", "/v1/login", json=wrong, cookies={})).status_code == 401
    kept = {REFRESH_COOKIE: app.cookie}
    try:
        assert (await app.send("POST", "/v1/login", json=GOOD, cookies=kept)).status_code == 200
    finally:
        await query(database_url, "DELETE FROM login_buckets")


async def test_an_access_cookie_is_there_when_asked_for_and_lets_in(app: Page, page: Page) -> None:
    """Forward-auth and GET /v1/session read it; a server without the setting does not."""
    content = await app.login()
    assert app.cookies[ACCESS_COOKIE] == content["access_token"]
    answer = await app.send("GET", "/auth")
    assert answer.status_code == 200
    session = await app.send("GET", "/v1/session")
    assert session.json()["sid"] == content["session_id"]
    assert answer.headers["x-auth-subject"] == session.json()["sub"]
    for path in ("/auth", "/v1/session"):
        refused = await page.send("GET", path, cookies=app.cookies)
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"].startswith("Bearer")


async def test_an_access_cookie_has_the_attributes_of_the_other_and_the_tokens_life(
    app: Page,
) -> None:
    """It lives no longer than the token."""
    response = await app.send("POST", "/v1/login", json=GOOD)
    _, attributes = set_cookies(response)[ACCESS_COOKIE]
    assert 0 <= response.json()["expires_in"] - int(attributes.pop("Max-Age")) <= 1
    assert attributes == {"HttpOnly": "", "Path": "/", "SameSite": "strict", "Secure": ""}


async def test_a_bearer_goes_before_the_access_cookie(app: Page) -> None:
    """The header decides if there is one, even if its token is invalid."""
    await app.login()
    assert (await app.send("GET", "/v1/session", headers=bearer("x.y.z"))).status_code == 401


async def test_the_session_tells_the_claims_of_the_bearer(page: Page) -> None:
    """Without token it is refused with a challenge."""
    content = await page.login()
    response = await page.send("GET", "/v1/session", headers=bearer(content["access_token"]))
    assert response.json()["client_id"] == "browser"
    assert response.headers["cache-control"] == "no-store"
    assert (await page.send("GET", "/v1/session")).status_code == 401


async def test_the_list_of_sessions_shows_the_browser(
    page: Page, rpc: Client, database_url: str
) -> None:
    """By its User-Agent without unprintable characters, or by the label that the page sends."""
    await make_user(database_url, "grace@example.com")
    grace = {"identifier": "grace@example.com"}
    agent = b"Firefox/99\t(\x85Linux) " + b"a" * 300
    await page.send("POST", "/v1/login", json=GOOD | grace, headers={"user-agent": agent})
    content = await page.login(**grace, device_label="Kitchen")
    metadata = tuple(bearer(content["access_token"]).items())
    reply = await AccountServiceStub(rpc.channel).ListSessions(
        account_pb.ListSessionsRequest(), metadata=metadata, timeout=TIMEOUT
    )
    labels = {session.device_label for session in reply.sessions}
    assert labels == {"Kitchen", "Firefox/99(Linux) " + "a" * 238}


async def test_every_wrong_credential_looks_the_same(page: Page, database_url: str) -> None:
    """An unknown user and a wrong password get the same answer, and no cookie."""
    await make_user(database_url, "eve@example.com")  # ada's attempts are for the other tests
    wrong = [{"identifier": name, "password": "wrong"} for name in ("eve@example.com", "nobody")]
    seen = [await page.send("POST", "/v1/login", json=given) for given in wrong]
    assert [each.status_code for each in seen] == [401, 401]
    assert seen[0].content == seen[1].content
    assert seen[0].json()["error"] == "invalid_credentials"
    assert not page.cookies


async def test_too_many_failed_logins_say_when_to_come_back(app: Page) -> None:
    """The answer is 429 with Retry-After, which pages of other origins may read."""
    given = {"identifier": "guessed@example.com", "password": "wrong"}
    assert (await app.send("POST", "/v1/login", json=given)).status_code == 401
    response = await app.send("POST", "/v1/login", json=given)
    assert response.status_code == 429
    assert 0 < int(response.headers["retry-after"]) <= 3600
    assert response.headers["access-control-expose-headers"] == "retry-after"


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"identifier": ""}, "identifier"),
        ({"identifier": None}, "identifier"),
        ({"identifier": ["ada"]}, "identifier"),
        ({"identifier": "a" * 300}, "identifier"),
        ({"password": ""}, "password"),
        ({"password": 7}, "password"),
        ({"password": "\ud800"}, "password"),
        ({"audience": "orders"}, "audience"),
        ({"audience": [""]}, "audience[0]"),
        ({"scope": [1]}, "scope"),
        ({"scope": ['"']}, "scope[0]"),
        ({"device_label": "a\nb"}, "device_label"),
        ({"request_id": "short"}, "request_id"),
        ({"client_id": "other"}, "client_id"),
    ],
)
async def test_a_wrong_member_is_named(page: Page, members: dict[str, Any], named: str) -> None:
    """Missing, of another type, of a bad value, or unknown."""
    body, kind = json.dumps(GOOD | members), {"content-type": "application/json"}
    response = await page.send("POST", "/v1/login", content=body, headers=kind)
    assert response.status_code == 400
    assert response.json()["reason"] == "INVALID_ARGUMENT"
    assert f"{named}: " in response.json()["error_description"]


async def test_a_login_without_body_names_what_is_missing(page: Page) -> None:
    """An empty body is an empty object."""
    response = await page.send("POST", "/v1/login")
    assert response.status_code == 400
    assert "identifier: is required" in response.json()["error_description"]


async def test_a_form_is_no_login(page: Page) -> None:
    """A body that a form of another page could send is not read."""
    for kind in ("application/x-www-form-urlencoded", "text/plain"):
        response = await page.send(
            "POST", "/v1/login", content=b'{"identifier": "a"}', headers={"content-type": kind}
        )
        assert response.status_code == 415


async def test_a_login_sent_again_with_its_request_id_is_the_same_session(page: Page) -> None:
    """The retry of a lost response gets the same tokens."""
    first = await page.login(request_id="0b7d-login")
    cookie = page.cookie
    again = await page.login(request_id="0b7d-login")
    assert again["access_token"] == first["access_token"]
    assert page.cookie == cookie


# Refresh


async def test_a_refresh_gives_a_new_access_token_and_a_new_cookie(page: Page) -> None:
    """The session stays, and the successor is accepted by the next refresh."""
    before, first = await page.login(), page.cookie
    response = await page.refresh()
    assert response.status_code == 200
    assert "refresh_token" not in response.json()
    assert response.json()["session_id"] == before["session_id"]
    assert response.json()["access_token"] != before["access_token"]
    assert page.cookie != first
    assert set_cookies(response)[REFRESH_COOKIE][1].keys() >= {"Secure", "HttpOnly"}
    assert (await page.refresh()).status_code == 200


async def test_a_refresh_renews_the_access_cookie(app: Page) -> None:
    """Forward-auth goes on without the page's doing."""
    await app.login()
    content = (await app.refresh()).json()
    assert app.cookies[ACCESS_COOKIE] == content["access_token"]


async def test_a_refresh_may_narrow_the_scope(page: Page) -> None:
    """And what exceeds the session's is refused with nothing done."""
    await page.login(scope=["read"])
    before = page.cookie
    response = await page.refresh(json={"scope": ["write"]})
    assert (response.status_code, response.json()["error"]) == (400, "invalid_scope")
    assert page.cookie == before
    assert (await page.refresh(json={"scope": ["read"]})).json()["scope"] == "read"


async def test_a_retry_with_the_old_cookie_gets_the_very_same_successor(page: Page) -> None:
    """A lost response logs nobody out."""
    await page.login()
    old = page.cookie
    first = await page.refresh()
    again = await page.refresh(old)
    assert again.status_code == 200
    assert set_cookies(again)[REFRESH_COOKIE][0] == set_cookies(first)[REFRESH_COOKIE][0]
    assert again.json()["access_token"] == first.json()["access_token"]


async def test_two_tabs_that_refresh_at_once_share_the_successor(page: Page, app: Page) -> None:
    """At one server or at two, both succeed and the session goes on."""
    await page.login()
    old = page.cookie
    responses = await asyncio.gather(*(tab.refresh(old) for tab in (page, page, app, app)))
    assert [response.status_code for response in responses] == [200] * 4
    assert len({set_cookies(response)[REFRESH_COOKIE][0] for response in responses}) == 1
    assert (await page.refresh()).status_code == 200


async def test_without_a_good_cookie_there_is_no_refresh(page: Page) -> None:
    """It is 401, and the cookie stays: another tab may have just logged in."""
    content = await page.login()
    access, cookie = content["access_token"], page.cookie
    assert (await page.send("POST", "/v1/refresh", cookies={})).status_code == 401
    for bad in ("", "x", access, cookie[:-2], cookie + "a"):
        response = await page.refresh(bad)
        assert (response.status_code, response.json()["error"]) == (401, "invalid_grant")
        assert not set_cookies(response)
    assert (await page.refresh(cookie)).status_code == 200


async def test_an_old_cookie_after_the_grace_ends_the_session(
    page: Page, database_url: str, rpc: Client
) -> None:
    """Reuse ends the session: neither the copy nor the rightful cookie is valid afterwards."""
    await page.login()
    old = page.cookie
    content = (await page.refresh()).json()
    sid = content["session_id"]
    await past_the_grace(database_url, sid)
    current = page.cookie
    assert (await page.refresh(old)).status_code == 401
    assert (await page.refresh(current)).status_code == 401
    await soon_inactive(rpc, content["access_token"])


async def test_a_cookie_that_has_just_succeeded_another_is_its_own_successor(
    page: Page, app: Page, database_url: str
) -> None:
    """Any number of tabs, at any server, rotate once within the grace."""
    await page.login()
    first = page.cookie
    await page.refresh()
    second = page.cookie
    for tab in (app, page):
        again = await tab.refresh(second)
        assert (again.status_code, set_cookies(again)[REFRESH_COOKIE][0]) == (200, second)
    straggler = await page.refresh(first)
    assert (straggler.status_code, page.cookie) == (200, second)
    await past_the_grace(database_url, straggler.json()["session_id"])
    assert (await page.refresh()).status_code == 200
    assert page.cookie != second


async def test_no_tab_of_many_is_logged_out(page: Page) -> None:
    """Eight share one jar, and each refreshes whenever it gets to it."""
    await page.login()

    async def tab() -> list[int]:
        return [(await page.refresh()).status_code for _ in range(6)]

    assert {each for seen in await asyncio.gather(*(tab() for _ in range(8))) for each in seen} == {
        200
    }


async def test_a_cookie_two_generations_old_ends_the_session(page: Page, database_url: str) -> None:
    """The grace is for the one before the current only."""
    sid = (await page.login())["session_id"]
    old = page.cookie
    await page.refresh()
    await past_the_grace(database_url, sid)
    await page.refresh()
    await earlier(database_url, sid, "1 second")  # so that no call can have arrived before it
    assert (await page.refresh(old)).status_code == 401
    assert (await page.refresh(page.cookie)).status_code == 401


async def test_the_session_of_another_client_is_not_refreshed_by_cookie(
    page: Page, rpc: Client
) -> None:
    """It is refused without a step: the client that has it goes on."""
    tokens = await rpc.login()
    response = await page.refresh(tokens.refresh_token)
    assert response.status_code == 401
    assert not set_cookies(response)
    assert (await rpc.refresh(tokens.refresh_token)).session_id == tokens.session_id


async def test_without_the_database_there_is_a_503_and_the_cookies_stay(
    server: Server, http: httpx.AsyncClient, database_url: str
) -> None:
    """Login, refresh and logout say when to try again; afterwards the session goes on."""
    proxy = Proxy(database_target(database_url))
    await proxy.open()
    settings = make_settings(through(database_url, proxy), database_connect_timeout="1s")
    async with running(settings) as other:
        page = Page(other, http)
        content, kept = await page.login(), dict(page.cookies)
        await proxy.cut()
        for path in ("login", "refresh", "logout"):
            response = await page.send("POST", f"/v1/{path}", json=GOOD if path == "login" else {})
            assert response.status_code == 503, path
            assert int(response.headers["retry-after"]) >= 1
            assert not set_cookies(response)
        headers = bearer(content["access_token"])
        response = await page.send("POST", "/v1/logout", cookies={}, headers=headers)
        assert response.status_code == 503
        assert page.cookies == kept
        await proxy.open()

        async def refreshed() -> bool:
            return (await page.refresh()).status_code == 200

        await eventually(refreshed, what="the session goes on")
    await proxy.cut()


async def test_a_client_that_goes_during_its_refresh_finds_it_done(
    page: Page, database_url: str
) -> None:
    """The rotation completes, and the retry gets its successor."""
    await page.login()
    async with row_lock(database_url, page):
        call = asyncio.create_task(page.refresh())
        await until(database_url, WAITS_FOR_A_LOCK, what="the refresh waits for the row")
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
    done = f"SELECT generation = 1 FROM sessions WHERE id = '{jwt_claims(page.cookie)['sid']}'"  # noqa: S608
    await until(database_url, done, what="the rotation is committed")
    assert (await page.refresh()).status_code == 200


async def test_a_refresh_cut_off_by_a_stop_is_done_or_not_and_may_be_retried(
    page: Page, http: httpx.AsyncClient, database_url: str
) -> None:
    """The rotation outlives the drain timeout, and a replica answers the retry."""
    async with running(make_settings(database_url, drain_timeout="0s")) as other:
        there = Page(other, http)
        await there.login()
        cookie = there.cookie
        async with row_lock(database_url, there):
            call = asyncio.create_task(there.refresh())
            await until(database_url, WAITS_FOR_A_LOCK, what="the refresh waits for the row")
            stopping = asyncio.create_task(other.stop())
            with suppress(httpx.TransportError):
                assert (await call).status_code >= 500
        await stopping
        assert await session_column(database_url, there, "generation") == 1
    assert (await page.refresh(cookie)).status_code == 200


# Logout


async def test_logout_ends_both_tokens_on_every_replica_and_clears_both_cookies(
    app: Page, rpc: Client, replica_rpc: Client
) -> None:
    """The access token is refused where it was not ended, too."""
    content = await app.login()
    cookie = app.cookie
    assert (await rpc.validate(content["access_token"])).active
    response = await app.send("POST", "/v1/logout")
    assert (response.status_code, response.content) == (204, b"")
    assert app.cookies.keys() == {DEVICE_COOKIE}
    for _, attributes in set_cookies(response).values():
        assert attributes.items() >= {"Max-Age": "0", "Path": "/", "Secure": ""}.items()
    assert (await app.refresh(cookie)).status_code == 401
    assert not (await replica_rpc.validate(content["access_token"])).active
    await soon_inactive(rpc, content["access_token"])


async def test_logout_by_the_access_token_alone_ends_the_session(page: Page, rpc: Client) -> None:
    """For a page whose cookie is gone."""
    content = await page.login()
    cookie = page.cookie
    headers = bearer(content["access_token"])
    response = await page.send("POST", "/v1/logout", cookies={}, headers=headers)
    assert response.status_code == 204
    assert (await page.refresh(cookie)).status_code == 401
    assert not (await rpc.validate(content["access_token"])).active


async def test_logout_by_the_access_cookie_alone_ends_the_session(
    app: Page, replica_rpc: Client
) -> None:
    """The browser may have dropped the other one."""
    content = await app.login()
    del app.cookies[REFRESH_COOKIE]
    assert (await app.send("POST", "/v1/logout")).status_code == 204
    assert not (await replica_rpc.validate(content["access_token"])).active


@pytest.mark.parametrize("cookies", [{}, {REFRESH_COOKIE: "x"}, {REFRESH_COOKIE: ""}])
@pytest.mark.parametrize("headers", [{}, bearer("x.y.z"), {"authorization": "Basic eDp5"}])
async def test_logout_without_a_session_clears_the_cookies(
    page: Page, cookies: dict[str, str], headers: dict[str, str]
) -> None:
    """Does nothing if the token is invalid."""
    response = await page.send("POST", "/v1/logout", cookies=cookies, headers=headers)
    assert response.status_code == 204
    assert set_cookies(response).keys() == {REFRESH_COOKIE, ACCESS_COOKIE}


async def test_logout_may_be_repeated(page: Page) -> None:
    """The retry of a lost response is no error."""
    content = await page.login()
    cookies, headers = dict(page.cookies), bearer(content["access_token"])
    for _ in range(2):
        response = await page.send("POST", "/v1/logout", cookies=cookies, headers=headers)
        assert response.status_code == 204


async def test_logout_of_a_service_account_says_where_its_token_ends(
    page: Page, rpc: Client, database_url: str
) -> None:
    """It has no session, and 204 would wrongly mean that the token has ended."""
    secret = await make_service_account(database_url)
    credentials = pb.ClientCredentials(client_id=SERVICE, client_secret=secret)
    tokens = (await rpc.auth.Login(pb.LoginRequest(client=credentials))).tokens
    response = await page.send("POST", "/v1/logout", headers=bearer(tokens.access_token))
    assert response.status_code == 400
    assert "/oauth2/revoke" in response.json()["error_description"]
    assert (await rpc.validate(tokens.access_token)).active


async def test_logout_of_a_session_whose_row_is_gone_clears_the_cookies(
    page: Page, database_url: str
) -> None:
    """Logging out works after the database has lost its last commits."""
    content = await page.login()
    sid = content["session_id"]
    await query(database_url, f"DELETE FROM sessions WHERE id = '{sid}'")  # noqa: S608
    headers = bearer(content["access_token"])
    response = await page.send("POST", "/v1/logout", cookies={}, headers=headers)
    assert response.status_code == 204


# Who may call


async def assert_refused(
    page: Page, headers: dict[str, Any] | list[tuple[str, str]], database_url: str
) -> None:
    """Check that no POST of these headers does anything."""
    await page.login()
    await query(database_url, "DELETE FROM login_buckets")
    secret = {"cookie": f"{REFRESH_COOKIE}={page.cookie}"}
    sent = [*(headers.items() if isinstance(headers, dict) else headers), *secret.items()]
    unknown = {"identifier": "unknown@example.com", "password": "wrong"}
    for path in ("login", "refresh", "logout"):
        response = await page.http.post(
            f"{page.url}/v1/{path}", headers=sent, json=unknown if path == "login" else {}
        )
        assert response.status_code == 403, path
        assert response.json()["error"] == "access_denied"
        text = response.json()["error_description"]
        assert "AUTH_BROWSER_ORIGINS" in text or "send the header" in text
        assert not set_cookies(response)
    assert (await page.refresh()).status_code == 200
    assert not await query(database_url, "SELECT count(*) FROM login_buckets")


@pytest.mark.parametrize(
    "origins",
    [
        [],
        [""],
        ["null"],
        [FOREIGN],
        ["{own}", "{own}"],
        ["{own}", FOREIGN],
        ["{own}.evil.example"],
        ["{own}0"],
        ["{own}/"],
        ["{own}, {own}"],
        ["http://evil-127.0.0.1"],
        ["http://127.0.0.1"],
        ["http://localhost:1"],
        ["http://ada@{host}"],
        ["ftp://{host}"],
        ["{host}"],
        ["http://"],
        ["https://"],
    ],
)
async def test_a_page_of_no_or_another_origin_can_do_nothing(
    page: Page, database_url: str, origins: list[str]
) -> None:
    """The session stays as it was, and no attempt to log in is counted."""
    own, host = page.url, page.url.removeprefix("http://")
    headers = [("origin", each.format(own=own, host=host)) for each in origins]
    await assert_refused(page, [("x-requested-with", "fetch"), *headers], database_url)


async def test_a_request_that_a_form_could_send_can_do_nothing(
    page: Page, database_url: str
) -> None:
    """Without the header that only a script of the page can add."""
    await assert_refused(page, {"origin": page.url}, database_url)


@pytest.mark.parametrize(
    ("host", "origin", "taken"),
    [
        ("auth.example.com", "https://auth.example.com", True),
        ("AUTH.example.com", "https://auth.example.com", True),
        ("auth.example.com:443", "https://auth.example.com", True),
        ("auth.example.com:8443", "https://auth.example.com:8443", True),
        ("auth.example.com:8443", "https://auth.example.com", False),
        ("auth.example.com", "https://auth.example.com.evil.example", False),
        ("auth.example.com", "https://evil-auth.example.com", False),
        ("auth.example.com", "https://example.com", False),
        ("auth.example.com", "http://auth.example.com", False),  # cookies would not be kept
        ("evil.example", "http://evil.example", False),  # DNS rebinding
        ("127.0.0.1.evil.example", "http://127.0.0.1.evil.example", False),
        ("localhost.evil.example:80", "http://localhost.evil.example", False),
        ("2130706433", "http://2130706433", False),
        ("localhost", "http://localhost", True),
        ("LOCALHOST:80", "http://localhost", True),
        ("127.8.8.8:8080", "http://127.8.8.8:8080", True),
        ("[::1]:8080", "http://[::1]:8080", True),
        ("[::1", "http://[::1", False),
        ("[", "http://[", False),
        ("", "https://", False),
        ("", "http://", False),
    ],
)
async def test_the_host_header_tells_the_own_origin(
    page: Page, host: str, origin: str, taken: bool
) -> None:
    """Over TLS, or at loopback; in any case of letters, with or without the usual port."""
    response = await page.refresh(headers={"host": host, "origin": origin})
    assert response.status_code == (401 if taken else 403)


@pytest.mark.parametrize(
    ("origin", "taken"),
    [
        (PUBLIC, True),
        (APP, True),
        ("https://admin.example.com:8443", True),
        ("https://admin.example.com", False),
        ("http://app.example.com", False),
        ("https://app.example.com.evil.example", False),
        ("https://xapp.example.com", False),
        ("{own}", False),
    ],
)
async def test_configured_origins_are_taken_and_the_host_header_no_more(
    app: Page, origin: str, taken: bool
) -> None:
    """AUTH_PUBLIC_URL stands for the Host header, and AUTH_BROWSER_ORIGINS adds to it."""
    response = await app.refresh(headers={"origin": origin.format(own=app.url)})
    assert response.status_code == (401 if taken else 403)


# CORS


def cors(response: httpx.Response) -> list[str]:
    """Return the names of the CORS headers of a response."""
    return [name for name in response.headers if name.startswith("access-control-")]


PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "content-type,x-requested-with",
}


@pytest.mark.parametrize("origin", [APP, FOREIGN, "null"])
async def test_without_configured_origins_there_is_no_cors(page: Page, origin: str) -> None:
    """Neither a preflight nor an answer allows another origin anything."""
    for headers in ({"origin": origin}, {"origin": origin} | PREFLIGHT):
        for method in ("OPTIONS", "POST"):
            assert not cors(await page.send(method, "/v1/refresh", headers=headers))


@pytest.mark.parametrize("path", ["login", "refresh", "logout"])
async def test_a_preflight_allows_a_configured_origin(app: Page, path: str) -> None:
    """With credentials, which the cookies are."""
    response = await app.send("OPTIONS", f"/v1/{path}", headers=PREFLIGHT)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == APP
    assert response.headers["access-control-allow-credentials"] == "true"
    assert "x-requested-with" in response.headers["access-control-allow-headers"]
    assert "Origin" in response.headers["vary"]


@pytest.mark.parametrize("origin", [FOREIGN, "null", APP + ".evil.example", PUBLIC + ":1", "*"])
async def test_no_other_origin_is_allowed(app: Page, origin: str) -> None:
    """Caches are told that the answer depends on the origin."""
    for method, headers in (("OPTIONS", PREFLIGHT), ("POST", {}), ("GET", {})):
        path = "/v1/session" if method == "GET" else "/v1/refresh"
        response = await app.send(method, path, headers={"origin": origin} | headers)
        assert response.status_code >= 400
        assert "access-control-allow-origin" not in response.headers
        assert "Origin" in response.headers["vary"]


async def test_errors_too_may_be_read_by_a_configured_origin(app: Page) -> None:
    """Otherwise the page could not distinguish a 401 from a network failure."""
    calls: list[tuple[str, str, dict[str, Any], int]] = [
        ("POST", "/v1/login", {"json": {}}, 400),
        ("POST", "/v1/refresh", {}, 401),
        ("POST", "/v1/refresh", {"headers": {"x-requested-with": None}}, 403),
        ("POST", "/v1/login", {"content": b"x" * 70_000}, 413),
        ("POST", "/v1/login", {"content": b"x"}, 415),
        ("POST", "/v1/nothing", {}, 404),
        ("GET", "/v1/", {}, 404),
        ("GET", "/v1/login", {}, 405),
        ("POST", "/v1/session", {}, 405),
    ]
    for method, path, options, status in calls:
        response = await app.send(method, path, **options)
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == APP
        assert response.headers["access-control-allow-credentials"] == "true"
        assert "Origin" in response.headers["vary"]


async def test_a_configured_origin_can_read_an_internal_error(app: Page, database_url: str) -> None:
    """It has the constant text, and one log entry."""
    table = "ALTER TABLE login_buckets"
    await query(database_url, f"{table} ADD CONSTRAINT unknown CHECK (false) NOT VALID")
    try:
        with capture_logs() as logs:
            response = await app.send("POST", "/v1/login", json=GOOD)
    finally:
        await query(database_url, f"{table} DROP CONSTRAINT unknown")
    assert (response.status_code, response.json()["error"]) == (500, "server_error")
    assert response.headers["access-control-allow-origin"] == APP
    assert [entry["event"] for entry in logs].count("http_failed") == 1


async def test_other_routes_have_no_cors(app: Page) -> None:
    """The configured origins are for /v1 only."""
    for path in ("/.well-known/jwks.json", "/oauth2/token", "/auth", "/metrics", "/nothing"):
        assert not cors(await app.send("GET", path))
