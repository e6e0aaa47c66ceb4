"""Envoy's ext_authz over the wire: what a proxy is told of each request."""

import asyncio
import base64
import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

import grpc
import pytest
import structlog
from authn.envoy.v1 import check_pb2 as pb
from authn.v1 import auth_service_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from auth_service.authz.certificates import TrustedProxies
from auth_service.rpc.dispatcher import Dispatcher
from auth_service.rpc.ext_authz import add_ext_authz
from auth_service.telemetry.metrics import Successes
from auth_service.tokens.access import AccessClaims, TokenSigner
from auth_service.tokens.delegation import Link
from auth_service.tokens.keys import KeyRing, shared_key
from tests.acceptance.servers import Client, Proxy, database_target, make_user, through
from tests.channels import open_channel
from tests.integration.serving import (
    SERVICE,
    address,
    make_service_account,
    make_settings,
    refusal,
    running,
)

METHOD = "/envoy.service.auth.v3.Authorization/Check"
NAMES = ("x-auth-subject", "x-auth-session", "x-auth-scope", "x-auth-roles", "x-auth-actor")
LOOK_ALIKES = {
    f"x{first}auth{second}{word}"
    for word in ("subject", "session", "scope", "roles", "actor")
    for first, second in itertools.product("-_", repeat=2)
} - set(NAMES)
KEY = shared_key(bytes(range(32, 64)))  # that of make_settings
TIMEOUT = 30.0  # seconds, which no passing test takes
UNAUTHENTICATED, PERMISSION_DENIED, INTERNAL, UNAVAILABLE = 16, 7, 13, 14

Extensions = Mapping[str, str]


class Verdict:
    """What Check says of a request, in plain values."""

    def __init__(self, response: Any) -> None:
        self.code = response.status.code
        self.admitted = response.WhichOneof("http_response") == "ok_response"
        answer = response.ok_response if self.admitted else response.denied_response
        options = list(answer.headers)
        self.headers = {option.header.key: option.header.value for option in options}
        assert len(self.headers) == len(options)
        # Envoy's OVERWRITE_IF_EXISTS_OR_ADD
        assert {option.append_action for option in options} <= {2}
        self.removed = set(response.ok_response.headers_to_remove)
        self.status = response.denied_response.status.code
        self.body = response.denied_response.body


class Envoy:
    """Asks as Envoy does, on a channel of bytes."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._check: Any = channel.unary_unary(METHOD)

    async def ask(self, request: Any) -> Verdict:
        """Send any CheckRequest."""
        answer = await self._check(request.SerializeToString(), timeout=TIMEOUT)
        return Verdict(pb.CheckResponse.FromString(answer))

    async def check(
        self,
        authorization: str | None = None,
        extensions: Extensions | None = None,
        *,
        method: str = "GET",
        **headers: str,
    ) -> Verdict:
        """Send a request with these headers ("_" for "-"), along a route with these extensions."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if authorization is not None:
            given["authorization"] = authorization
        http = pb.AttributeContext.HttpRequest(
            id="1", method=method, path="/orders?x=1", host="shop", headers=given
        )
        return await self.ask(_request(http, extensions))

    async def check_raw(
        self, headers: Sequence[tuple[str, bytes]], extensions: Extensions | None = None
    ) -> Verdict:
        """Send a request of an Envoy that is set to `encode_raw_headers`."""
        values = [pb.HeaderValue(key=key, raw_value=value) for key, value in headers]
        http = pb.AttributeContext.HttpRequest(header_map=pb.HeaderMap(headers=values))
        return await self.ask(_request(http, extensions))


