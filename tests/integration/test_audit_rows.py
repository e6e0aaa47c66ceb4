"""Each act leaves one row in the audit log: who, what, on whom, from where, with what outcome.

Every call of these tests has a request id of its own, by which its rows are found.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import grpc
import pytest
import pytest_asyncio
from authn.v1 import account_service_pb2 as account_pb
from authn.v1 import admin_service_pb2 as pb
from authn.v1 import auth_service_pb2 as auth_pb
from authn.v1.account_service_pb2_grpc import AccountServiceStub
from authn.v1.admin_service_pb2_grpc import AdminServiceStub

from auth_service.clock import utc_now
from tests.acceptance.servers import PASSWORD, USER, eventually, make_user
from tests.integration.authenticator import App
from tests.integration.http_edge import BILLING, CLOSED, Edge, edge
from tests.integration.serving import query
from tests.integration.test_admin_service import METHODS, PUBLIC_KEY

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = "root@example.com"
WRONG = "a password that nobody has chosen"
NEW_PASSWORD = "an even better battery staple"
TIMEOUT = 30.0
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACE_PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@dataclass
class Acts:
    """Calls with request ids, and the rows that they leave."""

    edge: Edge
    admin: AdminServiceStub
    account: AccountServiceStub
    token: str = field(repr=False)
    """An access token of ROOT."""
    root: str
    """The id of ROOT."""
    ada: str
    """The id of USER."""

    async def rows(self, request_id: str) -> list[dict[str, Any]]:
        """Return the rows of a call, once there is one."""

        async def found() -> list[dict[str, Any]]:
            connection = await asyncpg.connect(self.edge.database_url)
            try:
                sql = "SELECT * FROM audit_log WHERE request_id = $1"
                return [dict(row) for row in await connection.fetch(sql, request_id)]
            finally:
                await connection.close()

        return await eventually(found, what="a row of the call")

    async def row(self, call: Callable[[str], Awaitable[Any]]) -> dict[str, Any]:
        """Make a call, which may fail, and return the one row that it leaves."""
        request_id = uuid4().hex
        with contextlib.suppress(grpc.aio.AioRpcError):
            await call(request_id)
        (row,) = await self.rows(request_id)
        return row

    def metadata(self, request_id: str, token: str = "") -> tuple[tuple[str, str], ...]:
        """Return the metadata of a call."""
        own = ("x-request-id", request_id), ("traceparent", TRACE_PARENT)
        return (*own, ("authorization", f"Bearer {token}")) if token else own

    async def administer(self, method: str, request: Any, request_id: str, token: str) -> Any:
        """Call AdminService."""
        stub, metadata = getattr(self.admin, method), self.metadata(request_id, token)
        streams = isinstance(stub, grpc.aio.StreamUnaryMultiCallable)
        call = stub([request] if streams else request, metadata=metadata, timeout=TIMEOUT)
        return await (anext(aiter(call)) if hasattr(call, "__aiter__") else call)

    async def login(
        self, password: str = PASSWORD, identifier: str = USER, request_id: str = "", **fields: Any
    ) -> auth_pb.TokenPair:
        """Log a user in."""
        credentials = auth_pb.PasswordCredentials(identifier=identifier, password=password)
        request = auth_pb.LoginRequest(password=credentials, **fields)
        metadata = self.metadata(request_id or uuid4().hex)
        reply = await self.edge.rpc.auth.Login(request, metadata=metadata, timeout=TIMEOUT)
        tokens: auth_pb.TokenPair = reply.tokens
        return tokens

    async def refresh(self, token: str, request_id: str) -> auth_pb.RefreshResponse:
        """Refresh a session."""
        request = auth_pb.RefreshRequest(refresh_token=token)
        metadata = self.metadata(request_id)
        reply: auth_pb.RefreshResponse = await self.edge.rpc.auth.Refresh(
            request, metadata=metadata, timeout=TIMEOUT
        )
        return reply

    async def service_login(self, client_id: str, secret: str, request_id: str) -> Any:
        """Log a service account in."""
        client = auth_pb.ClientCredentials(client_id=client_id, client_secret=secret)
        request = auth_pb.LoginRequest(client=client)
        metadata = self.metadata(request_id)
        return await self.edge.rpc.auth.Login(request, metadata=metadata, timeout=TIMEOUT)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def acts(module_database_url: str) -> AsyncIterator[Acts]:
    """A server with an administrator."""
    root = await make_user(module_database_url, ROOT, roles=("admin",))
    async with edge(module_database_url) as served:
        stubs = AdminServiceStub(served.rpc.channel), AccountServiceStub(served.rpc.channel)
        sql = f"SELECT user_id::text FROM user_identifiers WHERE identifier = '{USER}'"  # noqa: S608
        ada = await query(module_database_url, sql)
        made = Acts(served, *stubs, token="", root=str(root.id), ada=ada)
        made.token = (await made.login(identifier=ROOT)).access_token
        yield made


def who(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return the actor of a row, and by which credential."""
    return row["actor_kind"], row["actor"], row["credential"]


