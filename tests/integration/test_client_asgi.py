"""Verification of access tokens in front of Starlette, FastAPI and plain ASGI applications."""

import inspect
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import unquote

import httpx
import pytest
from fastapi import Depends, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from auth_service.authz.admission import Verifier
from auth_service.client.asgi import BearerMiddleware, require
from auth_service.client.principal import current_principal
from auth_service.client.step_up import step_up_demand
from auth_service.errors import RevocationsStale
from auth_service.models import Revocation, RevocationKind
from auth_service.tokens.access import AccessClaims, TokenSigner, TokenVerifier
from auth_service.tokens.keys import KeyRing, generate_key
from auth_service.tokens.revocation import RevocationList
from tests.clock import FakeClock

ISSUER = "https://auth.test"
INVALID = 'Bearer error="invalid_token"'
Token = Callable[..., str]


class Failing:
    """A verifier that cannot give a verdict."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def verify(self, token: str, **_wanted: Any) -> AccessClaims:
        raise self._error


@pytest.fixture
def ring() -> KeyRing:
    """A key ring with one shared key."""
    key = generate_key("HS256")
    return KeyRing([key], key.kid)


@pytest.fixture
def revocations(clock: FakeClock) -> RevocationList:
    """The revocations that a feed would fill."""
    return RevocationList(clock)


@pytest.fixture
def verifier(ring: KeyRing, revocations: RevocationList, clock: FakeClock) -> TokenVerifier:
    """The verifier of the application."""
    return TokenVerifier(ring, revocations, issuer=ISSUER, clock=clock)


@pytest.fixture
def token(ring: KeyRing, clock: FakeClock) -> Token:
    """Makes ada's token for orders."""

    def make(
        audience: str = "orders",
        scope: tuple[str, ...] = ("orders.read",),
        roles: tuple[str, ...] = ("clerk",),
        lifetime: timedelta = timedelta(minutes=15),
        session: str = "session",
        acr: str = "",
    ) -> str:
        now = clock()
        return TokenSigner(ring).sign(
            AccessClaims(
                issuer=ISSUER,
                subject="ada",
                audience=(audience,),
                expires_at=int((now + lifetime).timestamp()),
                issued_at=int(now.timestamp()),
                token_id="token",
                session_id=session,
                client_id="tests",
                scope=scope,
                roles=roles,
                auth_time=int(now.timestamp()),
                amr=("pwd",),
                acr=acr,
            )
        )

    return make


async def whoami(request: Request) -> JSONResponse:
    """Return the caller, from both places that hold it."""
    seen, state = current_principal.get(), request.state.principal
    assert seen is state
    return JSONResponse(seen.subject if seen else None)


def application(verifier: Verifier, **options: Any) -> Any:
    """Return a Starlette application behind the middleware."""
    app = Starlette(routes=[Route("/{path:path}", whoami)])
    return BearerMiddleware(app, verifier, **{"audience": "orders"} | options)


async def get(app: Any, path: str = "/", *tokens: str, **options: Any) -> httpx.Response:
    """Make a request with these authorization values."""
    transport = httpx.ASGITransport(app, **options)
    async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
        return await client.get(path, headers=[("authorization", value) for value in tokens])


def assert_refused(
    response: httpx.Response, status: int, error: str, challenge: str | None
) -> None:
    """Check the response to a refused client."""
    assert (response.status_code, response.headers.get("www-authenticate")) == (status, challenge)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    assert int(response.headers["content-length"]) == len(response.content)
    body = response.json()
    assert (set(body), body["error"]) == ({"error", "error_description"}, error)
    assert body["error_description"]


async def test_a_good_token_makes_its_holder_the_principal(
    verifier: TokenVerifier, token: Token
) -> None:
    """In the request's state and in the context, which has no principal afterwards."""
    for scheme in ("Bearer", "bearer", "BEARER"):
        response = await get(application(verifier), "/", f"{scheme} {token()}")
        assert (response.status_code, response.json()) == (200, "ada")
        assert current_principal.get() is None


async def test_no_bad_token_gets_in(
    verifier: TokenVerifier, token: Token, clock: FakeClock, revocations: RevocationList
) -> None:
    """Each is 401 with the same response, also for a token that was just revoked."""
    app = application(verifier)
    good = f"Bearer {token()}"
    revoked = f"Bearer {token(session='gone')}"
    assert (await get(app, "/", revoked)).status_code == 200
    until = clock() + timedelta(hours=1)
    revocations.add(Revocation(RevocationKind.SESSION, "gone", until))
    for values in (
        (good, good),
        (f"{good}, {good}",),
        ("Bearer",),
        ("Bearer ",),
        (f"{good} x",),
        ("Bearer \x00",),
        ("Bearer abc",),
        (good[:-1],),
        (revoked,),
        (f"Bearer {token(lifetime=timedelta(0))}",),
        (f"Bearer {token(audience='billing')}",),
    ):
        assert_refused(await get(app, "/", *values), 401, "invalid_token", INVALID)