def _request(http: Any, extensions: Extensions | None) -> Any:
    request = pb.AttributeContext.Request(http=http)
    return pb.CheckRequest(
        attributes=pb.AttributeContext(request=request, context_extensions=extensions or {})
    )


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AUTH_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Reset the logs, which a server sets up for its process."""
    yield
    structlog.reset_defaults()


@pytest.fixture
async def client(database_url: str) -> AsyncIterator[Client]:
    """A client of a server."""
    async with running(make_settings(database_url)) as server:
        client = await Client(address(server)).ready()
        yield client
        await client.channel.close()


@pytest.fixture
def envoy(client: Client) -> Envoy:
    """A proxy before the same server."""
    return Envoy(client.channel)


@pytest.fixture
async def tokens(client: Client, database_url: str) -> auth_service_pb2.TokenPair:
    """The tokens of a user of the staff."""
    await make_user(database_url, roles=("staff", "ops"))
    return await client.login()


@pytest.fixture
def token(client: Client) -> Callable[..., str]:
    """Signs tokens of any claims with the shared key, as another holder of it could."""
    now = int(time.time())
    claims = AccessClaims(
        issuer="https://auth.internal",
        subject="alice",
        audience=("internal",),
        expires_at=now + 600,
        issued_at=now,
        token_id=uuid4().hex,
        session_id=str(uuid4()),
        client_id="web",
        scope=("read", "write"),
        roles=("staff",),
        auth_time=now,
        amr=("pwd",),
    )
    signer = TokenSigner(KeyRing([KEY], KEY.kid))
    return lambda **changes: f"Bearer {signer.sign(claims._replace(**changes))}"


# Admitted


async def test_a_good_token_passes_with_the_callers_identity(
    envoy: Envoy, client: Client, tokens: auth_service_pb2.TokenPair
) -> None:
    """The upstream learns the caller from headers that only the proxy can set."""
    verdict = await envoy.check(f"Bearer {tokens.access_token}")
    claims = (await client.validate(tokens.access_token)).claims
    assert (verdict.admitted, verdict.code) == (True, 0)
    assert verdict.headers == {
        "x-auth-subject": claims.subject,
        "x-auth-session": tokens.session_id,
        "x-auth-scope": "read write",
        "x-auth-roles": "staff,ops",
    }
    assert verdict.removed == {"x-auth-actor", *LOOK_ALIKES}


async def test_spoofed_identity_headers_are_overwritten(
    envoy: Envoy, token: Callable[..., str]
) -> None:
    """The upstream sees the identity of the token, whatever headers the caller sends."""
    verdict = await envoy.check(token(), x_auth_subject="root", x_auth_roles="root")
    assert verdict.headers["x-auth-subject"] == "alice"
    assert verdict.headers["x-auth-roles"] == "staff"


@pytest.mark.parametrize("authorization", [None, "Bearer no.good.token", "Basic YWRhOngK"])
async def test_an_anonymous_caller_passes_a_public_route_without_identity(
    envoy: Envoy, authorization: str | None
) -> None:
    """All identity headers are removed, so a spoofed one never reaches the upstream."""
    verdict = await envoy.check(authorization, {"public": "true"}, x_auth_subject="root")
    assert verdict.admitted
    assert verdict.headers == {}
    assert verdict.removed == {*NAMES, *LOOK_ALIKES}


async def test_a_token_on_a_public_route_still_makes_its_holder_known(
    envoy: Envoy, token: Callable[..., str]
) -> None:
    """As long as it is for the route's audience."""
    verdict = await envoy.check(token(), {"public": "true", "audience": "internal"})
    assert verdict.headers["x-auth-subject"] == "alice"
    verdict = await envoy.check(token(), {"public": "true", "audience": "billing"})
    assert verdict.admitted
    assert verdict.headers == {}


async def test_a_service_account_has_no_session_header(
    envoy: Envoy, client: Client, database_url: str
) -> None:
    """What its token does not have is removed."""
    secret = await make_service_account(database_url)
    credentials = auth_service_pb2.ClientCredentials(client_id=SERVICE, client_secret=secret)
    reply = await client.auth.Login(auth_service_pb2.LoginRequest(client=credentials))
    verdict = await envoy.check(f"Bearer {reply.tokens.access_token}")
    assert verdict.headers == {
        "x-auth-subject": SERVICE,
        "x-auth-scope": "read",
        "x-auth-roles": "verifier",
    }
    assert verdict.removed == {"x-auth-session", "x-auth-actor", *LOOK_ALIKES}


async def test_the_actors_of_an_exchanged_token_are_named(
    envoy: Envoy, token: Callable[..., str]
) -> None:
    """The one that calls first, then the one that called it."""
    chain = (Link("orders", 1, "b", 1), Link("gate,way", 1, "a", 1))
    verdict = await envoy.check(token(chain=chain), x_auth_actor="root")
    assert verdict.headers["x-auth-actor"] == "orders,gate%2Cway"


