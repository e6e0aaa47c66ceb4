"""Processes of others that chaos starts, freezes and ends, each by its id."""

import asyncio
import contextlib
import os
import pwd
import signal
import socket
from collections.abc import Mapping
from pathlib import Path

__all__ = ["BUILD", "ROOT", "Process", "free_port", "postgres_account", "processes_in"]

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / ".tools" / "chaos"
STOP_SECONDS = 20.0


def postgres_account() -> tuple[int, int] | None:
    """Return the user and group for PostgreSQL, which does not run as root; None for our own."""
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def free_port() -> int:
    """Return a port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def processes_in(directory: Path) -> list[int]:
    """Return the processes whose working directory it is; PostgreSQL's work in their data."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "cwd").resolve() == directory.resolve():
                    found.append(int(entry.name))
    return found


class Process:
    """A program with its log, run by PostgreSQL's account."""

    def __init__(
        self, command: list[str | Path], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._command = [str(part) for part in command]
        self._log = log
        self._environment = {"PATH": os.defpath, "LC_ALL": "C", **(environment or {})}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The id of the process. Raises RuntimeError if it does not run."""
        if self._process is None:
            raise RuntimeError(f"{self._command[0]} does not run")
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it; its output goes to the log."""
        uid, gid = postgres_account() or (None, None)
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                cwd="/",
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=uid,
                group=gid,
                extra_groups=None if uid is None else [],
                umask=0o077,
                start_new_session=True,
            )

    async def kill(self) -> None:
        """End it with SIGKILL."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """End it with SIGTERM, and with SIGKILL if that takes too long."""
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._end(signal.SIGTERM)
        except TimeoutError:
            await self.kill()

    async def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGCONT)
                self._process.send_signal(number)
            await self._process.wait()
            self._process = None

    def log_tail(self, characters: int = 4000) -> str:
        """Return the end of the log."""
        return self._log.read_text(errors="replace")[-characters:]
