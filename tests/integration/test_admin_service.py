"""AdminService over the wire: users, service accounts and keys, for callers with the admin role."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self
from uuid import uuid4

import grpc
import jwt
import pytest
import structlog
from authn.v1 import admin_service_pb2 as pb
from authn.v1 import auth_service_pb2
from authn.v1 import verifier_service_pb2 as verifier_pb
from authn.v1.admin_service_pb2_grpc import AdminServiceStub
from authn.v1.verifier_service_pb2_grpc import VerifierServiceStub
from structlog.testing import capture_logs

from auth_service.client import InvalidToken, LocalVerifier
from auth_service.errors import InactiveReason
from auth_service.models import User
from auth_service.serving.server import Server
from tests.acceptance.servers import PASSWORD, USER, Client, eventually, make_user
from tests.foreign_hashes import BCRYPT, SENTENCE
from tests.integration.serving import (
    SHARED_KEY,
    address,
    make_settings,
    query,
    refusal,
    running,
)

ROOT = "root@example.com"
NEW_PASSWORD = "an even better battery staple"
TIMEOUT = 30.0  # seconds, which no passing test takes
NOBODY = str(uuid4())
PUBLIC_KEY = (  # of RFC 8037, appendix A.2
    '{"kty": "OKP", "crv": "Ed25519", "kid": "1",'
    ' "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}'
)
METHODS = [m.name for m in pb.DESCRIPTOR.services_by_name["AdminService"].methods]
REQUESTS: dict[str, Any] = {
    "CreateUser": pb.CreateUserRequest(identifiers=["new@example.com"], password=PASSWORD),
    "GetUser": pb.GetUserRequest(user_id=NOBODY),
    "ListUsers": pb.ListUsersRequest(),
    "SetUserDisabled": pb.SetUserDisabledRequest(user_id=NOBODY, disabled=True),
    "SetUserPassword": pb.SetUserPasswordRequest(user_id=NOBODY, password=NEW_PASSWORD),
    "CreateServiceAccount": pb.CreateServiceAccountRequest(client_id="billing"),
    "GetServiceAccount": pb.GetServiceAccountRequest(client_id="billing"),
    "ListServiceAccounts": pb.ListServiceAccountsRequest(),
    "UpdateServiceAccount": pb.UpdateServiceAccountRequest(
        service_account=pb.ServiceAccount(client_id="billing", roles=["staff"])
    ),
    "SetServiceAccountDisabled": pb.SetServiceAccountDisabledRequest(
        client_id="billing", disabled=True
    ),
    "DeleteServiceAccount": pb.DeleteServiceAccountRequest(client_id="billing"),
    "CreateServiceAccountSecret": pb.CreateServiceAccountSecretRequest(client_id="billing"),
    "DeleteServiceAccountSecret": pb.DeleteServiceAccountSecretRequest(
        client_id="billing", secret_id=NOBODY
    ),
    "RevokeServiceAccountTokens": pb.RevokeServiceAccountTokensRequest(client_id="billing"),
    "AddServiceAccountKey": pb.AddServiceAccountKeyRequest(
        client_id="billing", public_key=PUBLIC_KEY
    ),
    "ListServiceAccountKeys": pb.ListServiceAccountKeysRequest(client_id="billing"),
    "DeleteServiceAccountKey": pb.DeleteServiceAccountKeyRequest(client_id="billing", kid="1"),
    "CreateWorkloadMapping": pb.CreateWorkloadMappingRequest(
        mapping=pb.WorkloadMapping(issuer="a", subject="b", client_id="billing")
    ),
    "ListWorkloadMappings": pb.ListWorkloadMappingsRequest(),
    "DeleteWorkloadMapping": pb.DeleteWorkloadMappingRequest(issuer="a", subject="b"),
    "ListKeys": pb.ListKeysRequest(),
    "RotateKeys": pb.RotateKeysRequest(algorithm="EdDSA"),
    "CreateAudience": pb.CreateAudienceRequest(name="ledger"),
    "GetAudience": pb.GetAudienceRequest(name="internal"),
    "ListAudiences": pb.ListAudiencesRequest(),
    "UpdateAudience": pb.UpdateAudienceRequest(
        audience=pb.Audience(name="internal", scope=["read"])
    ),
    "DeleteAudience": pb.DeleteAudienceRequest(name="internal"),
    "GrantAudience": pb.GrantAudienceRequest(name="internal", user_id=NOBODY),
    "WithdrawAudience": pb.WithdrawAudienceRequest(name="internal", user_id=NOBODY),
    "SetAudienceActor": pb.SetAudienceActorRequest(
        name="internal", actor=pb.AudienceActor(client_id="billing")
    ),
    "RemoveAudienceActor": pb.RemoveAudienceActorRequest(name="internal", client_id="billing"),
    "ExplainToken": pb.ExplainTokenRequest(access_token="a.b.c"),
    "ResetUserFactors": pb.ResetUserFactorsRequest(user_id=NOBODY),
    "ImportUsers": pb.ImportUsersRequest(
        users=[pb.ImportedUser(identifiers=["moved-in"], password_hash=BCRYPT)]
    ),
    "ListAudit": pb.ListAuditRequest(),
    "WatchAudit": pb.WatchAuditRequest(),
    "UpdateUser": pb.UpdateUserRequest(user=pb.User(user_id=NOBODY, roles=["staff"])),
    "DeleteUser": pb.DeleteUserRequest(user_id=NOBODY),
    "AddUserIdentifier": pb.AddUserIdentifierRequest(user_id=NOBODY, identifier="new"),
    "RemoveUserIdentifier": pb.RemoveUserIdentifierRequest(user_id=NOBODY, identifier="new"),
    "SetUserPasswordChangeRequired": pb.SetUserPasswordChangeRequiredRequest(
        user_id=NOBODY, required=True
    ),
    "ListUserSessions": pb.ListUserSessionsRequest(user_id=NOBODY),
    "RevokeUserSession": pb.RevokeUserSessionRequest(user_id=NOBODY, session_id=NOBODY),
    "RevokeUserSessions": pb.RevokeUserSessionsRequest(user_id=NOBODY),
}
# All but the audit log: its rows of refused calls follow a moment later (test_audit_rows.py).
ROWS = """
    SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM service_accounts)
        + (SELECT count(*) FROM signing_keys) + (SELECT count(*) FROM revocations)
        + (SELECT count(*) FROM service_account_secrets)
        + (SELECT count(*) FROM workload_mappings) + (SELECT count(*) FROM client_keys)
        + (SELECT count(*) FROM audiences) + (SELECT count(*) FROM audience_actors)
