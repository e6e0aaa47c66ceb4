"""Login without a secret over the wire: gRPC, HTTP, mTLS, the calls of an admin, the client."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import httpx
import pytest
import structlog
import trustme
from authn.v1 import admin_service_pb2, auth_service_pb2
from authn.v1.admin_service_pb2_grpc import AdminServiceStub
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from auth_service.client.token_sources import SyncWorkloadTokens, WorkloadTokens
from auth_service.clock import utc_now
from auth_service.core.workloads import IssuerKind
from auth_service.errors import InvalidCredentials, NotFound
from auth_service.web.app import create_app
from auth_service.web.probes import probe_routes
from tests.acceptance.servers import PASSWORD, Client, make_user, open_accounts
from tests.clock import FakeClock
from tests.integration.serving import Refusal, address, make_settings, query, refusal, running
from tests.workloads import BILLING, Key, Platform

TIMEOUT = 30.0  # seconds, which no passing test takes
ISSUER = "https://auth.test"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
CLUSTER = Platform.new(IssuerKind.KUBERNETES)
DOMAIN = Platform.new(IssuerKind.SPIFFE)
OWN = Key("own", "ES256", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variables, and the logs of a server do not outlive it."""
    for name in [name for name in os.environ if name.startswith("AUTH_")]:
        monkeypatch.delenv(name)
    yield
    structlog.reset_defaults()


@pytest.fixture
def issuers(tmp_path: Path) -> Path:
    """A file of issuers: a cluster, whose keys are in a file, and a trust domain."""
    (tmp_path / "cluster.json").write_text(CLUSTER.jwks())
    (tmp_path / "domain.json").write_text(DOMAIN.jwks())
    path = tmp_path / "issuers.toml"
    path.write_text(
        f"""
        [[issuer]]
        kind = "kubernetes"
        issuer = "{CLUSTER.name}"
        jwks_file = "{tmp_path}/cluster.json"
        [[issuer.account]]
        subject = "{CLUSTER.subject}"
        client_id = "{BILLING}"

        [[issuer]]
        kind = "spiffe"
        trust_domain = "example.org"
        jwks_file = "{tmp_path}/domain.json"
        """
    )
    return path


@pytest.fixture
async def account(database_url: str) -> None:
    """The account `billing`, without a secret and with a public key."""
    async with open_accounts(database_url) as accounts:
        await accounts.services.create(BILLING, scope=["read"], secret=False)
        await accounts.workloads.add_key(BILLING, json.dumps(OWN.jwk()))


class Service:
    """A server, and what its clients send."""

    def __init__(self, at: str, client: Client, http: httpx.AsyncClient) -> None:
        self.address = at
        self.client = client
        self.http = http

    async def login(self, token: str, **options: Any) -> auth_service_pb2.TokenPair:
        """Log a workload in over gRPC."""
        credentials = auth_service_pb2.WorkloadCredentials(token=token, **options)
        request = auth_service_pb2.LoginRequest(workload=credentials)
        reply: auth_service_pb2.LoginResponse = await self.client.auth.Login(
            request, timeout=TIMEOUT
        )
        return reply.tokens

    async def post(self, endpoint: str, assertion: str, **form: str) -> httpx.Response:
        """Call an OAuth endpoint with a client assertion."""
        proof = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion}
        return await self.http.post(f"/oauth2/{endpoint}", data=proof | form)


@pytest.fixture
async def service(database_url: str, issuers: Path, account: None) -> AsyncIterator[Service]:
    """A server with the issuers."""
    settings = make_settings(database_url, issuer=ISSUER, workload_issuers_file=issuers)
    async with (
        running(settings) as server,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{server.http_port}", timeout=TIMEOUT, trust_env=False
        ) as http,
    ):
        client = await Client(address(server)).ready()
        yield Service(address(server), client, http)
        await client.channel.close()


def assertion(**changes: Any) -> str:
    """Return an assertion of `billing`."""
    now = int(utc_now().timestamp())
    claims = {"iss": BILLING, "sub": BILLING, "aud": ISSUER, "iat": now, "exp": now + 60}
    return OWN.sign(claims | {"jti": uuid4().hex} | changes)