@pytest.mark.parametrize("values", [(), ("",), ("Basic YWRhOnB3",), ("Bearerabc",)])
async def test_who_shows_no_token_is_asked_for_one(
    verifier: TokenVerifier, values: tuple[str, ...]
) -> None:
    """RFC 6750 section 3.1: a bare challenge."""
    assert_refused(await get(application(verifier), "/", *values), 401, "invalid_token", "Bearer")


async def test_a_token_that_may_not_is_told_what_it_lacks(
    verifier: TokenVerifier, token: Token
) -> None:
    """A missing scope or role is 403; a token that has it is admitted."""
    asked = 'Bearer error="insufficient_scope", scope="orders.read orders.write"'
    for options, challenge in (
        ({"scope": ["orders.read", "orders.write"]}, asked),
        ({"roles": {"admin"}}, 'Bearer error="insufficient_scope"'),
    ):
        app = application(verifier, **options)
        response = await get(app, "/", f"Bearer {token()}")
        assert_refused(response, 403, "insufficient_scope", challenge)
        able = token(scope=("orders.read", "orders.write"), roles=("admin",))
        assert (await get(app, "/", f"Bearer {able}")).status_code == 200


async def test_a_login_that_does_not_suffice_is_asked_to_be_made_again(
    verifier: TokenVerifier, token: Token
) -> None:
    """By the middleware and by the dependency, with all that is demanded (RFC 9470 section 3)."""
    demand: Any = {"max_age": timedelta(minutes=5), "acr_values": ["2fa", "phr"]}
    app = application(verifier, **demand)
    assert (await get(app, "/", f"Bearer {token(acr='phr')}")).status_code == 200
    challenge = (
        'Bearer error="insufficient_user_authentication", '
        'error_description="a login by other or more factors is required", '
        'acr_values="2fa phr", max_age="300"'
    )
    response = await get(app, "/", f"Bearer {token(acr='1fa')}")
    assert_refused(response, 401, "insufficient_user_authentication", challenge)
    demanded = step_up_demand(response.headers["www-authenticate"])
    assert demanded is not None
    assert demanded.acr_values == ("2fa", "phr")
    headers = [(b"authorization", f"Bearer {token(acr='1fa')}".encode())]
    caller = require(verifier, **demand)
    with pytest.raises(HTTPException) as raised:
        await caller(HTTPConnection({"type": "http", "headers": headers}))
    assert (raised.value.headers or {})["www-authenticate"] == challenge
    with pytest.raises(ValueError, match="acr_values"):
        BearerMiddleware(app, verifier, acr_values="2fa")


async def test_stale_revocations_fail_closed(token: Token) -> None:
    """503 has Retry-After in whole seconds, and no challenge."""
    stale = Failing(RevocationsStale("revocations are not known", timedelta(seconds=1.2)))
    response = await get(application(stale), "/", f"Bearer {token()}")
    assert_refused(response, 503, "temporarily_unavailable", None)
    assert response.headers["retry-after"] == "2"


async def test_an_error_of_the_verifier_denies_access(
    token: Token, caplog: pytest.LogCaptureFixture
) -> None:
    """500 with a constant text; the log has the cause."""
    broken = Failing(RuntimeError("the key is hunter2"))
    response = await get(application(broken), "/", f"Bearer {token()}")
    assert_refused(response, 500, "server_error", None)
    assert "hunter2" not in response.text
    (record,) = [each for each in caplog.records if each.name == "auth_service.client"]
    assert record.levelno == logging.ERROR


PUBLIC = ("/health", "/docs/*")


