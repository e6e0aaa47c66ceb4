"""What holds for every request over HTTP: errors, bodies, probes, metrics and the log."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes, urlencode

import httpx
import pytest
import pytest_asyncio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from structlog.testing import capture_logs

from auth_service.errors import AlreadyExists, ConfigError, NotFound, RateLimited, Unavailable
from auth_service.web.app import create_app
from auth_service.web.http_server import HttpServer
from tests.acceptance.servers import (
    PASSWORD,
    USER,
    Proxy,
    ServerProcess,
    database_target,
    eventually,
    make_user,
    through,
)
from tests.integration.http_edge import BILLING, TIMEOUT, Edge, assert_error, edge, serving
from tests.integration.serving import make_service_account

FORMS = ["/oauth2/token", "/oauth2/introspect", "/oauth2/revoke"]
OBJECTS = ["/v1/login", "/v1/refresh", "/v1/logout"]
GETS = [
    "/.well-known/jwks.json",
    "/.well-known/oauth-authorization-server",
    "/v1/session",
    "/healthz",
    "/readyz",
    "/metrics",
]
FORM, JSON = "application/x-www-form-urlencoded", "application/json"
LARGEST_BODY = 64 * 1024
SECRET = "hunter2"  # stands in requests and in texts of exceptions
INTERNAL = "internal error; the service's log has the cause"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(module_database_url: str) -> AsyncIterator[Edge]:
    """A server that no test changes."""
    async with edge(module_database_url, login_burst=1000) as made:
        yield made


def page(made: Edge) -> dict[str, str]:
    """Return the headers of a page of the server's own."""
    return {"origin": str(made.http.base_url), "x-requested-with": "fetch"}


# Errors


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/auth/", "/oauth2/token/", "/OAUTH2/TOKEN", "/%00%ff%22", "/%5c%0d"]
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_unknown_path_is_not_found(shared: Edge, path: str, method: str) -> None:
    """There is no redirect, which would use the Host header."""
    answer = await shared.http.request(method, path)
    assert_error(answer, 404, "not_found", "NOT_FOUND")


@pytest.mark.parametrize("path", [*FORMS, *OBJECTS, *GETS])
async def test_a_wrong_method_is_told_the_right_one(shared: Edge, path: str) -> None:
    """RFC 9110 section 15.5.6: with Allow."""
    answer = await shared.http.request("GET" if path in FORMS + OBJECTS else "DELETE", path)
    assert_error(answer, 405, "method_not_allowed", "INVALID_ARGUMENT")
    assert ("POST" if path in FORMS + OBJECTS else "GET") in answer.headers["allow"]


@pytest.mark.parametrize("host", [b"", b"[", b"[::1", b"a:b", b"\xe9", b"evil.test/x?", b"a b@c"])
async def test_any_host_header_gets_an_ordinary_answer(shared: Edge, host: bytes) -> None:
    """Errors are built without it."""
    for path, error in (("/nothing", "not_found"), ("/oauth2/token", "method_not_allowed")):
        answer = await shared.http.get(path, headers={b"host": host})
        assert answer.json()["error"] == error
        assert "evil" not in answer.text


FAILURES: dict[str, tuple[Exception, int, str, str]] = {
    "fault": (RuntimeError(SECRET), 500, "server_error", "INTERNAL"),
    "unmapped": (AlreadyExists(SECRET), 500, "server_error", "INTERNAL"),
    "config": (ConfigError(SECRET), 500, "server_error", "INTERNAL"),
    "missing": (NotFound("no such thing"), 404, "not_found", "NOT_FOUND"),
    "busy": (RateLimited("too much"), 429, "temporarily_unavailable", "RATE_LIMITED"),
    "away": (Unavailable("not now"), 503, "temporarily_unavailable", "UNAVAILABLE"),
}


@asynccontextmanager
async def failing() -> AsyncIterator[httpx.AsyncClient]:
    """Serve an edge whose routes fail."""

    def fail(error: Exception) -> Callable[[Request], Any]:
        async def endpoint(_request: Request) -> Response:
            raise error

        return endpoint

    async def broken(_request: Request) -> Response:
        async def content() -> AsyncIterator[bytes]:
            yield b"some"
            raise RuntimeError(SECRET)

        return StreamingResponse(content())

    routes = [Route(f"/{name}", fail(error)) for name, (error, *_) in FAILURES.items()]
    server = HttpServer(create_app([*routes, Route("/broken", broken)]), "127.0.0.1:0")
    server.start()
    url = f"http://127.0.0.1:{server.port}"
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, trust_env=False) as http:
        yield http
    await server.stop()


