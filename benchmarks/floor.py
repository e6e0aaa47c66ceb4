"""The floor: what gRPC for Python itself allows, with the same messages on the same event loop.

`python -m benchmarks.floor NAME ADDRESS` serves without interceptor until SIGTERM:

    validate    an empty method that answers a Validate with one and the same message
    refresh     an empty method around the UPDATE of a refresh, by bare asyncpg
    watch       an empty method that streams ready messages of given sizes
    tcp         the same bytes to each connection, without gRPC
    bare        reflection and nothing else
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import asyncpg
import grpc
import uvloop
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc as rpc
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_reflection.v1alpha import reflection

from auth_service.db.statements import statements
from benchmarks import tables

DATABASE = "BENCH_DATABASE_URL"
SIZES = "BENCH_MESSAGE_SIZES"  # in bytes, with spaces in between
POOL = 10  # connections, as in AUTH_DATABASE_POOL_MAX


def validate_response() -> Any:
    """Return an answer as long as that of a server under test."""
    now = Timestamp(seconds=1_790_000_000, nanos=123_456_000)
    claims = pb.Claims(
        issuer="https://auth.internal",
        subject="0" * 36,
        audience=["internal"],
        expires_at=now,
        issued_at=now,
        token_id="0" * 22,
        session_id="0" * 36,
        client_id="bench",
        auth_time=now,
        authentication_methods=["pwd"],
    )
    return pb.ValidateResponse(active=True, claims=claims, revocations_as_of=now)


class Validate(rpc.AuthServiceServicer):
    """An empty Validate."""

    def __init__(self) -> None:
        self._response = validate_response()

    async def Validate(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Answer without a look."""
        return self._response


class Refresh(rpc.AuthServiceServicer):
    """The UPDATE alone; `refresh_token` names user, session, generation and seed, and is padded."""

    def __init__(self, pool: Any, statement: str) -> None:
        self._pool = pool
        self._statement = statement
        now = Timestamp(seconds=1_790_000_000)
        self._response = pb.RefreshResponse(
            tokens=pb.TokenPair(
                access_token="0" * 560,
                token_type="Bearer",
                access_expires_at=now,
                refresh_token="0" * 420,
                refresh_expires_at=now,
                session_id="0" * 36,
            )
        )

    async def Refresh(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Step the session."""
        user, session, generation, seed, _ = request.refresh_token.split(" ")
        wanted = tables.rotation(UUID(user), UUID(session), int(generation), bytes.fromhex(seed))
        row = await self._pool.fetchrow(self._statement, *wanted)
        if row is None:
            raise RuntimeError("no such session, or another generation")
        return self._response


class Watch(grpc.GenericRpcHandler):
    """A stream of ready messages, under any name."""

    def __init__(self, messages: Sequence[bytes]) -> None:
        self._messages = messages

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of any method."""
        return grpc.unary_stream_rpc_method_handler(self._send)

    async def _send(self, request: bytes, context: Any) -> None:
        for message in self._messages:
            await context.write(message)


def _messages() -> list[bytes]:
    return [os.urandom(int(size)) for size in os.environ[SIZES].split()]


async def _serve_tcp(address: str) -> None:
    messages = _messages()

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # a probe of the port reads nothing
            for message in messages:
                writer.write(message)
                await writer.drain()
        writer.close()

    host, port = address.rsplit(":", 1)
    async with await asyncio.start_server(send, host, int(port)):
        await _stopped()


async def _stopped() -> None:
    """Return at SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()


async def _no_reset(connection: Any) -> None:
    pass


async def _serve(name: str, address: str) -> None:
    server = grpc.aio.server()
    match name:
        case "validate":
            rpc.add_AuthServiceServicer_to_server(Validate(), server)
        case "refresh":
            pool = await asyncpg.create_pool(
                os.environ[DATABASE], min_size=POOL, max_size=POOL, reset=_no_reset
            )
            statement = statements()["rotate_session"]
            rpc.add_AuthServiceServicer_to_server(Refresh(pool, statement), server)
        case "watch":
            server.add_generic_rpc_handlers((Watch(_messages()),))
        case "bare":
            reflection.enable_server_reflection([reflection.SERVICE_NAME], server)
        case _:
            sys.exit(f"no floor {name!r}; there are validate, refresh, watch, tcp, bare")
    server.add_insecure_port(address)
    await server.start()
    await _stopped()
    await server.stop(1)


if __name__ == "__main__":
    uvloop.run(
        _serve_tcp(sys.argv[2]) if sys.argv[1] == "tcp" else _serve(sys.argv[1], sys.argv[2])
    )
