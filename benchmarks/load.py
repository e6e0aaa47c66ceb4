"""The load generator: a process of its own that speaks HTTP/2, or HTTP/1.1, over plain sockets.

A gRPC client for Python takes longer over a call than the server under test, and h2load and ghz
are not on every machine, cannot send another token in each call, and look at no answer. A benchmark
needs little of HTTP/2: requests are frames made in advance, and of an answer it reads the status
and the first bytes. So a call costs the generator about 10 µs, a tenth of what it costs a server.
"""

import asyncio
import itertools
import multiprocessing
import os
import statistics
import struct
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import uvloop

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
MAX_FRAME = 16_384
OUR_WINDOW = 2**31 - 1
HEAD = struct.Struct(">BHBBI")  # length in 24 bits, type, flags, stream
CATCH_UP = 0.02  # seconds that a steady rate makes up for at most
PATIENCE = 60.0  # seconds that the last calls may take


@dataclass(frozen=True)
class Job:
    """What to send, to whom, how much of it at once, and when to stop."""

    address: str
    path: str
    bodies: Sequence[bytes]
    """Sent in this order, and again from the first; serialised messages for gRPC."""
    bearers: Sequence[str] = ()
    """The token in each call's `authorization`, beside `bodies`; none where empty."""
    calls: int = 0
    """Stop after so many; 0: after `seconds`."""
    seconds: float = 1.5
    connections: int = 2
    in_flight: int = 16
    """Calls at once on each connection; of HTTP/1.1 one."""
    rate: float = 0.0
    """Calls a second, sent whether or not answers have come; 0: as many as are answered."""
    expect: bytes = b""
    """What the answer's message begins with; over HTTP/1.1, what the body has in it."""
    http1: bool = False
    """A GET over HTTP/1.1, or a POST of the body where it is not empty."""
    content_type: str = "application/json"


@dataclass
class Outcome:
    """What came of it."""

    calls: int
    seconds: float
    statuses: Counter[str]
    latencies: list[float] = field(repr=False)
    """Seconds from sending to the end of the answer; of good answers, in order of arrival."""

    @property
    def rate(self) -> float:
        """Good answers a second; an answer that is not good makes the run worthless."""
        bad = {status: count for status, count in self.statuses.items() if status != "OK"}
        if bad:
            raise RuntimeError(f"answers that were not good: {bad}")
        return self.calls / self.seconds

    @property
    def p99(self) -> float:
        """The 99th percentile of the latencies, in seconds."""
        return statistics.quantiles(self.latencies, n=100)[-1]


class Generator:
    """The process that sends; started afresh, never forked."""

    def __init__(self, cpus: set[int] | None = None) -> None:
        self._pool = ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), initializer=_pin, initargs=(cpus,)
        )

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def run(self, job: Job) -> Outcome:
        """Send, and return when the last answer is there."""
        return self._pool.submit(drive, job).result()

    async def run_async(self, job: Job) -> Outcome:
        """Do the same while the caller's event loop goes on."""
        return await asyncio.wrap_future(self._pool.submit(drive, job))


def drive(job: Job) -> Outcome:
    """Send in this process."""
    return uvloop.run(_drive(job))


def _pin(cpus: set[int] | None) -> None:
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


async def _drive(job: Job) -> Outcome:
    host, port = job.address.rsplit(":", 1)
    loop = asyncio.get_running_loop()
    run = _Run(job)
    links: list[Any] = []
    for _ in range(job.connections):
        _, link = await loop.create_connection(partial(_LINKS[job.http1], run), host, int(port))
        await link.ready
        links.append(link)
    run.begin()
    if job.rate:
        await _send_at_rate(run, links)
    else:
        for link in links:
            link.fill()
    async with asyncio.timeout(job.seconds + PATIENCE):
        await run.finished
    for link in links:
        link.transport.abort()
    return Outcome(len(run.latencies), run.ended - run.started, run.statuses, run.latencies)


async def _send_at_rate(run: "_Run", links: list[Any]) -> None:
    turn = itertools.cycle(links)
    sent = 0
    while run.may_send():
        due = int((time.perf_counter() - run.started) * run.job.rate)
        # What this process was kept from sending is not sent all at once.
        sent = max(sent, due - int(CATCH_UP * run.job.rate) - 1)
        while sent < due:
            next(turn).send_one()
            sent += 1
        await asyncio.sleep(0.001)
    run.close()


