"""How soon a revocation at one replica is refused by a local verifier at another.

The same for a service account that is disabled, whose tokens all end.

Beside it, in the same run, what PostgreSQL takes to carry a bare NOTIFY.
"""

import asyncio
import time
from typing import Any

import asyncpg
import grpc
from authn.v1 import admin_service_pb2 as admin_pb
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc as rpc
from authn.v1.admin_service_pb2_grpc import AdminServiceStub

from auth_service import base64url
from auth_service.client import InactiveReason, InvalidToken, LocalVerifier
from benchmarks.figures import Verdict, spread
from benchmarks.replicas import ISSUER, Replicas, replicas

REVOCATIONS = 1000
DISABLED = 300
_EXPECTED = (InactiveReason.TOKEN_REVOKED, InactiveReason.USER_REVOKED)
TICK = 0.0002  # seconds between two looks of the verifier, the resolution of the figures


def main() -> list[Verdict]:
    """Print the spreads."""
    return asyncio.run(_main())


async def _main() -> list[Verdict]:
    async with replicas(2) as both:
        verifier = LocalVerifier(
            issuer=ISSUER, addresses=both.addresses[1:], shared_key=base64url.encode(both.secret)
        )
        async with verifier, grpc.aio.insecure_channel(both.addresses[0]) as channel:
            await _measure(both, verifier, rpc.AuthServiceStub(channel))
            return [await _disable(both, verifier, AdminServiceStub(channel))]


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


async def _disable(both: Replicas, verifier: LocalVerifier, admin: Any) -> Verdict:
    """Disable accounts, one after the other; each has a token that the verifier accepts."""
    caller = both.token(roles=("admin",))
    metadata = (("authorization", f"Bearer {caller}"),)
    whole = []
    for number in range(DISABLED):
        name = f"service-{number}"
        await admin.CreateServiceAccount(
            admin_pb.CreateServiceAccountRequest(client_id=name), metadata=metadata, timeout=10
        )
        token = both.token(user=name)
        verifier.verify(token)
        request = admin_pb.SetServiceAccountDisabledRequest(client_id=name, disabled=True)
        started = time.perf_counter()
        await admin.SetServiceAccountDisabled(request, metadata=metadata, timeout=10)
        while _active(verifier, token):  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(TICK)
        whole.append((time.perf_counter() - started) * 1000)
    print(f"refused at B after an account was disabled at A {spread([t / 1000 for t in whole])}")
    p99 = sorted(whole)[len(whole) * 99 // 100]
    return Verdict("p99 from disabling an account to its refusal", [p99], at_most=10, unit="ms")


def _active(verifier: LocalVerifier, token: str) -> bool:
    try:
        verifier.verify(token)
    except InvalidToken as error:
        if error.inactive_reason not in _EXPECTED:
            raise
        return False
    return True
