"""As much of HTTP/2 (RFC 9113) and of HTTP/1.1 as the load generator needs, over plain sockets."""

import itertools
import socket
import struct
import time
from collections.abc import Iterator

from benchmarks.jobs import Job, Run

__all__ = ["Http1", "Http2", "Link", "encoded"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
MAX_FRAME = 16_384
OUR_WINDOW = 2**31 - 1
HEAD = struct.Struct(">BHBBI")  # length in 24 bits, type, flags, stream
RECEIVED = 2**18  # bytes at once


class Link:
    """One connection; what both protocols share."""

    def __init__(self, run: Run) -> None:
        host, port = run.job.address.rsplit(":", 1)
        self.run = run
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ready = True
        """Whether calls may be sent."""
        self._out: list[bytes] = []

    def send_one(self) -> None:
        """Prepare a call, to be sent with the next flush."""
        raise NotImplementedError

    def fill(self) -> None:
        """Have as many calls under way as the job says."""
        raise NotImplementedError

    def take(self, data: bytes) -> None:
        """Take in what has come."""
        raise NotImplementedError

    def receive(self) -> None:
        """Read what has come, and send what that gives rise to."""
        data = self.socket.recv(RECEIVED)
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self.take(data)
        self.flush()

    def flush(self) -> None:
        """Send what is prepared; blocks while the server does not read."""
        if self._out:
            self.socket.sendall(b"".join(self._out))
            self._out.clear()


class Http2(Link):
    """A connection to a gRPC server."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._buffer = b""
        self._stream = 1
        self._window = 65_535
        self._waiting: list[bytes] = []
        self._sent: dict[int, float] = {}
        self._wrong: set[int] = set()
        self._seen: set[int] = set()
        self._block = b""
        self.ready = False
        # No dynamic table for answers, so that a status can be read without its history.
        settings = struct.pack(">HIHI", 1, 0, 4, OUR_WINDOW)
        widen = struct.pack(">I", OUR_WINDOW - 65_535)
        self._out += PREFACE, frame(SETTINGS, 0, 0, settings), frame(WINDOW_UPDATE, 0, 0, widen)
        self.flush()

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
        self._out += parts

    def take(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        at, end = 0, len(buffer)
        while end - at >= 9:
            high, low, kind, flags, stream = HEAD.unpack_from(buffer, at)
            length = high << 16 | low
            if end - at - 9 < length:
                break
            at += 9
            self._read(kind, flags, stream, buffer[at : at + length])
            at += length
        self._buffer = buffer[at:]
        if not self.run.job.rate and self.ready:
            self.fill()

    def _read(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
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
            self._out.append(frame(SETTINGS, ACK, 0, b""))
            self.ready = True
        elif kind == PING and not flags & ACK:
            self._out.append(frame(PING, ACK, 0, payload))
        elif kind == RST_STREAM:
            self._end(stream, "RESET")
        elif kind == GOAWAY:
            raise ConnectionResetError(f"GOAWAY {payload!r}")

    def _send_waiting(self) -> None:
        while self._waiting and self._window >= len(self._waiting[0]):
            parts = self._waiting.pop(0)
            self._window -= len(parts)  # a little more than what counts: frame heads
            self._out.append(parts)

    def _end(self, stream: int, status: str) -> None:
        sent_at = self._sent.pop(stream, None)
        self._seen.discard(stream)
        if stream in self._wrong:
            self._wrong.discard(stream)
            status = "UNEXPECTED"
        if sent_at is not None:
            self.run.done(sent_at, status)


class Http1(Link):
    """A connection to an HTTP server, one call at a time."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._buffer = b""
        self._sent_at = 0.0

    def fill(self) -> None:
        if self.run.may_send():
            self.send_one()

    def send_one(self) -> None:
        head, body = self.run.take()
        self._sent_at = time.perf_counter()
        self._out.append(head + body)

    def take(self, data: bytes) -> None:
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


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one HTTP/2 frame (RFC 9113 section 4.1)."""
    length = len(payload)
    return HEAD.pack(length >> 16, length & 0xFFFF, kind, flags, stream) + payload


def encoded(job: Job) -> Iterator[tuple[bytes, bytes]]:
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