class _Run:
    """The calls of all connections."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.statuses: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.started = self.ended = self.until = 0.0
        self.expect = job.expect
        self._left = job.calls or -1
        self._open = 0
        self._closed = False
        self._calls = itertools.cycle(_encoded(job))

    def begin(self) -> None:
        self.started = time.perf_counter()
        self.until = float("inf") if self.job.calls else self.started + self.job.seconds

    def may_send(self) -> bool:
        return self._left != 0 and not self._closed and time.perf_counter() < self.until

    def take(self) -> tuple[bytes, bytes]:
        self._left -= 1
        self._open += 1
        return next(self._calls)

    def close(self) -> None:
        self._closed = True
        self._finish_if_done()

    def done(self, sent_at: float, status: str) -> None:
        """Note an answer; none is late here: all that were sent are waited for."""
        self.ended = time.perf_counter()
        self.statuses[status] += 1
        if status == "OK":
            self.latencies.append(self.ended - sent_at)
        self._open -= 1
        self._finish_if_done()

    def fail(self, error: Exception) -> None:
        if not self.finished.done():
            self.finished.set_exception(error)

    def _finish_if_done(self) -> None:
        over = self._closed if self.job.rate else not self.may_send()
        if over and self._open == 0 and not self.finished.done():
            self.finished.set_result(None)


class _Link(asyncio.Protocol):
    """One connection; what both protocols share."""

    transport: asyncio.Transport

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        self.run.fail(exc or ConnectionResetError("the server closed the connection"))


class _Http2(_Link):
    """A connection to a gRPC server."""

    def __init__(self, run: _Run) -> None:
        super().__init__(run)
        self._buffer = b""
        self._stream = 1
        self._window = 65_535
        self._waiting: list[bytes] = []
        self._sent: dict[int, float] = {}
        self._wrong: set[int] = set()
        self._seen: set[int] = set()
        self._block = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        # No dynamic table for answers, so that a status can be read without its history.
        settings = struct.pack(">HIHI", 1, 0, 4, OUR_WINDOW)
        widen = struct.pack(">I", OUR_WINDOW - 65_535)
        self.transport.write(
            PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, widen)
        )

    def fill(self) -> None:
        """Have as many calls under way as the job says."""
        while len(self._sent) < self.run.job.in_flight and self.run.may_send():
            self.send_one()

    def send_one(self) -> None:
        """Send a call, or keep it until the server takes so many bytes."""
        fields, message = self.run.take()
        stream, self._stream = self._stream, self._stream + 2
        block, self._block = self._block or _first_block(self.run.job), _NEXT_BLOCK
        parts = [frame(HEADERS, END_HEADERS, stream, block + fields)]
        for start in range(0, len(message), MAX_FRAME):
            chunk = message[start : start + MAX_FRAME]
            last = END_STREAM if start + MAX_FRAME >= len(message) else 0
            parts.append(frame(DATA, last, stream, chunk))
        self._sent[stream] = time.perf_counter()
        if self._waiting or self._window < len(message):
            self._waiting.append(b"".join(parts))
            return
        self._window -= len(message)
        self.transport.write(b"".join(parts))

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        at, end = 0, len(buffer)
        while end - at >= 9:
            high, low, kind, flags, stream = HEAD.unpack_from(buffer, at)
            length = high << 16 | low
            if end - at - 9 < length:
                break
            at += 9
            self._take(kind, flags, stream, buffer[at : at + length])
            at += length
        self._buffer = buffer[at:]
        if not self.run.job.rate and self.ready.done():
            self.fill()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            if stream not in self._seen:  # the message follows its length prefix of five bytes
                self._seen.add(stream)
                if not payload[5:].startswith(self.run.expect):
                    self._wrong.add(stream)
        elif kind == HEADERS:
            if flags & END_STREAM:
                self._end(stream, _status(payload))
        elif kind == WINDOW_UPDATE:
            if stream == 0:
                self._window += struct.unpack(">I", payload)[0]
                self._send_waiting()
        elif kind == SETTINGS and not flags & ACK:
            self.transport.write(frame(SETTINGS, ACK, 0, b""))
            if not self.ready.done():
                self.ready.set_result(None)
        elif kind == PING and not flags & ACK:
            self.transport.write(frame(PING, ACK, 0, payload))
        elif kind == RST_STREAM:
            self._end(stream, "RESET")
        elif kind == GOAWAY:
            self.run.fail(ConnectionResetError(f"GOAWAY {payload!r}"))

    def _send_waiting(self) -> None:
        while self._waiting and self._window >= len(self._waiting[0]):
            parts = self._waiting.pop(0)
            self._window -= len(parts)  # a little more than what counts: frame heads
            self.transport.write(parts)

    def _end(self, stream: int, status: str) -> None:
        sent_at = self._sent.pop(stream, None)
        self._seen.discard(stream)
        if stream in self._wrong:
            self._wrong.discard(stream)
            status = "UNEXPECTED"
        if sent_at is not None:
            self.run.done(sent_at, status)


class _Http1(_Link):
    """A connection to an HTTP server, one call at a time."""

    def __init__(self, run: _Run) -> None:
        super().__init__(run)
        self._buffer = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.ready.set_result(None)

    def fill(self) -> None:
        if self.run.may_send():
            self.send_one()

    def send_one(self) -> None:
        head, body = self.run.take()
        self._sent_at = time.perf_counter()
        self.transport.write(head + body)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, blank, body = self._buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        _, length, rest = head.lower().partition(b"content-length:")
        if length and len(body) < int(rest.split(b"\r\n")[0]):
            return
        if not length and not body.endswith(b"0\r\n\r\n"):  # the last chunk
            return
        self._buffer = b""
        status = head[9:12].decode()
        good = status == "200" and self.run.expect in body
        self.run.done(self._sent_at, "OK" if good else f"HTTP {status} {body[:80]!r}")
        self.fill()


_LINKS: dict[bool, type[_Link]] = {False: _Http2, True: _Http1}


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one HTTP/2 frame (RFC 9113 section 4.1)."""
    length = len(payload)
    return HEAD.pack(length >> 16, length & 0xFFFF, kind, flags, stream) + payload