# Administration


@dataclass
class Made:
    """What the calls before have made."""

    user_id: str = ""
    secret_id: str = ""
    session_id: str = ""


Build = Callable[[Made], Any]

SUCCESSES: dict[str, tuple[Build, str]] = {
    "CreateUser": (
        lambda _: pb.CreateUserRequest(identifiers=["new@example.com"], password=PASSWORD),
        "user.created",
    ),
    "GetUser": (lambda made: pb.GetUserRequest(user_id=made.user_id), "admin.get_user"),
    "ListUsers": (lambda _: pb.ListUsersRequest(), "admin.list_users"),
    "UpdateUser": (
        lambda made: pb.UpdateUserRequest(user=pb.User(user_id=made.user_id, roles=["staff"])),
        "user.updated",
    ),
    "AddUserIdentifier": (
        lambda made: pb.AddUserIdentifierRequest(user_id=made.user_id, identifier="new"),
        "user.identifier_added",
    ),
    "RemoveUserIdentifier": (
        lambda made: pb.RemoveUserIdentifierRequest(user_id=made.user_id, identifier="new"),
        "user.identifier_removed",
    ),
    "SetUserPasswordChangeRequired": (
        lambda made: pb.SetUserPasswordChangeRequiredRequest(user_id=made.user_id, required=True),
        "user.password_change_required",
    ),
    "ListUserSessions": (
        lambda made: pb.ListUserSessionsRequest(user_id=made.user_id),
        "admin.list_user_sessions",
    ),
    "RevokeUserSession": (
        lambda made: pb.RevokeUserSessionRequest(user_id=made.user_id, session_id=made.session_id),
        "session.revoked",
    ),
    "RevokeUserSessions": (
        lambda made: pb.RevokeUserSessionsRequest(user_id=made.user_id),
        "user.sessions_revoked",
    ),
    "SetUserDisabled": (
        lambda made: pb.SetUserDisabledRequest(user_id=made.user_id, disabled=True),
        "user.disabled",
    ),
    "SetUserPassword": (
        lambda made: pb.SetUserPasswordRequest(user_id=made.user_id, password=NEW_PASSWORD),
        "user.password_changed",
    ),
    "CreateServiceAccount": (
        lambda _: pb.CreateServiceAccountRequest(client_id="ledger"),
        "service_account.created",
    ),
    "GetServiceAccount": (
        lambda _: pb.GetServiceAccountRequest(client_id="ledger"),
        "admin.get_service_account",
    ),
    "ListServiceAccounts": (
        lambda _: pb.ListServiceAccountsRequest(),
        "admin.list_service_accounts",
    ),
    "UpdateServiceAccount": (
        lambda _: pb.UpdateServiceAccountRequest(
            service_account=pb.ServiceAccount(client_id="ledger", roles=["staff"])
        ),
        "service_account.updated",
    ),
    "SetServiceAccountDisabled": (
        lambda _: pb.SetServiceAccountDisabledRequest(client_id="ledger", disabled=True),
        "service_account.disabled",
    ),
    "CreateServiceAccountSecret": (
        lambda _: pb.CreateServiceAccountSecretRequest(client_id="ledger"),
        "service_account.secret_created",
    ),
    "DeleteServiceAccountSecret": (
        lambda made: pb.DeleteServiceAccountSecretRequest(
            client_id="ledger", secret_id=made.secret_id
        ),
        "service_account.secret_deleted",
    ),
    "RevokeServiceAccountTokens": (
        lambda _: pb.RevokeServiceAccountTokensRequest(client_id="ledger"),
        "service_account.tokens_revoked",
    ),
    "AddServiceAccountKey": (
        lambda _: pb.AddServiceAccountKeyRequest(client_id="ledger", public_key=PUBLIC_KEY),
        "service_account.key_added",
    ),
    "ListServiceAccountKeys": (
        lambda _: pb.ListServiceAccountKeysRequest(client_id="ledger"),
        "admin.list_service_account_keys",
    ),
    "DeleteServiceAccountKey": (
        lambda _: pb.DeleteServiceAccountKeyRequest(client_id="ledger", kid="1"),
        "service_account.key_deleted",
    ),
    "CreateWorkloadMapping": (
        lambda _: pb.CreateWorkloadMappingRequest(
            mapping=pb.WorkloadMapping(issuer="a", subject="b", client_id="ledger")
        ),
        "workload.mapped",
    ),
    "ListWorkloadMappings": (
        lambda _: pb.ListWorkloadMappingsRequest(),
        "admin.list_workload_mappings",
    ),
    "DeleteWorkloadMapping": (
        lambda _: pb.DeleteWorkloadMappingRequest(issuer="a", subject="b"),
        "workload.unmapped",
    ),
    "ListKeys": (lambda _: pb.ListKeysRequest(), "admin.list_keys"),
    "RotateKeys": (lambda _: pb.RotateKeysRequest(algorithm="EdDSA"), "key.created"),
    "CreateAudience": (lambda _: pb.CreateAudienceRequest(name="books"), "audience.created"),
    "GetAudience": (lambda _: pb.GetAudienceRequest(name="books"), "admin.get_audience"),
    "ListAudiences": (lambda _: pb.ListAudiencesRequest(), "admin.list_audiences"),
    "UpdateAudience": (
        lambda _: pb.UpdateAudienceRequest(audience=pb.Audience(name="books", scope=["read"])),
        "audience.updated",
    ),
    "GrantAudience": (
        lambda made: pb.GrantAudienceRequest(name="books", user_id=made.user_id),
        "audience.granted",
    ),
    "WithdrawAudience": (
        lambda made: pb.WithdrawAudienceRequest(name="books", user_id=made.user_id),
        "audience.withdrawn",
    ),
    "SetAudienceActor": (
        lambda _: pb.SetAudienceActorRequest(
            name="books", actor=pb.AudienceActor(client_id="ledger")
        ),
        "audience.actor_set",
    ),
    "RemoveAudienceActor": (
        lambda _: pb.RemoveAudienceActorRequest(name="books", client_id="ledger"),
        "audience.actor_removed",
    ),
    "ExplainToken": (lambda _: pb.ExplainTokenRequest(access_token="a.b.c"), "token.explained"),
    "ResetUserFactors": (
        lambda made: pb.ResetUserFactorsRequest(user_id=made.user_id),
        "factors.reset",
    ),
    "ImportUsers": (
        lambda _: pb.ImportUsersRequest(users=[pb.ImportedUser(identifiers=["moved-in"])]),
        "users.imported",
    ),
    "ListAudit": (lambda _: pb.ListAuditRequest(), "admin.list_audit"),
    "WatchAudit": (lambda _: pb.WatchAuditRequest(), "admin.watch_audit"),
    "DeleteUser": (lambda made: pb.DeleteUserRequest(user_id=made.user_id), "user.deleted"),
    "DeleteAudience": (lambda _: pb.DeleteAudienceRequest(name="books"), "audience.deleted"),
    "DeleteServiceAccount": (
        lambda _: pb.DeleteServiceAccountRequest(client_id="ledger"),
        "service_account.deleted",
    ),
}
"""A request that succeeds for each method, in this order, and the event of its row.

A method that is added later needs an entry.
"""


