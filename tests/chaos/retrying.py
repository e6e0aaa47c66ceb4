"""Calls with the documented retry: the same request, at another replica, after a backoff."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc as rpc

from tests.channels import RECONNECT

__all__ = ["RetryingClient"]

T = TypeVar("T")
DEADLINE = 2.0  # seconds for each attempt
BACKOFF = (0.05, 1.0)  # seconds: the first, and the longest
REFUSALS = {"UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT", "NOT_FOUND"}


class RetryingClient:
    """A channel to each replica. It counts how often each status came, and each success."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._channels = [grpc.aio.insecure_channel(each, options=RECONNECT) for each in addresses]
        self.stubs: list[Any] = [rpc.AuthServiceStub(channel) for channel in self._channels]
        self._turn = itertools.cycle(self.stubs)
        self.errors: Counter[str] = Counter()
        self.details: Counter[str] = Counter()
        """The texts of the errors that no fault may cause, by status."""
        self.calls = 0

    async def close(self) -> None:
        """Close the channels."""
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def call(self, attempt: Callable[[Any], Awaitable[T]]) -> T:
        """Return the first success. Raises AioRpcError for a refusal, which a retry keeps."""
        longest = BACKOFF[0]
        while True:
            try:
                answer = await attempt(next(self._turn))
            except grpc.aio.AioRpcError as error:
                if error.code().name in REFUSALS:
                    raise
                self._count(error)
            else:
                self.calls += 1
                return answer
            await asyncio.sleep(random.uniform(0, longest))
            longest = min(longest * 2, BACKOFF[1])

    async def refresh(self, token: str, request_id: str) -> pb.TokenPair | None:
        """Return the successor; None if the token is refused."""
        request = pb.RefreshRequest(refresh_token=token, request_id=request_id)
        try:
            answer = await self.call(lambda stub: stub.Refresh(request, timeout=DEADLINE))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                raise
            return None
        tokens: pb.TokenPair = answer.tokens
        return tokens

    async def login(self, request: pb.LoginRequest) -> pb.TokenPair:
        """Log in."""
        answer = await self.call(lambda stub: stub.Login(request, timeout=DEADLINE))
        tokens: pb.TokenPair = answer.tokens
        return tokens

    async def revoke(self, request: pb.RevokeRequest) -> None:
        """Revoke."""
        await self.call(lambda stub: stub.Revoke(request, timeout=DEADLINE))

    async def validate_once(self, replica: int, token: str) -> pb.ValidateResponse | None:
        """Return the verdict of one replica; None if it gives none."""
        try:
            verdict: pb.ValidateResponse = await self.stubs[replica].Validate(
                pb.ValidateRequest(access_token=token), timeout=DEADLINE
            )
        except grpc.aio.AioRpcError as error:
            self._count(error)
            return None
        self.calls += 1
        return verdict

    async def validate(self, replica: int, token: str) -> pb.ValidateResponse:
        """Return the verdict of one replica, asked until it gives one."""
        while (verdict := await self.validate_once(replica, token)) is None:
            await asyncio.sleep(0.1)
        return verdict

    def _count(self, error: grpc.aio.AioRpcError) -> None:
        status = error.code().name
        self.errors[status] += 1
        if status not in {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED"}:
            self.details[f"{status}: {error.details()}"] += 1
