"""Which tokens are bound to a client certificate: at a login, a refresh, an exchange (RFC 8705)."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
import pytest
from authn.v1 import admin_service_pb2 as admin_pb
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc as rpc
from authn.v1.admin_service_pb2_grpc import AdminServiceStub
from click.testing import CliRunner, Result

from auth_service import base64url
from auth_service.cli.app import cli
from auth_service.cli.terminal import Exit
from auth_service.serving.server import Server
from tests.acceptance.servers import PASSWORD, USER, Client, make_user
from tests.audiences import register_in
from tests.channels import connected
from tests.integration.doors import Building, https
from tests.integration.serving import (
    SERVICE,
    address,
    make_service_account,
    make_settings,
    refusal,
    running,
)

ROOT = "root@example.com"
TIMEOUT = 30.0  # seconds, which no passing test takes
FORWARDED = "x-forwarded-client-cert"
HOLDER, THIEF = b"h" * 32, b"t" * 32
"""The SHA-256 of two certificates, as a trusted proxy names them."""


class Behind:
    """A server behind a proxy that ends TLS, with a bound audience `vault`."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.client = Client(address(server))
        self.admin: Any = AdminServiceStub(self.client.channel)
        self.root = ""

    def metadata(self, certificate: bytes = b"", token: str = "") -> tuple[tuple[str, str], ...]:
        """Return what a call brings along."""
        given = {FORWARDED: f"Hash={certificate.hex()}"} if certificate else {}
        if token:
            given["authorization"] = f"Bearer {token}"
        return tuple(given.items())

    async def login(
        self, certificate: bytes = b"", audience: str = "vault", identifier: str = USER
    ) -> pb.TokenPair:
        """Begin a session of a user's."""
        credentials = pb.PasswordCredentials(identifier=identifier, password=PASSWORD)
        named = [audience] if audience else []
        reply: pb.LoginResponse = await self.client.auth.Login(
            pb.LoginRequest(password=credentials, audience=named),
            metadata=self.metadata(certificate),
            timeout=TIMEOUT,
        )
        return reply.tokens

    async def service_login(
        self, client_id: str, secret: str, certificate: bytes = b"", audience: str = ""
    ) -> str:
        """Return the access token of a service account."""
        credentials = pb.ClientCredentials(client_id=client_id, client_secret=secret)
        named = [audience] if audience else []
        reply: pb.LoginResponse = await self.client.auth.Login(
            pb.LoginRequest(client=credentials, audience=named),
            metadata=self.metadata(certificate),
            timeout=TIMEOUT,
        )
        return reply.tokens.access_token

    async def refresh(
        self, refresh_token: str, certificate: bytes = b"", **fields: Any
    ) -> pb.TokenPair:
        """Refresh a session."""
        reply: pb.RefreshResponse = await self.client.auth.Refresh(
            pb.RefreshRequest(refresh_token=refresh_token, **fields),
            metadata=self.metadata(certificate),
            timeout=TIMEOUT,
        )
        return reply.tokens

    async def bound_to(self, token: str, certificate: bytes = b"") -> bytes:
        """Return what an active token is bound to."""
        shown = base64url.encode(certificate) if certificate else ""
        request = pb.ValidateRequest(access_token=token, certificate_thumbprint=shown)
        verdict = await self.client.auth.Validate(request, timeout=TIMEOUT)
        assert verdict.active, verdict
        found = verdict.claims.certificate_thumbprint
        return base64url.decode(found) if found else b""

    async def call(self, method: str, request: Any) -> Any:
        """Call AdminService."""
        return await getattr(self.admin, method)(
            request, metadata=self.metadata(token=self.root), timeout=TIMEOUT
        )

    async def create(self, client_id: str, **fields: Any) -> str:
        """Make a service account and return its secret."""
        request = admin_pb.CreateServiceAccountRequest(client_id=client_id, **fields)
        secret: str = (await self.call("CreateServiceAccount", request)).client_secret
        return secret


