"""AccountService over the wire: what a user sees and changes of the own account."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self
from uuid import uuid4

import asyncpg
import grpc
import pytest
import structlog
from authn.v1 import account_service_pb2 as pb
from authn.v1 import auth_service_pb2
from authn.v1.account_service_pb2_grpc import AccountServiceStub
from structlog.testing import capture_logs

from auth_service.models import User
from auth_service.serving.server import Server
from tests.acceptance.servers import PASSWORD, USER, Client, eventually, make_user
from tests.chaos.http2 import Connection, request_headers
from tests.integration.serving import (
    SERVICE,
    address,
    make_service_account,
    make_settings,
    query,
    refusal,
    running,
    until,
)

NEW_PASSWORD = "an even better battery staple"
WRONG = "some other battery staple"
METHODS = [m.name for m in pb.DESCRIPTOR.services_by_name["AccountService"].methods]
REQUESTS: dict[str, Any] = {
    "GetAccount": pb.GetAccountRequest(),
    "ListSessions": pb.ListSessionsRequest(),
    "ChangePassword": pb.ChangePasswordRequest(
        current_password=PASSWORD, new_password=NEW_PASSWORD
    ),
    "ListFactors": pb.ListFactorsRequest(),
    "BeginTotpEnrollment": pb.BeginTotpEnrollmentRequest(),
    "ConfirmTotpEnrollment": pb.ConfirmTotpEnrollmentRequest(totp_code="123456"),
    "DeleteFactor": pb.DeleteFactorRequest(factor_id=str(uuid4())),
    "GenerateRecoveryCodes": pb.GenerateRecoveryCodesRequest(),
}
LIVE = "SELECT count(*) FROM sessions WHERE revoked_at IS NULL"
WAITS_FOR_A_LOCK = """
    SELECT count(*) > 0 FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


class Account:
    """A user at one server: the calls of AccountService, with a token or without."""

    def __init__(self, server: Server) -> None:
        self.client = Client(address(server))
        self.stub = AccountServiceStub(self.client.channel)

    async def ready(self) -> Self:
        """Return once the channel is connected."""
        await self.client.ready()
        return self

    def call(self, method: str, token: str, request: Any = None) -> Any:
        """Call a method; an empty token stands for none."""
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        return getattr(self.stub, method)(
            request or REQUESTS[method], metadata=metadata, timeout=30
        )

    def change(self, token: str, current: str = PASSWORD, new: str = NEW_PASSWORD) -> Any:
        """Change the password."""
        request = pb.ChangePasswordRequest(current_password=current, new_password=new)
        return self.call("ChangePassword", token, request)

    async def login(self, password: str = PASSWORD, **fields: Any) -> auth_service_pb2.TokenPair:
        """Begin a session."""
        credentials = auth_service_pb2.PasswordCredentials(identifier=USER, password=password)
        request = auth_service_pb2.LoginRequest(password=credentials, **fields)
        reply: auth_service_pb2.LoginResponse = await self.client.auth.Login(request, timeout=30)
        return reply.tokens

    async def active(self, token: str) -> bool:
        """Tell whether an access token is active here."""
        return (await self.client.validate(token)).active

    async def soon_inactive(self, token: str) -> None:
        """Return once the token is inactive here."""

        async def inactive() -> bool:
            return not await self.active(token)

        await eventually(inactive, what="the revocation has arrived")


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Reset the logs, which a server sets up for its process."""
    yield
    structlog.reset_defaults()


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Server]:
    """A server that serves."""
    async with running(make_settings(database_url)) as server:
        yield server


@pytest.fixture
async def account(server: Server) -> AsyncIterator[Account]:
    """The calls to the server."""
    account = await Account(server).ready()
    yield account
    await account.client.channel.close()


@pytest.fixture
async def user(database_url: str) -> User:
    """The user ada, a member of the staff."""
    return await make_user(database_url, roles=("staff",))


@pytest.fixture
async def token(account: Account, user: User) -> str:
    """An access token of ada's."""
    return (await account.login()).access_token


