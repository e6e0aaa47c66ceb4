"""The servicer that one writes first: PyJWT, then a look for the revocation in PostgreSQL.

`python -m benchmarks.rivals.grpc_pyjwt ADDRESS`, with the database and the key in the environment.
"""

import asyncio
import os
import signal
import sys
from typing import Any

import asyncpg
import grpc
import jwt
import uvloop
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc as rpc
from google.protobuf.timestamp_pb2 import Timestamp

from auth_service import base64url

REVOKED = """
SELECT EXISTS (SELECT FROM revocations
    WHERE kind = 'token' AND target = $1 OR kind = 'session' AND target = $2)
"""


class Validate(rpc.AuthServiceServicer):
    """Validate alone."""

    def __init__(self, pool: Any, secret: bytes) -> None:
        self._pool = pool
        self._secret = secret

    async def Validate(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Decode, look it up, answer."""
        try:
            claims = jwt.decode(
                request.access_token, self._secret, algorithms=["HS256"], audience="internal"
            )
        except jwt.InvalidTokenError:
            return pb.ValidateResponse(active=False)
        if await self._pool.fetchval(REVOKED, claims["jti"], claims["sid"]):
            return pb.ValidateResponse(active=False)
        return pb.ValidateResponse(
            active=True,
            claims=pb.Claims(
                issuer=claims["iss"],
                subject=claims["sub"],
                audience=claims["aud"],
                expires_at=Timestamp(seconds=claims["exp"]),
                issued_at=Timestamp(seconds=claims["iat"]),
                token_id=claims["jti"],
                session_id=claims["sid"],
                client_id=claims["client_id"],
                roles=claims["roles"],
            ),
        )


async def _serve(address: str) -> None:
    pool = await asyncpg.create_pool(os.environ["RIVAL_DATABASE_URL"], min_size=10, max_size=10)
    server = grpc.aio.server()
    secret = base64url.decode(os.environ["RIVAL_SECRET"])
    rpc.add_AuthServiceServicer_to_server(Validate(pool, secret), server)
    server.add_insecure_port(address)
    await server.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await server.stop(1)


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