class TestGrpc:
    async def test_a_projected_token_logs_in(self, service: Service) -> None:
        """It gets an access token, and no refresh token."""
        pair = await service.login(CLUSTER.token(utc_now()))
        assert (await service.client.validate(pair.access_token)).claims.subject == BILLING
        assert pair.refresh_token == ""

    async def test_each_refusal_looks_the_same(self, service: Service) -> None:
        """Whatever is wrong, the client learns nothing of it."""
        now, once = utc_now(), assertion()
        await service.login(once)
        wrong = [
            "x",
            "",
            once,
            CLUSTER.token(now, aud="https://other.test"),
            CLUSTER.token(now - timedelta(hours=2)),
            CLUSTER.token(now, sub="system:serviceaccount:shop:other"),
            DOMAIN.token(now),
            assertion(aud="https://other.test"),
            assertion(iss="nobody", sub="nobody"),
        ]
        for token in wrong:
            seen: Refusal = await refusal(service.login(token))
            assert (seen.code, seen.reason) == (
                grpc.StatusCode.UNAUTHENTICATED,
                "INVALID_CREDENTIALS",
            )
            assert seen.text == InvalidCredentials().text


class TestHttp:
    async def test_an_assertion_is_traded_for_an_access_token(self, service: Service) -> None:
        """RFC 7523 section 2.2: by the own key, for the issuer or the token endpoint."""
        for audience in (ISSUER, f"{ISSUER}/oauth2/token"):
            answer = await service.post(
                "token", assertion(aud=audience), grant_type="client_credentials", scope="read"
            )
            assert answer.status_code == 200, answer.text
            token = answer.json()["access_token"]
            assert (await service.client.validate(token)).claims.client_id == BILLING

    async def test_a_platforms_token_is_an_assertion_too(self, service: Service) -> None:
        """And may name the client that it is for (RFC 7521 section 4.2)."""
        token = CLUSTER.token(utc_now())
        for client_id, status in ((BILLING, 200), ("other", 401)):
            answer = await service.post(
                "token", token, grant_type="client_credentials", client_id=client_id
            )
            assert answer.status_code == status

    async def test_an_assertion_is_good_once_for_all_endpoints(self, service: Service) -> None:
        """Introspection and revocation authenticate the client in the same way."""
        token = (await service.login(CLUSTER.token(utc_now()))).access_token
        proof = assertion()
        answer = await service.post("introspect", proof, token=token)
        assert answer.json()["active"]
        for endpoint in ("introspect", "revoke", "token"):
            answer = await service.post(
                endpoint, proof, token=token, grant_type="client_credentials"
            )
            assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
        assert (await service.post("revoke", assertion(), token=token)).status_code == 200
        assert not (await service.client.validate(token)).active

    @pytest.mark.parametrize(
        "form",
        [
            {"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"},
            {"client_assertion_type": ""},
            {"client_secret": "x"},
            {"authorization": "Basic YTpi"},
        ],
        ids=range(4),
    )
    async def test_a_malformed_request_is_told_what_is_wrong(
        self, service: Service, form: dict[str, str]
    ) -> None:
        """Another type of assertion, or two methods at once."""
        headers = {"authorization": form.pop("authorization")} if "authorization" in form else {}
        proof = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion()}
        answer = await service.http.post(
            "/oauth2/token",
            data=proof | {"grant_type": "client_credentials"} | form,
            headers=headers,
        )
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
        assert "client_assertion" in answer.json()["error_description"]

    async def test_the_metadata_name_the_method(self, service: Service) -> None:
        """With its algorithms, as RFC 8414 section 2 requires."""
        answer = await service.http.get("/.well-known/oauth-authorization-server")
        for endpoint in ("token", "introspection", "revocation"):
            methods = answer.json()[f"{endpoint}_endpoint_auth_methods_supported"]
            algorithms = answer.json()[f"{endpoint}_endpoint_auth_signing_alg_values_supported"]
            assert "private_key_jwt" in methods
            assert "ES256" in algorithms
            assert not {"none", "HS256"} & set(algorithms)

    async def test_the_age_of_keys_is_measured(self, service: Service) -> None:
        """While they are fresh, readiness has nothing to tell."""
        answer = await service.http.get("/readyz")
        assert (answer.status_code, answer.text) == (200, "ready\n")
        metrics = (await service.http.get("/metrics")).text
        assert f'auth_workload_keys_age_seconds{{issuer="{CLUSTER.name}"}}' in metrics