async def test_each_call_of_administration_leaves_one_row(acts: Acts) -> None:
    """By the administrator, with its outcome, also if it only reads."""
    assert sorted(SUCCESSES) == sorted(METHODS)
    made = Made()
    for method, (build, event) in SUCCESSES.items():
        request, request_id = build(made), uuid4().hex
        reply = await acts.administer(method, request, request_id, acts.token)
        (row,) = await acts.rows(request_id)
        assert (method, row["event"], row["outcome"]) == (method, event, "OK")
        assert who(row) == ("user", acts.root, "access_token")
        assert (row["source"], row["trace_id"]) == ("127.0.0.1", TRACE)
        if method == "CreateUser":
            made.user_id = reply.user.user_id
            made.session_id = (await acts.login(identifier="new@example.com")).session_id
        if method == "CreateServiceAccountSecret":
            made.secret_id = reply.secret.secret_id
        if hasattr(request, "user_id"):
            assert str(row["user_id"]) == made.user_id


async def test_a_call_that_fails_leaves_one_row(acts: Acts) -> None:
    """With the reason, and on whom it was tried."""
    nobody = uuid4()

    async def disable(request_id: str) -> None:
        request = pb.SetUserDisabledRequest(user_id=str(nobody), disabled=True)
        await acts.administer("SetUserDisabled", request, request_id, acts.token)

    row = await acts.row(disable)
    assert (row["event"], row["outcome"]) == ("admin.set_user_disabled", "NOT_FOUND")
    assert (who(row), row["user_id"]) == (("user", acts.root, "access_token"), nobody)


