"""kill -9 between the commit and the response: the retry gets the lost response."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import grpc
import pytest

from tests.acceptance.conftest import MakeClient, MakeProxy, StartServer
from tests.acceptance.servers import eventually, make_user


@pytest.mark.parametrize("answered", [False, True], ids=["at-the-commit", "at-the-response"])
async def test_the_retry_of_a_refresh_that_a_kill_interrupted_gets_the_successor(
    start_server: StartServer,
    client: MakeClient,
    proxy: MakeProxy,
    database_url: str,
    answered: bool,
) -> None:
    """A committed rotation is never lost and never repeated."""
    await make_user(database_url)
    grace = {"AUTH_REFRESH_GRACE": "60s"}  # a new server takes long to start on a busy machine
    server = await asyncio.to_thread(start_server, **grace)
    host, port = server.address.split(":")
    between = await proxy((host, int(port)))
    lost = await client(f"127.0.0.1:{between.port}")
    first = await lost.login()

    between.withhold()
    call = asyncio.ensure_future(lost.refresh(first.refresh_token))
    connection: Any = await asyncpg.connect(database_url)

    async def generation() -> int:
        number: int = await connection.fetchval(
            "SELECT generation FROM sessions WHERE id = $1", UUID(first.session_id)
        )
        return number

    async def response_withheld() -> bool:
        return (
            b"grpc-status" in between.withheld
            or b"rt+jwt" in between.withheld
            or (len(between.withheld) > 600)
        )

    try:
        await eventually(generation, what="the refresh is committed")
        if answered:
            await eventually(response_withheld, what="the response is on its way")
        assert not call.done()
        server.kill()
        await between.cut()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE

        after = await client((await asyncio.to_thread(start_server, **grace)).address)
        second = await after.refresh(first.refresh_token)
        assert await generation() == 1
        assert (await after.validate(second.access_token)).active
        if answered:
            assert second.refresh_token.encode() in between.withheld
            assert second.access_token.encode() in between.withheld
        again = await after.refresh(first.refresh_token)
        assert again.SerializeToString(deterministic=True) == second.SerializeToString(
            deterministic=True
        )
        assert await generation() == 1
        third = await after.refresh(second.refresh_token)
        assert await generation() == 2
        assert (await after.validate(third.access_token)).active
        assert third.session_id == first.session_id
    finally:
        await connection.close()