async def test_stale_keys_are_shown_by_a_replica_that_is_ready() -> None:
    """The body of /readyz has a line for each issuer, and the status stays."""
    app = create_app(probe_routes(lambda: True, lambda: ["the keys of a are stale"]))
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://auth.test") as http:
        answer = await http.get("/readyz")
    assert (answer.status_code, answer.text) == (200, "ready\nwarning: the keys of a are stale\n")


class TestAdmin:
    async def test_mappings_and_keys_are_managed_by_calls(
        self, service: Service, database_url: str
    ) -> None:
        """Each takes effect at the next login."""
        pb = admin_service_pb2
        await make_user(database_url, "root@example.com", roles=("admin",))
        credentials = auth_service_pb2.PasswordCredentials(
            identifier="root@example.com", password=PASSWORD
        )
        login = auth_service_pb2.LoginRequest(password=credentials)
        token = (await service.client.auth.Login(login)).tokens.access_token
        stub = AdminServiceStub(service.client.channel)

        async def call(method: str, request: Any) -> Any:
            metadata = (("authorization", f"Bearer {token}"),)
            return await getattr(stub, method)(request, metadata=metadata, timeout=TIMEOUT)

        mapping = pb.WorkloadMapping(
            issuer=DOMAIN.name, subject=DOMAIN.subject, client_id=BILLING, claims={"a": "b"}
        )
        made = await call("CreateWorkloadMapping", pb.CreateWorkloadMappingRequest(mapping=mapping))
        assert made.mapping.created_at.seconds
        await refusal(service.login(DOMAIN.token(utc_now())))
        assert (await service.login(DOMAIN.token(utc_now(), a="b"))).access_token
        other = pb.WorkloadMapping(issuer="x", subject="y", client_id=BILLING)
        await call("CreateWorkloadMapping", pb.CreateWorkloadMappingRequest(mapping=other))
        first = await call("ListWorkloadMappings", pb.ListWorkloadMappingsRequest(page_size=1))
        assert list(first.mappings) == [made.mapping]
        rest = pb.ListWorkloadMappingsRequest(page_token=first.next_page_token)
        second = await call("ListWorkloadMappings", rest)
        assert [each.subject for each in second.mappings] == ["y"]
        assert second.next_page_token == ""
        bad = pb.ListWorkloadMappingsRequest(page_token="AAAA")
        assert (await refusal(call("ListWorkloadMappings", bad))).fields == ["page_token"]
        delete = pb.DeleteWorkloadMappingRequest(issuer=DOMAIN.name, subject=DOMAIN.subject)
        await call("DeleteWorkloadMapping", delete)
        seen = await refusal(call("DeleteWorkloadMapping", delete))
        assert seen.reason == NotFound.reason

        new = Key("new", "ES256", ec.generate_private_key(ec.SECP256R1()))
        add = pb.AddServiceAccountKeyRequest(client_id=BILLING, public_key=json.dumps(new.jwk()))
        add.expires_at.FromDatetime(utc_now() + timedelta(days=1))
        added = (await call("AddServiceAccountKey", add)).key
        keys = pb.ListServiceAccountKeysRequest(client_id=BILLING)
        listed = (await call("ListServiceAccountKeys", keys)).keys
        assert [key.kid for key in listed] == ["own", "new"]
        assert listed[1] == added
        drop = pb.DeleteServiceAccountKeyRequest(client_id=BILLING, kid="own")
        await call("DeleteServiceAccountKey", drop)
        await refusal(service.login(assertion()))
        bad_key = pb.AddServiceAccountKeyRequest(client_id=BILLING, public_key="{}")
        assert (await refusal(call("AddServiceAccountKey", bad_key))).fields == ["public_key"]
        create = pb.CreateServiceAccountRequest(client_id="orders", without_secret=True)
        assert (await call("CreateServiceAccount", create)).client_secret == ""
        kept = "SELECT count(*) FROM service_account_secrets"
        assert await query(database_url, kept) == 0


