"""What is checked once a fault is over: everything that was acknowledged, at every replica."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from uuid import uuid4

import asyncpg

from tests.chaos.model import Model, OwnSession

__all__ = ["audit"]

AT_ONCE = 16  # calls
MOST = 600  # sessions of a kind, the newest ones
SECONDS = 120.0
ASK_AGAIN = 0.05  # seconds
Check = Callable[[Model, OwnSession], Awaitable[None]]
REUSE = "SELECT count(*) FROM audit_log WHERE event = 'session.reuse_detected'"


async def audit(model: Model, database_url: str) -> None:
    """Fill in the row what was lost, forked, logged out or came back, and all that was counted."""
    row, limit = model.row, asyncio.Semaphore(AT_ONCE)
    row.calls, row.errors = model.client.calls, model.client.errors.copy()
    connection = await asyncpg.connect(database_url)
    async with asyncio.timeout(SECONDS):
        reuses = await connection.fetchval(REUSE)
        await connection.close()

        async def limited(check: Check, session: OwnSession) -> None:
            async with limit:
                await check(model, session)

        await asyncio.gather(
            *(limited(_live, session) for session in model.live[-MOST:]),
            *(limited(_revoked, session) for session in model.revoked[-MOST:]),
        )
    row.logged_out = max(row.logged_out, reuses)
    told = "; ".join(f"{text} ({count})" for text, count in model.client.details.most_common(3))
    row.failure = row.failure or told
    await model.client.close()


async def _live(model: Model, session: OwnSession) -> None:
    """The retry of the last refresh gives what was acknowledged, and that can be refreshed."""
    if session.parent is not None:
        again = await model.client.refresh(*session.parent)
        if again is None:
            model.row.logged_out += 1
            return
        model.row.forked += again.refresh_token != session.tokens.refresh_token
    after = await model.client.refresh(session.tokens.refresh_token, uuid4().hex)
    model.row.lost += after is None


async def _inactive(model: Model, session: OwnSession, replica: int) -> bool:
    """Ask until a replica says inactive. One that never did may take the stated staleness."""
    while True:
        asked = time.monotonic()
        verdict = await model.client.validate(replica, session.tokens.access_token)
        if not verdict.active:
            return True
        if replica in session.seen_inactive or not session.may_be_unknown(asked):
            return False
        await asyncio.sleep(ASK_AGAIN)


async def _revoked(model: Model, session: OwnSession) -> None:
    """No replica says active, and the refresh token of a revoked session is refused."""
    for replica in range(len(model.client.stubs)):
        if not await _inactive(model, session, replica):
            known = replica in session.seen_inactive
            model.row.came_back += known
            model.row.lost += not known
    if not session.token_only:
        answer = await model.client.refresh(session.tokens.refresh_token, uuid4().hex)
        model.row.came_back += answer is not None