@pytest.mark.parametrize("path", ["/health", "/docs/", "/docs/a", "/docs/a/b/", "/docs/a.b..c"])
async def test_a_public_path_takes_everybody(
    verifier: TokenVerifier, token: Token, path: str
) -> None:
    """A valid token identifies the caller; with any other token the caller is anonymous."""
    app = application(verifier, public_paths=PUBLIC, roles=("admin",))
    for values, expected in (
        ((), None),
        (("Bearer abc",), None),
        ((f"Bearer {token(audience='billing')}",), None),
        ((f"Bearer {token()}",), "ada"),
    ):
        response = await get(app, path, *values)
        assert (response.status_code, response.json()) == (200, expected)


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/health/", "/healthy", "/health/x", "/Health", "//health", "/docs", "/docsx/a"),
        *("/docs/../orders", "/docs/..", "/docs/.", "/docs/a/./b", "/docs//orders", "//docs/a"),
        *("/docs/%2e%2e/orders", "/docs/%2E%2E%2Forders", "/docs/..%2forders", "/docs%2f../a"),
        *("/docs/%252e%252e/orders", "/docs/..%5corders", "/docs/..;/orders", "/docs/a;x/b"),
        *("/docs/%00", "/docs/a%0d%0a", "/docs/a%3fb", "/docs/a%23b", "/docs/%e2%80%ae"),
        *("/x/../docs/a", "/docs/%2e", "/.%2fdocs/a", "/orders?/docs/a", "/orders?path=/health"),
    ],
)
async def test_no_spelling_makes_another_path_public(verifier: TokenVerifier, path: str) -> None:
    """A path that a proxy or a router could read differently needs a token."""
    raw, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": "GET",
        "path": unquote(raw),
        "raw_path": raw.encode(),
        "query_string": query.encode(),
        "headers": [],
    }
    assert await status_of(application(verifier, public_paths=PUBLIC), scope) == 401


async def status_of(app: Any, scope: dict[str, Any]) -> int:
    """Run one request without a client, which would normalize the path."""
    return int((await messages(app, scope))[0]["status"])


async def messages(app: Any, scope: dict[str, Any]) -> list[Any]:
    """Run an application and return the messages that it sends."""
    sent: list[Any] = []

    async def receive() -> Any:
        kind = "websocket.connect" if scope["type"] == "websocket" else "http.request"
        return {"type": kind, "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def test_public_paths_lie_below_the_root_path(verifier: TokenVerifier) -> None:
    """They are relative to the application, also if it is mounted or behind a prefix."""
    app = application(verifier, public_paths=PUBLIC)
    for path, status in (
        ("/shop/health", 200),
        ("/shop/docs/a", 200),
        ("/shop", 401),
        ("/shop/shop/health", 401),
        ("/shophealth", 401),
    ):
        assert (await get(app, path, root_path="/shop")).status_code == status
    mounted = Starlette(routes=[Mount("/shop", app=app)])
    assert (await get(mounted, "/shop/health")).status_code == 200
    assert (await get(mounted, "/shop/orders")).status_code == 401


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "health", "*", "docs/*", "/*/a", "/docs*", "/docs/**"),
        *("/a/../b", "//a", "/a%2fb", "/a//*", "/docs/./*"),
    ],
)
def test_a_pattern_of_another_form_is_refused(verifier: TokenVerifier, pattern: str) -> None:
    """A pattern that matches nothing, or too much, is a mistake."""
    with pytest.raises(ValueError, match="not a plain"):
        application(verifier, public_paths=(pattern,))


@pytest.mark.parametrize("name", ["scope", "roles", "public_paths"])
def test_a_string_is_no_collection(verifier: TokenVerifier, name: str) -> None:
    """With a forgotten comma, each letter would be one."""
    options: Any = {name: "/health"}
    with pytest.raises(ValueError, match="collection"):
        application(verifier, **options)
    if name != "public_paths":
        with pytest.raises(ValueError, match="collection"):
            require(verifier, **options)


async def test_a_lifespan_passes_and_an_unknown_scope_does_not(verifier: TokenVerifier) -> None:
    """Start-up has no caller; an unknown type of scope is refused."""
    seen: list[Any] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope)

    guarded = BearerMiddleware(app, verifier, public_paths=("/*",))
    await messages(guarded, {"type": "lifespan"})
    assert seen == [{"type": "lifespan"}]
    with pytest.raises(NotImplementedError, match="webtransport"):
        await messages(guarded, {"type": "webtransport", "path": "/", "headers": []})
    assert len(seen) == 1


async def test_what_a_caller_left_in_the_state_is_no_principal(verifier: TokenVerifier) -> None:
    """An anonymous caller on a public path replaces an earlier principal and nothing else."""
    state = {"principal": "root", "pool": 1}
    scope = {"type": "http", "path": "/health", "headers": [], "method": "GET", "state": state}
    assert await status_of(application(verifier, public_paths=PUBLIC), scope) == 200
    assert state == {"principal": None, "pool": 1}


