"""Several replicas on one database, an outage of the database, and a graceful stop."""

import asyncio
from typing import Any

import asyncpg
import grpc
import pytest
from authn.v1 import auth_service_pb2 as pb

from tests.acceptance.conftest import MakeClient, MakeProxy, StartServer
from tests.acceptance.servers import (
    PASSWORD,
    USER,
    Client,
    ServerProcess,
    database_target,
    error_of,
    eventually,
    make_user,
    through,
)

PROMPTLY = 5.0


async def started(start_server: StartServer, **settings: Any) -> ServerProcess:
    return await asyncio.to_thread(start_server, **settings)


async def refusal(call: Any) -> grpc.aio.AioRpcError | None:
    """Return the error of a call; None if it succeeds."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error
    return None


async def assert_soon_inactive(client: Client, token: str, *reasons: int) -> None:
    async def inactive() -> pb.ValidateResponse | None:
        answer = await client.validate(token)
        return None if answer.active else answer

    answer = await eventually(inactive, within=PROMPTLY, what="the revocation has arrived")
    assert answer.inactive_reason in reasons
    assert not answer.HasField("claims")


@pytest.mark.parametrize("target", ["refresh_token", "access_token", "session_id", "all_sessions"])
async def test_a_revocation_at_one_replica_reaches_the_other(
    start_server: StartServer, client: MakeClient, database_url: str, target: str
) -> None:
    """A token that is revoked at A is refused there at once, and soon at B."""
    await make_user(database_url)
    servers = await asyncio.gather(started(start_server), started(start_server))
    a, b = [await client(server.address) for server in servers]
    pair = await a.login()
    token = pair.access_token
    assert (await a.validate(token)).active
    assert (await b.validate(token)).active

    requests = {
        "refresh_token": pb.RevokeRequest(refresh_token=pair.refresh_token),
        "access_token": pb.RevokeRequest(access_token=token),
        "session_id": pb.RevokeRequest(session_id=pair.session_id),
        "all_sessions": pb.RevokeRequest(all_sessions=pb.AllSessions()),
    }
    metadata = (("authorization", f"Bearer {token}"),)
    await a.auth.Revoke(requests[target], metadata=metadata, timeout=60)
    assert not (await a.validate(token)).active
    reasons = {
        "access_token": [pb.INACTIVE_REASON_TOKEN_REVOKED],
        "all_sessions": [pb.INACTIVE_REASON_USER_REVOKED, pb.INACTIVE_REASON_SESSION_REVOKED],
    }.get(target, [pb.INACTIVE_REASON_SESSION_REVOKED])
    await assert_soon_inactive(b, token, *reasons)
    refused = await refusal(b.refresh(pair.refresh_token))
    if target == "access_token":
        assert refused is None
    else:
        assert refused is not None
        assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
        assert error_of(refused)[0] == "INVALID_GRANT"


async def test_replicas_share_sessions(
    start_server: StartServer, client: MakeClient, database_url: str
) -> None:
    """A retry at another replica gets the same response; tokens are valid at both."""
    await make_user(database_url)
    servers = await asyncio.gather(started(start_server), started(start_server))
    a, b = [await client(server.address) for server in servers]
    first = await a.login()
    answers = await asyncio.gather(
        *(side.refresh(first.refresh_token) for side in (a, b) for _ in range(20))
    )
    assert len({answer.SerializeToString(deterministic=True) for answer in answers}) == 1
    assert (await b.validate(answers[0].access_token)).active


async def test_an_outage_of_the_database(
    start_server: StartServer, client: MakeClient, proxy: MakeProxy, database_url: str
) -> None:
    """Validate works until the freshness limit and then fails closed; recovery needs no restart."""
    await make_user(database_url)
    between = await proxy(database_target(database_url))
    server = await started(start_server, url=through(database_url, between))
    a = await client(server.address)
    pair = await a.login()

    await between.cut()
    assert (await a.validate(pair.access_token)).active
    credentials = pb.PasswordCredentials(identifier=USER, password=PASSWORD)
    for call in (
        a.auth.Login(pb.LoginRequest(password=credentials), timeout=30),
        a.auth.Refresh(pb.RefreshRequest(refresh_token=pair.refresh_token), timeout=30),
        a.auth.Revoke(pb.RevokeRequest(refresh_token=pair.refresh_token), timeout=30),
    ):
        refused = await refusal(call)
        assert refused is not None
        assert refused.code() is grpc.StatusCode.UNAVAILABLE
        reason, retry = error_of(refused)
        assert reason == "UNAVAILABLE"
        assert retry
        assert "127.0.0.1" not in (refused.details() or "")

    async def stale() -> grpc.aio.AioRpcError | None:
        return await refusal(a.validate(pair.access_token))

    refused = await eventually(stale, what="Validate fails closed")
    assert refused.code() is grpc.StatusCode.UNAVAILABLE
    assert error_of(refused) == ("REVOCATIONS_STALE", True)

    async def not_serving() -> bool:
        return not await a.serving()

    await eventually(not_serving, what="health is NOT_SERVING")

    await between.open()

    async def answers() -> bool:
        return await refusal(a.validate(pair.access_token)) is None

    await eventually(answers, what="Validate answers again")
    assert (await a.validate(pair.access_token)).active
    await eventually(a.serving, what="health is SERVING again")
    assert (await a.refresh(pair.refresh_token)).access_token
    assert (await a.login()).access_token
    assert server.process.poll() is None


async def test_a_replica_that_was_cut_off_misses_no_revocation(
    start_server: StartServer, client: MakeClient, proxy: MakeProxy, database_url: str
) -> None:
    """After it reconnects, it reads them before it accepts tokens again."""
    await make_user(database_url)
    between = await proxy(database_target(database_url))
    servers = await asyncio.gather(
        started(start_server), started(start_server, url=through(database_url, between))
    )
    a, b = [await client(server.address) for server in servers]
    pair = await a.login()
    assert (await b.validate(pair.access_token)).active
    await between.cut()
    await a.auth.Revoke(pb.RevokeRequest(refresh_token=pair.refresh_token), timeout=60)

    async def stale() -> grpc.aio.AioRpcError | None:
        return await refusal(b.validate(pair.access_token))

    await eventually(stale, what="Validate fails closed")
    await between.open()

    async def verdict() -> pb.ValidateResponse | None:
        try:
            return await b.validate(pair.access_token)
        except grpc.aio.AioRpcError:
            return None

    first = await eventually(verdict, what="Validate answers again")
    assert not first.active


async def test_calls_in_flight_finish_at_a_stop(
    start_server: StartServer, client: MakeClient, database_url: str
) -> None:
    """After SIGTERM, new calls are refused, running calls finish, and the exit code is 0."""
    await make_user(database_url)
    server = await started(start_server, AUTH_DATABASE_STATEMENT_TIMEOUT="30s")
    a = await client(server.address)
    pair = await a.login()
    connection: Any = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE")
            calls = asyncio.gather(a.login(), a.refresh(pair.refresh_token))

            async def both_wait() -> bool:
                waiting = await connection.fetchval(
                    "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation ="
                    " 'sessions'::regclass AND database ="
                    " (SELECT oid FROM pg_database WHERE datname = current_database())"
                )
                return bool(waiting >= 2)

            await eventually(both_wait, what="two calls are in the database")
            server.terminate()
            other = Client(server.address)  # it may never connect

            async def refuses() -> bool:
                return not await other.serving()

            await eventually(refuses, what="nothing new is taken")
            await other.channel.close()
            assert server.process.poll() is None
        for answer in await calls:
            assert answer.access_token
    finally:
        await connection.close()
    assert await asyncio.to_thread(server.process.wait, 60) == 0