"""


class Admin:
    """The calls of AdminService, with a token or without."""

    def __init__(self, server: Server, token: str = "") -> None:
        self.client = Client(address(server))
        self.stub = AdminServiceStub(self.client.channel)
        self.token = token

    async def ready(self) -> Self:
        """Return once the channel is connected."""
        await self.client.ready()
        return self

    def call(self, method: str, request: Any = None) -> Any:
        """Call a method; of a stream the first response is awaited."""
        metadata = (("authorization", f"Bearer {self.token}"),) if self.token else ()
        stub, given = getattr(self.stub, method), request or REQUESTS[method]
        streams = isinstance(stub, grpc.aio.StreamUnaryMultiCallable)
        call = stub([given] if streams else given, metadata=metadata, timeout=TIMEOUT)
        return anext(aiter(call)) if hasattr(call, "__aiter__") else call

    async def login(
        self, identifier: str = USER, password: str = PASSWORD
    ) -> auth_service_pb2.TokenPair:
        """Begin a session of a user's."""
        credentials = auth_service_pb2.PasswordCredentials(identifier=identifier, password=password)
        request = auth_service_pb2.LoginRequest(password=credentials)
        reply: auth_service_pb2.LoginResponse = await self.client.auth.Login(request)
        return reply.tokens

    async def service_login(self, client_id: str, secret: str) -> auth_service_pb2.TokenPair:
        """Return the token of a service account."""
        credentials = auth_service_pb2.ClientCredentials(client_id=client_id, client_secret=secret)
        request = auth_service_pb2.LoginRequest(client=credentials)
        reply: auth_service_pb2.LoginResponse = await self.client.auth.Login(request)
        return reply.tokens

    async def active(self, token: str) -> bool:
        """Tell whether an access token is active."""
        return (await self.client.validate(token)).active

    async def create_service(self, client_id: str, **fields: Any) -> str:
        """Make a service account and return its secret."""
        request = pb.CreateServiceAccountRequest(client_id=client_id, **fields)
        reply: pb.CreateServiceAccountResponse = await self.call("CreateServiceAccount", request)
        return reply.client_secret


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Reset the logs, which a server sets up for its process."""
    yield
    structlog.reset_defaults()


@pytest.fixture
async def root(database_url: str) -> User:
    """A user who is an admin."""
    return await make_user(database_url, ROOT, roles=("admin",))


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Server]:
    """A server that serves, with a shared key of its settings."""
    async with running(make_settings(database_url)) as server:
        yield server


@pytest.fixture
async def admin(server: Server, root: User) -> AsyncIterator[Admin]:
    """The calls to the server, by an admin."""
    admin = await Admin(server).ready()
    admin.token = (await admin.login(ROOT)).access_token
    yield admin
    await admin.client.channel.close()


@pytest.fixture
async def ada(database_url: str) -> User:
    """A user without the admin role."""
    return await make_user(database_url, roles=("staff", "verifier"))


# Who calls


def test_every_method_is_tried() -> None:
    """A method that is added later must be added here."""
    assert list(REQUESTS) == METHODS


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_needs_the_token_of_an_admin(
    database_url: str, admin: Admin, ada: User, method: str
) -> None:
    """Without one, with a revoked one, or without the role, nothing is returned or done."""
    secret = await admin.create_service("orders", roles=["verifier"])
    ended = await admin.login(ROOT)
    revoke = auth_service_pb2.RevokeRequest(refresh_token=ended.refresh_token)
    await admin.client.auth.Revoke(revoke)
    users, service = await admin.login(), await admin.service_login("orders", secret)
    before = await query(database_url, ROWS)
    for bad in ("", "nonsense", users.refresh_token, ended.access_token):
        admin.token = bad
        seen = await refusal(admin.call(method))
        assert (seen.code, seen.reason) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_TOKEN")
    for other in (users.access_token, service.access_token):
        admin.token = other
        seen = await refusal(admin.call(method))
        assert (seen.code, seen.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
        assert "role admin" in str(seen.text)
    assert await query(database_url, ROWS) == before


async def test_a_service_account_may_be_an_admin(admin: Admin) -> None:
    """Machines set up users too."""
    secret = await admin.create_service("operator", roles=["admin"])
    admin.token = (await admin.service_login("operator", secret)).access_token
    for method in ("CreateUser", "ListUsers", "RotateKeys"):
        assert (await admin.call(method)).ByteSize()


# Users


async def test_users_of_another_system_come_in_a_stream_and_log_in(admin: Admin) -> None:
    """Positions count over all messages, and of many refusals the first thousand are named."""
    user = pb.ImportedUser(
        identifiers=["Moved@Example.com"], password_hash=BCRYPT, user_id=NOBODY, roles=["staff"]
    )
    user.created_at.FromSeconds(1_700_000_000)
    wrong = [pb.ImportedUser(identifiers=["wrong"], password_hash="md5")] * 999
    batches = [
        pb.ImportUsersRequest(users=[user, user, *wrong[:2]], dry_run=True),
        pb.ImportUsersRequest(users=[*wrong, user]),
        pb.ImportUsersRequest(users=[user]),
    ]
    metadata = (("authorization", f"Bearer {admin.token}"),)
    done = await admin.stub.ImportUsers(batches, metadata=metadata, timeout=TIMEOUT)
    assert (done.created, done.existing, done.refused) == (2, 2, 1001)
    assert [each.position for each in done.refusals] == [2, 3, *range(4, 1002)]
    assert {each.field for each in done.refusals} == {"password_hash"}
    made = (await admin.call("GetUser", pb.GetUserRequest(user_id=NOBODY))).user
    assert (made.created_at.seconds, list(made.roles)) == (1_700_000_000, ["staff"])
    assert (await admin.login("moved@example.com", SENTENCE)).access_token


async def test_a_message_with_too_many_users_makes_none(admin: Admin, database_url: str) -> None:
    """A batch is one transaction, and must not be a long one."""
    users = [pb.ImportedUser(identifiers=[f"user{n}"]) for n in range(1001)]
    before = await query(database_url, "SELECT count(*) FROM users")
    seen = await refusal(admin.call("ImportUsers", pb.ImportUsersRequest(users=users)))
    assert (seen.code, seen.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["users"])
    assert await query(database_url, "SELECT count(*) FROM users") == before


async def test_a_user_that_was_created_logs_in(admin: Admin) -> None:
    """With every identifier, its roles and its scopes."""
    request = pb.CreateUserRequest(
        identifiers=["Bob@Example.com", "bob"], password=PASSWORD, roles=["staff"], scope=["read"]
    )
    made = (await admin.call("CreateUser", request)).user
    assert list(made.identifiers) == ["bob@example.com", "bob"]
    assert (list(made.roles), list(made.scope), made.disabled) == (["staff"], ["read"], False)
    assert (await admin.call("GetUser", pb.GetUserRequest(user_id=made.user_id))).user == made
    for identifier in ("bob", "BOB@example.com"):
        claims = (await admin.client.validate((await admin.login(identifier)).access_token)).claims
        assert claims.subject == made.user_id
        assert (list(claims.roles), list(claims.scope)) == (["staff"], ["read"])


async def test_a_password_that_must_be_changed_is_changed_by_the_login(admin: Admin) -> None:
    """Only who knows it learns that, and gets a session with the new one."""
    created = pb.CreateUserRequest(
        identifiers=["bob"], password=PASSWORD, password_change_required=True
    )
    assert (await admin.call("CreateUser", created)).user.password_change_required
    seen = await refusal(admin.login("bob", NEW_PASSWORD))
    assert seen.reason == "INVALID_CREDENTIALS"
    seen = await refusal(admin.login("bob"))
    assert (seen.code, seen.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "PASSWORD_CHANGE_REQUIRED",
    )
    credentials = auth_service_pb2.PasswordCredentials(
        identifier="bob", password=PASSWORD, new_password=NEW_PASSWORD
    )
    request = auth_service_pb2.LoginRequest(password=credentials)
    tokens = (await admin.client.auth.Login(request)).tokens
    assert await admin.active(tokens.access_token)
    assert await admin.active((await admin.login("bob", NEW_PASSWORD)).access_token)


async def test_an_identifier_is_taken_once(database_url: str, admin: Admin, ada: User) -> None:
    """The second user is refused whole."""
    request = pb.CreateUserRequest(identifiers=["new@example.com", USER], password=PASSWORD)
    seen = await refusal(admin.call("CreateUser", request))
    assert (seen.code, seen.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
    assert await query(database_url, "SELECT count(*) FROM users") == 2


@pytest.mark.parametrize(
    ("method", "fields", "field"),
    [
        ("CreateUser", {"identifiers": []}, "identifiers"),
        ("CreateUser", {"identifiers": ["a"] * 65}, "identifiers"),
        ("CreateUser", {"identifiers": ["ok", "a\0"]}, "identifiers[1]"),
        ("CreateUser", {"password": ""}, "password"),
        ("CreateUser", {"password": "short"}, "password"),
        ("CreateUser", {"roles": [""]}, "roles[0]"),
        ("CreateUser", {"scope": ["a b"]}, "scope[0]"),
        ("GetUser", {"user_id": ""}, "user_id"),
        ("GetUser", {"user_id": USER}, "user_id"),
        ("ListUsers", {"page_size": -1}, "page_size"),
        ("ListUsers", {"page_token": "AA"}, "page_token"),
        ("ListUsers", {"page_token": NOBODY}, "page_token"),
        ("ListUsers", {"page_token": "é\0"}, "page_token"),
        ("CreateUser", {"request_id": "short"}, "request_id"),
        ("ListUsers", {"identifier_prefix": "a\0"}, "identifier_prefix"),
        ("ListUsers", {"role": "a\0"}, "role"),
        ("ListUsers", {"state": 9}, "state"),
        ("UpdateUser", {"user": {"roles": ["x"]}}, "user.user_id"),
        ("UpdateUser", {"user": {"user_id": NOBODY}}, "update_mask"),
        ("UpdateUser", {"update_mask": {"paths": ["identifiers"]}}, "update_mask"),
        ("UpdateUser", {"user": {"user_id": NOBODY, "roles": [""]}}, "user.roles[0]"),
        ("UpdateUser", {"user": {"user_id": NOBODY, "scope": ["a b"]}}, "user.scope[0]"),
        ("UpdateUser", {"issued_tokens": 9}, "issued_tokens"),
        ("DeleteUser", {"user_id": "1"}, "user_id"),
        ("AddUserIdentifier", {"identifier": ""}, "identifier"),
        ("AddUserIdentifier", {"user_id": "1"}, "user_id"),
        ("RemoveUserIdentifier", {"identifier": "a\0"}, "identifier"),
        ("SetUserPasswordChangeRequired", {"user_id": "1"}, "user_id"),
        ("ListUserSessions", {"page_token": "AA"}, "page_token"),
        ("RevokeUserSession", {"session_id": "1"}, "session_id"),
        ("RevokeUserSessions", {"begun_before": {"seconds": 2**40}}, "begun_before"),
        ("RevokeUserSessions", {"begun_before": {"seconds": 2**33}}, "begun_before"),
        ("SetUserDisabled", {"user_id": "1"}, "user_id"),
        ("SetUserPassword", {"user_id": "1"}, "user_id"),
        ("SetUserPassword", {"password": "short"}, "password"),
        ("CreateServiceAccount", {"client_id": ""}, "client_id"),
        ("CreateServiceAccount", {"client_id": "a\0"}, "client_id"),
        ("CreateServiceAccount", {"roles": ["\0"]}, "roles[0]"),
        ("CreateServiceAccount", {"scope": ["é"]}, "scope[0]"),
        ("GetServiceAccount", {"client_id": ""}, "client_id"),
        ("ListServiceAccounts", {"page_size": -1}, "page_size"),
        ("ListServiceAccounts", {"page_token": "AA"}, "page_token"),
        ("ListServiceAccounts", {"page_token": "_w"}, "page_token"),
        ("ListServiceAccounts", {"page_token": "é\0"}, "page_token"),
        ("UpdateServiceAccount", {"service_account": {}}, "service_account.client_id"),
        ("UpdateServiceAccount", {"service_account": {"client_id": "x"}}, "update_mask"),
        ("UpdateServiceAccount", {"update_mask": {"paths": ["disabled"]}}, "update_mask"),
        ("UpdateServiceAccount", {"update_mask": {"paths": ["roles", "*"]}}, "update_mask"),
        (
            "UpdateServiceAccount",
            {"service_account": {"client_id": "x", "roles": [""]}},
            "service_account.roles[0]",
        ),
        (
            "UpdateServiceAccount",
            {"service_account": {"client_id": "x", "scope": ["a b"]}},
            "service_account.scope[0]",
        ),
        ("SetServiceAccountDisabled", {"client_id": "a\0"}, "client_id"),
        ("DeleteServiceAccount", {"client_id": ""}, "client_id"),
        ("CreateServiceAccountSecret", {"client_id": ""}, "client_id"),
        ("CreateServiceAccountSecret", {"expires_at": {"seconds": 2**62}}, "expires_at"),
        ("CreateServiceAccountSecret", {"expires_at": {"nanos": -1}}, "expires_at"),
        ("DeleteServiceAccountSecret", {"client_id": ""}, "client_id"),
        ("DeleteServiceAccountSecret", {"secret_id": "1"}, "secret_id"),
        ("RevokeServiceAccountTokens", {"client_id": ""}, "client_id"),
        ("RotateKeys", {"algorithm": "none"}, "algorithm"),
        ("RotateKeys", {"algorithm": "hs256"}, "algorithm"),
        ("CreateAudience", {"name": ""}, "name"),
        ("CreateAudience", {"name": "a b"}, "name"),
        ("CreateAudience", {"name": "a\0"}, "name"),
        ("CreateAudience", {"scope": ["a b"]}, "scope[0]"),
        ("CreateAudience", {"scope": ["*", "read"]}, "scope"),
        ("GetAudience", {"name": ""}, "name"),
        ("ListAudiences", {"page_size": -1}, "page_size"),
        ("ListAudiences", {"page_token": "_w"}, "page_token"),
        ("UpdateAudience", {"audience": {}}, "audience.name"),
        ("UpdateAudience", {"audience": {"name": "internal"}}, "update_mask"),
        ("UpdateAudience", {"update_mask": {"paths": ["name"]}}, "update_mask"),
        ("UpdateAudience", {"audience": {"name": "x", "scope": ["a b"]}}, "audience.scope[0]"),
        ("DeleteAudience", {"name": ""}, "name"),
        ("GrantAudience", {"name": ""}, "name"),
        ("GrantAudience", {"user_id": "1"}, "user_id"),
        ("GrantAudience", {"client_id": "a\0"}, "client_id"),
        ("WithdrawAudience", {"user_id": "1"}, "user_id"),
        ("SetAudienceActor", {"actor": {}}, "actor.client_id"),
        (
            "SetAudienceActor",
            {"actor": {"client_id": "x", "subject_roles": [""]}},
            "actor.subject_roles[0]",
        ),
        ("RemoveAudienceActor", {"client_id": ""}, "client_id"),
        ("ExplainToken", {"access_token": ""}, "access_token"),
        ("ListAudit", {"page_token": "abc"}, "page_token"),
        ("ListAudit", {"page_size": -1}, "page_size"),
        ("ListAudit", {"filter": pb.AuditFilter(event="A'")}, "filter.event"),
        ("ListAudit", {"filter": pb.AuditFilter(user_id="ada")}, "filter.user_id"),
        ("ListAudit", {"filter": pb.AuditFilter(actor="a\0")}, "filter.actor"),
        ("WatchAudit", {"cursor": "abc"}, "cursor"),
        ("WatchAudit", {"filter": pb.AuditFilter(end_time={"seconds": 1})}, "filter.end_time"),
        ("ExplainToken", {"audience": "a\0"}, "audience"),
        ("ExplainToken", {"required_scope": ["a b"]}, "required_scope[0]"),
        ("ExplainToken", {"required_roles": [""]}, "required_roles[0]"),
    ],
)
async def test_a_bad_field_is_named(
    database_url: str, admin: Admin, method: str, fields: dict[str, Any], field: str
) -> None:
    """And nothing is done."""
    before = await query(database_url, ROWS)
    request = type(REQUESTS[method])()
    request.CopyFrom(REQUESTS[method])
    for name, value in fields.items():
        request.ClearField(name)
        request.MergeFrom(type(request)(**{name: value}))
    seen = await refusal(admin.call(method, request))
    assert seen.code is grpc.StatusCode.INVALID_ARGUMENT
    assert seen.fields == [field]
    assert await query(database_url, ROWS) == before


@pytest.mark.parametrize(
    "method",
    [
        *("GetUser", "SetUserDisabled", "SetUserPassword", "UpdateUser", "DeleteUser"),
        *("AddUserIdentifier", "RemoveUserIdentifier", "SetUserPasswordChangeRequired"),
        *("ListUserSessions", "RevokeUserSession", "RevokeUserSessions"),
    ],
)
async def test_an_unknown_user_is_not_found(database_url: str, admin: Admin, method: str) -> None:
    """And nothing is revoked."""
    seen = await refusal(admin.call(method))
    assert (seen.code, seen.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert await query(database_url, "SELECT count(*) FROM revocations") == 0


async def test_a_disabled_user_has_nothing_until_enabled(admin: Admin, ada: User) -> None:
    """Tokens and sessions end; once the user is enabled again, a new login succeeds."""
    pair = await admin.login()
    for _ in range(2):  # twice is no mistake
        request = pb.SetUserDisabledRequest(user_id=str(ada.id), disabled=True)
        await admin.call("SetUserDisabled", request)
    assert not await admin.active(pair.access_token)
    assert (await refusal(admin.client.refresh(pair.refresh_token))).reason == "INVALID_GRANT"
    assert (await refusal(admin.login())).reason == "INVALID_CREDENTIALS"
    shown = (await admin.call("GetUser", pb.GetUserRequest(user_id=str(ada.id)))).user
    assert shown.disabled
    await admin.call("SetUserDisabled", pb.SetUserDisabledRequest(user_id=str(ada.id)))
    assert await admin.active((await admin.login()).access_token)
    assert not await admin.active(pair.access_token)


async def test_a_new_password_ends_what_the_old_one_opened(admin: Admin, ada: User) -> None:
    """Every session of the user's ends, and the old password is void."""
    pair = await admin.login()
    request = pb.SetUserPasswordRequest(user_id=str(ada.id), password=NEW_PASSWORD)
    await admin.call("SetUserPassword", request)
    assert not await admin.active(pair.access_token)
    assert (await refusal(admin.client.refresh(pair.refresh_token))).reason == "INVALID_GRANT"
    assert (await refusal(admin.login())).reason == "INVALID_CREDENTIALS"
    assert await admin.active((await admin.login(password=NEW_PASSWORD)).access_token)


