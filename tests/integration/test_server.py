"""The server over the wire: each service, and how it starts and stops."""

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import grpc
import httpx
import jwt
import pytest
import structlog
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import verifier_service_pb2 as verifier_pb
from authn.v1 import verifier_service_pb2_grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from auth_service.client import LocalVerifier
from auth_service.config.loading import Settings
from auth_service.errors import ConfigError, Unavailable
from auth_service.models import User
from auth_service.rpc.verdicts import Batch
from auth_service.serving.server import Server
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
from tests.audiences import register_in
from tests.databases import Databases
from tests.integration.serving import (
    MASTER_KEY,
    SERVICE,
    SHARED_KEY,
    address,
    make_service_account,
    make_settings,
    query,
    refusal,
    running,
    until,
)
from tests.ports import free_address

SERVICES = [
    *(f"authn.v1.{name}Service" for name in ("Auth", "Verifier", "Account", "Admin")),
    "envoy.service.auth.v3.Authorization",
]
REFLECTION = [f"grpc.reflection.{version}.ServerReflection" for version in ("v1", "v1alpha")]
HEALTH = "grpc.health.v1.Health"
HealthStatus = health_pb2.HealthCheckResponse
CONNECTIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE 'auth-service%'
"""
WAITS_FOR_A_LOCK = """
    SELECT count(*) > 0 FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""
