"""Every door at which an access token is presented, with client certificates of real TLS.

A door takes a token and its presenter, and returns why it refuses them; empty if it admits them.
"""

import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import grpc
import httpx
import pytest
import structlog
import trustme
from authn.envoy.v1 import check_pb2
from authn.v1 import account_service_pb2, account_service_pb2_grpc, auth_service_pb2_grpc
from authn.v1 import auth_service_pb2 as pb
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from auth_service import base64url
from auth_service.authz.admission import Rule
from auth_service.authz.certificates import thumbprint_of_pem
from auth_service.client.asgi import BearerMiddleware
from auth_service.client.interceptors import AuthInterceptor, SyncAuthInterceptor
from auth_service.client.rules import Rules
from auth_service.client.verifier import LocalVerifier
from auth_service.errors import InvalidToken
from auth_service.tokens.access import AccessClaims, TokenSigner, new_token_id
from auth_service.tokens.keys import KeyRing, shared_key
from auth_service.web.http_server import HttpServer
from tests.acceptance.servers import make_user
from tests.channels import connected
from tests.integration.serving import (
    SERVICE,
    SHARED_KEY,
    address,
    make_service_account,
    make_settings,
    running,
)

KEY = shared_key(base64url.decode(SHARED_KEY))
ISSUER = "https://auth.internal"
TIMEOUT = 60.0  # seconds, which no passing test takes
ANYBODY = "/test.Orders/Get"
FORWARDED = "x-forwarded-client-cert"

Door = Callable[[str, "Presenter | None"], Awaitable[str]]


class Presenter:
    """Somebody with a client certificate, and the connections that show it."""

    def __init__(self, authority: trustme.CA, name: str) -> None:
        self.issued = authority.issue_cert(name)
        self.pem = self.issued.cert_chain_pems[0].bytes().decode()
        self.thumbprint = thumbprint_of_pem(self.pem)
        self.digest = base64url.decode(self.thumbprint).hex()

    def credentials(self, servers: trustme.CA) -> grpc.ChannelCredentials:
        """Return those of a gRPC channel."""
        chain = b"".join(pem.bytes() for pem in self.issued.cert_chain_pems)
        key = self.issued.private_key_pem.bytes()
        return grpc.ssl_channel_credentials(servers.cert_pem.bytes(), key, chain)


def https(servers: trustme.CA, presenter: Presenter | None, port: int) -> httpx.AsyncClient:
    """Return an HTTPS client, which shows a certificate if it has one."""
    context = ssl.create_default_context()
    servers.configure_trust(context)
    if presenter is not None:
        presenter.issued.configure_cert(context)
    url = f"https://127.0.0.1:{port}"
    return httpx.AsyncClient(base_url=url, verify=context, timeout=TIMEOUT, trust_env=False)