async def pages(admin: Admin, size: int) -> list[list[str]]:
    """Return the ids of all users, by the page."""
    found, token = [], ""
    while True:
        reply = await admin.call("ListUsers", pb.ListUsersRequest(page_size=size, page_token=token))
        found.append([user.user_id for user in reply.users])
        token = reply.next_page_token
        if not token:
            return found


async def add_users(database_url: str, count: int) -> None:
    """Add users who cannot log in."""
    await query(
        database_url,
        f"""
        INSERT INTO users (id, password_hash, roles, scope, disabled, created_at)
        SELECT gen_random_uuid(), '', '{{}}', '{{}}', false, now()
        FROM generate_series(1, {count})
        """,  # noqa: S608 - a number
    )


@pytest.mark.parametrize(("size", "lengths"), [(2, [2, 2, 1]), (4, [4, 1]), (5, [5]), (6, [5])])
async def test_users_are_listed_in_pages(
    database_url: str, admin: Admin, size: int, lengths: list[int]
) -> None:
    """Each user once, and no page after the last."""
    await add_users(database_url, 4)
    found = await pages(admin, size)
    assert [len(page) for page in found] == lengths
    assert len({user for page in found for user in page}) == 5


async def test_a_page_has_a_usual_and_a_largest_size(database_url: str, admin: Admin) -> None:
    """Without a size 100 users, and never more than 1,000."""
    await add_users(database_url, 1003)
    assert len((await admin.call("ListUsers")).users) == 100
    assert [len(page) for page in await pages(admin, 2**31 - 1)] == [1000, 4]


