"""Attacks over HTTP/1.1: clients that send or read too little, and a flood of whole requests.

Each asserts that it took place. What the service must do meanwhile is for the caller to check;
`Prober` measures the probes.
"""

import asyncio
import contextlib
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.chaos.figures import CLOSED, LOOPBACK, TIMEOUT, Figures

__all__ = ["HalfOpen", "Prober", "half_open", "http_flood", "request", "unread_http_responses"]

PATIENCE = 60.0  # seconds
_PROBE_INTERVAL = 0.02  # seconds
_SMALL_BUFFER = 4096  # bytes


def request(path: str, method: str = "GET", body: bytes = b"", **headers: str) -> bytes:
    """Return a request as it stands on the wire; `_` in a header's name stands for `-`."""
    lines = [f"{method} {path} HTTP/1.1", "host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(slots=True)
class HalfOpen:
    """Connections on which a part of a request has been sent."""

    readers: list[asyncio.StreamReader]

    def closed(self) -> int:
        """Return how many of them the service has closed."""
        return sum(each.at_eof() or each.exception() is not None for each in self.readers)

    async def all_closed(self) -> float:
        """Return once the service has closed all of them: after how many seconds."""
        started = time.monotonic()
        async with asyncio.timeout(TIMEOUT):
            await asyncio.gather(*map(_until_closed, self.readers))
        return time.monotonic() - started


@asynccontextmanager
async def half_open(
    port: int, count: int, sent: bytes = b"G", *, host: str = LOOPBACK
) -> AsyncIterator[HalfOpen]:
    """Open connections that send only these bytes, and hold them; close them at the end."""
    readers, writers = [], []
    try:
        for _ in range(count):
            reader, writer = await asyncio.open_connection(host, port)
            writers.append(writer)
            readers.append(reader)
            writer.write(sent)
        assert len(readers) == count
        yield HalfOpen(readers)
    finally:
        for writer in writers:
            writer.transport.abort()


async def http_flood(
    port: int, sent: bytes, *, requests: int, connections: int = 50, host: str = LOOPBACK
) -> Figures:
    """Send a request over and over, on connections that each wait for the answer before the next.

    A connection that the service closes is opened again.
    """
    answers: Counter[str] = Counter()
    opened = 0
    started = time.monotonic()

    async def client(share: int) -> None:
        nonlocal opened
        while share:
            reader, writer = await asyncio.open_connection(host, port)
            opened += 1
            try:
                while share:
                    share -= 1
                    writer.write(sent)
                    status, is_last = await _response(reader)
                    answers[status] += 1
                    if is_last:
                        break
            except (ConnectionError, asyncio.IncompleteReadError):
                answers[CLOSED] += 1
            finally:
                writer.transport.abort()

    await asyncio.gather(*(client(requests // connections) for _ in range(connections)))
    assert answers.total() == requests // connections * connections
    assert answers.total() > answers[CLOSED], "no request was answered"
    return Figures("HTTP flood", answers.total(), time.monotonic() - started, opened, answers)


async def unread_http_responses(
    port: int, sent: bytes, *, connections: int, host: str = LOOPBACK
) -> Figures:
    """Send requests on each connection without reading a response, until the service closes it."""
    loop = asyncio.get_running_loop()
    started = time.monotonic()
    counts = []

    async def client() -> None:
        with socket.socket() as connection:
            connection.setblocking(False)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
            await loop.sock_connect(connection, (host, port))
            count = 0
            with contextlib.suppress(ConnectionError):
                while True:
                    await loop.sock_sendall(connection, sent)
                    count += 1
            counts.append(count)

    async with asyncio.timeout(TIMEOUT):
        await asyncio.gather(*(client() for _ in range(connections)))
    assert len(counts) == connections
    assert min(counts) > 1, "no request waited for the response before it"
    answers = Counter({CLOSED: connections})
    seconds = time.monotonic() - started
    return Figures("unread HTTP responses", sum(counts), seconds, connections, answers)


@dataclass(slots=True)
class Prober:
    """Probes a path on a new connection each time, from the start to the end of a context."""

    port: int
    path: str = "/healthz"
    host: str = LOOPBACK
    seconds: list[float] = field(default_factory=list)
    """How long each probe took."""
    answers: Counter[str] = field(default_factory=Counter)
    """How often each status came."""

    async def probe(self) -> None:
        """Probe once."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(TIMEOUT):
                reader, writer = await asyncio.open_connection(self.host, self.port)
                writer.write(request(self.path, connection="close"))
                status, _ = await _response(reader)
                writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError) as error:
            status = type(error).__name__
        self.answers[status] += 1
        self.seconds.append(time.monotonic() - started)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Probe again and again; the last probe has its answer before this ends."""
        ended = asyncio.Event()

        async def probe() -> None:
            while not ended.is_set():
                await self.probe()
                await asyncio.sleep(_PROBE_INTERVAL)

        task = asyncio.create_task(probe())
        try:
            yield
        finally:
            ended.set()
            await task

    def assert_all_answered(self, within: float = PATIENCE, at_least: int = 1) -> None:
        """Check that each probe had the answer 200 within so many seconds.

        The default only ends a test that hangs. No test is timed; `make chaos` asks for a second.
        """
        assert len(self.seconds) >= at_least, "too few probes for a verdict"
        assert self.answers.keys() == {"200"}, self.answers
        assert max(self.seconds) < within, f"{max(self.seconds):.2f} s"


async def _until_closed(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(65536):
            pass


async def _response(reader: asyncio.StreamReader) -> tuple[str, bool]:
    """Read one response; return its status, and whether the connection ends with it."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status, _, fields = head.partition("\r\n")
    headers = dict(line.split(": ", 1) for line in fields.split("\r\n") if line)
    await reader.readexactly(int(headers.get("content-length", 0)))
    return status.split(" ")[1], headers.get("connection") == "close"
