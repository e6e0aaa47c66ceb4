"""Hundreds of Watch streams that lose their replica at once, and all go to the other one."""

import asyncio
import base64
import json
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import grpc
from authn.v1 import auth_service_pb2 as auth
from authn.v1 import verifier_service_pb2 as pb
from authn.v1 import verifier_service_pb2_grpc as rpc

from tests.acceptance.servers import PASSWORD
from tests.channels import RECONNECT
from tests.chaos.fleet import USERS, open_fleet
from tests.chaos.kills import audited
from tests.chaos.model import Model, OwnSession
from tests.chaos.row import Row

__all__ = ["fill", "lost_replica"]

A_CONNECTION = 50  # streams
SECONDS = 90.0  # for all streams to be there
FILL = """
    INSERT INTO revocations (kind, target, expires_at, created_at)
    SELECT 'session', md5('revoked' || n)::uuid::text, $2::timestamptz + n % 1800 * interval '1 s',
        now()
    FROM generate_series(1, $1::int) n
"""


class _Stream:
    """One Watch stream, as a verifier holds it."""

    def __init__(self, stub: Any, cursor: str) -> None:
        self._call = stub.Watch(pb.WatchRequest(cursor=cursor, accept_segments=True))
        self.cursor = cursor
        self.current = asyncio.Event()
        """Set once the stream has sent what was missing."""
        self.revoked: asyncio.Queue[str | None] = asyncio.Queue()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            async for event in self._call:
                self.cursor = event.cursor or self.cursor
                kind = event.WhichOneof("event")
                if kind == "revocation":
                    self.revoked.put_nowait(event.revocation.token_id)
                if kind == "heartbeat" and event.HasField("as_of"):  # others are signs of life
                    self.current.set()
        except grpc.aio.AioRpcError as error:
            if error.code().name in {"INTERNAL", "UNKNOWN"}:
                raise
        self.revoked.put_nowait(None)  # the end


async def lost_replica(streams: int, revocations: int, *, resume: bool) -> Row:
    """Kill the replica of all streams, which then connect to the other one."""
    how = "resumed by cursor" if resume else "without a cursor"
    row = Row(
        f"{streams} Watch streams lose their replica, {revocations:,} live revocations, {how}"
    )
    async with open_fleet() as fleet:
        await fill(fleet.database.direct_url, revocations)
        for number in (0, 1):  # they take the rows in at their start
            await fleet.kill(number)
        async with audited(row, fleet) as model:
            quiet = await _slowest(model, 1.0)
            async with _streams(fleet.addresses[0], 1) as (first,):
                async with asyncio.timeout(SECONDS):
                    await first.current.wait()
                cursor = first.cursor
            assert cursor, "the stream gave no cursor"
            async with _streams(fleet.addresses[0], streams, cursor) as held:
                await _all_current(held)
                fleet.replicas[0].kill()
                async with asyncio.timeout(SECONDS):
                    await asyncio.gather(*(each.task for each in held))
            started = time.monotonic()
            slowest = asyncio.create_task(_slowest(model, math.inf))
            async with _streams(fleet.addresses[1], streams, cursor if resume else "") as held:
                await _all_current(held)
                seconds = time.monotonic() - started
                slowest.cancel()
                during = await slowest
                reached = await _reached(model, held)
            await asyncio.to_thread(fleet.replicas[0].start, fleet.addresses[0])
            row.recovered(seconds)
            row.lost += streams - reached
    row.remark = (
        f"recovery is until all streams were current; slowest Validate meanwhile "
        f"{during * 1000:.0f} ms, before {quiet * 1000:.0f} ms"
    )
    return row


async def fill(url: str, revocations: int) -> None:
    """Make revocations of sessions that nobody has, live for 30 minutes and more."""
    connection = await asyncpg.connect(url)
    await connection.execute(FILL, revocations, datetime.now(UTC) + timedelta(minutes=30))
    await connection.close()


@asynccontextmanager
async def _streams(address: str, count: int, cursor: str = "") -> AsyncIterator[list[_Stream]]:
    """Yield open streams on connections of their own."""
    channels = [
        grpc.aio.insecure_channel(address, options=RECONNECT)
        for _ in range(math.ceil(count / A_CONNECTION))
    ]
    stubs = [rpc.VerifierServiceStub(channel) for channel in channels]
    streams = [_Stream(stubs[number // A_CONNECTION], cursor) for number in range(count)]
    try:
        yield streams
    finally:
        for stream in streams:
            stream.task.cancel()
        await asyncio.gather(*(stream.task for stream in streams), return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in channels))


async def _all_current(streams: list[_Stream]) -> None:
    async with asyncio.timeout(SECONDS):
        for stream in streams:
            await stream.current.wait()


async def _slowest(model: Model, seconds: float) -> float:
    """Return the longest time that Validate took at the replica that stays, until cancelled."""
    slowest, deadline = 0.0, time.monotonic() + seconds
    stub = model.client.stubs[1]
    request = auth.ValidateRequest(access_token=uuid4().hex)
    try:
        while time.monotonic() < deadline:
            started = time.monotonic()
            await stub.Validate(request, timeout=60)
            slowest = max(slowest, time.monotonic() - started)
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        pass
    return slowest


async def _reached(model: Model, streams: list[_Stream]) -> int:
    """Return how many streams hear of a revocation that is made now."""
    credentials = auth.PasswordCredentials(identifier=USERS[0], password=PASSWORD)
    session = OwnSession(await model.client.login(auth.LoginRequest(password=credentials)))
    token = session.tokens.access_token
    await model.client.revoke(auth.RevokeRequest(access_token=token))
    payload = token.split(".")[1]
    token_id = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["jti"]

    async def hears(stream: _Stream) -> bool:
        while (heard := await stream.revoked.get()) != token_id:
            if heard is None:
                return False
        return True

    async with asyncio.timeout(SECONDS):
        return sum(await asyncio.gather(*map(hears, streams)))