# Service accounts


async def test_a_service_account_logs_in_with_its_secret(database_url: str, admin: Admin) -> None:
    """It is returned once, and only its hash is stored."""
    request = pb.CreateServiceAccountRequest(client_id="Billing", roles=["verifier"], scope=["a"])
    made = await admin.call("CreateServiceAccount", request)
    assert made.client_id == "billing"
    tokens = await admin.service_login(made.client_id, made.client_secret)
    claims = (await admin.client.validate(tokens.access_token)).claims
    assert (claims.subject, list(claims.roles), list(claims.scope)) == (
        "billing",
        ["verifier"],
        ["a"],
    )
    kept = await query(database_url, "SELECT service_accounts::text FROM service_accounts")
    assert made.client_secret not in kept
    seen = await refusal(admin.call("CreateServiceAccount", request))
    assert (seen.code, seen.reason) == (grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
    assert (await admin.service_login("billing", made.client_secret)).access_token


BILLING = "billing"
OF_AN_ACCOUNT = [
    "GetServiceAccount",
    "UpdateServiceAccount",
    "SetServiceAccountDisabled",
    "DeleteServiceAccount",
    "CreateServiceAccountSecret",
    "DeleteServiceAccountSecret",
    "RevokeServiceAccountTokens",
]


async def shown(admin: Admin) -> pb.ServiceAccount:
    """Return the account `billing`."""
    reply: pb.GetServiceAccountResponse = await admin.call("GetServiceAccount")
    return reply.service_account


@pytest.mark.parametrize("method", OF_AN_ACCOUNT)
async def test_an_unknown_service_account_is_not_found(
    database_url: str, admin: Admin, method: str
) -> None:
    """And nothing is done."""
    before = await query(database_url, ROWS)
    seen = await refusal(admin.call(method))
    assert (seen.code, seen.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")
    assert await query(database_url, ROWS) == before


async def test_an_unknown_secret_is_not_found(admin: Admin) -> None:
    """Also of a known account."""
    await admin.create_service(BILLING)
    seen = await refusal(admin.call("DeleteServiceAccountSecret"))
    assert (seen.code, seen.reason) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


async def test_a_secret_is_rotated_by_calls(admin: Admin) -> None:
    """Create the next, use it, see it used, delete the one before."""
    old = await admin.create_service(BILLING, roles=["verifier"], scope=["read"])
    (first,) = (await shown(admin)).secrets
    assert not first.HasField("expires_at")
    request = pb.CreateServiceAccountSecretRequest(client_id=BILLING)
    request.expires_at.seconds = first.created_at.seconds + 86_400
    made = await admin.call("CreateServiceAccountSecret", request)
    assert made.secret.expires_at == request.expires_at
    for secret in (old, made.client_secret):
        assert await admin.active((await admin.service_login(BILLING, secret)).access_token)

    async def both_used() -> bool:
        return all(each.HasField("last_used_at") for each in (await shown(admin)).secrets)

    await eventually(both_used, what="the uses of both secrets to be written")
    account = await shown(admin)
    assert [each.secret_id for each in account.secrets] == [
        first.secret_id,
        made.secret.secret_id,
    ]
    assert (list(account.roles), list(account.scope)) == (["verifier"], ["read"])
    assert made.client_secret not in str(account)

    seen = await refusal(admin.call("CreateServiceAccountSecret"))
    assert (seen.code, seen.reason) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "TOO_MANY_SECRETS",
    )
    assert first.secret_id in str(seen.text)
    delete = pb.DeleteServiceAccountSecretRequest(client_id=BILLING, secret_id=first.secret_id)
    await admin.call("DeleteServiceAccountSecret", delete)
    assert (await refusal(admin.service_login(BILLING, old))).reason == "INVALID_CREDENTIALS"
    assert (await admin.service_login(BILLING, made.client_secret)).access_token


async def test_a_secret_that_would_have_expired_is_refused(admin: Admin) -> None:
    """The field is named."""
    await admin.create_service(BILLING)
    request = pb.CreateServiceAccountSecretRequest(client_id=BILLING)
    request.expires_at.seconds = 1
    seen = await refusal(admin.call("CreateServiceAccountSecret", request))
    assert (seen.code, seen.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["expires_at"])


@pytest.mark.parametrize(
    ("mask", "roles", "scope"),
    [
        ([], ["new"], ["read"]),
        (["roles"], ["new"], ["read"]),
        (["scope"], ["old"], []),
        (["scope", "roles", "roles"], ["new"], []),
        (["*"], ["new"], []),
    ],
)
async def test_an_update_replaces_the_fields_of_its_mask(
    admin: Admin, mask: list[str], roles: list[str], scope: list[str]
) -> None:
    """An empty mask stands for the fields that are given (AIP-134)."""
    await admin.create_service(BILLING, roles=["old"], scope=["read"])
    given = pb.ServiceAccount(client_id="Billing", roles=["new"], disabled=True)
    request = pb.UpdateServiceAccountRequest(service_account=given)
    request.update_mask.paths.extend(mask)
    updated = (await admin.call("UpdateServiceAccount", request)).service_account
    assert (list(updated.roles), list(updated.scope)) == (roles, scope)
    assert not updated.disabled
    assert await shown(admin) == updated


async def test_a_disabled_service_account_has_nothing_until_enabled(admin: Admin) -> None:
    """Its tokens end; once it is enabled, the same secret opens it."""
    secret = await admin.create_service(BILLING)
    token = (await admin.service_login(BILLING, secret)).access_token
    await admin.call("SetServiceAccountDisabled")
    assert not await admin.active(token)
    assert (await shown(admin)).disabled
    seen = await refusal(admin.service_login(BILLING, secret))
    assert seen.reason == "INVALID_CREDENTIALS"
    enable = pb.SetServiceAccountDisabledRequest(client_id=BILLING)
    await admin.call("SetServiceAccountDisabled", enable)
    assert await admin.active((await admin.service_login(BILLING, secret)).access_token)
    assert not await admin.active(token)


@pytest.mark.parametrize(
    "method", ["SetServiceAccountDisabled", "DeleteServiceAccount", "RevokeServiceAccountTokens"]
)
async def test_the_tokens_of_a_service_account_end_at_every_verifier(
    database_url: str, root: User, method: str
) -> None:
    """At another replica, and in a service that verifies tokens itself."""
    settings = make_settings(database_url)
    async with running(settings) as first, running(settings) as second:
        one, other = await Admin(first).ready(), await Admin(second).ready()
        one.token = (await one.login(ROOT)).access_token
        secret = await one.create_service(BILLING)
        token = (await one.service_login(BILLING, secret)).access_token
        gate = await one.service_login("gate", await one.create_service("gate", roles=["verifier"]))
        verifier = LocalVerifier(
            issuer=settings.issuer,
            addresses=[address(second)],
            access_token=lambda: gate.access_token,
        )
        async with verifier:
            assert verifier.verify(token, audience="internal").subject == BILLING
            assert await other.active(token)
            await one.call(method)
            assert not await one.active(token)

            async def ended() -> bool:
                with contextlib.suppress(InvalidToken):
                    verifier.verify(token, audience="internal")
                    return False
                return not await other.active(token)

            await eventually(ended, what="the token to end at the verifiers")
            with pytest.raises(InvalidToken) as refused:
                verifier.verify(token, audience="internal")
            assert refused.value.inactive_reason is InactiveReason.USER_REVOKED
        for admin in (one, other):
            await admin.client.channel.close()


@pytest.mark.parametrize("method", ["UpdateUser", "DeleteUser", "RevokeUserSessions"])
async def test_the_tokens_of_a_user_end_at_every_verifier(
    database_url: str, root: User, ada: User, method: str
) -> None:
    """At another replica, and in a service that verifies tokens itself."""
    ada_id = str(ada.id)
    requests: dict[str, Any] = {
        "UpdateUser": pb.UpdateUserRequest(user=pb.User(user_id=ada_id, roles=["clerk"])),
        "DeleteUser": pb.DeleteUserRequest(user_id=ada_id),
        "RevokeUserSessions": pb.RevokeUserSessionsRequest(user_id=ada_id),
    }
    settings = make_settings(database_url)
    async with running(settings) as first, running(settings) as second:
        one, other = await Admin(first).ready(), await Admin(second).ready()
        one.token = (await one.login(ROOT)).access_token
        pair = await one.login()
        gate = await one.service_login("gate", await one.create_service("gate", roles=["verifier"]))
        requests["RevokeUserSessions"].begun_before.GetCurrentTime()
        verifier = LocalVerifier(
            issuer=settings.issuer,
            addresses=[address(second)],
            access_token=lambda: gate.access_token,
        )
        async with verifier:
            assert "staff" in verifier.verify(pair.access_token, audience="internal").roles
            assert await other.active(pair.access_token)
            await one.call(method, requests[method])
            assert not await one.active(pair.access_token)

            async def ended() -> bool:
                with contextlib.suppress(InvalidToken):
                    verifier.verify(pair.access_token, audience="internal")
                    return False
                return not await other.active(pair.access_token)

            await eventually(ended, what="the token to end at the verifiers")
            refresh = auth_service_pb2.RefreshRequest(refresh_token=pair.refresh_token)
            if method == "UpdateUser":
                tokens = (await other.client.auth.Refresh(refresh)).tokens
                claims = verifier.verify(tokens.access_token, audience="internal")
                assert claims.roles == ("clerk",)
            else:
                seen = await refusal(other.client.auth.Refresh(refresh))
                assert seen.reason == "INVALID_GRANT"
        for admin in (one, other):
            await admin.client.channel.close()


async def service_pages(admin: Admin, size: int) -> list[list[str]]:
    """Return the ids of all service accounts, by the page."""
    found, token = [], ""
    while True:
        request = pb.ListServiceAccountsRequest(page_size=size, page_token=token)
        reply = await admin.call("ListServiceAccounts", request)
        found.append([account.client_id for account in reply.service_accounts])
        token = reply.next_page_token
        if not token:
            return found


@pytest.mark.parametrize(("size", "lengths"), [(2, [2, 2, 1]), (4, [4, 1]), (5, [5]), (0, [5])])
async def test_service_accounts_are_listed_in_pages(
    admin: Admin, size: int, lengths: list[int]
) -> None:
    """By id, each once, and no page after the last."""
    names = ["a", "b c", "billing", "é", "\u4e00"]
    for name in names:
        await admin.create_service(name)
    found = await service_pages(admin, size)
    assert [len(page) for page in found] == lengths
    assert [name for page in found for name in page] == names


# Keys


async def listed(admin: Admin) -> list[tuple[str, str]]:
    """Return the algorithm and the state of each key."""
    return [(key.algorithm, key.state) for key in (await admin.call("ListKeys")).keys]


async def test_keys_are_listed_without_their_secrets(database_url: str, admin: Admin) -> None:
    """The shared key of the settings first, then those of the database, the newest first."""
    assert await listed(admin) == [("HS256", "configured")]
    for algorithm in ("EdDSA", "ES256"):
        await admin.call("RotateKeys", pb.RotateKeysRequest(algorithm=algorithm))
    reply = await admin.call("ListKeys")
    assert [key.algorithm for key in reply.keys] == ["HS256", "ES256", "EdDSA"]
    assert not reply.keys[0].HasField("created_at")
    assert all(key.HasField("created_at") for key in reply.keys[1:])
    assert SHARED_KEY not in str(reply)


@pytest.mark.parametrize("key", ["HS256", "EdDSA", "ES256", "RS256"])
async def test_a_new_key_is_told_to_every_replica(database_url: str, root: User, key: str) -> None:
    """Watchers have it before it signs; tokens of the previous key stay valid."""
    settings = make_settings(database_url, shared_key=None)
    async with running(settings) as first, running(settings) as second:
        one, other = await Admin(first).ready(), await Admin(second).ready()
        pair = await one.login(ROOT)
        one.token = other.token = pair.access_token
        secret = await one.create_service("gate", roles=["verifier"])
        verifier = await one.service_login("gate", secret)
        watching = [Watching(admin, verifier.access_token) for admin in (one, other)]
        before = [await stream.keys() for stream in watching]
        assert before[0] == before[1]

        made = (await one.call("RotateKeys", pb.RotateKeysRequest(algorithm=key))).key
        assert (made.algorithm, made.state) == (key, "published")
        for stream in watching:
            assert await stream.keys() == before[0] | {made.kid}
        for admin in (one, other):
            assert await listed(admin) == [(key, "published"), ("HS256", "active")]
            assert await admin.active(pair.access_token)
            header = jwt.get_unverified_header((await admin.login(ROOT)).access_token)
            assert header["kid"] in before[0]
            await admin.client.channel.close()


async def test_without_an_algorithm_it_is_that_of_the_key_before(
    database_url: str, root: User
) -> None:
    """And a key that is to come counts as that."""
    async with running(make_settings(database_url, shared_key=None)) as server:
        admin = await Admin(server).ready()
        admin.token = (await admin.login(ROOT)).access_token
        for given, made in (("", "HS256"), ("ES256", "ES256"), ("", "ES256")):
            reply = await admin.call("RotateKeys", pb.RotateKeysRequest(algorithm=given))
            assert reply.key.algorithm == made
        await admin.client.channel.close()


async def test_an_unknown_algorithm_is_answered_with_the_known_ones(admin: Admin) -> None:
    """The error lists the algorithms."""
    seen = await refusal(admin.call("RotateKeys", pb.RotateKeysRequest(algorithm="HS512")))
    assert all(name in str(seen.text) for name in ("HS256", "EdDSA", "ES256", "RS256"))


@pytest.mark.parametrize("algorithm", ["", "HS256"])
async def test_the_shared_key_of_the_settings_is_not_rotated_here(
    database_url: str, admin: Admin, algorithm: str
) -> None:
    """The refusal names the setting."""
    seen = await refusal(admin.call("RotateKeys", pb.RotateKeysRequest(algorithm=algorithm)))
    assert (seen.code, seen.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["algorithm"])
    assert "AUTH_SHARED_KEY" in str(seen.text)
    assert await query(database_url, "SELECT count(*) FROM signing_keys") == 0


async def test_an_algorithm_that_the_settings_rule_out_is_refused(
    database_url: str, root: User
) -> None:
    """The refusal names the setting."""
    async with running(make_settings(database_url, signing_algorithm="EdDSA")) as server:
        admin = await Admin(server).ready()
        admin.token = (await admin.login(ROOT)).access_token
        seen = await refusal(admin.call("RotateKeys", pb.RotateKeysRequest(algorithm="ES256")))
        assert (seen.code, seen.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["algorithm"])
        assert "AUTH_SIGNING_ALGORITHM" in str(seen.text)
        await admin.client.channel.close()


class Watching:
    """The key sets that a service that verifies tokens itself is sent."""

    def __init__(self, admin: Admin, token: str) -> None:
        self._stream: Any = VerifierServiceStub(admin.client.channel).Watch(
            verifier_pb.WatchRequest(), metadata=(("authorization", f"Bearer {token}"),)
        )

    async def keys(self) -> set[str]:
        """Return the ids of the next set."""
        async with asyncio.timeout(TIMEOUT):
            while not (event := await self._stream.read()).HasField("key_set"):
                pass
        return {key.kid for key in event.key_set.keys}


# What is recorded


async def test_each_change_is_logged_with_who_made_it_and_nothing_secret(
    database_url: str, admin: Admin, root: User, ada: User
) -> None:
    """Reads and refused calls are not logged this way."""
    of_user = str(ada.id)
    gone = str((await make_user(database_url, "gone@example.com")).id)
    session_id = (await admin.login()).session_id
    calls = REQUESTS | {
        "GetUser": pb.GetUserRequest(user_id=str(ada.id)),
        "SetUserDisabled": pb.SetUserDisabledRequest(user_id=str(ada.id), disabled=True),
        "SetUserPassword": pb.SetUserPasswordRequest(user_id=str(ada.id), password=NEW_PASSWORD),
        "ResetUserFactors": pb.ResetUserFactorsRequest(user_id=str(ada.id)),
        "UpdateUser": pb.UpdateUserRequest(user=pb.User(user_id=of_user, roles=["staff"])),
        "DeleteUser": pb.DeleteUserRequest(user_id=gone),
        "AddUserIdentifier": pb.AddUserIdentifierRequest(user_id=of_user, identifier="new"),
        "RemoveUserIdentifier": pb.RemoveUserIdentifierRequest(user_id=of_user, identifier="new"),
        "SetUserPasswordChangeRequired": pb.SetUserPasswordChangeRequiredRequest(user_id=of_user),
        "ListUserSessions": pb.ListUserSessionsRequest(user_id=of_user),
        "RevokeUserSession": pb.RevokeUserSessionRequest(user_id=of_user, session_id=session_id),
        "RevokeUserSessions": pb.RevokeUserSessionsRequest(user_id=of_user),
        "DeleteServiceAccount": pb.DeleteServiceAccountRequest(client_id="gone"),
        "DeleteAudience": pb.DeleteAudienceRequest(name="ledger"),
        "GrantAudience": pb.GrantAudienceRequest(name="internal", user_id=of_user),
        "WithdrawAudience": pb.WithdrawAudienceRequest(name="internal", client_id="billing"),
    }
    for client_id in ("gone", "orders"):
        await admin.create_service(client_id)
    orders = await admin.call("GetServiceAccount", pb.GetServiceAccountRequest(client_id="orders"))
    (old,) = orders.service_account.secrets
    calls["DeleteServiceAccountSecret"] = pb.DeleteServiceAccountSecretRequest(
        client_id="orders", secret_id=old.secret_id
    )
    with capture_logs() as entries:
        answers = {name: await admin.call(name, request) for name, request in calls.items()}
        await refusal(admin.call("CreateUser"))
    made = [entry for entry in entries if entry["event"] == "admin"]
    reads = {
        *("GetUser", "ListUsers", "GetServiceAccount", "ListServiceAccounts", "ListKeys"),
        *("GetAudience", "ListAudiences", "ListServiceAccountKeys", "ListWorkloadMappings"),
        *("ListAudit", "WatchAudit"),
        "ListUserSessions",
    }
    assert [entry["call"] for entry in made] == [name for name in METHODS if name not in reads]
    assert {entry["by"] for entry in made} == {str(root.id)}
    assert [
        entry.get("user_id", entry.get("client_id", entry.get("audience"))) for entry in made
    ] == [
        *(answers["CreateUser"].user.user_id, of_user, of_user),
        *("billing", "billing", "billing", "gone", "billing", "orders", "billing"),
        *("billing", "billing", "billing", None, None),
        *("ledger", "internal", "ledger", "internal", "internal", "billing", "billing", None),
        *(of_user, None),
        *(of_user, gone, of_user, of_user, of_user, of_user, of_user),
    ]
    assert [entry["account"] for entry in made if "account" in entry] == [of_user, "billing"]
    new = answers["CreateServiceAccountSecret"]
    assert [entry["secret_id"] for entry in made if "secret_id" in entry] == [
        new.secret.secret_id,
        old.secret_id,
    ]
    secrets = (
        answers.pop("CreateServiceAccount").client_secret,
        answers.pop("CreateServiceAccountSecret").client_secret,
    )
    for hidden in (PASSWORD, NEW_PASSWORD, admin.token, SHARED_KEY, *secrets, "argon2"):
        assert hidden not in str(entries)
        assert hidden not in str(answers)