async def test_odd_names_arrive_percent_encoded(envoy: Envoy, token: Callable[..., str]) -> None:
    """Non-ASCII text, blanks, and commas in roles cannot break out of a header or list."""
    verdict = await envoy.check(
        token(
            subject="büro 1,2",
            session_id="",
            scope=("a%b", "ü"),
            roles=("night, shift", "100%", "\U0001f980"),
        )
    )
    assert verdict.headers == {
        "x-auth-subject": "b%C3%BCro%201,2",
        "x-auth-scope": "a%25b %C3%BC",
        "x-auth-roles": "night%2C%20shift,100%25,%F0%9F%A6%80",
    }


async def test_a_token_with_control_characters_is_invalid(
    envoy: Envoy, token: Callable[..., str]
) -> None:
    """Even if properly signed, not even in encoded form."""
    for odd in ("a\r\nx-auth-roles: root", "a\nb", "a\0b", "a\x7fb", "a\x85b"):
        for changes in (
            {"subject": odd},
            {"session_id": odd},
            {"scope": (odd,)},
            {"roles": (odd,)},
        ):
            verdict = await envoy.check(token(**changes))
            assert (verdict.admitted, verdict.status) == (False, 401)


@pytest.mark.parametrize(("value", "removed"), [("true", True), ("false", False)])
async def test_a_route_may_keep_the_token_from_its_upstream(
    envoy: Envoy, token: Callable[..., str], value: str, removed: bool
) -> None:
    """What does not need the token cannot lose it."""
    verdict = await envoy.check(token(), {"remove_authorization": value})
    assert ("authorization" in verdict.removed) is removed
    verdict = await envoy.check("Bearer x", {"remove_authorization": value, "public": "true"})
    assert ("authorization" in verdict.removed) is removed


# What routes ask for


@pytest.mark.parametrize(
    "extensions",
    [
        {},
        {"public": "false", "remove_authorization": "false"},
        {"audience": "internal"},
        {"scope": "write"},
        {"scope": " read  write\n"},
        {"roles": "ops, staff"},
        {"audience": "internal", "scope": "read", "roles": "staff"},
    ],
)
async def test_a_token_that_has_what_the_route_asks_for_passes(
    envoy: Envoy, token: Callable[..., str], extensions: Extensions
) -> None:
    """Each part of a rule, and all of them together."""
    verdict = await envoy.check(token(roles=("staff", "ops")), extensions)
    assert verdict.admitted


@pytest.mark.parametrize(
    ("extensions", "challenge"),
    [
        ({"scope": "read delete"}, 'Bearer error="insufficient_scope", scope="read delete"'),
        ({"roles": "staff,admin"}, 'Bearer error="insufficient_scope"'),
    ],
)
async def test_a_token_that_lacks_scope_or_role_is_forbidden(
    envoy: Envoy, token: Callable[..., str], extensions: Extensions, challenge: str
) -> None:
    """All of them are needed; the challenge names the scope (RFC 6750 section 3.1)."""
    verdict = await envoy.check(token(), extensions)
    assert (verdict.admitted, verdict.code, verdict.status) == (False, PERMISSION_DENIED, 403)
    assert verdict.headers == {
        "content-type": "application/json",
        "cache-control": "no-store",
        "www-authenticate": challenge,
    }
    assert json.loads(verdict.body)["error"] == "insufficient_scope"


async def test_a_login_that_does_not_suffice_is_asked_to_be_made_again(
    envoy: Envoy, token: Callable[..., str]
) -> None:
    """The challenge names all that the route demands (RFC 9470 section 3)."""
    route = {"max_age": "300", "acr_values": "2fa phr"}
    assert (await envoy.check(token(acr="phr"), route)).admitted
    weak, old = token(acr="1fa"), token(acr="2fa", auth_time=int(time.time()) - 400)
    for given, text in (
        (weak, "a login by other or more factors is required"),
        (old, "a more recent login is required"),
    ):
        verdict = await envoy.check(given, route)
        assert (verdict.admitted, verdict.code, verdict.status) == (False, UNAUTHENTICATED, 401)
        assert verdict.headers["www-authenticate"] == (
            f'Bearer error="insufficient_user_authentication", error_description="{text}", '
            'acr_values="2fa phr", max_age="300"'
        )
        error = {"error": "insufficient_user_authentication", "error_description": text}
        assert json.loads(verdict.body) == error


