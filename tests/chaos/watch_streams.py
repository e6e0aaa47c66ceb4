"""Many Watch streams in a process of their own, so that their reading delays nobody's answers.

    python -m tests.chaos.watch_streams

Takes a command a line and answers each with a line of JSON: `open ADDRESS STREAMS CURSOR` once all
streams are current, `hear TOKEN_ID` once each has heard of that revocation or has ended.
"""

import asyncio
import json
import math
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from authn.v1 import verifier_service_pb2 as pb

from tests.channels import RECONNECT
from tests.chaos.processes import ROOT

__all__ = ["Current", "WatchStreams"]

METHOD = "/authn.v1.VerifierService/Watch"
A_CONNECTION = 50  # streams
LARGE = 16_384  # bytes; only segments are as large, and what they contain matters to nobody here


@dataclass(frozen=True)
class Current:
    """What it took until every stream was up to date."""

    seconds: float
    """How long that took."""
    sent: int
    """How many bytes all of them were sent."""
    cursor: str
    """Where they resume."""


class WatchStreams:
    """The process that holds the streams, one set after the other."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator["WatchStreams"]:
        """Yield a process without streams."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.chaos.watch_streams", cwd=ROOT,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            yield cls(process)
        finally:
            process.kill()
            await process.wait()

    async def open(self, address: str, streams: int, cursor: str, *, within: float) -> Current:
        """Open streams instead of those before; return once all are current, in so many seconds."""
        async with asyncio.timeout(within):
            return Current(**await self._ask(f"open {address} {streams} {cursor}"))

    async def hear(self, token_id: str, *, within: float) -> tuple[int, Counter[str]]:
        """Return how many hear of a revocation, in so many seconds, and how the others ended."""
        async with asyncio.timeout(within):
            answer = await self._ask(f"hear {token_id}")
        return answer["heard"], Counter(answer["ended"])

    async def _ask(self, command: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\n".encode())
        answer = await self._process.stdout.readline()
        assert answer, "the process of the streams has ended"
        return json.loads(answer)


class _Stream:
    """One Watch stream, read as it comes."""

    def __init__(self, channel: grpc.aio.Channel, cursor: str) -> None:
        open_stream: Any = channel.unary_stream(METHOD)
        request = pb.WatchRequest(cursor=cursor, accept_segments=True)
        self._call = open_stream(request.SerializeToString())
        self._revoked: asyncio.Queue[str] = asyncio.Queue()
        self.cursor = cursor
        self.sent = 0
        self.current = asyncio.Event()
        """Set once the stream has sent what was missing."""
        self.task = asyncio.create_task(self._run())
        """Gives the status with which the stream ended."""

    async def hears(self, token_id: str) -> None:
        """Return once it has heard of a revocation."""
        while await self._revoked.get() != token_id:
            pass

    async def _run(self) -> str:
        try:
            async for message in self._call:
                self.sent += len(message)
                if len(message) < LARGE:
                    self._take(pb.WatchResponse.FromString(message))
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    def _take(self, event: pb.WatchResponse) -> None:
        self.cursor = event.cursor or self.cursor
        kind = event.WhichOneof("event")
        if kind == "revocation":
            self._revoked.put_nowait(event.revocation.token_id)
        if kind == "heartbeat" and event.HasField("as_of"):  # others are signs of life
            self.current.set()


async def _open(stack: AsyncExitStack, address: str, count: int, cursor: str) -> list[_Stream]:
    channels = [
        await stack.enter_async_context(grpc.aio.insecure_channel(address, options=RECONNECT))
        for _ in range(math.ceil(count / A_CONNECTION))
    ]
    streams = [_Stream(channels[number // A_CONNECTION], cursor) for number in range(count)]
    for stream in streams:
        stack.callback(stream.task.cancel)
    return streams


async def _current(streams: list[_Stream]) -> dict[str, Any]:
    started = time.monotonic()
    for stream in streams:
        if not await _first(stream.current.wait(), stream.task):
            raise RuntimeError(f"a stream has ended: {stream.task.result()}")
    return {
        "seconds": time.monotonic() - started,
        "sent": sum(stream.sent for stream in streams),
        "cursor": streams[-1].cursor,
    }


async def _hear(streams: list[_Stream], token_id: str) -> dict[str, Any]:
    heard = [await _first(stream.hears(token_id), stream.task) for stream in streams]
    ended = [stream.task.result() for stream in streams if stream.task.done()]
    return {"heard": sum(heard), "ended": Counter(ended)}


async def _first(wanted: Any, other: asyncio.Task[str]) -> bool:
    """Return once either is done: whether it is the first."""
    task = asyncio.create_task(wanted)
    await asyncio.wait([task, other], return_when=asyncio.FIRST_COMPLETED)
    return task.done() or not task.cancel()


async def _main() -> None:
    streams: list[_Stream] = []
    async with AsyncExitStack() as stack:
        while line := await asyncio.to_thread(sys.stdin.readline):
            command, *arguments = line.rstrip("\n").split(" ")
            if command == "open":
                await stack.aclose()
                address, count, cursor = arguments
                streams = await _open(stack, address, int(count), cursor)
                answer = await _current(streams)
            else:
                answer = await _hear(streams, *arguments)
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main())