def _encoded(job: Job) -> Iterator[tuple[bytes, bytes]]:
    """Yield what is particular to each call: its own fields, and its message."""
    for index, body in enumerate(job.bodies):
        bearer = f"Bearer {job.bearers[index]}".encode() if job.bearers else b""
        if job.http1:
            yield _http1_head(job, bearer, body), body
        else:
            message = struct.pack(">BI", 0, len(body)) + body
            # "authorization" is entry 23 of the static table; never indexed, as a secret ought.
            yield b"\x1f\x08" + _text(bearer) if bearer else b"", message


def _http1_head(job: Job, bearer: bytes, body: bytes) -> bytes:
    lines = [f"{'POST' if body else 'GET'} {job.path} HTTP/1.1".encode()]
    lines.append(f"Host: {job.address}".encode())
    if bearer:
        lines.append(b"Authorization: " + bearer)
    if body:
        lines.append(f"Content-Type: {job.content_type}".encode())
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _first_block(job: Job) -> bytes:
    """Return a connection's first header block, which teaches the server the fields of all calls.

    HPACK (RFC 7541): :method POST and :scheme http from the static table, then four fields that
    enter the dynamic table.
    """
    path, authority = _text(job.path.encode()), _text(job.address.encode())
    trailers, content_type = _text(b"te") + _text(b"trailers"), _text(b"application/grpc")
    taught = (b"\x44", path), (b"\x41", authority), (b"\x40", trailers), (b"\x5f", content_type)
    return b"\x83\x86" + b"".join(itertools.chain.from_iterable(taught))


_NEXT_BLOCK = b"\x83\x86" + bytes(0x80 | index for index in (65, 64, 63, 62))
"""The same from both tables."""


def _text(value: bytes) -> bytes:
    """Return a string literal of HPACK, not compressed (RFC 7541 section 5.2)."""
    length = len(value)
    if length < 127:
        return bytes([length]) + value
    rest, encoded = length - 127, bytearray([127])
    while rest >= 128:
        encoded.append(rest & 127 | 128)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded) + value


def _status(block: bytes) -> str:
    _, found, rest = block.partition(b"grpc-status")
    if not found:
        return "NO STATUS"
    code = rest[1 : 1 + rest[0]].decode()
    return "OK" if code == "0" else f"status {code}"