# Who calls


def test_every_method_is_tried() -> None:
    """A method that is added later must be added here."""
    assert list(REQUESTS) == METHODS


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_needs_an_access_token(account: Account, user: User, method: str) -> None:
    """Without one, with a refresh token, or with a revoked one, nothing is returned or done."""
    pair = await account.login()
    ended = await account.login()
    await account.client.auth.Revoke(
        auth_service_pb2.RevokeRequest(refresh_token=ended.refresh_token)
    )
    for bad in ("", "nonsense", pair.refresh_token, ended.access_token):
        seen = await refusal(account.call(method, bad))
        assert (seen.code, seen.reason) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_TOKEN")
        # RFC 6750 section 3.1: a request without a token gets no error code.
        challenge = 'Bearer error="invalid_token"' if bad else "Bearer"
        assert seen.trailers["www-authenticate"] == challenge
    assert (await account.login()).access_token


@pytest.mark.parametrize(
    "form", [b"Bearer \t%s", b"Bearer \xc2\xa0%s", b"Bearer %s\x1c", b"Bearer\t%s"]
)
async def test_an_authorization_outside_the_grammar_is_refused(
    server: Server, account: Account, token: str, form: bytes
) -> None:
    """RFC 6750 section 2.1 allows spaces only; gRPC itself lets other characters through."""
    method = "/authn.v1.AccountService/GetAccount"
    codes = []
    for value in (b"Bearer %s", form):
        authorization = value % token.encode()
        headers = request_headers(method, [("authorization", authorization)])
        with capture_logs() as entries:
            connection = await Connection.open(server.port)
            await connection.call(headers, b"")
            await connection.close()
        codes += [entry["code"] for entry in entries if entry.get("method") == method]
    assert codes == ["OK", "UNAUTHENTICATED"]