@pytest.mark.parametrize("name", FAILURES)
async def test_a_handler_that_fails_tells_nothing_of_why(name: str) -> None:
    """An internal error has a constant text for the client, and its cause is in the log."""
    _, status, code, reason = FAILURES[name]
    async with failing() as http:
        with capture_logs() as logs:
            answer = await http.get(f"/{name}?{SECRET}")
    text = assert_error(answer, status, code, reason)
    assert SECRET not in answer.text
    assert (text == INTERNAL) == (status == 500)
    # A sum of an earlier test's repeated entries may fall due here.
    events = [entry["event"] for entry in logs if entry["event"] != "repeated"]
    assert events == ["http_failed"] * (status == 500) + ["http"]
    assert ("retry-after" in answer.headers) == (status in (429, 503))


async def test_a_response_that_breaks_off_is_logged() -> None:
    """What has been sent stays; the cause does not follow it."""
    async with failing() as http:
        with capture_logs() as logs, pytest.raises(httpx.RemoteProtocolError):
            await http.get("/broken")
    assert [entry["event"] for entry in logs] == ["http_failed", "http"]


# Bodies


async def post(made: Edge, path: str, body: Any, kind: str | None = None) -> httpx.Response:
    """Post a body with valid credentials."""
    headers = {"content-type": kind or (FORM if path in FORMS else JSON)}
    if path in OBJECTS:
        return await made.http.post(path, content=body, headers=headers | page(made))
    auth = (BILLING, made.secrets[BILLING])
    return await made.http.post(path, content=body, headers=headers, auth=auth)