@pytest.mark.parametrize(
    ("extensions", "key"),
    [
        ({"Public": "true"}, "Public"),
        ({"scopes": "read"}, "scopes"),
        ({"a\nb": "c"}, r"a\\nb"),
        ({"public": "yes"}, "public"),
        ({"public": "True"}, "public"),
        ({"public": ""}, "public"),
        ({"remove_authorization": "1"}, "remove_authorization"),
        ({"audience": ""}, "audience"),
        ({"max_age": "5m"}, "max_age"),
        ({"acr_values": "mfa"}, "acr_values"),
        ({"audience": "a" * 4097}, "audience"),
        ({"audience": "internal\n"}, "audience"),
        ({"scope": "  "}, "scope"),
        ({"scope": 'a"b'}, "scope"),
        ({"roles": ""}, "roles"),
        ({"roles": "staff,,ops"}, "roles"),
        ({"roles": "staff, "}, "roles"),
        ({"roles": "staff\0"}, "roles"),
        ({"public": "true", "scope": "read"}, "public"),
        ({"public": "true", "roles": "staff"}, "public"),
    ],
)
async def test_a_route_with_an_invalid_rule_denies_access(
    envoy: Envoy, token: Callable[..., str], extensions: Extensions, key: str
) -> None:
    """The log names the key every time; the client does not see it."""
    with capture_logs() as logs:
        verdicts = [await envoy.check(token(), extensions) for _ in range(2)]
    for verdict in verdicts:
        assert (verdict.admitted, verdict.code, verdict.status) == (False, INTERNAL, 500)
        assert json.loads(verdict.body) == {
            "error": "server_error",
            "error_description": "internal error; the log has the cause",
        }
        assert "www-authenticate" not in verdict.headers
    problems = [entry["problem"] for entry in logs if entry["log_level"] == "error"]
    assert len(problems) == 2
    assert all(problem.startswith("context_extensions: ") for problem in problems)
    assert all(key.replace("\\\\", "\\") in problem for problem in problems)
    assert not any("\n" in problem for problem in problems)


# Refused


@pytest.mark.parametrize("authorization", [None, "", "Basic YWRhOngK"])
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_without_a_token_the_caller_is_asked_for_one(
    envoy: Envoy, authorization: str | None, method: str
) -> None:
    """RFC 6750 section 3.1: the challenge has no error; a preflight is no exception."""
    verdict = await envoy.check(authorization, method=method)
    assert (verdict.admitted, verdict.code, verdict.status) == (False, UNAUTHENTICATED, 401)
    assert verdict.headers == {
        "content-type": "application/json",
        "cache-control": "no-store",
        "www-authenticate": "Bearer",
    }
    assert json.loads(verdict.body) == {
        "error": "invalid_token",
        "error_description": "an access token is required",
    }


async def test_a_preflight_passes_where_the_route_is_public(envoy: Envoy) -> None:
    """There, and only there."""
    assert (await envoy.check(None, {"public": "true"}, method="OPTIONS")).admitted


@pytest.mark.parametrize(
    "request_",
    [
        pb.CheckRequest(),
        pb.CheckRequest(attributes=pb.AttributeContext()),
        pb.CheckRequest(attributes=pb.AttributeContext(request=pb.AttributeContext.Request())),
    ],
)
async def test_a_check_of_nothing_is_one_without_a_token(envoy: Envoy, request_: Any) -> None:
    """A check without a request is refused."""
    assert (await envoy.ask(request_)).status == 401


async def test_bad_tokens_are_refused(envoy: Envoy, token: Callable[..., str]) -> None:
    """All with the same challenge, which does not say what is wrong with them."""
    good = token()
    now = int(time.time())
    bad = [
        "Bearer",
        "Bearer x",
        f"{good}x",
        f"{good[:-9]}AAAAAAAAA",
        f"{good} {good}",
        token(expires_at=now - 1),
        token(issued_at=now + 600),
        token(issuer="https://elsewhere"),
    ]
    for authorization in bad:
        verdict = await envoy.check(authorization)
        assert (verdict.admitted, verdict.code, verdict.status) == (False, UNAUTHENTICATED, 401)
        assert verdict.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert (await envoy.check(good, {"audience": "billing"})).status == 401


async def test_the_refresh_token_is_no_access_token(
    envoy: Envoy, tokens: auth_service_pb2.TokenPair
) -> None:
    """Although it is valid elsewhere."""
    assert (await envoy.check(f"Bearer {tokens.refresh_token}")).status == 401


