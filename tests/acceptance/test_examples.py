"""The examples, as real processes with a real server."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from authn.v1 import auth_service_pb2 as pb

from tests.acceptance.conftest import MakeClient, StartServer
from tests.acceptance.servers import KEYS, PROJECT, environment, eventually, make_user
from tests.ports import free_address

Call = Callable[[str, str, str], Awaitable[str]]
"""Calls a method at an address with a token; returns the response, or the status of the error."""


async def over_grpc(address: str, method: str, token: str) -> str:
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            call: Any = channel.unary_unary(f"/orders.v1.Orders/{method}")
            answer: bytes = await call(b"", metadata=metadata, timeout=10, wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return answer.decode()


async def over_http(address: str, method: str, token: str) -> str:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    verb, path = {"List": ("GET", "/orders"), "Delete": ("DELETE", "/orders/1")}[method]
    async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as client:
        try:
            answer = await client.request(verb, path, headers=headers, timeout=60)
        except httpx.TransportError:
            return "UNAVAILABLE"
    codes = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 503: "UNAVAILABLE"}
    return codes.get(answer.status_code) or str(answer.json())


@pytest.fixture
def run_example() -> Iterator[Callable[..., str]]:
    """Start an example and return its address."""
    processes: list[subprocess.Popen[bytes]] = []

    def run(name: str, auth_address: str) -> str:
        address = free_address()
        processes.append(
            subprocess.Popen(
                [sys.executable, str(PROJECT / "examples" / name), address],
                env=environment("", AUTH_ADDRESSES=auth_address),
                stdin=subprocess.DEVNULL,
            )
        )
        return address

    yield run
    for process in processes:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("orders_aio.py", over_grpc),
        ("orders_sync.py", over_grpc),
        ("orders_fastapi.py", over_http),
    ],
)
async def test_an_example_verifies_tokens_and_receives_revocations(
    start_server: StartServer,
    client: MakeClient,
    run_example: Callable[..., str],
    database_url: str,
    name: str,
    call: Call,
) -> None:
    """No token, a valid one, one without the role, and one that was revoked."""
    user = await make_user(database_url)
    server = await asyncio.to_thread(start_server)
    address = run_example(name, server.address)
    auth = await client(server.address)
    pair = await auth.login()

    async def verdict(*wanted: str) -> str | None:
        answer = await call(address, "List", pair.access_token)
        return answer if answer in wanted else None

    listed = f"orders of {user.id}"
    await eventually(lambda: verdict(listed), what="the example serves")
    assert await call(address, "List", "") == "UNAUTHENTICATED"
    assert await call(address, "Delete", pair.access_token) == "PERMISSION_DENIED"
    await auth.auth.Revoke(pb.RevokeRequest(refresh_token=pair.refresh_token), timeout=60)
    await eventually(lambda: verdict("UNAUTHENTICATED"), what="the revocation has arrived")


def test_every_example_is_run() -> None:
    """All examples are listed above, and none has a secret."""
    examples = sorted(path.name for path in Path(PROJECT, "examples").glob("*.py"))
    assert examples == ["orders_aio.py", "orders_fastapi.py", "orders_sync.py"]
    for name in examples:
        text = Path(PROJECT, "examples", name).read_text()
        assert all(key not in text for key in KEYS.values())
    assert os.access(PROJECT / "docs" / "verify-tokens.md", os.R_OK)