TIMEOUT = 30.0  # seconds, which no passing test takes


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    for name in [name for name in os.environ if name.startswith("AUTH_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Reset the logs, which a server sets up for its process."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def settings(database_url: str) -> Settings:
    """What a server of the test is started with."""
    return make_settings(database_url)


@pytest.fixture
async def server(settings: Settings) -> AsyncIterator[Server]:
    """A server that serves."""
    async with running(settings) as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    """A client of the server."""
    client = await Client(address(server)).ready()
    yield client
    await client.channel.close()


@pytest.fixture
async def user(database_url: str) -> User:
    """The user ada, a member of the staff."""
    return await make_user(database_url, roles=("staff",))


@pytest.fixture
async def tokens(client: Client, user: User) -> pb.TokenPair:
    """The first tokens of one of ada's sessions."""
    return await client.login()


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a caller."""
    return (("authorization", f"Bearer {token}"),)


async def active(client: Client, token: str) -> bool:
    """Tell whether a token is active."""
    return (await client.validate(token)).active


# Health


async def health(client: Client, service: str = "") -> Any:
    """Return the health of one service."""
    return (await client.health.Check(health_pb2.HealthCheckRequest(service=service))).status


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_health_is_told_of_each_service(client: Client, service: str) -> None:
    """A load balancer may ask for the server, or for the one service that it routes to."""
    assert await health(client, service) == HealthStatus.SERVING


async def test_the_health_of_an_unknown_service_is_not_found(client: Client) -> None:
    """The health protocol's own answer to a name that is not served."""
    call = client.health.Check(health_pb2.HealthCheckRequest(service="authn.v1.Nothing"))
    assert (await refusal(call)).code is grpc.StatusCode.NOT_FOUND


async def test_health_lists_every_service(client: Client) -> None:
    """One call tells the health of all."""
    reply = await client.health.List(health_pb2.HealthListRequest())
    assert {name: entry.status for name, entry in reply.statuses.items()} == dict.fromkeys(
        ["", *SERVICES], HealthStatus.SERVING
    )


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_a_health_watch_ends_when_the_server_stops(database_url: str, service: str) -> None:
    """It sends NOT_SERVING and ends, so that the server need not wait for it."""
    async with running(make_settings(database_url, drain_timeout="1h")) as server:
        client = await Client(address(server)).ready()
        watch = client.health.Watch(health_pb2.HealthCheckRequest(service=service))
        while (await watch.read()).status != HealthStatus.SERVING:  # at once, as a rule
            pass
        goodbye = asyncio.ensure_future(_next(watch))
        await server.stop()
        assert (await goodbye).status == HealthStatus.NOT_SERVING
        assert await watch.read() is grpc.aio.EOF
        assert await watch.code() is grpc.StatusCode.OK
        await client.channel.close()


async def test_a_health_watch_of_an_unknown_service_says_so_and_goes_on(
    server: Server, client: Client
) -> None:
    """The protocol: SERVICE_UNKNOWN is sent and the call stays open."""
    watch = client.health.Watch(health_pb2.HealthCheckRequest(service="authn.v1.Nothing"))
    assert (await watch.read()).status == HealthStatus.SERVICE_UNKNOWN
    assert not watch.done()
    await server.stop()
    assert await watch.read() is grpc.aio.EOF


async def test_a_health_watch_that_is_cancelled_ends(client: Client) -> None:
    """A stop does not wait for a client that has gone."""
    watch = client.health.Watch(health_pb2.HealthCheckRequest())
    await watch.read()
    watch.cancel()
    assert await watch.code() is grpc.StatusCode.CANCELLED


async def test_without_its_database_the_server_fails_closed_and_recovers(
    database_url: str, user: User
) -> None:
    """Past the freshness limit no token is active; the server recovers with the database."""
    proxy = Proxy(database_target(database_url))
    await proxy.open()
    settings = make_settings(
        through(database_url, proxy), freshness_limit="500ms", feed_poll_interval="50ms"
    )
    async with running(settings) as server:
        client = await Client(address(server)).ready()
        tokens = await client.login()
        watch = client.health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == HealthStatus.SERVING
        await proxy.cut()
        assert (await watch.read()).status == HealthStatus.NOT_SERVING

        seen = await refusal(client.validate(tokens.access_token))
        assert (seen.code, seen.reason) == (grpc.StatusCode.UNAVAILABLE, "REVOCATIONS_STALE")
        assert seen.retry
        seen = await refusal(client.refresh(tokens.refresh_token))
        assert (seen.code, seen.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
        assert seen.retry

        await proxy.open()
        assert (await watch.read()).status == HealthStatus.SERVING
        assert await active(client, tokens.access_token)
        await client.channel.close()
    await proxy.cut()


async def test_while_nothing_can_be_written_readyz_says_so_and_validate_goes_on(
    database_url: str, user: User
) -> None:
    """A database that was set read-only; once it takes writes again, so does the server."""
    name = urlsplit(database_url).path.lstrip("/")
    settings = make_settings(database_url, freshness_limit="3s", feed_poll_interval="50ms")
    async with running(settings) as server, httpx.AsyncClient(trust_env=False) as http:
        client = await Client(address(server)).ready()

        async def readyz() -> int:
            return (await http.get(f"http://127.0.0.1:{server.http_port}/readyz")).status_code

        tokens = await client.login()
        assert await readyz() == 200
        admin = await asyncpg.connect(database_url)
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        async with asyncio.timeout(20):
            while await readyz() != 503:
                await asyncio.sleep(0.02)
        assert await client.serving()
        assert await active(client, tokens.access_token)
        seen = await refusal(client.refresh(tokens.refresh_token))
        assert (seen.code, seen.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
        assert seen.retry

        await admin.execute("SET default_transaction_read_only = off")
        await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await admin.close()
        async with asyncio.timeout(20):
            while await readyz() != 200:
                await asyncio.sleep(0.02)
        await client.refresh(tokens.refresh_token)
        await client.channel.close()


# Reflection


async def reflect(client: Client, service: str, **request: str) -> Any:
    """Ask the reflection service of this name."""
    method: Any = client.channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    call = method(iter([reflection_pb2.ServerReflectionRequest(**request)]), timeout=TIMEOUT)
    (response,) = [response async for response in call]
    return response


@pytest.mark.parametrize("service", REFLECTION)
async def test_reflection_lists_every_service(client: Client, service: str) -> None:
    """Both versions list the same services, themselves included."""
    response = await reflect(client, service, list_services="")
    listed = [entry.name for entry in response.list_services_response.service]
    assert sorted(listed) == sorted([*SERVICES, HEALTH, *REFLECTION])


@pytest.mark.parametrize("service", REFLECTION)
@pytest.mark.parametrize("symbol", [*SERVICES, HEALTH, *REFLECTION])
async def test_reflection_describes_every_service_that_it_lists(
    client: Client, service: str, symbol: str
) -> None:
    """The file in the answer declares the service, so that grpcurl can describe and call it."""
    response = await reflect(client, service, file_containing_symbol=symbol)
    files = [
        FileDescriptorProto.FromString(data)
        for data in response.file_descriptor_response.file_descriptor_proto
    ]
    declared = [f"{file.package}.{s.name}" for file in files for s in file.service]
    assert symbol in declared


@pytest.mark.parametrize("service", REFLECTION)
async def test_reflection_on_an_unknown_symbol_is_an_error_in_its_answer(
    client: Client, service: str
) -> None:
    """The stream goes on: the protocol puts the error into the response."""
    response = await reflect(client, service, file_containing_symbol="authn.v1.Nothing")
    assert response.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_reflection_may_be_switched_off(database_url: str) -> None:
    """Then its methods are unknown, as any other."""
    async with running(make_settings(database_url, reflection=False)) as server:
        client = await Client(address(server)).ready()
        for service in REFLECTION:
            # As a unary call: a client that still sends when the answer comes may see INTERNAL.
            method: Any = client.channel.unary_unary(f"/{service}/ServerReflectionInfo")
            seen = await refusal(method(b"", timeout=30))
            assert seen.code is grpc.StatusCode.UNIMPLEMENTED
        await client.channel.close()


# Login


async def test_login_by_password_returns_a_pair_of_tokens(
    client: Client, user: User, settings: Settings, database_url: str
) -> None:
    """Every field of the response is set."""
    await register_in(database_url, "orders")
    request = pb.LoginRequest(
        password=pb.PasswordCredentials(identifier=USER, password=PASSWORD),
        audience=["orders"],
        scope=["read"],
        client_id="web",
        device_label="Firefox on Linux",
    )
    tokens = (await client.auth.Login(request)).tokens
    assert tokens.token_type == "Bearer"
    assert tokens.scope == ["read"]
    assert tokens.session_id
    ttl = tokens.access_expires_at.seconds - _claims(tokens.access_token)["iat"]
    assert ttl == settings.access_token_ttl.total_seconds()
    assert tokens.refresh_expires_at.seconds > tokens.access_expires_at.seconds
    claims = (await client.validate(tokens.access_token)).claims
    assert claims.audience == ["orders"]
    assert claims.client_id == "web"


async def test_login_by_client_secret_returns_an_access_token_only(
    client: Client, database_url: str
) -> None:
    """A service account has no session, and so neither a refresh token nor its expiry."""
    secret = await make_service_account(database_url)
    credentials = pb.ClientCredentials(client_id=SERVICE, client_secret=secret)
    tokens = (await client.auth.Login(pb.LoginRequest(client=credentials))).tokens
    assert (tokens.refresh_token, tokens.session_id) == ("", "")
    assert not tokens.HasField("refresh_expires_at")
    claims = (await client.validate(tokens.access_token)).claims
    assert claims.subject == SERVICE
    assert claims.roles == ["verifier"]
    assert claims.scope == ["read"]


async def test_a_login_sent_again_with_its_request_id_is_the_same_login(
    client: Client, user: User
) -> None:
    """The retry of a lost response gets the very same tokens."""
    request = pb.LoginRequest(
        password=pb.PasswordCredentials(identifier=USER, password=PASSWORD),
        request_id="7b3f1c0e-retry",
    )
    first, again = await client.auth.Login(request), await client.auth.Login(request)
    assert first == again


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.LoginRequest(), "credentials"),
        (pb.LoginRequest(password=pb.PasswordCredentials()), "password.identifier"),
        (
            pb.LoginRequest(password=pb.PasswordCredentials(identifier="ada")),
            "password.password",
        ),
        (pb.LoginRequest(client=pb.ClientCredentials()), "client.client_id"),
        (
            pb.LoginRequest(client=pb.ClientCredentials(client_id="billing")),
            "client.client_secret",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_login_without_its_credentials_names_what_is_missing(
    client: Client, request_: pb.LoginRequest, field: str
) -> None:
    """The violation's field is the path in the request."""
    seen = await refusal(client.auth.Login(request_))
    assert (seen.code, seen.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert seen.fields == [field]


async def test_every_wrong_credential_looks_the_same(client: Client, user: User) -> None:
    """Whether the account or the secret is wrong, the whole answer is the same to the byte."""
    wrong = [
        pb.LoginRequest(password=pb.PasswordCredentials(identifier=USER, password="wrong")),
        pb.LoginRequest(password=pb.PasswordCredentials(identifier="nobody", password=PASSWORD)),
        pb.LoginRequest(client=pb.ClientCredentials(client_id="nobody", client_secret="wrong")),
    ]
    seen = [await refusal(client.auth.Login(request)) for request in wrong]
    assert {(s.code, s.reason) for s in seen} == {
        (grpc.StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS")
    }
    assert len({(s.text, s.trailers["grpc-status-details-bin"]) for s in seen}) == 1


async def test_a_scope_that_was_not_granted_is_refused(client: Client, user: User) -> None:
    """RFC 6749 section 5.2: invalid_scope, a fault of the request."""
    credentials = pb.PasswordCredentials(identifier=USER, password=PASSWORD)
    seen = await refusal(
        client.auth.Login(pb.LoginRequest(password=credentials, scope=["everything"]))
    )
    assert (seen.code, seen.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SCOPE")


async def test_too_many_failed_logins_say_when_to_come_back(database_url: str, user: User) -> None:
    """The guesses of one identifier are bounded, and the refusal carries RetryInfo."""
    async with running(make_settings(database_url, login_burst=1, login_refill="1h")) as server:
        client = await Client(address(server)).ready()
        request = pb.LoginRequest(
            password=pb.PasswordCredentials(identifier=USER, password="wrong")
        )
        assert (await refusal(client.auth.Login(request))).reason == "INVALID_CREDENTIALS"
        seen = await refusal(client.auth.Login(request))
        assert (seen.code, seen.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert seen.retry
        await client.channel.close()


# Refresh


async def test_refresh_returns_the_successor_and_its_retry_the_same(
    client: Client, tokens: pb.TokenPair
) -> None:
    """The retry of a lost response gets the very same pair, byte for byte."""
    successor = await client.refresh(tokens.refresh_token)
    assert successor.refresh_token != tokens.refresh_token
    assert successor.session_id == tokens.session_id
    assert await active(client, successor.access_token)
    assert await client.refresh(tokens.refresh_token) == successor


async def test_refresh_may_narrow_the_scope_and_never_widen_it(
    client: Client, tokens: pb.TokenPair
) -> None:
    """RFC 6749 section 6."""
    request = pb.RefreshRequest(refresh_token=tokens.refresh_token, scope=["admin"])
    assert (await refusal(client.auth.Refresh(request))).reason == "INVALID_SCOPE"
    request = pb.RefreshRequest(refresh_token=tokens.refresh_token, scope=["read"])
    assert (await client.auth.Refresh(request)).tokens.scope == ["read"]


async def test_refresh_without_a_token_names_the_field(client: Client) -> None:
    """A missing token is INVALID_ARGUMENT, an invalid one INVALID_GRANT."""
    seen = await refusal(client.refresh(""))
    assert (seen.code, seen.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["refresh_token"])
    seen = await refusal(client.refresh("no.good.token"))
    assert (seen.code, seen.reason) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_GRANT")


async def test_a_refresh_whose_client_has_gone_is_completed(
    client: Client, tokens: pb.TokenPair, database_url: str
) -> None:
    """The rotation that has begun commits, and the client's retry gets its result."""
    connection = await asyncpg.connect(database_url)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("SELECT FROM sessions FOR UPDATE")
    lost = client.auth.Refresh(pb.RefreshRequest(refresh_token=tokens.refresh_token))
    reply = asyncio.ensure_future(_result(lost))
    await until(database_url, WAITS_FOR_A_LOCK, what="the refresh waits for its session")
    lost.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reply
    await transaction.rollback()
    await connection.close()
    rotated = "SELECT generation = 1 FROM sessions"
    await until(database_url, rotated, what="the session is rotated")
    successor = await client.refresh(tokens.refresh_token)
    assert await query(database_url, rotated)
    assert await active(client, successor.access_token)


# Validate


async def test_validate_tells_all_claims(
    client: Client, tokens: pb.TokenPair, user: User, settings: Settings
) -> None:
    """What the token says is what the caller gets, each in its field."""
    reply = await client.validate(tokens.access_token)
    inside = _claims(tokens.access_token)
    claims = reply.claims
    assert reply.active
    assert reply.inactive_reason == pb.INACTIVE_REASON_UNSPECIFIED
    assert reply.revocations_as_of.seconds > 0
    assert claims.issuer == settings.issuer
    assert claims.subject == str(user.id)
    assert claims.audience == [*settings.default_audience, settings.issuer]
    assert claims.expires_at.seconds == inside["exp"] == tokens.access_expires_at.seconds
    assert claims.issued_at.seconds == inside["iat"]
    assert claims.auth_time.seconds == inside["auth_time"]
    assert claims.token_id == inside["jti"]
    assert claims.session_id == tokens.session_id
    assert claims.client_id == "first-party"
    assert claims.scope == ["read", "write"]
    assert claims.roles == ["staff"]
    assert claims.authentication_methods == ["pwd"]
    assert claims.acr == inside["acr"] == "1fa"


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"audience": "internal"}, pb.INACTIVE_REASON_UNSPECIFIED),
        ({"audience": "elsewhere"}, pb.INACTIVE_REASON_WRONG_AUDIENCE),
        ({"required_scope": ["read", "write"]}, pb.INACTIVE_REASON_UNSPECIFIED),
        ({"required_scope": ["read", "delete"]}, pb.INACTIVE_REASON_INSUFFICIENT_SCOPE),
        ({"required_roles": ["staff"]}, pb.INACTIVE_REASON_UNSPECIFIED),
        ({"required_roles": ["staff", "admin"]}, pb.INACTIVE_REASON_INSUFFICIENT_ROLE),
        ({"max_staleness": Duration(seconds=3600)}, pb.INACTIVE_REASON_UNSPECIFIED),
        ({"max_staleness": Duration(seconds=315_576_000_000)}, pb.INACTIVE_REASON_UNSPECIFIED),
        ({"max_age": Duration(seconds=3600)}, pb.INACTIVE_REASON_UNSPECIFIED),
        ({"max_age": Duration(seconds=315_576_000_000)}, pb.INACTIVE_REASON_UNSPECIFIED),
        ({"acr_values": ["2fa", "1fa"]}, pb.INACTIVE_REASON_UNSPECIFIED),
        (
            {"acr_values": ["2fa", "phr"], "max_age": Duration(seconds=60)},
            pb.INACTIVE_REASON_INSUFFICIENT_USER_AUTHENTICATION,
        ),
    ],
)
async def test_validate_checks_a_token_against_the_requirements(
    client: Client, tokens: pb.TokenPair, wanted: dict[str, Any], reason: int
) -> None:
    """A token that falls short is a normal answer, without claims and with the reason."""
    request = pb.ValidateRequest(access_token=tokens.access_token, **wanted)
    reply = await client.auth.Validate(request)
    assert reply.inactive_reason == reason
    assert reply.active == (reason == pb.INACTIVE_REASON_UNSPECIFIED)
    assert reply.HasField("claims") == reply.active
    insufficient = reason == pb.INACTIVE_REASON_INSUFFICIENT_USER_AUTHENTICATION
    assert reply.unmet == (["acr_values"] if insufficient else [])


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("x", pb.INACTIVE_REASON_MALFORMED),
        ("a.b.c", pb.INACTIVE_REASON_MALFORMED),
        ("é" * 40, pb.INACTIVE_REASON_MALFORMED),
    ],
)
async def test_validate_of_no_token_at_all_is_a_normal_answer(
    client: Client, token: str, reason: int
) -> None:
    """RFC 7662 section 2.2: any invalid token is inactive, without an error."""
    reply = await client.validate(token)
    assert (reply.active, reply.inactive_reason) == (False, reason)


async def test_validate_does_not_take_a_refresh_token(client: Client, tokens: pb.TokenPair) -> None:
    """The two kinds of token are never mixed up."""
    assert not await active(client, tokens.refresh_token)


async def test_validate_without_a_token_names_the_field(client: Client) -> None:
    """A request without a token is INVALID_ARGUMENT."""
    seen = await refusal(client.validate(""))
    assert (seen.code, seen.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["access_token"])


@pytest.mark.parametrize(
    "staleness",
    [
        Duration(seconds=-1),
        Duration(nanos=-1),
        Duration(seconds=1, nanos=-1),
        Duration(nanos=1_000_000_000),
        Duration(seconds=315_576_000_001),
        Duration(seconds=2**63 - 1),
        Duration(seconds=-(2**63), nanos=-(2**31)),
    ],
    ids=lambda value: f"{value.seconds}s{value.nanos}ns",
)
async def test_a_staleness_out_of_range_names_the_field(
    client: Client, tokens: pb.TokenPair, staleness: Duration
) -> None:
    """A duration that protobuf forbids is refused."""
    request = pb.ValidateRequest(access_token=tokens.access_token, max_staleness=staleness)
    seen = await refusal(client.auth.Validate(request))
    assert (seen.code, seen.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["max_staleness"])


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"max_age": Duration(seconds=-1)}, "max_age"),
        ({"max_age": Duration(nanos=1_000_000_000)}, "max_age"),
        ({"acr_values": ["2fa", "mfa"]}, "acr_values[1]"),
        ({"acr_values": [""]}, "acr_values[0]"),
    ],
)
async def test_a_demand_that_no_login_satisfies_names_the_field(
    client: Client, tokens: pb.TokenPair, wanted: dict[str, Any], field: str
) -> None:
    """Otherwise users would be asked to log in again without end."""
    request = pb.ValidateRequest(access_token=tokens.access_token, **wanted)
    seen = await refusal(client.auth.Validate(request))
    assert (seen.code, seen.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_a_staleness_that_cannot_be_met_fails_closed(
    client: Client, tokens: pb.TokenPair
) -> None:
    """A request that allows no staleness gets no verdict rather than an old one."""
    request = pb.ValidateRequest(access_token=tokens.access_token, max_staleness=Duration())
    seen = await refusal(client.auth.Validate(request))
    assert (seen.code, seen.reason) == (grpc.StatusCode.UNAVAILABLE, "REVOCATIONS_STALE")
    assert seen.retry


# BatchValidate


async def batch(client: Client, *requests: pb.ValidateRequest) -> Any:
    """Validate many."""
    return (await client.auth.BatchValidate(pb.BatchValidateRequest(requests=requests))).responses


@pytest.mark.parametrize("size", [1, 49, 50, 51, 1000])
async def test_a_batch_is_answered_in_order(
    client: Client, tokens: pb.TokenPair, size: int
) -> None:
    """Verdicts are in the order of the tokens, and each request has its own options."""
    kinds = [
        pb.ValidateRequest(access_token=tokens.access_token),
        pb.ValidateRequest(access_token="x"),
        pb.ValidateRequest(access_token=tokens.access_token, audience="elsewhere"),
    ]
    reasons = [
        pb.INACTIVE_REASON_UNSPECIFIED,
        pb.INACTIVE_REASON_MALFORMED,
        pb.INACTIVE_REASON_WRONG_AUDIENCE,
    ]
    responses = await batch(client, *(kinds[i % 3] for i in range(size)))
    assert [r.inactive_reason for r in responses] == [reasons[i % 3] for i in range(size)]
    assert [r.active for r in responses] == [i % 3 == 0 for i in range(size)]


@pytest.mark.parametrize("size", [0, 1001])
async def test_a_batch_of_no_allowed_size_names_the_field(client: Client, size: int) -> None:
    """From 1 to 1000."""
    seen = await refusal(batch(client, *[pb.ValidateRequest(access_token="x")] * size))
    assert (seen.code, seen.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["requests"])


@pytest.mark.parametrize(
    ("odd", "field"),
    [
        (pb.ValidateRequest(), "requests[3].access_token"),
        (
            pb.ValidateRequest(access_token="x", max_staleness=Duration(seconds=-1)),
            "requests[3].max_staleness",
        ),
        (pb.ValidateRequest(access_token="x", acr_values=["x"]), "requests[3].acr_values[0]"),
    ],
    ids=["token", "staleness", "acr"],
)
async def test_a_bad_item_of_a_batch_is_named_by_its_place(
    client: Client, odd: pb.ValidateRequest, field: str
) -> None:
    """The path in the violation leads to the item."""
    seen = await refusal(batch(client, *[pb.ValidateRequest(access_token="x")] * 3, odd))
    assert (seen.code, seen.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_an_unreadable_item_of_a_batch_is_named_by_its_place(client: Client) -> None:
    """A text that is not UTF-8, which a library would not send."""
    good, bad = pb.ValidateRequest(access_token="x").SerializeToString(), b"\x0a\x01\xff"
    call: Any = client.channel.unary_unary("/authn.v1.AuthService/BatchValidate")
    seen = await refusal(call(Batch(members=[good, bad]).SerializeToString()))
    assert (seen.code, seen.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["requests[1]"])


# Revoke


async def test_revoke_by_refresh_token_ends_the_session(
    client: Client, tokens: pb.TokenPair
) -> None:
    """The token is the authority; its session is over, access tokens included."""
    await client.auth.Revoke(pb.RevokeRequest(refresh_token=tokens.refresh_token))
    reply = await client.validate(tokens.access_token)
    assert reply.inactive_reason == pb.INACTIVE_REASON_SESSION_REVOKED
    assert (await refusal(client.refresh(tokens.refresh_token))).reason == "INVALID_GRANT"


async def test_revoke_by_access_token_ends_that_token_alone(
    client: Client, tokens: pb.TokenPair
) -> None:
    """The session goes on and may be refreshed."""
    await client.auth.Revoke(pb.RevokeRequest(access_token=tokens.access_token))
    reply = await client.validate(tokens.access_token)
    assert reply.inactive_reason == pb.INACTIVE_REASON_TOKEN_REVOKED
    successor = await client.refresh(tokens.refresh_token)
    assert await active(client, successor.access_token)


async def test_revoke_by_session_ends_that_session_alone(
    client: Client, tokens: pb.TokenPair
) -> None:
    """Another session of the same user may end it, and stays."""
    other = await client.login()
    await client.auth.Revoke(
        pb.RevokeRequest(session_id=tokens.session_id), metadata=bearer(other.access_token)
    )
    assert not await active(client, tokens.access_token)
    assert await active(client, other.access_token)


async def test_revoke_of_all_sessions_ends_the_callers_own(
    client: Client, tokens: pb.TokenPair
) -> None:
    """Signed out everywhere, and able to log in again at once."""
    other = await client.login()
    await client.auth.Revoke(
        pb.RevokeRequest(all_sessions=pb.AllSessions()), metadata=bearer(tokens.access_token)
    )
    for pair in (tokens, other):
        reply = await client.validate(pair.access_token)
        assert reply.inactive_reason == pb.INACTIVE_REASON_USER_REVOKED
    assert (await client.login()).access_token


async def test_an_admin_may_end_the_sessions_of_others(
    client: Client, tokens: pb.TokenPair, user: User, database_url: str
) -> None:
    """One of them by its id, and all by the user's."""
    await make_user(database_url, "root@example.com", roles=("admin",))
    credentials = pb.PasswordCredentials(identifier="root@example.com", password=PASSWORD)
    admin = (await client.auth.Login(pb.LoginRequest(password=credentials))).tokens
    other = await client.login()
    await client.auth.Revoke(
        pb.RevokeRequest(session_id=tokens.session_id), metadata=bearer(admin.access_token)
    )
    assert not await active(client, tokens.access_token)
    await client.auth.Revoke(
        pb.RevokeRequest(all_sessions=pb.AllSessions(user_id=str(user.id))),
        metadata=bearer(admin.access_token),
    )
    assert not await active(client, other.access_token)
    assert await active(client, admin.access_token)


async def test_nobody_else_may_end_the_sessions_of_others(
    client: Client, tokens: pb.TokenPair, user: User, database_url: str
) -> None:
    """Sessions of others are not found, so ids cannot be probed."""
    await make_user(database_url, "eve@example.com")
    credentials = pb.PasswordCredentials(identifier="eve@example.com", password=PASSWORD)
    eve = (await client.auth.Login(pb.LoginRequest(password=credentials))).tokens
    seen = await refusal(
        client.auth.Revoke(
            pb.RevokeRequest(session_id=tokens.session_id), metadata=bearer(eve.access_token)
        )
    )
    assert (seen.code, seen.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    everyone = pb.RevokeRequest(all_sessions=pb.AllSessions(user_id=str(user.id)))
    seen = await refusal(client.auth.Revoke(everyone, metadata=bearer(eve.access_token)))
    assert (seen.code, seen.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert await active(client, tokens.access_token)


@pytest.mark.parametrize(
    "request_",
    [
        pb.RevokeRequest(refresh_token="no.good.token"),
        pb.RevokeRequest(access_token="no.good.token"),
    ],
    ids=["refresh_token", "access_token"],
)
async def test_revoke_of_an_invalid_token_succeeds(
    client: Client, request_: pb.RevokeRequest
) -> None:
    """RFC 7009 section 2.2: there is nothing left to revoke."""
    assert await client.auth.Revoke(request_) == pb.RevokeResponse()


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.RevokeRequest(refresh_token=""), "refresh_token"),
        (pb.RevokeRequest(access_token=""), "access_token"),
        (pb.RevokeRequest(), "target"),
    ],
    ids=["refresh_token", "access_token", "target"],
)
async def test_revoke_of_nothing_names_what_is_missing(
    client: Client, request_: pb.RevokeRequest, field: str
) -> None:
    """A client that forgets the target must not believe that it revoked something."""
    seen = await refusal(client.auth.Revoke(request_))
    assert (seen.code, seen.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_a_malformed_session_id_names_the_field(client: Client, tokens: pb.TokenPair) -> None:
    """A text that is not a UUID is refused before the database."""
    request = pb.RevokeRequest(session_id="1 OR 1=1")
    seen = await refusal(client.auth.Revoke(request, metadata=bearer(tokens.access_token)))
    assert (seen.code, seen.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["session_id"])


CALLER_TARGETS = [
    pb.RevokeRequest(session_id="8c5f1a52-0000-4000-8000-000000000000"),
    pb.RevokeRequest(all_sessions=pb.AllSessions()),
]


@pytest.mark.parametrize("request_", CALLER_TARGETS, ids=["session", "all"])
@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", "{token}"),),
        (("authorization", "Bearer"),),
        (("authorization", "Bearer "),),
        (("authorization", "Basic {token}"),),
        (("authorization", "Bearer {token}x"),),
        (("authorization", "Bearer {token} {token}"),),
        (("authorization", "Bearer {token}"), ("authorization", "Bearer {token}")),
        (("authorization", "Bearer {refresh}"),),
        (("token", "{token}"),),
    ],
)
async def test_a_caller_without_one_good_bearer_token_is_challenged(
    client: Client,
    tokens: pb.TokenPair,
    request_: pb.RevokeRequest,
    metadata: tuple[tuple[str, str], ...],
) -> None:
    """A missing, repeated or invalid token, or another scheme, revokes nothing."""
    sent = [
        (key, value.format(token=tokens.access_token, refresh=tokens.refresh_token))
        for key, value in metadata
    ]
    seen = await refusal(client.auth.Revoke(request_, metadata=sent))
    assert (seen.code, seen.reason) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_TOKEN")
    # RFC 6750 section 3.1: a request without a Bearer token gets no error code.
    given = any(key == "authorization" and value.startswith("Bearer") for key, value in sent)
    challenge = 'Bearer error="invalid_token"' if given else "Bearer"
    assert seen.trailers["www-authenticate"] == challenge
    assert tokens.access_token not in str(seen.text)
    assert await active(client, tokens.access_token)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