class TestMutualTls:
    async def test_the_uri_in_a_client_certificate_logs_in(
        self, database_url: str, issuers: Path, account: None, tmp_path: Path
    ) -> None:
        """An X.509-SVID, whose URI is mapped as in a JWT-SVID; another certificate does not."""
        authority, clients = trustme.CA(), trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        chain, key, trusted = (tmp_path / name for name in ("tls.crt", "tls.key", "clients.crt"))
        issued.private_key_pem.write_to_path(key)
        key.chmod(0o600)
        chain.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        clients.cert_pem.write_to_path(trusted)
        text = issuers.read_text().replace('"example.org"', '"example.org"\nmtls = true', 1)
        issuers.write_text(text)
        async with open_accounts(database_url) as accounts:
            await accounts.workloads.map(DOMAIN.name, DOMAIN.subject, BILLING)
        settings = make_settings(
            database_url,
            issuer=ISSUER,
            workload_issuers_file=issuers,
            tls_cert_file=chain,
            tls_key_file=key,
            tls_client_ca_file=trusted,
        )
        names = {
            (DOMAIN.subject,): True,
            ("billing.internal",): False,
            ("billing.internal", DOMAIN.subject): True,
            (f"{DOMAIN.subject}x",): False,
            (DOMAIN.subject, f"{DOMAIN.subject}x"): False,
        }
        async with running(settings) as server:
            for wanted, admitted in names.items():
                leaf = svid(clients, *wanted)
                async with connect(server, authority, leaf) as channel:
                    source = WorkloadTokens(channel)
                    if admitted:
                        assert await source.access_token(TIMEOUT)
                    else:
                        with pytest.raises(InvalidCredentials):
                            await source.access_token(TIMEOUT)


def svid(authority: trustme.CA, *names: str) -> trustme.LeafCert:
    """Return a certificate with DNS names and URIs."""
    uris = [name for name in names if "://" in name]
    with pytest.MonkeyPatch.context() as patch:  # trustme knows no URIs
        made = trustme._identity_string_to_x509
        patch.setattr(
            trustme,
            "_identity_string_to_x509",
            lambda name: x509.UniformResourceIdentifier(name) if name in uris else made(name),
        )
        return authority.issue_cert(*names)


def connect(server: Any, authority: trustme.CA, leaf: trustme.LeafCert) -> Any:
    """Return a channel with a client certificate, and a connection of its own."""
    chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
    credentials = grpc.ssl_channel_credentials(
        authority.cert_pem.bytes(), leaf.private_key_pem.bytes(), chain
    )
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.secure_channel(address(server), credentials, options=options)


class TestClient:
    async def test_the_file_is_read_anew_at_each_login(
        self, service: Service, tmp_path: Path
    ) -> None:
        """As kubelet replaces it; one that is missing is told, and mended later."""
        clock, path = FakeClock(utc_now()), tmp_path / "token"
        source = WorkloadTokens(
            service.client.channel, path, client_id=BILLING, clock=clock, jitter=lambda: 0.5
        )
        with pytest.raises(FileNotFoundError):
            await source.access_token(TIMEOUT)
        path.write_text(CLUSTER.token(utc_now()) + "\n")
        clock.advance(timedelta(minutes=1))
        first = await source.access_token(TIMEOUT)
        path.write_text("replaced by nonsense")
        clock.advance(timedelta(minutes=16))
        with pytest.raises(InvalidCredentials):
            await source.access_token(TIMEOUT)
        path.write_text(CLUSTER.token(utc_now()))
        clock.advance(timedelta(minutes=1))
        assert await source.access_token(TIMEOUT) not in ("", first)
        await source.aclose()

    async def test_a_function_gives_an_assertion(self, service: Service) -> None:
        """A new one at each login, because it is good once."""
        made: list[str] = []

        def sign() -> str:
            made.append(assertion())
            return made[-1]

        clock = FakeClock(utc_now())
        source = WorkloadTokens(service.client.channel, token=sign, clock=clock)
        await source.access_token(TIMEOUT)
        clock.advance(timedelta(minutes=16))
        await source.access_token(TIMEOUT)
        assert len(set(made)) == 2
        with pytest.raises(ValueError, match="either"):
            WorkloadTokens(service.client.channel, "x", token=sign)

    async def test_threads_have_the_same(self, service: Service, tmp_path: Path) -> None:
        """For programs without an event loop."""
        path = tmp_path / "token"
        path.write_text(CLUSTER.token(utc_now()))

        def log_in() -> str:
            with grpc.insecure_channel(service.address) as channel:
                return SyncWorkloadTokens(channel, path).access_token(TIMEOUT)

        token = await asyncio.to_thread(log_in)
        assert (await service.client.validate(token)).active
