"""Forward-auth: what nginx's auth_request and Traefik's ForwardAuth get to hear."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from auth_service.authz.identity_headers import NAMES
from auth_service.web.cookies import ACCESS_COOKIE
from tests.acceptance.servers import Proxy, database_target, eventually, through
from tests.integration.http_edge import BILLING, Edge, assert_error, edge, serving

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(module_database_url: str) -> AsyncIterator[Edge]:
    """A server that reads the access cookie; no test changes it."""
    async with edge(module_database_url, access_cookie=True) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def token(shared: Edge) -> str:
    """A valid token of USER, for the audience `internal`."""
    return (await shared.login("web")).access_token


def bearer(token: str) -> dict[str, str]:
    """Return the headers of a caller."""
    return {"authorization": f"Bearer {token}"}


def identity(answer: httpx.Response) -> dict[str, str]:
    """Return the identity headers of an answer."""
    return {name: value for name, value in answer.headers.items() if name.startswith("x-auth-")}


@pytest.mark.parametrize("method", METHODS)
async def test_a_valid_token_passes_with_any_method(shared: Edge, token: str, method: str) -> None:
    """Some gateways ask by the method of the request that they hold."""
    answer = await shared.http.request(method, "/auth", headers=bearer(token))
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["cache-control"] == "no-store"
    answer = await shared.http.request(method, "/auth")
    assert (answer.status_code, identity(answer)) == (401, {})


async def test_the_answer_identifies_the_caller(shared: Edge, token: str) -> None:
    """Roles hold any text: each is encoded, so that it stays one item of the list."""
    found = identity(await shared.http.get("/auth", headers=bearer(token)))
    assert found.keys() == set(NAMES) - {"x-auth-actor"}
    assert found["x-auth-scope"] == "read write"
    assert [unquote(role) for role in found["x-auth-roles"].split(",")] == ["staff", "a,b%"]


async def test_empty_headers_are_omitted(shared: Edge) -> None:
    """A service account has no session."""
    token = await shared.service_token()
    found = identity(await shared.http.get("/auth", headers=bearer(token)))
    assert found == {
        "x-auth-subject": BILLING,
        "x-auth-scope": "read",
        "x-auth-roles": "verifier",
    }


@pytest.mark.parametrize("query", ["", "?public=true", "?audience=internal"])
async def test_what_a_client_says_of_itself_does_not_come_back(
    shared: Edge, token: str, query: str
) -> None:
    """A spoofed identity is neither echoed nor mixed with the true one."""
    spoofed = dict.fromkeys((*NAMES, "x-auth-admin"), "mallory")
    answer = await shared.http.get(f"/auth{query}", headers=spoofed)
    assert "mallory" not in str(answer.headers)
    answer = await shared.http.get(f"/auth{query}", headers=spoofed | bearer(token))
    assert answer.status_code == 200
    assert "mallory" not in str(answer.headers)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 200),
        ("?audience=internal", 200),
        ("?audience=other", 401),
        ("?scope=read", 200),
        ("?scope=read+write", 200),
        ("?scope=read%20admin", 403),
        ("?roles=staff", 200),
        ("?roles=staff,admin", 403),
        ("?roles=+staff,%20admin", 403),
        ("?roles=+staff+", 200),
        ("?scope=+read++write", 200),
        ("?audience=internal&scope=read&roles=staff", 200),
        ("?public=false&roles=admin", 403),
        ("?max_age=3600&acr_values=1fa", 200),
        ("?max_age=3600&acr_values=2fa+phr", 401),
        ("?public=true", 200),
        ("?public=true&audience=other", 200),
    ],
)
async def test_the_rule_is_in_the_query(shared: Edge, token: str, query: str, status: int) -> None:
    """401 for a token that is not for here, 403 for one that does not hold enough."""
    answer = await shared.http.get(f"/auth{query}", headers=bearer(token))
    assert answer.status_code == status
    assert bool(identity(answer)) == (status == 200 and "other" not in query)


async def test_a_refusal_says_what_is_missing(shared: Edge, token: str) -> None:
    """RFC 6750 section 3: the challenge, by status."""
    answer = await shared.http.get("/auth")
    assert_error(answer, 401, "invalid_token", "INVALID_TOKEN")
    assert answer.headers["www-authenticate"] == "Bearer"
    answer = await shared.http.get("/auth", headers=bearer("garbage"))
    assert_error(answer, 401, "invalid_token", "INVALID_TOKEN")
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    answer = await shared.http.get("/auth?scope=admin", headers=bearer(token))
    assert_error(answer, 403, "insufficient_scope", "PERMISSION_DENIED")
    challenge = 'Bearer error="insufficient_scope", scope="admin"'
    assert answer.headers["www-authenticate"] == challenge
    answer = await shared.http.get("/auth?acr_values=2fa%20phr", headers=bearer(token))
    assert_error(
        answer, 401, "insufficient_user_authentication", "INSUFFICIENT_USER_AUTHENTICATION"
    )
    assert answer.headers["www-authenticate"] == (
        'Bearer error="insufficient_user_authentication", '
        'error_description="a login by other or more factors is required", acr_values="2fa phr"'
    )


async def test_an_anonymous_caller_passes_a_public_rule_without_identity(shared: Edge) -> None:
    """So does the bearer of garbage."""
    for headers in ({}, bearer("garbage")):
        answer = await shared.http.get("/auth?public=true", headers=headers)
        assert (answer.status_code, identity(answer)) == (200, {})


async def test_a_duplicate_authorization_is_refused(shared: Edge, token: str) -> None:
    """The upstream could read the other one; at a public door it makes nobody known."""
    value = f"Bearer {token}"
    for other in (value, "Bearer garbage", "Basic YTpi", ""):
        headers = [("authorization", value), ("authorization", other)]
        answer = await shared.http.get("/auth", headers=headers)
        assert_error(answer, 401, "invalid_token", "INVALID_TOKEN")
        answer = await shared.http.get("/auth?public=true", headers=headers)
        assert (answer.status_code, identity(answer)) == (200, {})


@pytest.mark.parametrize("value", ["", "Bearer", "Basic YTpi", "Bearer a b", b"Bearer \xe9"])
async def test_a_cookie_is_read_only_without_an_authorization(
    shared: Edge, token: str, value: str | bytes
) -> None:
    """The header decides if it is there, even if it is garbage or empty."""
    cookie = {"cookie": f"a=b; {ACCESS_COOKIE}={token}"}
    assert (await shared.http.get("/auth", headers=cookie)).status_code == 200
    sent: list[tuple[bytes, bytes]] = [
        (b"cookie", cookie["cookie"].encode()),
        (b"authorization", value if isinstance(value, bytes) else value.encode()),
    ]
    assert (await shared.http.get("/auth", headers=sent)).status_code == 401


@pytest.mark.parametrize("cookie", ["", "garbage", '"', "\xe9", "a b"])
async def test_a_cookie_that_holds_no_token_is_refused(shared: Edge, cookie: str) -> None:
    """As the same text in the header would be."""
    sent = {b"cookie": f"{ACCESS_COOKIE}={cookie}".encode("latin-1")}
    assert (await shared.http.get("/auth", headers=sent)).status_code == 401


async def test_the_cookie_is_read_only_where_it_is_on(database_url: str) -> None:
    """Without AUTH_ACCESS_COOKIE nobody is let in by a cookie."""
    async with edge(database_url) as made:
        token = (await made.login("web")).access_token
        cookie = {"cookie": f"{ACCESS_COOKIE}={token}"}
        assert (await made.http.get("/auth", headers=cookie)).status_code == 401
        assert (await made.http.get("/auth", headers=bearer(token))).status_code == 200


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        *(
            (query, "one parameter is unknown; known are audience, scope, roles, public")
            for query in (
                "audiences=internal",
                "Scope=read",
                "remove_authorization=true",
                "=",
                "&".join(f"p{number}=1" for number in range(500)),
                "password=hunter2",
                "audience=internal&hunter2=1",
            )
        ),
        ("audience=internal&audience=other", "audience: is given twice"),
        ("scope=read&scope=write", "scope: is given twice"),
        ("public=true&public=false", "public: is given twice"),
        *((f"public={text}", "public: must be") for text in ("yes", "True", "1", "true+")),
        *((query, "public: must have") for query in ("public", "public=")),
        ("public=true&scope=read", "public: cannot be combined"),
        ("public=true&roles=staff", "public: cannot be combined"),
        *((query, "audience: must have") for query in ("audience=", f"audience={'a' * 4097}")),
        *((query, "audience: must not have") for query in ("audience=+internal", "audience=a%00")),
        *((query, "scope: must have") for query in ("scope=", "scope=+")),
        *((f"scope={text}", "scope: must be") for text in ('a"b', "%ff", "%00", "hunter2%22")),
        *((query, "roles: must have") for query in ("roles=", "roles=+")),
        *((f"roles={text}", "roles: one role is") for text in (",", "staff,", "staff,,ops", ",+,")),
        ("roles=hunter2%00", "roles: must not have"),
    ],
)
async def test_an_unreadable_rule_denies_access(
    shared: Edge, token: str, query: str, problem: str
) -> None:
    """A fault of the gateway's configuration: the operator's log says which, without the query."""
    with capture_logs() as logs:
        answer = await shared.http.get(f"/auth?{query}", headers=bearer(token))
    text = assert_error(answer, 500, "server_error", "INTERNAL")
    assert text == "the gateway is misconfigured"
    assert identity(answer) == {}
    (entry,) = [entry for entry in logs if "misconfigured" in entry["event"]]
    assert entry["log_level"] == "error"
    assert entry["problem"].startswith(f"query of /auth: {problem}")
    assert "hunter2" not in str(logs)


async def test_a_revoked_token_is_refused(shared: Edge) -> None:
    """At the next request."""
    tokens = await shared.login(BILLING)
    assert (await shared.http.get("/auth", headers=bearer(tokens.access_token))).is_success
    await shared.post("revoke", BILLING, token=tokens.refresh_token)
    answer = await shared.http.get("/auth", headers=bearer(tokens.access_token))
    assert_error(answer, 401, "invalid_token", "INVALID_TOKEN")


async def test_without_knowledge_of_revocations_nobody_is_let_in(database_url: str) -> None:
    """503 past the freshness limit, and back by itself; public routes still admit everybody."""
    async with edge(database_url) as made:
        token = (await made.login("web")).access_token
    proxy = Proxy(database_target(database_url))
    await proxy.open()
    limits: dict[str, Any] = {"freshness_limit": "3s", "feed_poll_interval": "50ms"}
    async with serving(through(database_url, proxy), **limits) as made:

        async def answers(status: int) -> bool:
            return (await made.http.get("/auth", headers=bearer(token))).status_code == status

        assert await answers(200)
        await proxy.cut()
        await eventually(lambda: answers(503), what="revocations are stale")
        answer = await made.http.get("/auth", headers=bearer(token))
        assert_error(answer, 503, "temporarily_unavailable", "REVOCATIONS_STALE")
        assert int(answer.headers["retry-after"]) > 0
        answer = await made.http.get("/auth?public=true", headers=bearer(token))
        assert (answer.status_code, identity(answer)) == (200, {})
        await proxy.open()
        await eventually(lambda: answers(200), what="revocations are known again")
    await proxy.cut()