async def test_the_scheme_is_taken_in_any_case(
    client: Client, tokens: pb.TokenPair, scheme: str
) -> None:
    """RFC 9110 section 11.1: the name of a scheme is case-insensitive."""
    metadata = [("authorization", f"{scheme} {tokens.access_token}")]
    await client.auth.Revoke(pb.RevokeRequest(session_id=tokens.session_id), metadata=metadata)
    assert not await active(client, tokens.access_token)


# VerifierService


def verifier(client: Client) -> Any:
    """Return the VerifierService."""
    return verifier_service_pb2_grpc.VerifierServiceStub(client.channel)


async def test_a_shared_key_is_never_published(client: Client) -> None:
    """Its holders can sign, so the key set is empty."""
    reply = await verifier(client).GetJwks(verifier_pb.GetJwksRequest())
    assert json.loads(reply.jwks_json) == {"keys": []}


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
async def test_tokens_verify_with_the_published_keys(
    database_url: str, user: User, algorithm: str
) -> None:
    """The key set alone is enough to verify this server's tokens."""
    settings = make_settings(database_url, signing_algorithm=algorithm, shared_key=None)
    async with running(settings) as server:
        client = await Client(address(server)).ready()
        tokens = await client.login()
        reply = await verifier(client).GetJwks(verifier_pb.GetJwksRequest())
        header = jwt.get_unverified_header(tokens.access_token)
        key = jwt.PyJWKSet.from_json(reply.jwks_json)[header["kid"]]
        claims = jwt.decode(
            tokens.access_token,
            key,
            algorithms=[algorithm],
            audience=settings.default_audience[0],
            issuer=settings.issuer,
        )
        assert (header["alg"], claims["sub"]) == (algorithm, str(user.id))
        assert not {"d", "k", "p", "q"} & json.loads(reply.jwks_json)["keys"][0].keys()
        await client.channel.close()


