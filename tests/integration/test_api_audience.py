"""A token for another audience does not open this service (RFC 9068 section 4).

The RPCs come from the descriptors and the routes from the application: a new one that this table
does not name fails.
"""

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import grpc
import httpx
import pytest
import structlog
from authn.v1 import (
    account_service_pb2,
    admin_service_pb2,
    auth_service_pb2,
    verifier_service_pb2,
)
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from starlette.routing import BaseRoute, Mount, Route

from auth_service.rpc.grpc_server import services
from auth_service.serving.server import Server
from auth_service.web import routes as web_routes
from auth_service.web.app import create_app
from auth_service.web.browser import CSRF_HEADER
from tests.acceptance.servers import PASSWORD, Client, make_user
from tests.audiences import register_in
from tests.integration.serving import Refusal, address, make_settings, query, running

ROOT = "root@example.com"
TIMEOUT = 30.0  # seconds, which no passing test takes

NOBODY = "00000000-0000-4000-8000-000000000000"

OWN_TOKEN: dict[str, Any] = {
    "authn.v1.AccountService.GetAccount": {},
    "authn.v1.AccountService.ListSessions": {},
    "authn.v1.AccountService.ChangePassword": {},
    "authn.v1.AccountService.ListFactors": {},
    "authn.v1.AccountService.BeginTotpEnrollment": {},
    "authn.v1.AccountService.ConfirmTotpEnrollment": {"totp_code": "123456"},
    "authn.v1.AccountService.DeleteFactor": {"factor_id": "00000000-0000-4000-8000-000000000000"},
    "authn.v1.AccountService.GenerateRecoveryCodes": {},
    "authn.v1.AdminService.CreateUser": {},
    "authn.v1.AdminService.GetUser": {},
    "authn.v1.AdminService.ListUsers": {},
    "authn.v1.AdminService.SetUserDisabled": {},
    "authn.v1.AdminService.SetUserPassword": {},
    "authn.v1.AdminService.CreateServiceAccount": {},
    "authn.v1.AdminService.GetServiceAccount": {"client_id": "orders"},
    "authn.v1.AdminService.ListServiceAccounts": {},
    "authn.v1.AdminService.UpdateServiceAccount": {
        "service_account": {"client_id": "orders", "roles": ["staff"]}
    },
    "authn.v1.AdminService.SetServiceAccountDisabled": {"client_id": "orders"},
    "authn.v1.AdminService.DeleteServiceAccount": {"client_id": "orders"},
    "authn.v1.AdminService.CreateServiceAccountSecret": {"client_id": "orders"},
    "authn.v1.AdminService.DeleteServiceAccountSecret": {
        "client_id": "orders",
        "secret_id": "00000000-0000-4000-8000-000000000000",
    },
    "authn.v1.AdminService.RevokeServiceAccountTokens": {"client_id": "orders"},
    "authn.v1.AdminService.AddServiceAccountKey": {"client_id": "orders"},
    "authn.v1.AdminService.ListServiceAccountKeys": {"client_id": "orders"},
    "authn.v1.AdminService.DeleteServiceAccountKey": {"client_id": "orders", "kid": "1"},
    "authn.v1.AdminService.CreateWorkloadMapping": {},
    "authn.v1.AdminService.ListWorkloadMappings": {},
    "authn.v1.AdminService.DeleteWorkloadMapping": {"issuer": "a", "subject": "b"},
    "authn.v1.AdminService.ListKeys": {},
    "authn.v1.AdminService.RotateKeys": {"algorithm": "EdDSA"},
    "authn.v1.AdminService.CreateAudience": {"name": "orders"},
    "authn.v1.AdminService.GetAudience": {"name": "orders"},
    "authn.v1.AdminService.ListAudiences": {},
    "authn.v1.AdminService.UpdateAudience": {"audience": {"name": "orders", "open": True}},
    "authn.v1.AdminService.DeleteAudience": {"name": "ledger"},
    "authn.v1.AdminService.GrantAudience": {"name": "orders", "client_id": "orders"},
    "authn.v1.AdminService.WithdrawAudience": {"name": "orders", "client_id": "orders"},
    "authn.v1.AdminService.SetAudienceActor": {"name": "orders", "actor": {"client_id": "orders"}},
    "authn.v1.AdminService.RemoveAudienceActor": {"name": "orders", "client_id": "orders"},
    "authn.v1.AdminService.ExplainToken": {"access_token": "a.b.c"},
    "authn.v1.AdminService.ResetUserFactors": {},
    "authn.v1.AdminService.ImportUsers": {},
    "authn.v1.AdminService.ListAudit": {},
    "authn.v1.AdminService.WatchAudit": {},
    "authn.v1.AdminService.UpdateUser": {"user": {"user_id": NOBODY, "roles": ["staff"]}},
    "authn.v1.AdminService.DeleteUser": {"user_id": NOBODY},
    "authn.v1.AdminService.AddUserIdentifier": {"user_id": NOBODY, "identifier": "new"},
    "authn.v1.AdminService.RemoveUserIdentifier": {"user_id": NOBODY, "identifier": "new"},
    "authn.v1.AdminService.SetUserPasswordChangeRequired": {"user_id": NOBODY},
    "authn.v1.AdminService.ListUserSessions": {"user_id": NOBODY},
    "authn.v1.AdminService.RevokeUserSession": {"user_id": NOBODY, "session_id": NOBODY},
    "authn.v1.AdminService.RevokeUserSessions": {"user_id": NOBODY},
    "authn.v1.AuthService.Revoke": {"session_id": "00000000-0000-4000-8000-000000000000"},
    "authn.v1.AuthService.Exchange": {"subject_token": "a.b.c", "audience": "orders"},
    "authn.v1.AuthService.BatchExchange": {"requests": [{"subject_token": "a.b.c"}]},
    "authn.v1.VerifierService.Watch": {},
}
"""The RPCs that take the caller's own access token, with a request of each."""
NO_TOKEN = {
    "authn.v1.AuthService.Login": "takes credentials",
    "authn.v1.AuthService.Refresh": "takes a refresh token",
    "authn.v1.AuthService.Validate": "takes the token of somebody else, for any audience",
    "authn.v1.AuthService.BatchValidate": "takes the tokens of others, for any audience",
    "authn.v1.VerifierService.GetJwks": "answers everybody",
    "envoy.service.auth.v3.Authorization.Check": "takes a token for the upstream",
}
"""The RPCs that do not, with what they take."""
FILES = (account_service_pb2, admin_service_pb2, auth_service_pb2, verifier_service_pb2)