@pytest.fixture
async def behind(database_url: str) -> AsyncIterator[Behind]:
    """The server."""
    await make_user(database_url)
    await make_user(database_url, ROOT, roles=("admin",))
    settings = make_settings(database_url, trusted_proxies=("127.0.0.0/8",))
    async with running(settings) as server:
        made = Behind(server)
        made.root = (await made.login(audience="", identifier=ROOT)).access_token
        request = admin_pb.CreateAudienceRequest(name="vault", scope=["*"], open=True, bound=True)
        await made.call("CreateAudience", request)
        yield made
        await made.client.channel.close()


async def test_tokens_for_a_bound_audience_are_bound(behind: Behind) -> None:
    """To the certificate of the login; others stay bearer tokens."""
    assert await behind.bound_to((await behind.login(HOLDER)).access_token, HOLDER) == HOLDER
    other = (await behind.login(HOLDER, audience="internal")).access_token
    assert await behind.bound_to(other) == b""


async def test_without_a_certificate_there_is_no_bound_token(behind: Behind) -> None:
    """Login says what is missing, for users and service accounts."""
    secret = await behind.create("billing")
    for call in (behind.login(), behind.service_login("billing", secret, audience="vault")):
        seen = await refusal(call)
        assert (seen.code, seen.reason) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "CERTIFICATE_REQUIRED",
        )
        assert "mutual TLS" in str(seen.text)


async def test_a_bound_session_is_of_no_use_to_a_thief(behind: Behind) -> None:
    """Its refresh token needs the same certificate, and a theft does not end it."""
    pair = await behind.login(HOLDER)
    for certificate in (b"", THIEF):
        for _ in range(2):
            seen = await refusal(behind.refresh(pair.refresh_token, certificate))
            assert seen.reason == "INVALID_GRANT"
    again = await behind.refresh(pair.refresh_token, HOLDER)
    assert await behind.bound_to(again.access_token, HOLDER) == HOLDER
    assert await behind.refresh(pair.refresh_token, HOLDER) == again, "a retry gets the same"


async def test_an_audience_that_becomes_bound_needs_a_new_login(
    behind: Behind, database_url: str
) -> None:
    """A session that is not bound gets no more tokens for it, and goes on for its others."""
    await register_in(database_url, "orders")
    credentials = pb.PasswordCredentials(identifier=USER, password=PASSWORD)
    request = pb.LoginRequest(password=credentials, audience=["orders", "internal"])
    pair = (await behind.client.auth.Login(request, timeout=TIMEOUT)).tokens
    update = admin_pb.UpdateAudienceRequest(audience=admin_pb.Audience(name="orders", bound=True))
    await behind.call("UpdateAudience", update)
    seen = await refusal(behind.refresh(pair.refresh_token, HOLDER))
    assert seen.reason == "INVALID_TARGET"
    assert (await behind.refresh(pair.refresh_token, audience=["internal"])).access_token


async def test_an_account_may_ask_for_it(behind: Behind) -> None:
    """Every token of a bound service account is bound; the flag may be changed."""
    secret = await behind.create("billing", bound=True)
    shown = await behind.call(
        "GetServiceAccount", admin_pb.GetServiceAccountRequest(client_id="billing")
    )
    assert shown.service_account.bound
    token = await behind.service_login("billing", secret, HOLDER)
    assert await behind.bound_to(token, HOLDER) == HOLDER
    assert (await refusal(behind.service_login("billing", secret))).reason == "CERTIFICATE_REQUIRED"
    update = admin_pb.UpdateServiceAccountRequest(
        service_account=admin_pb.ServiceAccount(client_id="billing"),
        update_mask={"paths": ["bound"]},
    )
    assert not (await behind.call("UpdateServiceAccount", update)).service_account.bound
    assert await behind.bound_to(await behind.service_login("billing", secret)) == b""