class Building:
    """A service with TLS, one behind a proxy, and servers with the client library."""

    def __init__(self, database_url: str, directory: Path) -> None:
        self._database_url = database_url
        self._directory = directory
        self.servers, self.clients = trustme.CA(), trustme.CA()
        self.issued = self.servers.issue_cert("127.0.0.1")
        self.holder = Presenter(self.clients, "holder.internal")
        self.thief = Presenter(self.clients, "thief.internal")
        self.relay = Presenter(self.clients, "relay.internal")
        self.doors: dict[str, Door] = {}
        self.subject = self.secret = ""
        self._signer = TokenSigner(KeyRing([KEY], KEY.kid))
        self._channels: dict[tuple[str, Presenter], grpc.aio.Channel] = {}
        self._https: dict[Presenter | None, httpx.AsyncClient] = {}

    def token(self, holder: Presenter | None) -> str:
        """Return a token of the user, bound to the certificate of a presenter."""
        now = int(datetime.now(UTC).timestamp())
        claims = AccessClaims(
            issuer=ISSUER,
            subject=self.subject,
            audience=("internal", ISSUER),
            expires_at=now + 900,
            issued_at=now,
            token_id=new_token_id(),
            session_id=str(uuid4()),
            client_id="tests",
            scope=("read",),
            roles=(),
            auth_time=now,
            amr=(),
            certificate_thumbprint="" if holder is None else holder.thumbprint,
        )
        return self._signer.sign(claims)

    def tls_files(self) -> dict[str, Any]:
        """Return the settings of TLS, and write the files that they name."""
        chain = b"".join(pem.bytes() for pem in self.issued.cert_chain_pems)
        contents = {
            "tls_cert_file": chain,
            "tls_key_file": self.issued.private_key_pem.bytes(),
            "tls_client_ca_file": self.clients.cert_pem.bytes(),
        }
        for name, content in contents.items():
            (self._directory / name).touch(mode=0o600)
            (self._directory / name).write_bytes(content)
        return {name: self._directory / name for name in contents}

    async def open(self, stack: AsyncExitStack) -> None:
        """Start the servers and open the doors."""
        self.subject = str((await make_user(self._database_url)).id)
        self.secret = await make_service_account(self._database_url)
        direct = make_settings(
            self._database_url, **self.tls_files(), http_client_certificates=True
        )
        behind = make_settings(self._database_url, trusted_proxies=("127.0.0.0/8",))
        self.direct = await stack.enter_async_context(running(direct))
        self.behind = await stack.enter_async_context(running(behind))
        self.verifier = await stack.enter_async_context(
            LocalVerifier(issuer=ISSUER, shared_key=SHARED_KEY)
        )
        rules = Rules({}, default=Rule("internal"))
        self._aio = grpc.aio.server(interceptors=[AuthInterceptor(self.verifier, rules)])
        threads = stack.enter_context(ThreadPoolExecutor(4))
        self._sync = grpc.server(threads, interceptors=[SyncAuthInterceptor(self.verifier, rules)])
        self._aio.add_generic_rpc_handlers((_Orders(_answer_soon),))
        self._sync.add_generic_rpc_handlers((_Orders(_answer),))
        self._ports = {"service": self.direct.port}
        self._ports |= {
            name: server.add_secure_port("127.0.0.1:0", self._server_credentials())
            for name, server in (("aio", self._aio), ("sync", self._sync))
        }
        await self._aio.start()
        stack.push_async_callback(self._aio.stop, None)
        self._sync.start()
        stack.callback(lambda: self._sync.stop(None).wait(TIMEOUT))
        self._app = Starlette(routes=[Route("/orders", _page)])
        asgi = BearerMiddleware(
            self._app, self.verifier, audience="internal", trusted_proxies=["127.0.0.1"]
        )
        self._orders = HttpServer(asgi, "127.0.0.1:0")
        self._orders.start()
        stack.push_async_callback(self._orders.stop)
        await self._connect(stack)
        self.doors = {
            name.removeprefix("door_"): getattr(self, name)
            for name in dir(self)
            if name.startswith("door_")
        }

    async def _connect(self, stack: AsyncExitStack) -> None:
        for presenter in (self.holder, self.thief, self.relay):
            for name, port in self._ports.items():
                channel = grpc.aio.secure_channel(
                    f"127.0.0.1:{port}",
                    presenter.credentials(self.servers),
                    options=[("grpc.use_local_subchannel_pool", 1)],
                )
                await stack.enter_async_context(channel)
                self._channels[name, presenter] = await connected(channel)
        self._plain = await stack.enter_async_context(
            grpc.aio.insecure_channel(address(self.behind))
        )
        await connected(self._plain)
        for client in (None, self.holder, self.thief):
            self._https[client] = await stack.enter_async_context(
                https(self.servers, client, self.direct.http_port)
            )
        self._http = await stack.enter_async_context(
            httpx.AsyncClient(timeout=TIMEOUT, trust_env=False)
        )

    def _server_credentials(self) -> grpc.ServerCredentials:
        chain = b"".join(pem.bytes() for pem in self.issued.cert_chain_pems)
        pair = self.issued.private_key_pem.bytes(), chain
        return grpc.ssl_server_credentials([pair], self.clients.cert_pem.bytes(), True)

    # What asks for others

    def _question(self, token: str, presenter: Presenter | None) -> pb.ValidateRequest:
        shown = presenter.thumbprint if presenter else ""
        return pb.ValidateRequest(access_token=token, certificate_thumbprint=shown)

    async def door_validate(self, token: str, presenter: Presenter | None) -> str:
        """Validate."""
        stub = auth_service_pb2_grpc.AuthServiceStub(self._channels["service", self.relay])
        return _verdict(await stub.Validate(self._question(token, presenter), timeout=TIMEOUT))

    async def door_batch_validate(self, token: str, presenter: Presenter | None) -> str:
        """BatchValidate, beside the same token from its holder."""
        stub = auth_service_pb2_grpc.AuthServiceStub(self._channels["service", self.relay])
        questions = [self._question(token, who) for who in (self.holder, presenter, self.holder)]
        batch = pb.BatchValidateRequest(requests=questions)
        answers = (await stub.BatchValidate(batch, timeout=TIMEOUT)).responses
        assert answers[0].active
        assert answers[2].active
        return _verdict(answers[1])

    async def door_introspection(self, token: str, presenter: Presenter | None) -> str:
        """Introspection with the thumbprint; without one, the caller has to compare `cnf`."""
        form = {"token": token}
        if presenter is not None:
            form["certificate_thumbprint"] = presenter.thumbprint
        answer = await self._https[None].post(
            "/oauth2/introspect", data=form, auth=(SERVICE, self.secret)
        )
        assert answer.status_code == 200, answer.text
        content = answer.json()
        bound_to = content.get("cnf", {}).get("x5t#S256", "")
        shown = presenter.thumbprint if presenter else ""
        return "" if content["active"] and bound_to in ("", shown) else "certificate"

    async def door_ext_authz(self, token: str, presenter: Presenter | None) -> str:
        """The certificate of Envoy's client; what the client says of itself does not count."""
        certificate = quote(presenter.pem, safe="") if presenter else ""
        source = check_pb2.AttributeContext.Peer(certificate=certificate)
        channel = self._channels["service", self.relay]
        return await self._check(channel, token, source=source, **self._lie())

    async def door_ext_authz_behind_a_proxy(self, token: str, presenter: Presenter | None) -> str:
        """The client of the proxy in front of Envoy, whose own certificate Envoy sees."""
        escaped = quote(self.relay.pem, safe="")
        source = check_pb2.AttributeContext.Peer(certificate=escaped if presenter else "")
        return await self._check(self._plain, token, source=source, **_named(presenter))

    async def _check(self, channel: grpc.aio.Channel, token: str, source: Any, **more: str) -> str:
        headers = {"authorization": f"Bearer {token}"}
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        http = check_pb2.AttributeContext.HttpRequest(method="GET", path="/", headers=headers)
        attributes = check_pb2.AttributeContext(
            source=source, request=check_pb2.AttributeContext.Request(http=http)
        )
        call: Any = channel.unary_unary("/envoy.service.auth.v3.Authorization/Check")
        request = check_pb2.CheckRequest(attributes=attributes).SerializeToString()
        answer = check_pb2.CheckResponse.FromString(await call(request, timeout=TIMEOUT))
        if answer.WhichOneof("http_response") == "ok_response":
            return ""
        assert answer.denied_response.status.code == 401
        return str(answer.status.message)

    # The service's own API

    async def door_api(self, token: str, presenter: Presenter | None) -> str:
        """A call of the API on a connection with the certificate; gRPC asks for one."""
        channel = self._channels["service", presenter or self.relay]
        return await self._list_sessions(channel, token, **self._lie())

    async def door_api_behind_a_proxy(self, token: str, presenter: Presenter | None) -> str:
        """A call of the API through a proxy that ends TLS."""
        return await self._list_sessions(self._plain, token, **_named(presenter))

    async def _list_sessions(self, channel: grpc.aio.Channel, token: str, **more: str) -> str:
        stub = account_service_pb2_grpc.AccountServiceStub(channel)
        request = account_service_pb2.ListSessionsRequest()
        return await _rpc(stub.ListSessions, request, token, **more)

    async def door_session(self, token: str, presenter: Presenter | None) -> str:
        """GET /v1/session over TLS."""
        return await self._get(self._https[presenter], "/v1/session", token, **self._lie())

    async def door_session_behind_a_proxy(self, token: str, presenter: Presenter | None) -> str:
        """GET /v1/session through a proxy that ends TLS."""
        url = f"http://127.0.0.1:{self.behind.http_port}/v1/session"
        return await self._get(self._http, url, token, **_named(presenter))

    # Gateways

    async def door_forward_auth(self, token: str, presenter: Presenter | None) -> str:
        """Forward-auth for a gateway that is no trusted proxy: its own certificate counts."""
        return await self._get(self._https[presenter], "/auth", token, **self._lie())

    async def door_forward_auth_behind_a_proxy(
        self, token: str, presenter: Presenter | None
    ) -> str:
        """Forward-auth for a gateway that names its client, as nginx can: by the certificate."""
        url = f"http://127.0.0.1:{self.behind.http_port}/auth?audience=internal"
        named = f'Cert="{quote(presenter.pem, safe="") if presenter else ""}"'
        return await self._get(self._http, url, token, **{FORWARDED.replace("-", "_"): named})

    # The client library

    async def door_interceptor(self, token: str, presenter: Presenter | None) -> str:
        """AuthInterceptor, in front of a service's own method."""
        return await self._get_order("aio", token, presenter)

    async def door_sync_interceptor(self, token: str, presenter: Presenter | None) -> str:
        """SyncAuthInterceptor."""
        return await self._get_order("sync", token, presenter)

    async def _get_order(self, server: str, token: str, presenter: Presenter | None) -> str:
        channel = self._channels[server, presenter or self.relay]
        return await _rpc(channel.unary_unary(ANYBODY), b"", token, **self._lie())

    async def door_middleware_behind_a_proxy(self, token: str, presenter: Presenter | None) -> str:
        """BearerMiddleware, behind a proxy that ends TLS."""
        url = f"http://127.0.0.1:{self._orders.port}/orders"
        return await self._get(self._http, url, token, **_named(presenter))

    async def door_middleware(self, token: str, presenter: Presenter | None) -> str:
        """BearerMiddleware, in a server with the TLS extension of ASGI."""
        guarded = BearerMiddleware(self._app, self.verifier, audience="internal")

        async def server(scope: Any, receive: Any, send: Any) -> None:
            chain = [presenter.pem, self.clients.cert_pem.bytes().decode()] if presenter else []
            extensions = {"tls": {"client_cert_chain": chain}}
            await guarded({**scope, "extensions": extensions}, receive, send)

        transport = httpx.ASGITransport(server)
        async with httpx.AsyncClient(transport=transport, base_url="http://orders") as client:
            return await self._get(client, "/orders", token, **self._lie())

    async def door_local_verifier(self, token: str, presenter: Presenter | None) -> str:
        """LocalVerifier.verify."""
        shown = presenter.thumbprint if presenter else ""
        try:
            self.verifier.verify(token, audience="internal", certificate_thumbprint=shown)
        except InvalidToken as error:
            return error.inactive_reason.value
        return ""

    def _lie(self) -> dict[str, str]:
        """Return a header with which anybody can pretend to be the holder."""
        return _named(self.holder)

    async def _get(self, client: httpx.AsyncClient, url: str, token: str, **more: str) -> str:
        headers = {"authorization": f"Bearer {token}"}
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        answer = await client.get(url, headers=headers)
        if answer.status_code == 200:
            return ""
        assert answer.status_code == 401, answer.text
        assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
        return str(answer.json()["error_description"])