async def test_a_change_that_its_client_cancels_leaves_one_row(acts: Acts) -> None:
    """The change completes, and the row tells where the call came from, which has ended."""
    create = pb.CreateUserRequest(identifiers=["held@example.com"], password=PASSWORD)
    user_id = (await acts.administer("CreateUser", create, uuid4().hex, acts.token)).user.user_id
    request, request_id = pb.SetUserDisabledRequest(user_id=user_id, disabled=True), uuid4().hex
    holder = await asyncpg.connect(acts.edge.database_url)
    async with holder.transaction():
        await holder.execute("SELECT FROM users WHERE id = $1::uuid FOR UPDATE", user_id)
        metadata = acts.metadata(request_id, acts.token)
        call = acts.admin.SetUserDisabled(request, metadata=metadata, timeout=TIMEOUT)
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"

        async def waits() -> bool:
            return bool(await holder.fetchval(waiting))

        await eventually(waits, what="the change to wait")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    await holder.close()
    (row,) = await acts.rows(request_id)
    assert (row["event"], row["outcome"]) == ("user.disabled", "OK")
    assert (who(row), row["source"]) == (("user", acts.root, "access_token"), "127.0.0.1")


async def test_each_refused_call_of_administration_leaves_one_row(acts: Acts) -> None:
    """By whoever made it: a user without the role, or nobody that is known."""
    pair = await acts.login()
    made = Made(user_id=str(uuid4()), secret_id=str(uuid4()))
    expected = {}
    for method in METHODS:
        for token, outcome, actor in (
            (pair.access_token, "PERMISSION_DENIED", ("user", acts.ada, "access_token")),
            ("", "INVALID_TOKEN", ("nobody", None, None)),
        ):
            request_id = uuid4().hex
            expected[request_id] = method.lower(), outcome, actor
            with pytest.raises(grpc.aio.AioRpcError):
                await acts.administer(method, SUCCESSES[method][0](made), request_id, token)
    for request_id, (name, outcome, actor) in expected.items():
        (row,) = await acts.rows(request_id)
        assert row["event"].replace("_", "") == f"admin.{name}"
        assert (row["outcome"], who(row)) == (outcome, actor)


# Logins


async def test_a_login_leaves_one_row(acts: Acts) -> None:
    """By the user, by password, with the session that it began."""

    row = await acts.row(lambda request_id: acts.login(request_id=request_id))
    assert (row["event"], row["outcome"]) == ("session.created", "OK")
    assert who(row) == ("user", acts.ada, "password")
    assert str(row["user_id"]) == acts.ada
    assert row["session_id"] is not None


@pytest.mark.parametrize(
    ("identifier", "password", "known"),
    [(USER, WRONG, True), ("stranger@example.com", WRONG, False)],
    ids=["wrong password", "unknown user"],
)
async def test_a_failed_login_leaves_one_row(
    acts: Acts, identifier: str, password: str, known: bool
) -> None:
    """By nobody. An unknown identifier is not written: it may be a password."""
    row = await acts.row(lambda request_id: acts.login(password, identifier, request_id))
    assert (row["event"], row["outcome"]) == ("login.failed", "INVALID_CREDENTIALS")
    assert who(row) == ("nobody", None, "password")
    assert row["user_id"] == (UUID(acts.ada) if known else None)
    assert "stranger" not in str(row)