async def test_two_authorization_headers_are_refused(
    envoy: Envoy, token: Callable[..., str]
) -> None:
    """Joined by a comma, or one by one: two readers could take different ones."""
    good, other = token(), token(subject="bob")
    for joined in _joined(good, other):
        assert (await envoy.check(joined)).status == 401
    raw = [("authorization", good.encode()), ("Authorization", other.encode())]
    assert (await envoy.check_raw(raw[:1])).admitted
    assert (await envoy.check_raw(raw)).status == 401
    assert (await envoy.check_raw([raw[0], raw[0]])).status == 401


async def test_two_authorization_headers_make_the_caller_anonymous_on_a_public_route(
    envoy: Envoy, token: Callable[..., str]
) -> None:
    """It refuses nobody; joined, they cannot be told from one of another scheme with commas."""
    good, other = token(), token(subject="bob")
    raw = [("authorization", good.encode()), ("authorization", other.encode())]
    public = {"public": "true"}
    verdicts = [await envoy.check(joined, public) for joined in _joined(good, other)]
    for verdict in [*verdicts, await envoy.check_raw(raw, public)]:
        assert (verdict.admitted, verdict.headers) == (True, {})
        assert verdict.removed == {*NAMES, *LOOK_ALIKES}


def _joined(good: str, other: str) -> list[str]:
    return [f"{good},{other}", f"{good}, {other}", f"{good},", f",{good}"]


async def test_a_header_that_comes_both_ways_is_there_twice(
    envoy: Envoy, token: Callable[..., str]
) -> None:
    """No proxy sends it this way, and it is refused."""
    header = pb.HeaderValue(key="authorization", raw_value=token().encode())
    http = pb.AttributeContext.HttpRequest(
        headers={"authorization": token()}, header_map=pb.HeaderMap(headers=[header])
    )
    assert (await envoy.ask(_request(http, None))).status == 401


async def test_raw_headers_may_hold_any_bytes(envoy: Envoy) -> None:
    """They are no token, and no error either."""
    assert (await envoy.check_raw([("authorization", b"Bearer \xff\xfe\0")])).status == 401
    assert (await envoy.check_raw([("x-name", b"\xff"), ("cookie", b"a=b")])).status == 401


async def test_a_revocation_counts_from_the_next_request_on(
    envoy: Envoy, client: Client, tokens: auth_service_pb2.TokenPair
) -> None:
    """A logout ends what was let in a moment ago."""
    bearer = f"Bearer {tokens.access_token}"
    assert (await envoy.check(bearer)).admitted
    await client.auth.Revoke(auth_service_pb2.RevokeRequest(refresh_token=tokens.refresh_token))
    verdict = await envoy.check(bearer)
    assert (verdict.status, verdict.code) == (401, UNAUTHENTICATED)


async def test_with_stale_revocations_nobody_passes_until_they_are_known_again(
    database_url: str,
) -> None:
    """503 with the time to wait, and UNAVAILABLE for gRPC callers."""
    await make_user(database_url)
    proxy = Proxy(database_target(database_url))
    await proxy.open()
    settings = make_settings(
        through(database_url, proxy), freshness_limit="3s", feed_poll_interval="50ms"
    )
    async with running(settings) as server:
        client = await Client(address(server)).ready()
        envoy = Envoy(client.channel)
        bearer = f"Bearer {(await client.login()).access_token}"
        watch = client.health.Watch(
            health_pb2.HealthCheckRequest(service="envoy.service.auth.v3.Authorization")
        )
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert (await envoy.check(bearer)).admitted
        await proxy.cut()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING

        verdict = await envoy.check(bearer)
        assert (verdict.admitted, verdict.code, verdict.status) == (False, UNAVAILABLE, 503)
        assert verdict.headers["retry-after"] == "1"
        assert json.loads(verdict.body)["error"] == "temporarily_unavailable"
        verdict = await envoy.check(bearer, content_type="application/grpc")
        assert verdict.headers["grpc-status"] == "14"
        assert _reason(verdict) == ("REVOCATIONS_STALE", True)

        await proxy.open()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert (await envoy.check(bearer)).admitted
        await client.channel.close()
    await proxy.cut()


# gRPC callers