async def chunks(size: int) -> AsyncIterator[bytes]:
    """Return a body without a content-length."""
    for _ in range(size // 1024):
        yield b"x" * 1024


@pytest.mark.parametrize("path", [*FORMS, "/v1/login", "/v1/refresh"])
async def test_a_large_body_is_refused(shared: Edge, path: str) -> None:
    """With and without a content-length; a body of the largest size is read."""
    for body in (b"x" * (LARGEST_BODY + 1), chunks(2 * LARGEST_BODY)):
        answer = await post(shared, path, body)
        assert_error(answer, 413, "invalid_request", "INVALID_ARGUMENT")
    answer = await post(shared, path, chunks(LARGEST_BODY))
    assert_error(answer, 400, "invalid_request", "INVALID_ARGUMENT")


async def test_a_truncated_body_is_not_an_internal_error(shared: Edge) -> None:
    """A client that disconnects leaves one line in the log, and no traceback."""
    with capture_logs() as logs:
        _, writer = await asyncio.open_connection("127.0.0.1", shared.server.http_port)
        head = f"POST /oauth2/token HTTP/1.1\r\nhost: a\r\ncontent-type: {FORM}\r\n"
        writer.write(f"{head}content-length: 100\r\n\r\ntoken=".encode())
        await writer.drain()
        writer.close()

        async def logged() -> bool:
            return bool(logs)

        await eventually(logged, what="the request is logged")
    assert [entry["event"] for entry in logs] == ["http"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"null",
        b'"a"',
        b"1" * 5000,
        b"[" * 30_000,
        b'{"a":' * 10_000,
        b'{"identifier":"a","identifier":"a","password":"b"}',
        b'{"identifier":"\xff","password":"b"}',
        b'{"identifier":"\\ud800","password":"b"}',
        b'{"identifier":"a","password":"\\udfff"}',
        b'{"identifier":"\\u0000","password":"b"}',
        b'{"identifier":1e999,"password":"b"}',
        b'{"identifier":NaN,"password":"b"}',
        b'{"identifier":"a","password":"b","scope":"read"}',
        b'{"identifier":"a","password":"b","scope":[1]}',
        b'{"\\ud800":"a"}',
        b'{"\\"\\\\\\u0000":"a"}',
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)
async def test_odd_json_is_a_bad_request(shared: Edge, body: bytes) -> None:
    """The answer is itself valid JSON, whatever it quotes."""
    answer = await post(shared, "/v1/login", body)
    assert_error(answer, 400, "invalid_request", "INVALID_ARGUMENT")


TEXTS = st.text(max_size=40) | st.sampled_from(
    [
        "",
        "refresh_token",
        "client_credentials",
        BILLING,
        "web",
        USER,
        "garbage",
        "a.b.c",
        "1" * 5000,
    ]
)
NAMES = TEXTS | st.sampled_from(
    ["grant_type", "token", "refresh_token", "client_id", "client_secret", "scope", "audience"]
)
PAIRS = st.lists(st.tuples(NAMES, TEXTS), max_size=6)
BYTES = st.binary(max_size=60)
ENCODED = BYTES.map(quote_from_bytes).map(str.encode)
BODIES = (
    PAIRS.map(lambda pairs: urlencode(pairs, errors="surrogatepass").encode()) | ENCODED | BYTES
)
MEMBERS = NAMES | st.sampled_from(["identifier", "password", "scope", "audience", "request_id"])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXTS
    | st.characters(categories=["Cs"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS, inner, max_size=3),
    max_leaves=6,
)
LOGINS = st.fixed_dictionaries(
    {"identifier": VALUES, "password": VALUES}, optional={"scope": VALUES}
)
DOCUMENTS = (VALUES | LOGINS).map(lambda value: json.dumps(value).encode()) | BYTES
# What HTTP lets a header be.
VISIBLE = st.lists(st.integers(0x21, 0x7E) | st.integers(0x80, 0xFF), min_size=1, max_size=40).map(
    bytes
)
CREDENTIALS = (
    VISIBLE
    | st.builds(lambda pair: b"Basic " + base64.b64encode(pair), st.binary(min_size=1))
    | st.builds(lambda rest: b"Basic " + rest, VISIBLE)
)


async def assert_answered(
    made: Edge, path: str, body: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    """Any input gets a success or an error of the documented form, never 500."""
    answer = await made.http.post(path, content=body, headers=headers)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        content = answer.json()
        assert_error(answer, answer.status_code, content["error"], content["reason"])


@pytest.mark.parametrize("path", FORMS)
@settings(max_examples=20)
@given(BODIES, st.lists(CREDENTIALS, max_size=2), st.booleans())
@example(b"grant_type=client_credentials&client_id=%00&client_secret=a", [], False)
@example(b"grant_type=client_credentials&scope=%00", [], True)
@example(b"grant_type=client_credentials&audience=%00", [], True)
@example(b"grant_type=refresh_token&refresh_token=a&client_id=%00", [], False)
@example(b"grant_type=client_credentials&client_id=" + b"a" * 3000 + b"&client_secret=a", [], False)
async def test_no_form_causes_an_internal_error(
    shared: Edge, path: str, body: bytes, credentials: list[bytes], genuine: bool
) -> None:
    """Any bytes, any credentials."""
    headers = [(b"content-type", FORM.encode())]
    headers += [(b"authorization", value) for value in credentials]
    if genuine:
        pair = f"{BILLING}:{shared.secrets[BILLING]}".encode()
        headers.append((b"authorization", b"Basic " + base64.b64encode(pair)))
    await assert_answered(shared, path, body, headers)


@pytest.mark.parametrize("path", OBJECTS)
@settings(max_examples=20)
@given(DOCUMENTS, st.lists(VISIBLE, max_size=2), st.lists(CREDENTIALS, max_size=2))
async def test_no_document_causes_an_internal_error(
    shared: Edge, path: str, body: bytes, cookies: list[bytes], credentials: list[bytes]
) -> None:
    """Any bytes, any cookies."""
    headers = [(name.encode(), value.encode()) for name, value in page(shared).items()]
    headers += [(b"content-type", JSON.encode())]
    headers += [(b"cookie", b"__Host-refresh=" + value) for value in cookies]
    headers += [(b"authorization", value) for value in credentials]
    await assert_answered(shared, path, body, headers)


# Probes and metrics


async def test_the_probes_answer_without_the_database(database_url: str) -> None:
    """Alive throughout, so that nothing is restarted; not ready until the database is back."""
    proxy = Proxy(database_target(database_url))
    await proxy.open()
    limits: dict[str, Any] = {"freshness_limit": "3s", "feed_poll_interval": "50ms"}
    async with serving(through(database_url, proxy), **limits) as made:

        async def ready(status: int) -> bool:
            assert (await made.http.get("/healthz")).status_code == 200
            answer = await made.http.get("/readyz")
            assert answer.headers["cache-control"] == "no-store"
            return answer.status_code == status

        await eventually(lambda: ready(200), what="ready at first")
        await proxy.cut()
        await eventually(lambda: ready(503), what="not ready without the database")
        await proxy.open()
        await eventually(lambda: ready(200), what="ready again")
    await proxy.cut()


async def samples(made: Edge, name: str) -> dict[tuple[str, ...], float]:
    """Return the samples of a metric by the values of their labels, in the order of names."""
    answer = await made.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name == name
    }


async def test_metrics_count_calls_of_both_edges(shared: Edge) -> None:
    """In the format that Prometheus' own parser reads."""
    path, method = "/oauth2/token", "/authn.v1.AuthService/Login"
    http, rpc = "auth_http_requests_total", "auth_rpc_total"
    before = await samples(shared, http), await samples(shared, rpc)
    assert (await shared.post("token", BILLING, grant_type="client_credentials")).is_success
    await shared.login()
    after = await samples(shared, http), await samples(shared, rpc)
    assert after[0][path, "200"] == before[0].get((path, "200"), 0) + 1
    assert after[1]["OK", method] == before[1].get(("OK", method), 0) + 1


async def test_unknown_paths_add_no_labels(shared: Edge) -> None:
    """All unknown paths and methods are counted as one."""
    name = "auth_http_requests_total"
    await shared.http.get("/nothing")
    before = await samples(shared, name)
    for number in range(20):
        await shared.http.get(f"/{SECRET}/{number}")
        await shared.http.request(f"METHOD{number}", f"/auth/{number}?{SECRET}")
    after = await samples(shared, name)
    assert after["other", "404"] == before["other", "404"] + 40
    known = {*FORMS, *OBJECTS, *GETS, "/auth", "other"}
    # The registry is the process's: other tests' applications have paths of their own.
    assert {path for path, _ in after} - {path for path, _ in before} <= known
    assert SECRET not in (await shared.http.get("/metrics")).text


# The log


async def test_the_log_holds_nothing_of_what_is_sent(database_url: str, tmp_path: Path) -> None:
    """No query, body, header or cookie of any request, valid or not, at the level debug."""
    await make_user(database_url)
    secret = await make_service_account(database_url)
    log = tmp_path / "server.log"
    process = ServerProcess(
        database_url,
        log,
        AUTH_LOG_LEVEL="debug",
        AUTH_ACCESS_COOKIE="true",
        AUTH_HTTP_ADDRESS="127.0.0.1:0",
    )
    await asyncio.to_thread(process.start)
    try:
        sent = await _send_everything(_http_address(process), secret)
        await _last_line(process, _http_address(process))
    finally:
        await asyncio.to_thread(process.stop)
    output = process.output()
    assert '"http"' in output
    assert [text for text in sent if text in output] == []


def _http_address(process: ServerProcess) -> str:
    lines = [json.loads(line) for line in process.output().splitlines() if '"serving"' in line]
    return f"http://127.0.0.1:{lines[-1]['http_port']}"


async def _last_line(process: ServerProcess, url: str) -> None:
    """Wait until everything before is in the log."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        await http.request("PUT", "/healthz")

    async def logged() -> bool:
        return '"PUT"' in process.output()

    await eventually(logged, what="the last request is logged")


async def _send_everything(url: str, secret: str) -> list[str]:
    """Send secrets in every part of a request, and return them."""
    own = {"origin": url, "x-requested-with": "fetch"}
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, trust_env=False) as http:
        login = {"identifier": USER, "password": PASSWORD}
        pair = await http.post("/v1/login", json=login, headers=own)
        assert pair.status_code == 200, pair.text
        cookie = pair.cookies["__Host-refresh"]
        access = pair.json()["access_token"]
        await http.post("/v1/login", json=login | {"password": SECRET}, headers=own)
        await http.post("/v1/login", json={SECRET: SECRET}, headers=own)
        await http.post("/v1/login", content=SECRET, headers=own)
        cookies = {"cookie": f"__Host-refresh={cookie}; __Host-access={access}"}
        auth, form = (BILLING, secret), {"grant_type": "client_credentials"}
        issued = (await http.post("/oauth2/token", data=form, auth=auth)).json()["access_token"]
        await http.post("/oauth2/token", data=form | {SECRET: SECRET}, auth=(BILLING, SECRET))
        for token in (access, cookie, issued, SECRET):
            bearer = {"authorization": f"Bearer {token}"}
            await http.post(f"/oauth2/introspect?{SECRET}", data={"token": token}, auth=auth)
            await http.post("/oauth2/revoke", data={"token": token, "x": SECRET}, auth=auth)
            await http.get("/v1/session", headers=bearer)
            for query in ("", f"?audience={SECRET}", f"?{SECRET}=a", f"?scope={SECRET}%22"):
                await http.get(f"/auth{query}", headers=bearer)
                await http.get(f"/auth{query}", headers=cookies)
            await http.get(f"/{token}?{SECRET}", headers={"x-secret": SECRET})
        await http.post("/v1/refresh", headers=own | cookies)
        await http.post("/v1/logout", headers=own | cookies)
    basic = base64.b64encode(f"{BILLING}:{secret}".encode()).decode()
    return [PASSWORD, SECRET, cookie, access, issued, secret, basic]