async def test_a_proved_login_that_is_refused_leaves_one_row(acts: Acts) -> None:
    """By the user, for the password was right."""
    row = await acts.row(lambda request_id: acts.login(request_id=request_id, scope=["everything"]))
    assert (row["event"], row["outcome"]) == ("login.failed", "INVALID_SCOPE")
    assert who(row) == ("user", acts.ada, "password")


async def test_logins_of_service_accounts_leave_one_row(acts: Acts) -> None:
    """The ones that succeed, and the ones that fail."""
    secret = acts.edge.secrets[BILLING]
    good = await acts.row(lambda request_id: acts.service_login(BILLING, secret, request_id))
    assert (good["event"], good["outcome"]) == ("service_account.logged_in", "OK")
    assert who(good) == ("service_account", BILLING, "client_secret")
    assert good["secret_id"] is not None
    for client_id, known in ((BILLING, BILLING), (CLOSED, CLOSED), ("stranger", None)):
        bad = await acts.row(lambda each, of=client_id: acts.service_login(of, WRONG, each))  # type: ignore[misc]
        assert (bad["event"], bad["outcome"]) == ("login.failed", "INVALID_CREDENTIALS")
        assert (who(bad), bad["client_id"]) == (("nobody", None, "client_secret"), known)


async def test_reuse_leaves_one_row(acts: Acts) -> None:
    """The end of the session, by nobody that is known; the refreshes before leave none.

    The session is ROOT's, who was never signed out: no date of it lies ahead of the clock.
    """
    pair = await acts.login(identifier=ROOT)
    token, ids = pair.refresh_token, [uuid4().hex for _ in range(2)]
    for request_id in ids:
        reply = await acts.refresh(token, request_id)
        token = reply.tokens.refresh_token
    row = await acts.row(lambda request_id: acts.refresh(pair.refresh_token, request_id))
    assert (row["event"], row["outcome"]) == ("session.reuse_detected", "INVALID_GRANT")
    assert who(row) == ("nobody", None, "refresh_token")
    assert (str(row["user_id"]), str(row["session_id"])) == (acts.root, pair.session_id)
    sql = "SELECT count(*) FROM audit_log WHERE request_id IN ('{}', '{}')"
    assert await query(acts.edge.database_url, sql.format(*ids)) == 0


@pytest.mark.parametrize(
    ("target", "event", "credential"),
    [
        ("refresh_token", "session.revoked", "refresh_token"),
        ("access_token", "token.revoked", "access_token"),
        ("session_id", "session.revoked", "access_token"),
        ("all_sessions", "user.sessions_revoked", "access_token"),
    ],
)
async def test_a_revocation_leaves_one_row(
    acts: Acts, target: str, event: str, credential: str
) -> None:
    """By the user, with the token that it showed."""
    pair = await acts.login()
    request = auth_pb.RevokeRequest()
    if target == "all_sessions":
        request.all_sessions.SetInParent()
    else:
        setattr(request, target, getattr(pair, target))
    metadata = partial(acts.metadata, token=pair.access_token)
    row = await acts.row(lambda each: acts.edge.rpc.auth.Revoke(request, metadata=metadata(each)))
    assert (row["event"], row["outcome"]) == (event, "OK")
    assert who(row) == ("user", acts.ada, credential)
    assert str(row["user_id"]) == acts.ada


async def test_a_refused_revocation_leaves_one_row(acts: Acts) -> None:
    """By the user who tried to end the sessions of another."""
    pair = await acts.login()
    request = auth_pb.RevokeRequest()
    request.all_sessions.user_id = acts.root
    metadata = partial(acts.metadata, token=pair.access_token)
    row = await acts.row(lambda each: acts.edge.rpc.auth.Revoke(request, metadata=metadata(each)))
    assert (row["event"], row["outcome"]) == ("auth.revoke", "PERMISSION_DENIED")
    assert who(row) == ("user", acts.ada, "access_token")


async def test_a_change_of_ones_own_password_leaves_one_row(acts: Acts) -> None:
    """Also if the present password is wrong."""
    pair = await acts.login()
    metadata = partial(acts.metadata, token=pair.access_token)
    for current, event, outcome in (
        (WRONG, "account.change_password", "INVALID_CREDENTIALS"),
        (PASSWORD, "user.password_changed", "OK"),
    ):
        request = account_pb.ChangePasswordRequest(current_password=current, new_password=PASSWORD)
        row = await acts.row(
            lambda each, of=request: acts.account.ChangePassword(of, metadata=metadata(each))  # type: ignore[misc]
        )
        assert (row["event"], row["outcome"], row["actor"]) == (event, outcome, acts.ada)
        assert str(row["user_id"]) == acts.ada