def _reason(verdict: Verdict) -> tuple[str, bool]:
    """Return the reason that a gRPC client gets, and whether it may try again."""
    value = verdict.headers["grpc-status-details-bin"]
    assert "=" not in value
    status = status_pb2.Status.FromString(base64.b64decode(value + "=" * (-len(value) % 4)))
    assert (status.code, status.message) == (verdict.code, verdict.body)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "authn"
    return info.reason, any(
        detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details
    )


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc+proto"])
@pytest.mark.parametrize(
    ("extensions", "authorization", "status", "code", "reason"),
    [
        ({}, False, 401, UNAUTHENTICATED, "INVALID_TOKEN"),
        ({"scope": "delete"}, True, 403, PERMISSION_DENIED, "PERMISSION_DENIED"),
        (
            {"acr_values": "2fa"},
            True,
            401,
            UNAUTHENTICATED,
            "INSUFFICIENT_USER_AUTHENTICATION",
        ),
        ({"slip": "x"}, True, 500, INTERNAL, "INTERNAL"),
    ],
)
async def test_a_grpc_caller_gets_a_grpc_status_with_its_reason(
    envoy: Envoy,
    token: Callable[..., str],
    kind: str,
    extensions: Extensions,
    authorization: bool,
    status: int,
    code: int,
    reason: str,
) -> None:
    """Envoy makes grpc-message of the plain body; status and details never disagree."""
    verdict = await envoy.check(token() if authorization else None, extensions, content_type=kind)
    assert (verdict.admitted, verdict.code, verdict.status) == (False, code, status)
    assert verdict.headers["grpc-status"] == str(code)
    assert _reason(verdict) == (reason, False)
    assert "content-type" not in verdict.headers
    assert ("www-authenticate" in verdict.headers) is (status != 500)


async def test_grpc_web_is_http(envoy: Envoy) -> None:
    """Envoy itself answers it as HTTP, unless its filter has made gRPC of it before."""
    verdict = await envoy.check(content_type="application/grpc-web+proto")
    assert verdict.headers["content-type"] == "application/json"
    raw = await envoy.check_raw([("content-type", b"application/grpc")])
    assert raw.headers["grpc-status"] == "16"


# Serving it


class BrokenVerifier:
    """Raises an unexpected error."""

    def verify(self, token: str, **_: object) -> AccessClaims:
        raise ZeroDivisionError("secret plan")

    def token(self, _parent: AccessClaims, _audience: str) -> str:
        """Exchange a token."""
        raise ZeroDivisionError("secret plan")


async def test_a_verifier_that_fails_denies_access(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Fail closed: 500, and the cause in the log alone."""
    server = grpc.aio.server()
    broken = BrokenVerifier()
    add_ext_authz(Dispatcher(server), broken, broken, TrustedProxies())
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            verdict = await Envoy(channel).check("Bearer abc")
    finally:
        await server.stop(None)
    assert (verdict.admitted, verdict.code, verdict.status) == (False, INTERNAL, 500)
    assert "secret plan" not in verdict.body
    assert "secret plan" in caplog.text


async def test_an_unreadable_check_request_is_refused_with_a_reason(client: Client) -> None:
    """Its errors are those of every method here."""
    check: Any = client.channel.unary_unary(METHOD)
    seen = await refusal(check(b"\xff", timeout=TIMEOUT))
    assert (seen.code, seen.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")


async def test_checks_are_counted(envoy: Envoy) -> None:
    """By method and code, as all calls; a refused request is an answered check."""
    labels = {"method": METHOD, "code": "OK"}
    before = REGISTRY.get_sample_value("auth_rpc_total", labels) or 0
    await asyncio.gather(*(envoy.check() for _ in range(3)))
    Successes.count_all()
    assert REGISTRY.get_sample_value("auth_rpc_total", labels) == before + 3


async def test_it_may_be_switched_off(database_url: str) -> None:
    """Then it is unknown, to health too."""
    async with running(make_settings(database_url, ext_authz=False)) as server:
        client = await Client(address(server)).ready()
        seen = await refusal(Envoy(client.channel).check())
        assert seen.code is grpc.StatusCode.UNIMPLEMENTED
        request = health_pb2.HealthCheckRequest(service="envoy.service.auth.v3.Authorization")
        assert (await refusal(client.health.Check(request))).code is grpc.StatusCode.NOT_FOUND
        await client.channel.close()