def websocket(*tokens: str, **more: Any) -> dict[str, Any]:
    """Return the scope of a WebSocket, with a header name that is not in lower case."""
    headers = [(b"Authorization", value.encode()) for value in tokens]
    return {"type": "websocket", "path": "/", "headers": headers} | more


async def test_a_websocket_is_let_in_by_its_token(verifier: TokenVerifier, token: Token) -> None:
    """Its application knows the caller."""
    seen: list[Any] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.extend([scope["state"]["principal"], current_principal.get()])

    assert await messages(BearerMiddleware(app, verifier), websocket(f"Bearer {token()}")) == []
    assert [claims.subject for claims in seen] == ["ada", "ada"]


async def test_a_websocket_is_refused_before_it_is_accepted(verifier: TokenVerifier) -> None:
    """With a complete response if the server supports that, else by a close."""
    app = application(verifier)
    (closed,) = await messages(app, websocket("Bearer abc"))
    assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
    (closed,) = await messages(app, websocket(extensions=None))
    assert closed["type"] == "websocket.close"
    start, body = await messages(app, websocket(extensions={"websocket.http.response": {}}))
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
    assert (b"www-authenticate", b"Bearer") in start["headers"]
    assert body["type"] == "websocket.http.response.body"
    assert b"invalid_token" in body["body"]


def fastapi_application(verifier: Verifier) -> FastAPI:
    """Return a FastAPI application with dependencies."""
    app = FastAPI()
    clerk = require(verifier, audience="orders")
    admin = require(verifier, audience="orders", scope=("orders.write",), roles=("admin",))

    @app.get("/orders")
    async def orders(claims: Annotated[AccessClaims, Depends(clerk)]) -> str:
        return claims.subject

    @app.get("/admin", dependencies=[Depends(admin)])
    def administer() -> str:
        return "done"

    @app.websocket("/feed")
    async def feed(socket: WebSocket, claims: Annotated[AccessClaims, Depends(clerk)]) -> None:
        await socket.accept()
        await socket.send_text(claims.subject)

    return app


async def test_a_dependency_returns_the_claims(verifier: TokenVerifier, token: Token) -> None:
    """The route gets them as an argument, and the API schema shows no parameter."""
    app = fastapi_application(verifier)
    response = await get(app, "/orders", f"Bearer {token()}")
    assert (response.status_code, response.json()) == (200, "ada")
    assert "parameters" not in app.openapi()["paths"]["/orders"]["get"]
    (parameter,) = inspect.signature(require(verifier)).parameters.values()
    assert (parameter.name, parameter.annotation) == ("request", HTTPConnection)


async def test_a_dependency_refuses_as_the_middleware_does(
    verifier: TokenVerifier, token: Token
) -> None:
    """The status and headers are the same; the two fields are in the detail."""
    app = fastapi_application(verifier)
    good = f"Bearer {token()}"
    asked = 'Bearer error="insufficient_scope", scope="orders.write"'
    for path, values, status, challenge in (
        ("/orders", (), 401, "Bearer"),
        ("/orders", (good, good), 401, INVALID),
        ("/orders", ("Bearer abc",), 401, INVALID),
        ("/orders", (f"Bearer {token(audience='billing')}",), 401, INVALID),
        ("/admin", (good,), 403, asked),
    ):
        response = await get(app, path, *values)
        assert response.status_code == status
        assert response.headers["www-authenticate"] == challenge
        assert set(response.json()["detail"]) == {"error", "error_description"}
    able = token(scope=("orders.write",), roles=("admin",))
    assert (await get(app, "/admin", f"Bearer {able}")).json() == "done"


async def test_a_dependency_fails_closed(token: Token) -> None:
    """Stale revocations are 503 there as well."""
    app = fastapi_application(Failing(RevocationsStale("revocations are not known")))
    response = await get(app, "/orders", f"Bearer {token()}")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")


async def test_a_dependency_guards_a_websocket(verifier: TokenVerifier, token: Token) -> None:
    """It is refused before it is accepted, and admitted with a token."""
    app = fastapi_application(verifier)
    more = {"path": "/feed", "extensions": {"websocket.http.response": {}}, "query_string": b""}
    start, _body = await messages(app, websocket(**more))
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 401)
    scope = websocket(**more)
    scope["headers"] = [(b"authorization", f"Bearer {token()}".encode())]
    accepted, text, *_ = await messages(app, scope)
    assert accepted["type"] == "websocket.accept"
    assert text["text"] == "ada"