@pytest.mark.parametrize("method", METHODS)
async def test_a_service_account_has_no_account_of_this_kind(
    database_url: str, account: Account, method: str
) -> None:
    """The text says which token to use instead."""
    secret = await make_service_account(database_url)
    credentials = auth_service_pb2.ClientCredentials(client_id=SERVICE, client_secret=secret)
    login = await account.client.auth.Login(auth_service_pb2.LoginRequest(client=credentials))
    seen = await refusal(account.call(method, login.tokens.access_token))
    assert (seen.code, seen.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert "user's access token" in str(seen.text)


# The account and its sessions


async def test_a_user_sees_the_own_account(
    database_url: str, account: Account, user: User, token: str
) -> None:
    """And nothing of other accounts."""
    await make_user(database_url, "bob@example.com")
    seen = (await account.call("GetAccount", token)).account
    assert (seen.user_id, list(seen.identifiers)) == (str(user.id), [USER])
    assert (list(seen.roles), list(seen.scope)) == (["staff"], ["read", "write"])
    assert seen.created_at.ToDatetime() == user.created_at.replace(tzinfo=None)


async def test_a_user_sees_the_own_live_sessions(
    database_url: str, account: Account, user: User
) -> None:
    """The newest first, the present one marked; without ended sessions and those of others."""
    await make_user(database_url, "bob@example.com")
    bob = auth_service_pb2.PasswordCredentials(identifier="bob@example.com", password=PASSWORD)
    await account.client.auth.Login(auth_service_pb2.LoginRequest(password=bob))
    first = await account.login(client_id="web", device_label="Firefox on Linux")
    ended = await account.login()
    last = await account.login(client_id="app")
    await account.client.auth.Revoke(
        auth_service_pb2.RevokeRequest(refresh_token=ended.refresh_token)
    )
    for pair, current in ((first, [False, True]), (last, [True, False])):
        found = (await account.call("ListSessions", pair.access_token)).sessions
        assert [s.session_id for s in found] == [last.session_id, first.session_id]
        assert [s.current for s in found] == current
    assert (found[1].client_id, found[1].device_label) == ("web", "Firefox on Linux")
    assert found[1].expires_at == first.refresh_expires_at
    assert found[1].created_at == found[1].refreshed_at


# Changing the password


async def test_a_password_change_ends_the_other_sessions_and_spares_the_present_one(
    database_url: str, account: Account, user: User
) -> None:
    """At this replica at once, at the other soon; the old password is invalid."""
    async with running(make_settings(database_url)) as second:
        other = await Account(second).ready()
        mine, stolen = await account.login(), await other.login()
        await account.change(mine.access_token)

        assert not await account.active(stolen.access_token)
        await other.soon_inactive(stolen.access_token)
        for at in (account, other):
            assert await at.active(mine.access_token)
            seen = await refusal(at.client.refresh(stolen.refresh_token))
            assert seen.reason == "INVALID_GRANT"
            assert (await refusal(at.login())).reason == "INVALID_CREDENTIALS"
            mine = await at.client.refresh(mine.refresh_token)
            assert mine.session_id
        for at in (account, other):
            assert await at.active(mine.access_token)
            assert await at.active((await at.login(NEW_PASSWORD)).access_token)
        await other.client.channel.close()


async def test_a_password_change_is_recorded_with_the_session_that_made_it(
    database_url: str, account: Account, user: User
) -> None:
    """The record shows from where it was changed."""
    pair = await account.login()
    await account.change(pair.access_token)
    event = "SELECT user_id || ' ' || session_id FROM audit_log WHERE event = '{}'"
    recorded = await query(database_url, event.format("user.password_changed"))
    assert recorded == f"{user.id} {pair.session_id}"


async def test_a_wrong_current_password_changes_nothing(account: Account, user: User) -> None:
    """The error is the same as of Login, and all sessions continue."""
    pairs = [await account.login(), await account.login()]
    seen = await refusal(account.change(pairs[0].access_token, current=WRONG))
    assert (seen.code, seen.reason) == (grpc.StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS")
    assert seen.text == (await refusal(account.login(WRONG))).text
    assert "www-authenticate" not in seen.trailers
    for pair in pairs:
        assert await account.active(pair.access_token)
        assert (await account.client.refresh(pair.refresh_token)).access_token
    assert (await account.login()).access_token


@pytest.mark.parametrize(
    ("passwords", "field", "reason"),
    [
        ({"current": ""}, "current_password", "INVALID_ARGUMENT"),
        ({"current": "x" * 1025}, "current_password", "INVALID_ARGUMENT"),
        ({"new": ""}, "new_password", "WEAK_PASSWORD"),
        ({"new": "short"}, "new_password", "WEAK_PASSWORD"),
        ({"new": "x" * 1025}, "new_password", "INVALID_ARGUMENT"),
    ],
)
async def test_a_bad_field_is_named(
    account: Account, token: str, passwords: dict[str, str], field: str, reason: str
) -> None:
    """And the old password stays valid."""
    seen = await refusal(account.change(token, **passwords))
    assert (seen.code, seen.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert seen.fields == [field]
    assert (await account.login()).access_token


async def test_an_access_token_is_no_way_to_try_passwords(database_url: str, user: User) -> None:
    """Wrong ones use up the session's own, and then not even the right one is tried.

    The owner can log in all the same: the thief of a token keeps nobody out.
    """
    settings = make_settings(database_url, login_burst=3, login_refill="1h")
    async with running(settings) as server:
        account = await Account(server).ready()
        pair = await account.login()
        token = pair.access_token
        assert (await refusal(account.change(token, new="short"))).reason == "WEAK_PASSWORD"
        for _ in range(3):
            seen = await refusal(account.change(token, current=WRONG))
            assert seen.reason == "INVALID_CREDENTIALS"
        for call in (account.change(token), account.login(device_token=pair.refresh_token)):
            seen = await refusal(call)
            assert (seen.code, seen.reason) == (
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "RATE_LIMITED",
            )
            assert seen.retry
        assert (await account.login()).access_token
        await account.client.channel.close()


async def test_parallel_guesses_are_counted_one_by_one(database_url: str, user: User) -> None:
    """An attempt is reserved before it is tried."""
    settings = make_settings(database_url, login_burst=3, login_refill="1h")
    async with running(settings) as server:
        account = await Account(server).ready()
        token = (await account.login()).access_token
        guesses = (refusal(account.change(token, current=f"{WRONG} {n}")) for n in range(20))
        reasons = [seen.reason for seen in await asyncio.gather(*guesses)]
        assert reasons.count("INVALID_CREDENTIALS") == 3
        assert reasons.count("RATE_LIMITED") == 17
        await account.client.channel.close()


async def test_the_right_password_gives_the_attempts_back(database_url: str, user: User) -> None:
    """A user who mistyped is not delayed."""
    settings = make_settings(database_url, login_burst=3, login_refill="1h")
    async with running(settings) as server:
        account = await Account(server).ready()
        token = (await account.login()).access_token
        for current, new in ((PASSWORD, NEW_PASSWORD), (NEW_PASSWORD, PASSWORD)):
            for _ in range(2):
                assert (await refusal(account.change(token, current=WRONG))).reason
            await account.change(token, current=current, new=new)
        assert (await account.login()).access_token
        await account.client.channel.close()


async def test_of_parallel_changes_one_wins(
    database_url: str, account: Account, user: User
) -> None:
    """Its password is valid, and only its session remains."""
    pairs = [await account.login() for _ in range(4)]
    changes = (
        account.change(pair.access_token, new=f"{NEW_PASSWORD} {n}") for n, pair in enumerate(pairs)
    )

    async def outcome(call: Any) -> grpc.StatusCode:
        try:
            await call
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    outcomes = await asyncio.gather(*(outcome(call) for call in changes))
    assert outcomes.count(grpc.StatusCode.OK) == 1
    assert outcomes.count(grpc.StatusCode.UNAUTHENTICATED) == 3
    winner = outcomes.index(grpc.StatusCode.OK)
    assert [await account.active(pair.access_token) for pair in pairs] == [
        n == winner for n in range(4)
    ]
    assert await query(database_url, LIVE) == 1
    assert (await account.login(f"{NEW_PASSWORD} {winner}")).access_token


async def test_a_change_that_has_begun_completes_without_its_client(
    database_url: str, account: Account, user: User
) -> None:
    """The new password holds and the other sessions have ended, here at once."""
    mine, other = await account.login(), await account.login()
    connection = await asyncpg.connect(database_url)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("SELECT FROM users FOR UPDATE")
    call = account.change(mine.access_token)
    await until(database_url, WAITS_FOR_A_LOCK, what="the change waits for the user's row")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await transaction.rollback()
    await connection.close()
    await account.soon_inactive(other.access_token)
    assert await account.active(mine.access_token)
    assert (await account.login(NEW_PASSWORD)).access_token


async def test_nothing_secret_is_logged_or_answered(account: Account, user: User) -> None:
    """Neither passwords nor tokens, in success or refusal."""
    pair = await account.login()
    with capture_logs() as entries:
        answers = [
            await account.call("GetAccount", pair.access_token),
            await account.call("ListSessions", pair.access_token),
            (await refusal(account.change(pair.access_token, current=WRONG))).text,
            (await refusal(account.change(pair.access_token, new="short"))).text,
            await account.change(pair.access_token),
        ]
    text = f"{entries} {answers}"
    assert "ChangePassword" in text
    for secret in (PASSWORD, NEW_PASSWORD, WRONG, pair.access_token, pair.refresh_token, "argon2"):
        assert secret not in text