async def test_an_exchange_binds_to_the_actor(behind: Behind) -> None:
    """And takes a bound parent only with the certificate of who presented it."""
    secret = await behind.create("billing")
    await behind.create("internal")
    rule = admin_pb.SetAudienceActorRequest(
        name="vault", actor=admin_pb.AudienceActor(client_id="billing")
    )
    await behind.call("SetAudienceActor", rule)
    own = await behind.service_login("billing", secret)
    parent = (await behind.login(audience="internal")).access_token

    async def exchange(subject: str, certificate: bytes = b"", presenter: bytes = b"") -> str:
        shown = base64url.encode(presenter) if presenter else ""
        request = pb.ExchangeRequest(
            subject_token=subject, audience="vault", certificate_thumbprint=shown
        )
        reply: pb.ExchangeResponse = await behind.client.auth.Exchange(
            request, metadata=behind.metadata(certificate, own), timeout=TIMEOUT
        )
        return reply.access_token

    assert (await refusal(exchange(parent))).reason == "CERTIFICATE_REQUIRED"
    child = await exchange(parent, HOLDER)
    assert await behind.bound_to(child, HOLDER) == HOLDER


async def test_a_bound_parent_needs_its_presenters_certificate(behind: Behind) -> None:
    """As Validate does. The actor's own token is bound, and so is what it exchanges."""
    for name, actor in (("vault", "billing"), ("ledger", "billing")):
        if name == "ledger":
            await behind.call("CreateAudience", admin_pb.CreateAudienceRequest(name=name))
        else:
            secret = await behind.create(actor)
        rule = admin_pb.SetAudienceActorRequest(
            name=name, actor=admin_pb.AudienceActor(client_id=actor)
        )
        await behind.call("SetAudienceActor", rule)
    credentials = pb.ClientCredentials(client_id="billing", client_secret=secret)
    request = pb.LoginRequest(client=credentials, audience=["vault", "https://auth.internal"])
    reply = await behind.client.auth.Login(
        request, metadata=behind.metadata(HOLDER), timeout=TIMEOUT
    )
    own, parent = reply.tokens.access_token, (await behind.login(THIEF)).access_token

    async def exchange(presenter: bytes) -> str:
        shown = base64url.encode(presenter) if presenter else ""
        given = pb.ExchangeRequest(
            subject_token=parent, audience="ledger", certificate_thumbprint=shown
        )
        answer: pb.ExchangeResponse = await behind.client.auth.Exchange(
            given, metadata=behind.metadata(HOLDER, own), timeout=TIMEOUT
        )
        return answer.access_token

    for presenter in (b"", HOLDER):
        assert (await refusal(exchange(presenter))).reason == "INVALID_SUBJECT_TOKEN"
    assert await behind.bound_to(await exchange(THIEF), HOLDER) == HOLDER


async def test_what_a_bound_account_exchanges_is_bound(behind: Behind) -> None:
    """At the token endpoint too, where it proves itself by its secret."""
    secret = await behind.create("billing", bound=True)
    await behind.create("internal")
    await behind.call("CreateAudience", admin_pb.CreateAudienceRequest(name="ledger", scope=["*"]))
    rule = admin_pb.SetAudienceActorRequest(
        name="ledger", actor=admin_pb.AudienceActor(client_id="billing")
    )
    await behind.call("SetAudienceActor", rule)
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": (await behind.login(audience="internal")).access_token,
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "audience": "ledger",
    }
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{behind.server.http_port}") as http:

        async def exchange(**headers: str) -> httpx.Response:
            return await http.post(
                "/oauth2/token", data=form, auth=("billing", secret), headers=headers
            )

        assert (await exchange()).json()["reason"] == "CERTIFICATE_REQUIRED"
        answer = await exchange(**{FORWARDED: f"Hash={HOLDER.hex()}"})
        assert await behind.bound_to(answer.json()["access_token"], HOLDER) == HOLDER


