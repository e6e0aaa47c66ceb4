"""An HTTP/2 client below any library: it sends frames one by one, also those that break the rules.

Owns the bytes of frames (RFC 9113 section 4) and of gRPC messages. Header blocks are literals
without Huffman coding or indexing (RFC 7541 section 6.2.2); received ones are not decoded.
"""

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from enum import IntEnum
from typing import NamedTuple, Self

__all__ = ["Connection", "Frame", "Kind", "frame", "header_block", "message", "request_headers"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_STREAM, END_HEADERS, ACK = 0x1, 0x4, 0x1
_HEADER_BYTES = 9  # of a frame
_ADDED_WINDOW = 2**30


class Kind(IntEnum):
    """Frame types (RFC 9113 section 6)."""

    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Frame(NamedTuple):
    """A received frame; `kind` may be one that `Kind` does not name."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: Kind, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """Return one frame."""
    return (
        len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload
    )


def header_block(fields: Iterable[tuple[str, str | bytes]]) -> bytes:
    """Return an HPACK block; any value is possible, also a malformed one."""
    block = b""
    for name, value in fields:
        raw = value if isinstance(value, bytes) else value.encode()
        block += b"\x00" + _text(name.encode()) + _text(raw)
    return block


def request_headers(
    path: str, metadata: Iterable[tuple[str, str | bytes]] = ()
) -> list[tuple[str, str | bytes]]:
    """Return the header fields of a gRPC call."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *metadata,
    ]


def message(payload: bytes) -> bytes:
    """Return a gRPC message as it stands in DATA frames: uncompressed, with its length."""
    return b"\x00" + len(payload).to_bytes(4, "big") + payload


class Connection:
    """One connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(
        cls,
        port: int,
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        settings: Mapping[int, int] | None = None,
        read_limit: int = 2**16,
    ) -> Self:
        """Connect and exchange settings (identifier to value, RFC 9113 section 6.5.2)."""
        reader, writer = await asyncio.open_connection(host, port, ssl=tls, limit=read_limit)
        connection = cls(reader, writer)
        given = b"".join(
            key.to_bytes(2, "big") + value.to_bytes(4, "big")
            for key, value in (settings or {}).items()
        )
        window = frame(Kind.WINDOW_UPDATE, _ADDED_WINDOW.to_bytes(4, "big"))
        await connection.send(PREFACE + frame(Kind.SETTINGS, given) + window)
        await connection.receive_until(Kind.SETTINGS)
        await connection.send(frame(Kind.SETTINGS, flags=ACK))
        return connection

    async def send(self, data: bytes) -> None:
        """Send bytes; waits while the peer does not read. Raises ConnectionError."""
        if self._writer.is_closing():
            raise ConnectionError("the peer has closed the connection")
        self._writer.write(data)
        await self._writer.drain()

    async def receive(self) -> Frame | None:
        """Return the next frame; None once the peer has closed the connection."""
        try:
            head = await self._reader.readexactly(_HEADER_BYTES)
            payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        return Frame(head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, payload)

    async def receive_until(self, kind: Kind, stream: int | None = None) -> Frame:
        """Return the next frame of a kind, of a stream if one is named. Raises ConnectionError."""
        while (found := await self.receive()) is not None:
            if found.kind == kind and stream in (None, found.stream):
                return found
        raise ConnectionError(f"closed before a frame of kind {kind.name}")

    async def call(self, headers: Iterable[tuple[str, str | bytes]], payload: bytes) -> None:
        """Make the unary call of this connection, and return once it has ended."""
        head = frame(Kind.HEADERS, header_block(headers), flags=END_HEADERS, stream=1)
        body = frame(Kind.DATA, message(payload), flags=END_STREAM, stream=1)
        await self.send(head + body)
        while not (await self.receive_until(Kind.HEADERS, 1)).flags & END_STREAM:
            pass

    async def close(self) -> None:
        """Close; safe to call when the peer has closed already."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except (ConnectionError, ssl.SSLError):
            return


def _text(raw: bytes) -> bytes:
    """Return a string literal of HPACK (RFC 7541 sections 5.1 and 5.2)."""
    if len(raw) < 127:
        return bytes((len(raw),)) + raw
    length, rest = b"\x7f", len(raw) - 127
    while rest >= 128:
        length += bytes((rest % 128 + 128,))
        rest //= 128
    return length + bytes((rest,)) + raw