OWN_TOKEN_ROUTES = {
    ("GET", "/v1/session"),
    ("POST", "/v1/logout"),
    ("POST", "/v1/passkeys"),
    ("POST", "/v1/passkeys/begin"),
}
NO_TOKEN_ROUTES = {
    ("GET", "/.well-known/jwks.json"): "answers everybody",
    ("GET", "/.well-known/oauth-authorization-server"): "answers everybody",
    ("GET", "/healthz"): "answers everybody",
    ("GET", "/readyz"): "answers everybody",
    ("GET", "/metrics"): "answers everybody",
    ("POST", "/oauth2/token"): "takes the client's credentials",
    ("POST", "/oauth2/introspect"): "takes the client's credentials",
    ("POST", "/oauth2/revoke"): "takes the client's credentials",
    ("POST", "/v1/login"): "takes a password",
    ("POST", "/v1/refresh"): "takes a refresh token",
    ("POST", "/v1/step-up"): "takes a refresh token",
    ("POST", "/v1/passkeys/login"): "takes a passkey",
    ("*", "/auth"): "takes a token for the upstream",
}


class Api:
    """A server, the routes that it serves over HTTP, and tokens of an admin."""

    def __init__(self, server: Server, routes: list[BaseRoute], http: httpx.AsyncClient) -> None:
        self.client = Client(address(server))
        self.routes = routes
        self.http = http

    async def token(self, *audience: str) -> str:
        """Log the admin in; without an audience, as by default."""
        credentials = auth_service_pb2.PasswordCredentials(identifier=ROOT, password=PASSWORD)
        request = auth_service_pb2.LoginRequest(password=credentials, audience=audience)
        reply = await self.client.auth.Login(request, timeout=TIMEOUT)
        return str(reply.tokens.access_token)

    async def call(self, name: str, token: str, request: dict[str, Any]) -> Refusal | None:
        """Call an RPC with a token as the caller's own, if any; return how it is refused, if so."""
        method = methods()[name]
        types = [
            message_factory.GetMessageClass(t) for t in (method.input_type, method.output_type)
        ]
        path = f"/{method.containing_service.full_name}/{method.name}"
        make = (
            self.client.channel.unary_stream
            if method.server_streaming
            else (self.client.channel.unary_unary)
        )
        stub: Any = make(
            path,
            request_serializer=types[0].SerializeToString,
            response_deserializer=types[1].FromString,
        )
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        call = stub(types[0](**request), metadata=metadata, timeout=TIMEOUT)
        try:
            await (call.read() if method.server_streaming else call)
        except grpc.aio.AioRpcError as error:
            return Refusal(error)
        finally:
            call.cancel()
        return None

    async def send(self, method: str, path: str, token: str) -> httpx.Response:
        """Send a request as a page of this service would."""
        headers = {"origin": str(self.http.base_url), CSRF_HEADER: "1"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        return await self.http.request(method, path, headers=headers)


def methods() -> dict[str, MethodDescriptor]:
    """Return the methods of all services of authn.v1, by name."""
    return {
        method.full_name: method
        for file in FILES
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


def served(routes: Iterable[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Return the method and path of each route; "*" stands for any method."""
    for route in routes:
        if isinstance(route, Mount):
            yield from served(route.routes, prefix + route.path)
            continue
        assert isinstance(route, Route)
        names = (route.methods or set()) - {"HEAD"}
        yield ("*" if len(names) > 1 else names.pop()), prefix + route.path


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """A server sets up the logs of its process: leave nothing of that behind."""
    yield
    structlog.reset_defaults()


@pytest.fixture
async def api(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    """A server with one admin."""
    collected: list[BaseRoute] = []

    def collect(routes: Iterable[BaseRoute], *given: Any, **options: Any) -> Any:
        collected.extend(routes := list(routes))
        return create_app(routes, *given, **options)

    monkeypatch.setattr(web_routes, "create_app", collect)
    await make_user(database_url, ROOT, roles=("admin",))
    await register_in(database_url, "orders", f"{make_settings(database_url).issuer}/")
    async with running(make_settings(database_url)) as server:
        url = f"http://127.0.0.1:{server.http_port}"
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT, trust_env=False) as http:
            made = Api(server, collected, http)
            yield made
            await made.client.channel.close()


def test_every_rpc_is_in_the_table(database_url: str) -> None:
    """A new RPC has to say whether it takes the caller's own access token."""
    ours = {name for name in methods() if name.startswith("authn.v1.")}
    assert ours == (OWN_TOKEN.keys() | NO_TOKEN.keys()) - {
        "envoy.service.auth.v3.Authorization.Check"
    }
    listed = services(make_settings(database_url))
    assert set(listed) == {name.rpartition(".")[0] for name in OWN_TOKEN.keys() | NO_TOKEN.keys()}


@pytest.mark.parametrize("name", OWN_TOKEN)
async def test_a_token_for_another_audience_is_refused(api: Api, name: str) -> None:
    """The same call with a token for this service is let in."""
    own = "https://auth.internal"
    others: list[tuple[str, ...]] = [("orders",), ("internal",), ("orders", f"{own}/")]
    for audience in others:
        refused = await api.call(name, await api.token(*audience), OWN_TOKEN[name])
        assert refused is not None
        assert (refused.code, refused.reason) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "INVALID_TOKEN",
        )
        assert refused.text == "the access token is for another audience"
        assert refused.trailers["www-authenticate"] == 'Bearer error="invalid_token"'
    accepted: list[tuple[str, ...]] = [(), (own,), ("orders", own)]
    for audience in accepted:
        answer = await api.call(name, await api.token(*audience), OWN_TOKEN[name])
        let_in = {
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.ALREADY_EXISTS,
        }
        if name.endswith("Exchange"):  # not for a user
            let_in.add(grpc.StatusCode.PERMISSION_DENIED)
        assert answer is None or answer.code in let_in


async def test_revoke_of_all_sessions_needs_a_token_for_this_service(api: Api) -> None:
    """For an admin's own sessions as well as for those of others."""
    name = "authn.v1.AuthService.Revoke"
    for target in ({}, {"user_id": "00000000-0000-4000-8000-000000000000"}):
        request = {"all_sessions": target}
        refused = await api.call(name, await api.token("orders"), request)
        assert refused is not None
        assert refused.reason == "INVALID_TOKEN"


async def test_a_token_authorises_its_own_revocation(api: Api) -> None:
    """A token for another audience still ends itself (RFC 7009 section 2.1)."""
    token = await api.token("orders")
    assert (await api.client.validate(token)).active
    assert await api.call("authn.v1.AuthService.Revoke", token, {"access_token": token}) is None
    assert not (await api.client.validate(token)).active


async def test_every_route_is_in_the_table(api: Api) -> None:
    """A new route has to say whether it takes the caller's own access token."""
    assert set(served(api.routes)) == OWN_TOKEN_ROUTES | NO_TOKEN_ROUTES.keys()


async def test_the_session_of_a_token_for_another_audience_is_not_told(api: Api) -> None:
    """GET /v1/session answers a token for this service."""
    assert (await api.send("GET", "/v1/session", await api.token())).status_code == 200
    refused = await api.send("GET", "/v1/session", await api.token("orders"))
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_token")


async def test_a_token_for_another_audience_logs_nobody_out(api: Api) -> None:
    """POST /v1/logout ends the session of a token for this service."""
    other, own = await api.token("orders"), await api.token()
    refused = await api.send("POST", "/v1/logout", other)
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_token")
    assert (await api.client.validate(other)).active
    assert (await api.send("POST", "/v1/logout", own)).status_code == 204
    assert not (await api.client.validate(own)).active


async def test_a_login_that_names_no_audience_gets_the_default_and_this_one(
    database_url: str,
) -> None:
    """One that names audiences gets just those."""
    await make_user(database_url, ROOT, roles=("admin",))
    await register_in(database_url, "a", "b", "orders")
    settings = make_settings(
        database_url, api_audience="https://api.test", default_audience=("a", "b")
    )
    async with running(settings) as server:
        client = Client(address(server))
        credentials = auth_service_pb2.PasswordCredentials(identifier=ROOT, password=PASSWORD)
        for named, expected in (
            ((), ["a", "b", "https://api.test"]),
            (("orders",), ["orders"]),
            (("a", "b"), ["a", "b"]),
        ):
            request = auth_service_pb2.LoginRequest(password=credentials, audience=named)
            tokens = (await client.auth.Login(request, timeout=TIMEOUT)).tokens
            verdict = await client.validate(tokens.access_token)
            assert list(verdict.claims.audience) == expected
            again = auth_service_pb2.RefreshRequest(refresh_token=tokens.refresh_token)
            renewed = (await client.auth.Refresh(again, timeout=TIMEOUT)).tokens
            verdict = await client.validate(renewed.access_token)
            assert list(verdict.claims.audience) == expected
        await client.channel.close()
    assert await query(database_url, "SELECT count(*) FROM sessions") == 3
