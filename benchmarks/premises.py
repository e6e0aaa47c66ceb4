"""What a benchmark asserts of its own premise: which signatures and revocations are at work."""

import asyncio
import urllib.request

import grpc
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc as rpc

__all__ = ["require", "signatures_verified", "verdict"]

_COUNTER = "auth_signatures_verified_total "
_SETTLED = 0.6  # seconds; a server adds to its metrics four times a second


def require(premise: bool, text: str) -> None:
    """Raise RuntimeError if the premise does not hold: the figures would be worthless."""
    if not premise:
        raise RuntimeError(f"the premise does not hold: {text}")


async def signatures_verified(http: str) -> int:
    """Return how many signatures of access tokens the server at this HTTP address has verified."""
    last = -1
    while True:
        with await asyncio.to_thread(urllib.request.urlopen, f"http://{http}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        count = sum(int(float(line.split()[1])) for line in lines if line.startswith(_COUNTER))
        if count == last:
            return count
        last = count
        await asyncio.sleep(_SETTLED)


async def verdict(address: str, token: str) -> pb.ValidateResponse:
    """Return what the server at this gRPC address says of a token."""
    async with grpc.aio.insecure_channel(address) as channel:
        request = pb.ValidateRequest(access_token=token)
        stub = rpc.AuthServiceStub(channel)
        answer: pb.ValidateResponse = await stub.Validate(request, wait_for_ready=True, timeout=30)
        return answer
