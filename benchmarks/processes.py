"""Processes under test: where they run, when they answer, and what they have used (Linux)."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

START_SECONDS = 60.0
_CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
SERVER_CPUS = set(_CPUS[:1]) if len(_CPUS) > 1 else set(_CPUS)
"""One core of its own for each server under test, in turn …"""
OTHER_CPUS = set(_CPUS[1:]) or set(_CPUS)
"""… and the rest for the generator and the database; one and the same for every side."""
ALL_CPUS = set(_CPUS)


def run_on(cpus: set[int]) -> None:
    """Bind this thread, and what it starts, to these CPUs, where the system can."""
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)


class Serving:
    """A server's process."""

    def __init__(self, process: "subprocess.Popen[bytes]", address: str) -> None:
        self._process = process
        self.address = address
        self.pid = process.pid

    def cpu_seconds(self) -> float:
        """Return the CPU time that it has used so far."""
        used = 0
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread that has just ended
                used += int((task / "schedstat").read_text().split()[0])
        return used / 1e9

    def resident(self) -> int:
        """Return the memory that it holds, in bytes."""
        return self._status("VmRSS")

    def peak(self) -> int:
        """Return the most memory that it ever held, in bytes."""
        return self._status("VmHWM")

    def _status(self, name: str) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024

    async def answers(self) -> None:
        """Return once it takes connections; raises RuntimeError where it ended instead."""
        host, port = self.address.rsplit(":", 1)
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self._process.args!r} did not start")
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            return

    async def stop(self) -> None:
        """End it and wait until it has."""
        self._process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self._process.wait, 30)


def free_address() -> str:
    """Return an address on loopback that nobody serves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def launch(
    arguments: Sequence[str],
    address: str,
    settings: Mapping[str, str] | None = None,
    cpus: set[int] = SERVER_CPUS,
) -> Serving:
    """Start a process on these CPUs; no AUTH_ variable but `settings` reaches it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AUTH_")}
    run_on(cpus)
    try:
        process = subprocess.Popen(arguments, env=kept | dict(settings or {}))
    finally:
        run_on(OTHER_CPUS)
    return Serving(process, address)


@asynccontextmanager
async def served(
    arguments: Sequence[str],
    address: str,
    settings: Mapping[str, str] | None = None,
    cpus: set[int] = SERVER_CPUS,
) -> AsyncIterator[Serving]:
    """Start a server, lend it once it answers, and stop it."""
    serving = launch(arguments, address, settings, cpus)
    try:
        await serving.answers()
        yield serving
    finally:
        await serving.stop()
