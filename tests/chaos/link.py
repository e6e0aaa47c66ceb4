"""A TCP connection that can fail in each way in which a network does."""

import asyncio
import contextlib

__all__ = ["Link"]


class Link:
    """Forwards connections of a local port to a target, until it is told to do worse."""

    def __init__(self, target: tuple[str, int], port: int = 0) -> None:
        self._target = target
        self.port = port
        self.delay = 0.0
        """Seconds by which each piece of data is late."""
        self._passing = asyncio.Event()
        self._passing.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def hang(self) -> None:
        """Take connections and data, and deliver nothing (a network that drops packets)."""
        self._passing.clear()

    async def cut(self) -> None:
        """Reset all connections and refuse new ones (a host that is down)."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await self._reset()

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

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        there: asyncio.StreamWriter | None = None
        try:
            await self._passing.wait()
            back, there = await asyncio.open_connection(*self._target)
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

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._passing.wait()
            if self.delay:
                await asyncio.sleep(self.delay)
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()