@asynccontextmanager
async def building(database_url: str, directory: Path) -> AsyncIterator[Building]:
    """Open all doors, on an empty database."""
    with pytest.MonkeyPatch.context() as variables:
        for name in [name for name in os.environ if name.startswith("AUTH_")]:
            variables.delenv(name)
        try:
            async with AsyncExitStack() as stack:
                made = Building(database_url, directory)
                await made.open(stack)
                yield made
        finally:
            structlog.reset_defaults()  # a server sets up the logs of its process


def _named(presenter: Presenter | None) -> dict[str, str]:
    """Return the header of a proxy that names its client as Envoy does; the last element counts."""
    name = FORWARDED.replace("-", "_")
    if presenter is None:
        return {name: "By=spiffe://mesh/auth"}
    subject = 'Subject="CN=x,O=\\"y\\";z"'
    return {name: f"Hash={'ab' * 32},By=spiffe://mesh/auth;Hash={presenter.digest};{subject}"}


def _verdict(answer: pb.ValidateResponse) -> str:
    return "" if answer.active else str(pb.InactiveReason.Name(answer.inactive_reason)).lower()


async def _rpc(method: Any, request: Any, token: str, **more: str) -> str:
    metadata = [("authorization", f"Bearer {token}")]
    metadata += [(name.replace("_", "-"), value) for name, value in more.items()]
    try:
        await method(request, metadata=metadata, timeout=TIMEOUT)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
            raise
        return error.details() or ""
    return ""


class _Orders(grpc.GenericRpcHandler):
    """A service with one method."""

    def __init__(self, behavior: Callable[[Any, Any], Any]) -> None:
        self._handler: Any = grpc.unary_unary_rpc_method_handler(behavior)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the method's handler."""
        return self._handler if handler_call_details.method == ANYBODY else None


def _answer(_request: bytes, _context: Any) -> bytes:
    return b"order"


async def _answer_soon(_request: bytes, _context: Any) -> bytes:
    return b"order"


async def _page(_request: Request) -> Response:
    return Response("order")