async def test_no_row_has_a_secret(acts: Acts) -> None:
    """Whether it was right or wrong, and also if it was sent in the place of a name."""
    pair = await acts.login()
    secret = acts.edge.secrets[BILLING]
    tokens = [pair.access_token, pair.refresh_token]
    await acts.row(lambda each: acts.login(WRONG, request_id=each))
    await acts.row(lambda each: acts.login(WRONG, PASSWORD, each))
    await acts.row(lambda each: acts.service_login(BILLING, secret, each))
    await acts.row(lambda each: acts.service_login(secret, secret, each))
    await acts.row(
        lambda each: acts.administer(
            "CreateUser",
            pb.CreateUserRequest(identifiers=[USER], password=NEW_PASSWORD),
            each,
            acts.token,
        )
    )
    for token in tokens:
        request = pb.ExplainTokenRequest(access_token=token)
        await acts.row(
            lambda each, of=request: acts.administer("ExplainToken", of, each, acts.token)  # type: ignore[misc]
        )
    rows = await query(acts.edge.database_url, "SELECT string_agg(a::text, ' ') FROM audit_log a")
    known = [PASSWORD, WRONG, NEW_PASSWORD, secret, acts.token, *tokens]
    assert not [each for each in known if each in rows]


# Over HTTP


@pytest.mark.parametrize(
    ("password", "event", "outcome"),
    [(PASSWORD, "session.created", "OK"), (WRONG, "login.failed", "INVALID_CREDENTIALS")],
    ids=["right", "wrong"],
)
async def test_a_login_of_a_browser_leaves_one_row(
    acts: Acts, password: str, event: str, outcome: str
) -> None:
    """With the address of the client and the request's ids."""
    http = acts.edge.http
    own = {
        "x-requested-with": "1",
        "origin": str(http.base_url).rstrip("/"),
        "traceparent": TRACE_PARENT,
    }
    row = await acts.row(
        lambda each: http.post(
            "/v1/login",
            json={"identifier": USER, "password": password},
            headers=own | {"x-request-id": each},
        )
    )
    assert (row["event"], row["outcome"]) == (event, outcome)
    assert (row["source"], row["trace_id"], row["credential"]) == ("127.0.0.1", TRACE, "password")


@pytest.mark.parametrize("endpoint", ["token", "introspect", "revoke"])
async def test_a_wrong_client_secret_leaves_one_row_at_each_endpoint(
    acts: Acts, endpoint: str
) -> None:
    """So that guesses are seen wherever they are made."""
    form = {"grant_type": "client_credentials", "token": "x"}
    row = await acts.row(
        lambda each: acts.edge.http.post(
            f"/oauth2/{endpoint}", data=form, auth=(BILLING, WRONG), headers={"x-request-id": each}
        )
    )
    assert (row["event"], row["outcome"]) == ("login.failed", "INVALID_CREDENTIALS")
    assert (who(row), row["client_id"]) == (("nobody", None, "client_secret"), BILLING)


# Reading


async def test_administrators_page_through_the_log(acts: Acts) -> None:
    """A page has what has just happened, and the token of one page leads to the next."""
    request_id = uuid4().hex
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError):
            await acts.login(WRONG, request_id=request_id)
    read: list[pb.AuditEvent] = []
    request = pb.ListAuditRequest(page_size=2, filter=pb.AuditFilter(event="login.*"))
    while True:
        reply = await acts.administer("ListAudit", request, uuid4().hex, acts.token)
        read += reply.events
        if not reply.next_page_token:
            break
        request.page_token = reply.next_page_token
    assert len({event.id for event in read}) == len(read)
    mine = [event for event in read if event.request_id == request_id]
    assert len(mine) == 3
    event = mine[0]
    assert (event.event, event.outcome) == ("login.failed", "INVALID_CREDENTIALS")
    assert (event.actor_kind, event.actor, event.credential) == ("nobody", "", "password")
    assert (event.user_id, event.source, event.trace_id) == (acts.ada, "127.0.0.1", TRACE)


