"""How soon a revocation at one replica is refused by a local verifier at another.

Beside it, in the same run, what PostgreSQL takes to carry a bare NOTIFY.
"""

import asyncio
import time
from typing import Any

import asyncpg
import grpc
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc as rpc

from auth_service import base64url
from auth_service.client import InactiveReason, InvalidToken, LocalVerifier
from benchmarks.figures import spread
from benchmarks.replicas import ISSUER, Replicas, replicas

REVOCATIONS = 1000
TICK = 0.0002  # seconds between two looks of the verifier, the resolution of the figures


def main() -> None:
    """Print both spreads."""
    asyncio.run(_main())


async def _main() -> None:
    async with replicas(2) as both:
        verifier = LocalVerifier(
            issuer=ISSUER, addresses=both.addresses[1:], shared_key=base64url.encode(both.secret)
        )
        async with verifier, grpc.aio.insecure_channel(both.addresses[0]) as channel:
            await _measure(both, verifier, rpc.AuthServiceStub(channel))


async def _measure(both: Replicas, verifier: LocalVerifier, auth: Any) -> None:
    connection: Any = await asyncpg.connect(both.database_url)
    listener: Any = await asyncpg.connect(both.database_url)
    heard = asyncio.Event()
    await listener.add_listener("bench", lambda *_: heard.set())
    bare, acknowledged, whole = [], [], []
    for _ in range(REVOCATIONS):
        heard.clear()
        started = time.perf_counter()
        await connection.execute("SELECT pg_notify('bench', '')")
        await heard.wait()
        bare.append(time.perf_counter() - started)

        token = both.token()
        verifier.verify(token)
        started = time.perf_counter()
        await auth.Revoke(pb.RevokeRequest(access_token=token), timeout=10)
        answered = time.perf_counter()
        while _active(verifier, token):  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(TICK)
        refused = time.perf_counter()
        acknowledged.append(refused - answered)
        whole.append(refused - started)
    await connection.close()
    await listener.close()
    print(f"bare NOTIFY round trip                 {spread(bare)}")
    print(f"refused at B after Revoke was answered {spread(acknowledged)}")
    print(f"refused at B after Revoke was called   {spread(whole)}")


def _active(verifier: LocalVerifier, token: str) -> bool:
    try:
        verifier.verify(token)
    except InvalidToken as error:
        if error.inactive_reason is not InactiveReason.TOKEN_REVOKED:
            raise
        return False
    return True
