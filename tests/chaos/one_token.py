"""One refresh token, many clients, three replicas, cancels and deadlines: one head each round."""

import asyncio
import random
import time
from typing import Any
from uuid import uuid4

import grpc
from authn.v1 import auth_service_pb2 as pb

from tests.acceptance.servers import PASSWORD
from tests.chaos.audit import audit
from tests.chaos.fleet import USERS, open_fleet
from tests.chaos.model import Model, OwnSession, generation
from tests.chaos.row import Row

__all__ = ["one_token"]

CLIENTS = 64
SHORT = 0.005  # seconds


async def one_token(rounds: int, seconds: float) -> Row:
    """Refresh one token from all clients at once; each retries until it has an answer."""
    row = Row(f"one refresh token, {CLIENTS} clients, 3 replicas, cancels and 5 ms deadlines")
    async with open_fleet(3) as fleet:
        deadline = time.monotonic() + seconds
        model = Model(row, fleet.addresses, ())
        credentials = pb.PasswordCredentials(identifier=USERS[0], password=PASSWORD)
        session = OwnSession(await model.client.login(pb.LoginRequest(password=credentials)))
        model.live.append(session)
        given_up = 0
        while row.times < rounds and time.monotonic() < deadline:
            parent = session.tokens.refresh_token, uuid4().hex
            started = time.monotonic()
            hurried = [_hurried(model, number, *parent) for number in range(CLIENTS // 2)]
            patient = [model.client.refresh(*parent) for _ in range(CLIENTS - len(hurried))]
            tried, answers = await asyncio.gather(
                asyncio.gather(*hurried), asyncio.gather(*patient)
            )
            given_up += sum(tried)
            row.logged_out += answers.count(None)
            heads = {answer.refresh_token: answer for answer in answers if answer is not None}
            row.forked += max(0, len(heads) - 1)
            assert heads, "the session has ended"
            (token, tokens), *_ = heads.items()
            row.forked += generation(token) != generation(parent[0]) + 1
            session.tokens, session.parent = tokens, parent
            row.recovered(time.monotonic() - started)
        assert given_up >= row.times, f"only {given_up} calls were cancelled or timed out"
        await audit(model, fleet.database.direct_url)
        row.remark = f"{given_up} calls given up; recovery is the longest round"
    return row


async def _hurried(model: Model, number: int, token: str, request_id: str) -> bool:
    """Make a call that is cancelled or has a short deadline; tell whether it got no answer."""
    stub: Any = model.client.stubs[number % len(model.client.stubs)]
    request = pb.RefreshRequest(refresh_token=token, request_id=request_id)
    call = stub.Refresh(request, timeout=SHORT if number % 2 else 10.0)
    if number % 2 == 0:
        await asyncio.sleep(random.uniform(0, 2 * SHORT))
        call.cancel()
    try:
        await call
    except (grpc.aio.AioRpcError, asyncio.CancelledError):
        return True
    return False
