"""A TCP connection that can fail in each way in which a network does."""

import asyncio
import contextlib

__all__ = ["Link"]


class Link:
    """Forwards connections of a local port to a target, until it is told to do worse."""

    def __init__(self, target: tuple[str, int] | str, port: int = 0) -> None:
        self.target = target
        """A host and port, or the path of a Unix socket; new connections follow a change."""
        self.port = port
        self.delay = 0.0
        """Seconds by which each piece of data is late."""
        self.delayed = 0
        """How many pieces of data were late."""
        self.held = 0
        """How many pieces of data had to wait while the link hung."""
        self.sizes: list[int] = []
        """How many bytes each connection that has ended brought to its client."""
        self._passing = asyncio.Event()
        self._passing.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: dict[asyncio.StreamWriter, int] = {}  # and how many bytes it was sent
        self._half_closed: set[asyncio.StreamWriter] = set()

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._tasks)

    async def open(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def hang(self) -> None:
        """Take connections and data, and deliver nothing (a network that drops packets)."""
        self._passing.clear()

    async def cut(self) -> int:
        """Reset all connections and refuse new ones (a host that is down); return how many."""
        if self._server is not None:
            self._server.close()
            self._server = None
        return await self.drop()

    async def restore(self) -> None:
        """Forward again. Connections that hung are reset, as their packets are long lost."""
        if not self._passing.is_set():
            await self._reset()
            self._passing.set()
        if self._server is None:
            await self.open()

    async def close(self) -> None:
        """End all connections and stop listening."""
        await self.cut()

    async def _reset(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def half_close(self) -> int:
        """End the direction to the client of all connections, and only that; return how many."""
        writers = [writer for writer in self._clients if not writer.is_closing()]
        for writer in writers:
            self._half_closed.add(writer)
            with contextlib.suppress(OSError):
                writer.write_eof()
        return len(writers)

    async def drop(self) -> int:
        """Reset all connections, and take new ones; return how many there were."""
        count = self.connections
        await self._reset()
        return count

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.target, str):
            return await asyncio.open_unix_connection(self.target)
        return await asyncio.open_connection(*self.target)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._clients[writer] = 0
        there: asyncio.StreamWriter | None = None
        try:
            await self._passing.wait()
            back, there = await self._connect()
            ways = asyncio.gather(self._forward(reader, there), self._forward(back, writer))
            try:
                await ways
            finally:
                ways.cancel()
        except (OSError, asyncio.CancelledError):
            pass  # an end like any other; a cancelled handler would be reported as an error
        finally:
            for each in filter(None, (writer, there)):
                each.transport.abort()
            self._tasks.discard(task)
            self.sizes.append(self._clients.pop(writer))
            self._half_closed.discard(writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self.held += not self._passing.is_set()
            await self._passing.wait()
            if self.delay:
                self.delayed += 1
                await asyncio.sleep(self.delay)
            if writer in self._half_closed:
                continue
            if writer in self._clients:
                self._clients[writer] += len(data)
            writer.write(data)
            await writer.drain()
        if writer not in self._half_closed:
            with contextlib.suppress(OSError):
                writer.write_eof()
