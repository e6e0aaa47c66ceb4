"""The client library against a running service: each RPC, token sources and local verification."""

import asyncio
import base64
import contextlib
import hmac
import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import grpc
import pytest
from authn.envoy.v1 import check_pb2
from authn.v1 import (
    account_service_pb2,
    account_service_pb2_grpc,
    admin_service_pb2,
    admin_service_pb2_grpc,
    auth_service_pb2,
    auth_service_pb2_grpc,
    verifier_service_pb2,
    verifier_service_pb2_grpc,
)

from auth_service.client import (
    InvalidCredentials,
    InvalidToken,
    LocalVerifier,
    ServiceAccountTokens,
    SessionTokens,
    SyncBearerInterceptor,
    SyncLocalVerifier,
    SyncServiceAccountTokens,
    SyncSessionTokens,
    bearer_interceptors,
)
from tests.channels import RECONNECT, open_channel, open_sync_channel
from tests.compat.live import ADMIN, SERVICE_ACCOUNT, VARIABLE, Live

TIMEOUT = 30.0  # seconds; no passing test takes as long
ISSUER = "https://auth.internal"
PUBLIC_KEY = (  # of RFC 8037, appendix A.2
    '{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}'
)
PASSWORD = "a password that nobody guesses"
SERVICES: dict[str, tuple[ModuleType, ModuleType]] = {
    "AuthService": (auth_service_pb2, auth_service_pb2_grpc),
    "VerifierService": (verifier_service_pb2, verifier_service_pb2_grpc),
    "AccountService": (account_service_pb2, account_service_pb2_grpc),
    "AdminService": (admin_service_pb2, admin_service_pb2_grpc),
}
EXT_AUTHZ = "/envoy.service.auth.v3.Authorization/Check"


