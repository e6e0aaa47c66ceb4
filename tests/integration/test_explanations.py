"""ExplainToken over the wire: what covers a token, since when, and what is written down."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from authn.v1 import admin_service_pb2 as pb
from authn.v1 import auth_service_pb2
from google.protobuf.duration_pb2 import Duration
from structlog.testing import capture_logs

from auth_service.models import User
from auth_service.serving.server import Server
from tests.acceptance.servers import eventually, make_user
from tests.integration.serving import make_settings, query, running
from tests.integration.test_admin_service import ROOT, Admin

EXPLAINED = "SELECT count(*) FROM audit_log WHERE event = 'token.explained'"
PASSED, FAILED = pb.CHECK_OUTCOME_PASSED, pb.CHECK_OUTCOME_FAILED


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Server]:
    """A server that serves."""
    await make_user(database_url, ROOT, roles=("admin",))
    async with running(make_settings(database_url)) as server:
        yield server


@pytest.fixture
async def admin(server: Server) -> AsyncIterator[Admin]:
    """The calls to the server, by an admin."""
    admin = await Admin(server).ready()
    admin.token = (await admin.login(ROOT)).access_token
    yield admin
    await admin.client.channel.close()


@pytest.fixture
async def ada(database_url: str) -> User:
    """A user with a role."""
    return await make_user(database_url, roles=("staff",))


async def explain(admin: Admin, token: str, **question: Any) -> pb.ExplainTokenResponse:
    """Return the explanation of a token."""
    request = pb.ExplainTokenRequest(access_token=token, **question)
    reply: pb.ExplainTokenResponse = await admin.call("ExplainToken", request)
    return reply


def failed(reply: pb.ExplainTokenResponse) -> list[str]:
    """Return the names of the checks that failed."""
    return [check.name for check in reply.checks if check.outcome == FAILED]


async def test_an_active_token_passes_every_check(admin: Admin, ada: User) -> None:
    """The answer has the claims of Validate, and no revocation."""
    token = (await admin.login()).access_token
    day = Duration(seconds=86_400)
    reply = await explain(admin, token, required_roles=["staff"], max_age=day, acr_values=["1fa"])
    assert reply.active
    assert {check.outcome for check in reply.checks} == {PASSED}
    assert reply.claims == (await admin.client.validate(token)).claims
    assert reply.claims_verified
    assert not reply.revocations
    assert reply.revocations_as_of.seconds <= reply.explained_at.seconds


@pytest.mark.parametrize("kind", ["token", "session", "user"])
async def test_the_revocation_that_covers_a_token_is_named(
    admin: Admin, ada: User, kind: str
) -> None:
    """With its kind, its target and since when."""
    pair = await admin.login()
    claims = (await admin.client.validate(pair.access_token)).claims
    target = {"token": claims.token_id, "session": claims.session_id, "user": claims.subject}[kind]
    before = (await explain(admin, pair.access_token)).explained_at.ToMicroseconds()
    if kind == "user":
        disable = pb.SetUserDisabledRequest(user_id=str(ada.id), disabled=True)
        await admin.call("SetUserDisabled", disable)
    else:
        ended = {"token": "access_token", "session": "refresh_token"}[kind]
        request = auth_service_pb2.RevokeRequest(**{ended: getattr(pair, ended)})
        await admin.client.auth.Revoke(request)
    reply = await explain(admin, pair.access_token)
    verdict = await admin.client.validate(pair.access_token)
    assert not reply.active
    assert failed(reply) == ["revocation"]
    assert reply.inactive_reason == verdict.inactive_reason
    (covering,) = reply.revocations
    assert (covering.kind, covering.target) == (kind, target)
    recorded = covering.recorded_at.ToMicroseconds()
    assert before <= recorded <= reply.explained_at.ToMicroseconds()
    assert covering.HasField("issued_before") == (kind == "user")


async def test_each_explanation_is_one_row_of_the_audit_log(
    database_url: str, admin: Admin, ada: User
) -> None:
    """It names whose token it was, unless the token is forged."""
    token = (await admin.login()).access_token
    forged = token.rpartition(".")[0] + "." + "A" * 43
    for number, (each, subject) in enumerate([(token, ada.id), (forged, None)], start=1):
        await explain(admin, each)
        assert await query(database_url, EXPLAINED) == number
        last = (
            "SELECT user_id FROM audit_log WHERE event = 'token.explained' ORDER BY at DESC LIMIT 1"
        )
        assert await query(database_url, last) == subject


async def test_a_service_accounts_token_is_audited_by_its_client_id(
    database_url: str, admin: Admin
) -> None:
    """It has no user and no session."""
    secret = await admin.create_service("orders")
    reply = await explain(admin, (await admin.service_login("orders", secret)).access_token)
    assert reply.active
    last = "SELECT client_id FROM audit_log WHERE event = 'token.explained'"
    assert await query(database_url, last) == "orders"


async def test_the_token_is_in_no_answer_and_in_no_log(admin: Admin, ada: User) -> None:
    """Neither a genuine token nor a forged one, nor the signature of either."""
    token = (await admin.login()).access_token
    head, _, signature = token.rpartition(".")
    with capture_logs() as logs:
        for each in (token, f"{head}.{signature[::-1]}", token[:-1], f"{token}x"):
            reply = await explain(admin, each)
            for secret in (signature, signature[::-1], token.split(".")[1]):
                assert secret not in f"{reply}{logs}"
    assert any(entry.get("rpc") == "ExplainToken" or "ExplainToken" in str(entry) for entry in logs)


async def test_a_replica_that_has_not_heard_of_a_revocation_says_what_the_database_has(
    database_url: str, admin: Admin, ada: User
) -> None:
    """The check goes by what this replica knows, and the list by what the database has."""
    token = (await admin.login()).access_token
    claims = (await admin.client.validate(token)).claims
    write = (
        "INSERT INTO revocations (kind, target, expires_at, created_at) "
        "VALUES ('token', $1, now() + interval '1 hour', now())"
    )
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(write, claims.token_id)
    finally:
        await connection.close()
    reply = await explain(admin, token)
    assert [covering.target for covering in reply.revocations] == [claims.token_id]

    async def heard() -> bool:
        return failed(await explain(admin, token)) == ["revocation"]

    await eventually(heard)
