"""Hundreds of Watch streams that lose their replica at once, and all go to the other one."""

import asyncio
import base64
import contextlib
import json
import math
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
from authn.v1 import auth_service_pb2 as auth

from tests.acceptance.servers import PASSWORD
from tests.chaos.fleet import USERS, open_fleet
from tests.chaos.kills import audited
from tests.chaos.model import Model, OwnSession
from tests.chaos.row import Row
from tests.chaos.watch_streams import WatchStreams

__all__ = ["fill", "lost_replica"]

SECONDS = 90.0  # for all streams to be there
FILL = """
    INSERT INTO revocations (kind, target, expires_at, created_at)
    SELECT 'session', md5('revoked' || n)::uuid::text, $2::timestamptz + n % 1800 * interval '1 s',
        now()
    FROM generate_series(1, $1::int) n
"""


async def lost_replica(
    streams: int, revocations: int, *, resume: bool, within: float = SECONDS
) -> Row:
    """Kill the replica of all streams, which then connect to the other one, in so many seconds."""
    how = "resumed by cursor" if resume else "without a cursor"
    row = Row(
        f"{streams} Watch streams lose their replica, {revocations:,} live revocations, {how}"
    )
    async with open_fleet() as fleet, WatchStreams.running() as watching:
        await fill(fleet.database.direct_url, revocations)
        for number in (0, 1):  # they take the rows in at their start
            await fleet.kill(number)
        gone, stays = fleet.addresses
        async with audited(row, fleet) as model:
            quiet = await _validate(model, 5.0)
            memory = _peak_memory(fleet.replicas[1].process.pid)
            first = await watching.open(gone, 1, "", within=SECONDS)
            assert first.cursor, "the stream gave no cursor"
            await watching.open(gone, streams, first.cursor, within=SECONDS)
            fleet.replicas[0].kill()
            _, lost = await watching.hear("", within=SECONDS)
            assert lost.total() == streams, f"{lost.total()} streams lost their replica"
            validating = asyncio.create_task(_validate(model, math.inf))
            cursor = first.cursor if resume else ""
            current = await watching.open(stays, streams, cursor, within=within)
            validating.cancel()
            during = await validating
            memory = _peak_memory(fleet.replicas[1].process.pid) - memory
            reached, ended = await _reached(model, watching)
            await asyncio.to_thread(fleet.replicas[0].start, gone)
    row.recovered(current.seconds)
    row.lost += streams - reached
    row.errors += lost + ended
    assert resume or current.sent > streams * revocations * 16, f"{current.sent} bytes were sent"
    row.remark = (
        f"recovery is until all streams were current, with {current.sent / 1e6:,.0f} MB; "
        f"p50, p99 and slowest Validate meanwhile {during}, before {quiet}; "
        f"memory at most {memory / 2**20:+.0f} MiB"
    )
    return row


async def fill(url: str, revocations: int) -> None:
    """Make revocations of sessions that nobody has, live for 30 minutes and more."""
    connection = await asyncpg.connect(url)
    await connection.execute(FILL, revocations, datetime.now(UTC) + timedelta(minutes=30))
    await connection.close()


async def _validate(model: Model, seconds: float) -> str:
    """Return how long Validate takes at the replica that stays; ends early if it is cancelled."""
    took, deadline = [], time.monotonic() + seconds
    stub = model.client.stubs[1]
    request = auth.ValidateRequest(access_token=uuid4().hex)
    with contextlib.suppress(asyncio.CancelledError):
        while time.monotonic() < deadline:
            started = time.monotonic()
            await stub.Validate(request, timeout=60)
            took.append(time.monotonic() - started)
            await asyncio.sleep(0.01)
    took.sort()
    figures = took[len(took) // 2], took[len(took) * 99 // 100], took[-1]
    return ", ".join(f"{1000 * each:.0f}" for each in figures) + " ms"


async def _reached(model: Model, watching: WatchStreams) -> tuple[int, Counter[str]]:
    """Return how many streams hear of a revocation that is made now, and how the others ended."""
    credentials = auth.PasswordCredentials(identifier=USERS[0], password=PASSWORD)
    session = OwnSession(await model.client.login(auth.LoginRequest(password=credentials)))
    token = session.tokens.access_token
    await model.client.revoke(auth.RevokeRequest(access_token=token))
    payload = token.split(".")[1]
    token_id = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["jti"]
    return await watching.hear(token_id, within=SECONDS)


def _peak_memory(pid: int) -> int:
    """Return the most memory that a process ever held, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