async def test_tokens_verify_with_the_shared_key(
    tokens: pb.TokenPair, user: User, settings: Settings
) -> None:
    """The client library and the configured key are enough; no call is made."""
    verifier = LocalVerifier(issuer=settings.issuer, shared_key=SHARED_KEY)
    claims = verifier.verify(tokens.access_token, audience=settings.default_audience[0])
    assert claims.subject == str(user.id)


async def test_tokens_from_before_a_change_of_algorithm_stay_good(
    database_url: str, user: User
) -> None:
    """The shared key goes on to verify while the new key signs."""
    async with running(make_settings(database_url)) as server:
        client = await Client(address(server)).ready()
        before = await client.login()
        await client.channel.close()
    async with running(make_settings(database_url, signing_algorithm="EdDSA")) as server:
        client = await Client(address(server)).ready()
        after = await client.login()
        assert jwt.get_unverified_header(after.access_token)["alg"] == "EdDSA"
        assert await active(client, before.access_token)
        assert await active(client, after.access_token)
        assert (await client.refresh(before.refresh_token)).session_id == before.session_id
        await client.channel.close()


async def test_a_method_that_nobody_has_is_unimplemented_with_a_reason(client: Client) -> None:
    """A mistyped method gets a reason and a hint."""
    calling: Any = client.channel.unary_unary("/authn.v1.AuthService/Logon")
    seen = await refusal(calling(b"", timeout=TIMEOUT))
    assert (seen.code, seen.reason) == (grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED")


# Limits


@pytest.mark.parametrize("method", ["Login", "Refresh", "Revoke", "Validate", "BatchValidate"])
@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe"])
async def test_bytes_that_are_no_message_are_an_invalid_argument(
    client: Client, method: str, data: bytes
) -> None:
    """Truncated, of an invalid type, or not UTF-8: INVALID_ARGUMENT."""
    calling: Any = client.channel.unary_unary(f"/authn.v1.AuthService/{method}")
    seen = await refusal(calling(data, timeout=TIMEOUT))
    assert (seen.code, seen.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")


async def test_metadata_that_is_too_large_is_refused(client: Client, tokens: pb.TokenPair) -> None:
    """The call fails, and the connection still serves the next."""
    request = pb.ValidateRequest(access_token=tokens.access_token)
    seen = await refusal(client.auth.Validate(request, metadata=(("x-long", "a" * 100_000),)))
    assert seen.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await active(client, tokens.access_token)


async def test_a_message_that_is_too_large_is_refused(database_url: str, user: User) -> None:
    """Up to the limit the answer is a verdict; beyond it the call fails, and the next succeeds."""
    async with running(make_settings(database_url, max_message_bytes=4096)) as server:
        client = await Client(address(server)).ready()
        tokens = await client.login()
        assert not await active(client, "a" * 4000)
        seen = await refusal(client.validate("a" * 5000))
        assert seen.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await active(client, tokens.access_token)
        await client.channel.close()


# Start


async def start_error(settings: Settings) -> ConfigError:
    """Return why a server does not start."""
    server = Server(settings)
    with pytest.raises(ConfigError) as caught:
        await server.start()
    await server.stop()
    return caught.value


async def test_a_port_in_use_is_named_with_its_setting(
    server: Server, client: Client, database_url: str
) -> None:
    """The second server says what to change, and the first continues."""
    error = await start_error(make_settings(database_url, grpc_address=address(server)))
    assert "AUTH_GRPC_ADDRESS" in error.text
    assert address(server) in error.text
    assert await health(client) == HealthStatus.SERVING


async def test_a_start_that_fails_late_closes_what_it_has_opened(
    server: Server, database_url: str
) -> None:
    """No connection to the database outlives a server that could not have its port."""
    proxy = Proxy(database_target(database_url))
    await proxy.open()
    settings = make_settings(through(database_url, proxy), grpc_address=address(server))
    second = Server(settings)  # kept, so that nothing is closed because it is garbage
    with pytest.raises(ConfigError):
        await second.start()
    assert proxy.accepted > 0

    async def gone() -> bool:
        return proxy.connections == 0

    await eventually(gone, what="the connections of the second server are gone")
    await proxy.cut()


async def test_servers_may_share_a_port_when_told_to(database_url: str, user: User) -> None:
    """SO_REUSEPORT allows a second process on the port."""
    async with running(make_settings(database_url, grpc_reuse_port=True)) as first:
        second = make_settings(database_url, grpc_reuse_port=True, grpc_address=address(first))
        async with running(second) as other:
            assert other.port == first.port
            client = await Client(address(first)).ready()
            assert await active(client, (await client.login()).access_token)
            await client.channel.close()


async def test_an_address_of_another_machine_is_named_with_its_setting(database_url: str) -> None:
    """192.0.2.0/24 is for documentation: no machine has it."""
    settings = make_settings(database_url, grpc_address="192.0.2.1:50051", allow_plaintext=True)
    assert "AUTH_GRPC_ADDRESS" in (await start_error(settings)).text


async def test_a_database_that_does_not_answer_is_unavailable() -> None:
    """The database may be about to start, so the start can be retried."""
    with pytest.raises(Unavailable, match="database"):
        await Server(make_settings("postgresql://auth@127.0.0.1:1/auth")).start()


async def test_a_database_that_does_not_exist_is_named(databases: Databases) -> None:
    """A retry cannot help; the operator has to act."""
    error = await start_error(make_settings(databases.database("auth_missing")))
    assert "does not exist" in error.text


async def test_a_database_without_its_schema_names_the_command(empty_database_url: str) -> None:
    """A server does not migrate by itself."""
    error = await start_error(make_settings(empty_database_url))
    assert "auth-service migrate" in error.text


async def test_another_master_key_is_named_with_its_setting(database_url: str) -> None:
    """The stored keys, which it cannot decrypt, are checked before the server serves."""
    async with running(make_settings(database_url, shared_key=None)):
        pass
    other = base64.urlsafe_b64encode(bytes(range(64, 96))).decode()
    error = await start_error(make_settings(database_url, shared_key=None, master_key=other))
    assert "AUTH_MASTER_KEY" in error.text
    assert other not in error.text
    async with running(make_settings(database_url, shared_key=None, master_key=MASTER_KEY)):
        pass


@pytest.mark.parametrize("algorithm", ["HS256", "EdDSA"])
async def test_servers_that_start_at_once_agree_on_one_key(
    database_url: str, user: User, algorithm: str
) -> None:
    """On a fresh database, the first start of many replicas leaves one key to sign with."""
    settings = make_settings(database_url, shared_key=None, signing_algorithm=algorithm)
    servers = [Server(settings) for _ in range(4)]
    await asyncio.gather(*(server.start() for server in servers))
    clients = [await Client(address(server)).ready() for server in servers]
    tokens = await asyncio.gather(*(client.login() for client in clients))
    assert len({jwt.get_unverified_header(pair.access_token)["kid"] for pair in tokens}) == 1
    for client in clients:
        assert all([await active(client, pair.access_token) for pair in tokens])
    assert await query(database_url, "SELECT count(*) FROM signing_keys") == 1
    await asyncio.gather(*(client.channel.close() for client in clients))
    await asyncio.gather(*(server.stop() for server in servers))


async def test_a_key_that_the_server_made_outlives_a_restart(database_url: str, user: User) -> None:
    """Tokens from before a restart stay valid."""
    settings = make_settings(database_url, shared_key=None)
    pairs = []
    for _ in range(2):
        async with running(settings) as server:
            client = await Client(address(server)).ready()
            pairs.append(await client.login())
            assert all([await active(client, pair.access_token) for pair in pairs])
            await client.channel.close()


# Stop


async def test_a_call_in_flight_is_answered_before_the_server_stops(
    database_url: str, user: User
) -> None:
    """Calls in progress finish without an error when the server stops."""
    async with running(make_settings(database_url)) as server:
        client = await Client(address(server)).ready()
        watch = client.health.Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        connection = await asyncpg.connect(database_url)
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("LOCK TABLE sessions IN EXCLUSIVE MODE")
        login = asyncio.ensure_future(client.login())
        await until(database_url, WAITS_FOR_A_LOCK, what="the login waits for the sessions")
        goodbye = asyncio.ensure_future(_next(watch))
        stopping = asyncio.ensure_future(server.stop())
        assert (await goodbye).status == HealthStatus.NOT_SERVING
        await transaction.rollback()
        await connection.close()
        assert (await login).access_token
        await stopping
        await client.channel.close()


async def test_a_stopped_server_leaves_no_connection(database_url: str) -> None:
    """Neither the pool nor the feed outlives it, and a second stop does nothing."""
    server = Server(make_settings(database_url))
    await server.start()
    assert await query(database_url, CONNECTIONS) > 0
    await server.stop()
    await server.stop()
    gone = f"SELECT ({CONNECTIONS}) = 0"
    await until(database_url, gone, what="the connections are gone")


async def test_a_stopped_server_takes_no_calls(database_url: str) -> None:
    """Its port is free for another."""
    before = free_address()
    async with running(make_settings(database_url, grpc_address=before)) as server:
        assert address(server) == before
    client = Client(before)
    seen = await refusal(client.health.Check(health_pb2.HealthCheckRequest()))
    assert seen.code is grpc.StatusCode.UNAVAILABLE
    await client.channel.close()
    async with running(make_settings(database_url, grpc_address=before)) as server:
        assert address(server) == before


async def test_a_server_that_never_started_may_be_stopped(settings: Settings) -> None:
    """Stopping is safe at any point of the start."""
    await Server(settings).stop()


async def _next(stream: Any) -> Any:
    """Read from now on: gRPC drops what has arrived unread when the stream ends."""
    return await stream.read()


async def _result(call: Any) -> Any:
    return await call


def _claims(token: str) -> dict[str, Any]:
    return jwt.decode(token, options={"verify_signature": False})
