"""How long an event loop stands still; `python -m benchmarks.stalls FILE serve` probes a server's.

A stand-still is the CPU time that the loop's thread uses between two turns of a task that asks for
one each millisecond. CPU time, so that other processes on the same cores do not count.
"""

import asyncio
import sys
import time
from pathlib import Path

__all__ = ["Probe"]


class Probe:
    """Notes the longest stand-still of the running event loop until it is asked."""

    def __init__(self) -> None:
        self._longest = 0.0
        self._task = asyncio.create_task(self._run())

    def longest(self) -> float:
        """Return the longest stand-still so far, in seconds."""
        return self._longest

    def forget(self) -> None:
        """Begin again."""
        self._longest = 0.0

    def stop(self) -> None:
        """Note no more."""
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.001)
            self._longest = max(self._longest, time.thread_time() - before)


async def _report(path: Path) -> None:
    """Write the longest stand-still to a file, and begin again, whenever the file is emptied."""
    probe = Probe()
    while True:
        if not path.read_text():
            await asyncio.sleep(0.05)
            path.write_text(str(probe.longest()))
            probe.forget()
        await asyncio.sleep(0.05)


def main(path: str, *arguments: str) -> None:
    """Run a command of the service with a probe in the loop of its server."""
    from auth_service.cli.app import cli  # noqa: PLC0415 - not for those who import Probe
    from auth_service.serving.server import Server  # noqa: PLC0415

    start = Server.start

    async def start_with_probe(server: Server) -> None:
        await start(server)
        tasks.add(asyncio.create_task(_report(Path(path))))

    tasks: set[asyncio.Task[None]] = set()
    Server.start = start_with_probe  # type: ignore[method-assign, assignment]
    cli(arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