async def test_a_stream_sends_rows_and_goes_on_from_its_cursor(acts: Acts) -> None:
    """Each row once, also if it was written between two streams."""
    ids = [uuid4().hex for _ in range(2)]
    watched = pb.AuditFilter(event="session.created", user_id=acts.ada)
    stream = watch(acts, pb.WatchAuditRequest(filter=watched))
    cursor = (await stream.read()).cursor
    await acts.login(request_id=ids[0])
    reply = await stream.read()
    assert [event.request_id for event in reply.events] == [ids[0]]
    stream.cancel()
    await acts.login(request_id=ids[1])
    for after, expected in ((reply.cursor, ids[1:]), (cursor, ids)):
        stream = watch(acts, pb.WatchAuditRequest(filter=watched, cursor=after))
        again = (await stream.read()).events
        assert [event.request_id for event in again] == expected
        stream.cancel()


async def test_a_stream_ends_with_the_token_of_its_caller(acts: Acts) -> None:
    """As soon as the token is revoked."""
    token = (await acts.login(identifier=ROOT)).access_token
    stream = watch(acts, pb.WatchAuditRequest(), token)
    assert (await anext(aiter(stream))).cursor
    await acts.edge.rpc.auth.Revoke(auth_pb.RevokeRequest(access_token=token))

    async def read_to_the_end() -> None:
        async for _ in stream:
            pass

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_to_the_end()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def watch(acts: Acts, request: pb.WatchAuditRequest, token: str = "") -> Any:
    """Open a stream."""
    metadata = acts.metadata(uuid4().hex, token or acts.token)
    return acts.admin.WatchAudit(request, metadata=metadata, timeout=TIMEOUT)


# Second factors


async def test_each_step_of_a_login_by_two_factors_leaves_a_row(acts: Acts) -> None:
    """A recovery code leaves one of its own, whatever becomes of the login."""
    name = "two-factors@example.com"
    login = partial(acts.login, identifier=name)
    create = pb.CreateUserRequest(identifiers=[name], password=PASSWORD)
    user_id = (await acts.administer("CreateUser", create, uuid4().hex, acts.token)).user.user_id
    metadata = partial(acts.metadata, token=(await login()).access_token)
    begun = await acts.account.BeginTotpEnrollment(
        account_pb.BeginTotpEnrollmentRequest(), metadata=metadata(uuid4().hex)
    )
    confirm = account_pb.ConfirmTotpEnrollmentRequest(
        enrollment_token=begun.enrollment_token,
        totp_code=App(begun.enrollment.secret).code(utc_now()),
    )
    request_id = uuid4().hex
    codes = (
        await acts.account.ConfirmTotpEnrollment(confirm, metadata=metadata(request_id))
    ).recovery_codes
    (row,) = await acts.rows(request_id)
    assert (row["event"], row["actor"]) == ("factor.added", user_id)

    row = await acts.row(lambda each: login(request_id=each))
    assert (row["event"], row["outcome"]) == ("login.challenged", "OK")
    assert who(row) == ("user", user_id, "password")

    password = auth_pb.PasswordCredentials(identifier=name, password=PASSWORD)
    asked = auth_pb.LoginRequest(password=password)
    for code, outcomes in (
        (codes[0][::-1], {"login.failed": "INVALID_CREDENTIALS"}),
        (codes[0], {"recovery_code.used": "OK", "session.created": "OK"}),
        (codes[1], {"recovery_code.used": "OK", "session.stepped_up": "OK"}),
    ):
        challenge = (await acts.edge.rpc.auth.Login(asked, timeout=TIMEOUT)).challenge
        factor = auth_pb.FactorCredentials(
            challenge_token=challenge.challenge_token, recovery_code=code
        )
        request_id = uuid4().hex
        with contextlib.suppress(grpc.aio.AioRpcError):
            reply = await acts.edge.rpc.auth.Login(
                auth_pb.LoginRequest(factor=factor), metadata=acts.metadata(request_id)
            )
            asked.session_refresh_token = reply.tokens.refresh_token
        rows = await acts.rows(request_id)
        assert {row["event"]: row["outcome"] for row in rows} == outcomes
        assert len(rows) == len(outcomes)
        known = "login.failed" not in outcomes
        expected = ("user", user_id) if known else ("nobody", None)
        assert {who(row) for row in rows} == {(*expected, "recovery_code")}
        assert {str(row["user_id"]) for row in rows} == {user_id}