@pytest.mark.parametrize("thumbprint", ["short", "é" * 43, "A" * 42 + "B"])
async def test_a_thumbprint_out_of_form_is_refused(behind: Behind, thumbprint: str) -> None:
    """With the name of the field."""
    request = pb.ValidateRequest(access_token="a.b.c", certificate_thumbprint=thumbprint)
    seen = await refusal(behind.client.auth.Validate(request, timeout=TIMEOUT))
    assert seen.fields == ["certificate_thumbprint"]


async def test_over_real_tls(database_url: str, tmp_path: Path) -> None:
    """The certificate of the connection itself counts, over gRPC and over HTTP."""
    await make_user(database_url)
    secret = await make_service_account(database_url)
    await register_in(database_url, "vault", bound=True)
    house = Building(database_url, tmp_path)
    settings = make_settings(database_url, **house.tls_files(), http_client_certificates=True)
    form = {"grant_type": "client_credentials", "audience": "vault"}

    async with running(settings) as server:
        holder = house.holder.credentials(house.servers)
        async with grpc.aio.secure_channel(f"127.0.0.1:{server.port}", holder) as channel:
            stub = rpc.AuthServiceStub(await connected(channel))
            credentials = pb.PasswordCredentials(identifier=USER, password=PASSWORD)
            login = pb.LoginRequest(password=credentials, audience=["vault"])
            pair = (await stub.Login(login, timeout=TIMEOUT)).tokens
            assert confirmation(pair.access_token) == house.holder.thumbprint
        for presenter in (house.holder, None):
            async with https(house.servers, presenter, server.http_port) as http:
                answer = await http.post("/oauth2/token", data=form, auth=(SERVICE, secret))
                if presenter is None:
                    assert answer.status_code == 400
                    assert answer.json()["reason"] == "CERTIFICATE_REQUIRED"
                else:
                    token = answer.json()["access_token"]
                    assert confirmation(token) == house.holder.thumbprint


async def test_a_command_presents_its_certificate(database_url: str, tmp_path: Path) -> None:
    """So that a person gets a bound token, and may look at it with a thumbprint."""
    await make_user(database_url)
    await register_in(database_url, "vault", bound=True)
    house = Building(database_url, tmp_path)
    files = {
        "ca": house.servers.cert_pem.bytes(),
        "cert": house.holder.issued.cert_chain_pems[0].bytes(),
        "key": house.holder.issued.private_key_pem.bytes(),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    async with running(make_settings(database_url, **house.tls_files())) as server:
        options = ["--address", f"127.0.0.1:{server.port}"]
        for name in files:
            options += [f"--{name}-file", str(tmp_path / name)]

        async def command(*arguments: str, given: str) -> Result:
            line = [*arguments, *options]
            return await asyncio.to_thread(CliRunner().invoke, cli, line, input=given)

        login = "login", USER, "--audience", "vault", "--only", "access-token"
        token = (await command(*login, given=PASSWORD)).output.strip()
        assert confirmation(token) == house.holder.thumbprint
        assert (await command("validate", given=token)).exit_code == Exit.REFUSED
        thumbprint = "--certificate-thumbprint", house.holder.thumbprint
        seen = await command("validate", "--json", *thumbprint, given=token)
        assert json.loads(seen.output)["certificate_thumbprint"] == house.holder.thumbprint


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cert-file", __file__], "--cert-file and --key-file go together"),
        (["--key-file", __file__], "--cert-file and --key-file go together"),
        (["--cert-file", __file__, "--key-file", __file__, "--plaintext"], "exclude each other"),
    ],
    ids=["cert", "key", "plaintext"],
)
def test_files_that_do_not_go_together_are_refused(options: list[str], said: str) -> None:
    """Before anything is read or sent."""
    result = CliRunner().invoke(cli, ["validate", *options], input="token")
    assert (result.exit_code, said in result.output) == (Exit.USAGE, True)


def confirmation(token: str) -> str:
    """Return what a token says that it is bound to."""
    claims = jwt.decode(token, options={"verify_signature": False})
    return str(claims["cnf"]["x5t#S256"])