@pytest.fixture(scope="module")
def live(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """The service that the environment names, or one on a database of this module."""
    if given := os.environ.get(VARIABLE):
        yield Live(**json.loads(given))
        return
    from tests.compat.service import serving

    log: Path = tmp_path_factory.mktemp("compat") / "server.log"
    with serving(request.getfixturevalue("module_database_url"), log) as live:
        yield live


class Caller:
    """Calls the methods of the service by name, and notes which."""

    def __init__(self, channel: Any, threads: bool) -> None:
        self.called: set[str] = set()
        self.channel = channel
        self._threads = threads
        self._stubs = {
            name: getattr(stubs, f"{name}Stub")(channel) for name, (_, stubs) in SERVICES.items()
        }

    async def call(self, method: str, request: Any, token: str = "") -> Any:
        """Return the response of "Service/Method", or the first one of a stream."""
        self.called.add(method)
        service, _, name = method.partition("/")
        return await self._answer(getattr(self._stubs[service], name), request, token)

    async def check(self, request: check_pb2.CheckRequest) -> Any:
        """Return the response of Envoy's external authorization API."""
        method = self.channel.unary_unary(
            EXT_AUTHZ,
            request_serializer=check_pb2.CheckRequest.SerializeToString,
            response_deserializer=check_pb2.CheckResponse.FromString,
        )
        return await self._answer(method, request, "")

    async def _answer(self, method: Any, request: Any, token: str) -> Any:
        metadata = (("authorization", f"Bearer {token}"),) if token else None
        if self._threads:
            return await asyncio.to_thread(_blocking, method, request, metadata)
        streams = isinstance(method, grpc.aio.StreamUnaryMultiCallable)
        call = method([request] if streams else request, metadata=metadata, timeout=TIMEOUT)
        if not hasattr(call, "read"):
            return await call
        response = await call.read()
        call.cancel()
        return response


def _blocking(method: Any, request: Any, metadata: Any) -> Any:
    streams = isinstance(method, grpc.StreamUnaryMultiCallable)
    given = iter([request]) if streams else request
    response = method(given, metadata=metadata, timeout=TIMEOUT)
    if not hasattr(response, "cancel"):
        return response
    first = next(response)
    response.cancel()
    return first


@pytest.fixture(params=["asyncio", "threads"])
async def caller(request: pytest.FixtureRequest, live: Live) -> AsyncIterator[Caller]:
    """Calls the service on a channel of this kind."""
    threads = request.param == "threads"
    opened: Any = (open_sync_channel if threads else open_channel)(live.address)
    async with opened as channel:
        yield Caller(channel, threads)


async def login(caller: Caller, identifier: str, password: str) -> auth_service_pb2.TokenPair:
    """Return the tokens of a new session."""
    credentials = auth_service_pb2.PasswordCredentials(identifier=identifier, password=password)
    request = auth_service_pb2.LoginRequest(password=credentials)
    tokens: auth_service_pb2.TokenPair = (await caller.call("AuthService/Login", request)).tokens
    return tokens


async def make_user(caller: Caller, live: Live) -> tuple[str, str, str]:
    """Return a new user's identifier and id, and the access token of an admin."""
    admin = (await login(caller, ADMIN, live.password)).access_token
    name = f"{uuid4().hex}@example.com"
    request = admin_service_pb2.CreateUserRequest(
        identifiers=[name], password=PASSWORD, scope=["read", "write"]
    )
    created = await caller.call("AdminService/CreateUser", request, admin)
    return name, created.user.user_id, admin


async def test_each_rpc_answers(caller: Caller, live: Live) -> None:
    """Requests and responses of every method pass through the installed protobuf and gRPC."""
    name, user_id, admin = await make_user(caller, live)
    await auth_rpcs(caller, name)
    await account_rpcs(caller, name)
    await admin_rpcs(caller, user_id, admin)
    await audience_rpcs(caller, live, admin)
    await user_rpcs(caller, live)
    jwks = await caller.call("VerifierService/GetJwks", verifier_service_pb2.GetJwksRequest())
    assert "keys" in json.loads(jwks.jwks_json)
    event = await caller.call("VerifierService/Watch", verifier_service_pb2.WatchRequest())
    assert event.WhichOneof("event")
    assert caller.called == {
        f"{service.name}/{method.name}"
        for service in (
            messages.DESCRIPTOR.services_by_name[name] for name, (messages, _) in SERVICES.items()
        )
        for method in service.methods
    }


async def auth_rpcs(caller: Caller, name: str) -> None:
    first = await login(caller, name, PASSWORD)
    request = auth_service_pb2.RefreshRequest(refresh_token=first.refresh_token, scope=["read"])
    refreshed = (await caller.call("AuthService/Refresh", request)).tokens
    assert list(refreshed.scope) == ["read"]
    question = auth_service_pb2.ValidateRequest(access_token=refreshed.access_token)
    question.max_staleness.FromSeconds(5)
    question.max_age.FromSeconds(3600)
    question.acr_values.extend(["1fa", "2fa", "phr"])
    verdict = await caller.call("AuthService/Validate", question)
    assert verdict.active
    assert verdict.claims.expires_at == refreshed.access_expires_at
    proxied = check_pb2.CheckRequest()
    proxied.attributes.request.http.headers["authorization"] = f"Bearer {refreshed.access_token}"
    assert (await caller.check(proxied)).status.code == 0
    revoke = auth_service_pb2.RevokeRequest(access_token=refreshed.access_token)
    await caller.call("AuthService/Revoke", revoke)
    batch = auth_service_pb2.BatchValidateRequest(requests=[question, question])
    verdicts = await caller.call("AuthService/BatchValidate", batch)
    assert [verdict.inactive_reason for verdict in verdicts.responses] == [
        auth_service_pb2.INACTIVE_REASON_TOKEN_REVOKED
    ] * 2
    assert (await caller.check(proxied)).status.code != 0


async def account_rpcs(caller: Caller, name: str) -> None:
    token = (await login(caller, name, PASSWORD)).access_token
    request = account_service_pb2.GetAccountRequest()
    account = (await caller.call("AccountService/GetAccount", request, token)).account
    assert list(account.identifiers) == [name]
    assert account.created_at.ToDatetime().year > 2000
    listed = await caller.call(
        "AccountService/ListSessions", account_service_pb2.ListSessionsRequest(), token
    )
    assert [session.current for session in listed.sessions].count(True) == 1
    change = account_service_pb2.ChangePasswordRequest(
        current_password=PASSWORD, new_password=f"{PASSWORD} any more"
    )
    await caller.call("AccountService/ChangePassword", change, token)
    await login(caller, name, f"{PASSWORD} any more")
    await factor_rpcs(caller, token)


async def factor_rpcs(caller: Caller, token: str) -> None:
    """Enroll an authenticator app of the caller, and remove it."""
    pb = account_service_pb2
    begun = await caller.call(
        "AccountService/BeginTotpEnrollment", pb.BeginTotpEnrollmentRequest(), token
    )
    assert begun.enrollment.uri.startswith("otpauth://totp/")
    confirm = pb.ConfirmTotpEnrollmentRequest(
        enrollment_token=begun.enrollment_token, totp_code=totp(begun.enrollment.secret)
    )
    confirmed = await caller.call("AccountService/ConfirmTotpEnrollment", confirm, token)
    assert len(confirmed.recovery_codes) == 10
    listed = await caller.call("AccountService/ListFactors", pb.ListFactorsRequest(), token)
    assert (list(listed.factors), listed.recovery_codes_left) == ([confirmed.factor], 10)
    # The login was made without the factor.
    refused = [
        ("GenerateRecoveryCodes", pb.GenerateRecoveryCodesRequest()),
        ("DeleteFactor", pb.DeleteFactorRequest(factor_id=confirmed.factor.factor_id)),
    ]
    for method, request in refused:
        with pytest.raises(grpc.RpcError) as caught:
            await caller.call(f"AccountService/{method}", request, token)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def totp(secret: str) -> str:
    """Return the present code of a secret in base32 (RFC 6238, RFC 4226 section 5.3)."""
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    mac = hmac.digest(key, (int(time.time()) // 30).to_bytes(8, "big"), "sha1")
    offset = mac[-1] & 15
    return f"{(int.from_bytes(mac[offset : offset + 4], 'big') & 0x7FFFFFFF) % 1_000_000:06}"


async def admin_rpcs(caller: Caller, user_id: str, admin: str) -> None:
    pb = admin_service_pb2
    client_id = uuid4().hex
    expiring = pb.CreateServiceAccountSecretRequest(client_id=client_id)
    expiring.expires_at.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    requests: dict[str, Any] = {
        "GetUser": pb.GetUserRequest(user_id=user_id),
        "ListUsers": pb.ListUsersRequest(page_size=1),
        "ListAudit": pb.ListAuditRequest(page_size=1),
        "WatchAudit": pb.WatchAuditRequest(),
        "SetUserPassword": pb.SetUserPasswordRequest(user_id=user_id, password=PASSWORD),
        "ResetUserFactors": pb.ResetUserFactorsRequest(user_id=user_id),
        "SetUserDisabled": pb.SetUserDisabledRequest(user_id=user_id, disabled=True),
        "CreateServiceAccount": pb.CreateServiceAccountRequest(client_id=client_id),
        "GetServiceAccount": pb.GetServiceAccountRequest(client_id=client_id),
        "ListServiceAccounts": pb.ListServiceAccountsRequest(page_size=1),
        "UpdateServiceAccount": pb.UpdateServiceAccountRequest(
            service_account=pb.ServiceAccount(client_id=client_id, roles=["staff"])
        ),
        "SetServiceAccountDisabled": pb.SetServiceAccountDisabledRequest(client_id=client_id),
        "CreateServiceAccountSecret": expiring,
        "RevokeServiceAccountTokens": pb.RevokeServiceAccountTokensRequest(client_id=client_id),
        "CreateWorkloadMapping": pb.CreateWorkloadMappingRequest(
            mapping=pb.WorkloadMapping(issuer="i", subject=client_id, client_id=client_id)
        ),
        "ListWorkloadMappings": pb.ListWorkloadMappingsRequest(page_size=1),
        "DeleteWorkloadMapping": pb.DeleteWorkloadMappingRequest(issuer="i", subject=client_id),
        "ListServiceAccountKeys": pb.ListServiceAccountKeysRequest(client_id=client_id),
        "ListKeys": pb.ListKeysRequest(),
        "RotateKeys": pb.RotateKeysRequest(algorithm="EdDSA"),
        "ImportUsers": pb.ImportUsersRequest(users=[pb.ImportedUser(identifiers=[uuid4().hex])]),
    }
    answers = {
        name: await caller.call(f"AdminService/{name}", request, admin)
        for name, request in requests.items()
    }
    assert answers["GetUser"].user.user_id == user_id
    assert len(answers["ListUsers"].users) == 1
    assert answers["CreateServiceAccount"].client_secret
    assert answers["GetServiceAccount"].service_account.client_id == client_id
    assert list(answers["UpdateServiceAccount"].service_account.roles) == ["staff"]
    made = answers["CreateServiceAccountSecret"].secret
    assert made.expires_at.seconds == expiring.expires_at.seconds
    request = pb.DeleteServiceAccountSecretRequest(client_id=client_id, secret_id=made.secret_id)
    await caller.call("AdminService/DeleteServiceAccountSecret", request, admin)
    add = pb.AddServiceAccountKeyRequest(client_id=client_id, public_key=PUBLIC_KEY)
    kid = (await caller.call("AdminService/AddServiceAccountKey", add, admin)).key.kid
    drop = pb.DeleteServiceAccountKeyRequest(client_id=client_id, kid=kid)
    await caller.call("AdminService/DeleteServiceAccountKey", drop, admin)
    delete = pb.DeleteServiceAccountRequest(client_id=client_id)
    await caller.call("AdminService/DeleteServiceAccount", delete, admin)
    assert answers["RotateKeys"].key.algorithm == "EdDSA"
    assert answers["ImportUsers"].created == 1


async def user_rpcs(caller: Caller, live: Live) -> None:
    """Change what a user may do and how it logs in, end its sessions, and delete it."""
    pb = admin_service_pb2
    name, user_id, admin = await make_user(caller, live)
    session_id = (await login(caller, name, PASSWORD)).session_id
    of_user: Any = {"user_id": user_id}
    requests: dict[str, Any] = {
        "UpdateUser": pb.UpdateUserRequest(user=pb.User(user_id=user_id, roles=["staff"])),
        "AddUserIdentifier": pb.AddUserIdentifierRequest(identifier=f"x-{name}", **of_user),
        "RemoveUserIdentifier": pb.RemoveUserIdentifierRequest(identifier=name, **of_user),
        "SetUserPasswordChangeRequired": pb.SetUserPasswordChangeRequiredRequest(**of_user),
        "ListUserSessions": pb.ListUserSessionsRequest(**of_user),
        "RevokeUserSession": pb.RevokeUserSessionRequest(session_id=session_id, **of_user),
        "RevokeUserSessions": pb.RevokeUserSessionsRequest(**of_user),
        "DeleteUser": pb.DeleteUserRequest(**of_user),
    }
    answers = {
        method: await caller.call(f"AdminService/{method}", request, admin)
        for method, request in requests.items()
    }
    assert list(answers["UpdateUser"].user.roles) == ["staff"]
    assert list(answers["RemoveUserIdentifier"].user.identifiers) == [f"x-{name}"]
    assert [each.session_id for each in answers["ListUserSessions"].sessions] == [session_id]


async def audience_rpcs(caller: Caller, live: Live, admin: str) -> None:
    """Register an audience, exchange a token for it, have the token explained, and tidy up."""
    pb = admin_service_pb2
    name, user_id, _ = await make_user(caller, live)
    audience, received = f"audience-{user_id}", SERVICE_ACCOUNT
    scope = ["read"]
    actor = pb.AudienceActor(client_id=SERVICE_ACCOUNT)
    grant: Any = {"name": audience, "user_id": user_id}
    requests: dict[str, Any] = {
        "CreateAudience": pb.CreateAudienceRequest(name=audience, scope=scope),
        "GetAudience": pb.GetAudienceRequest(name=audience),
        "ListAudiences": pb.ListAudiencesRequest(page_size=1),
        "UpdateAudience": pb.UpdateAudienceRequest(
            audience=pb.Audience(name=audience, scope=scope)
        ),
        "GrantAudience": pb.GrantAudienceRequest(**grant),
        "WithdrawAudience": pb.WithdrawAudienceRequest(**grant),
        "SetAudienceActor": pb.SetAudienceActorRequest(name=audience, actor=actor),
    }
    for method, request in requests.items():
        await caller.call(f"AdminService/{method}", request, admin)
    create = pb.CreateAudienceRequest(name=received, scope=scope, open=True)
    with contextlib.suppress(grpc.RpcError):  # the other kind of channel made it
        await caller.call("AdminService/CreateAudience", create, admin)
    user = auth_service_pb2.PasswordCredentials(identifier=name, password=PASSWORD)
    login_for = auth_service_pb2.LoginRequest(password=user, audience=[received])
    token = (await caller.call("AuthService/Login", login_for)).tokens.access_token
    service = auth_service_pb2.ClientCredentials(
        client_id=SERVICE_ACCOUNT, client_secret=live.service_secret
    )
    login_service = auth_service_pb2.LoginRequest(client=service)
    own = (await caller.call("AuthService/Login", login_service)).tokens.access_token
    exchange = auth_service_pb2.ExchangeRequest(subject_token=token, audience=audience, scope=scope)
    exchange.lifetime.FromSeconds(60)
    made = await caller.call("AuthService/Exchange", exchange, own)
    batch = auth_service_pb2.BatchExchangeRequest(requests=[exchange, exchange])
    results = (await caller.call("AuthService/BatchExchange", batch, own)).results
    assert [result.WhichOneof("result") for result in results] == ["token", "token"]
    explain = pb.ExplainTokenRequest(access_token=made.access_token, audience=audience)
    await caller.call("AdminService/ExplainToken", explain, admin)
    remove = pb.RemoveAudienceActorRequest(name=audience, client_id=SERVICE_ACCOUNT)
    await caller.call("AdminService/RemoveAudienceActor", remove, admin)
    delete = pb.DeleteAudienceRequest(name=audience)
    await caller.call("AdminService/DeleteAudience", delete, admin)


async def test_a_session_authorizes_calls_on_asyncio(caller: Caller, live: Live) -> None:
    """The source refreshes, has the refresh token stored, and its token is in each call."""
    name, _, _ = await make_user(caller, live)
    first, stored = (await login(caller, name, PASSWORD)).refresh_token, list[str]()
    async with open_channel(live.address) as own:
        source = SessionTokens(own, first, on_refresh_token=lambda token, _: stored.append(token))
        async with open_channel(live.address, None, bearer_interceptors(source)) as channel:
            stub = account_service_pb2_grpc.AccountServiceStub(channel)
            request = account_service_pb2.GetAccountRequest()
            answer = await stub.GetAccount(request, timeout=TIMEOUT)
            source.invalidate(await source.access_token())
            await stub.GetAccount(request, timeout=TIMEOUT)
        await source.aclose()
    assert list(answer.account.identifiers) == [name]
    assert len({first, *stored}) == 3


async def test_a_session_authorizes_calls_on_threads(caller: Caller, live: Live) -> None:
    """The same for programs without an event loop."""
    name, _, _ = await make_user(caller, live)
    first = (await login(caller, name, PASSWORD)).refresh_token
    answer, stored = await asyncio.to_thread(_account_on_threads, live.address, first)
    assert list(answer.account.identifiers) == [name]
    assert len({first, *stored}) == 3


def _account_on_threads(address: str, refresh_token: str) -> tuple[Any, list[str]]:
    stored: list[str] = []
    with grpc.insecure_channel(address, RECONNECT) as own:
        source = SyncSessionTokens(
            own, refresh_token, on_refresh_token=lambda token, _: stored.append(token)
        )
        channel = grpc.intercept_channel(own, SyncBearerInterceptor(source))
        stub = account_service_pb2_grpc.AccountServiceStub(channel)
        request = account_service_pb2.GetAccountRequest()
        answer = stub.GetAccount(request, timeout=TIMEOUT)
        source.invalidate(source.access_token())
        stub.GetAccount(request, timeout=TIMEOUT)
    return answer, stored


async def test_a_refusal_is_read(live: Live) -> None:
    """The details of an error (google.rpc) say why a login was refused."""
    async with open_channel(live.address) as channel:
        with pytest.raises(InvalidCredentials):
            await ServiceAccountTokens(channel, SERVICE_ACCOUNT, "wrong").access_token()
    async with open_sync_channel(live.address) as sync_channel:
        sync = SyncServiceAccountTokens(sync_channel, SERVICE_ACCOUNT, "wrong")
        with pytest.raises(InvalidCredentials):
            await asyncio.to_thread(sync.access_token)


async def test_a_verifier_hears_of_a_revocation(caller: Caller, live: Live) -> None:
    """Keys and revocations arrive by the stream, on asyncio and on threads."""
    name, _, _ = await make_user(caller, live)
    tokens = await login(caller, name, PASSWORD)
    async with open_channel(live.address) as channel, open_sync_channel(live.address) as sync:
        source = ServiceAccountTokens(channel, SERVICE_ACCOUNT, live.service_secret)
        threads = SyncServiceAccountTokens(sync, SERVICE_ACCOUNT, live.service_secret)
        async with LocalVerifier(
            issuer=ISSUER, addresses=[live.address], access_token=source.access_token
        ) as verifier:
            other = SyncLocalVerifier(
                issuer=ISSUER, addresses=[live.address], access_token=threads.access_token
            )
            with ExitStack() as stack:
                await asyncio.to_thread(stack.enter_context, other)
                assert verifier.verify(tokens.access_token) == other.verify(tokens.access_token)
                revoke = auth_service_pb2.RevokeRequest(refresh_token=tokens.refresh_token)
                await caller.call("AuthService/Revoke", revoke)
                async with asyncio.timeout(TIMEOUT):
                    while _accepts(verifier, tokens) or _accepts(other, tokens):
                        await asyncio.sleep(0.01)


def _accepts(
    verifier: LocalVerifier | SyncLocalVerifier, tokens: auth_service_pb2.TokenPair
) -> bool:
    try:
        verifier.verify(tokens.access_token)
    except InvalidToken:
        return False
    return True
