"""Starts several serving processes, replaces those that crash, restarts and stops them.

Owns the processes and what they share: the ports, the embedded PostgreSQL, the directory of their
metrics. It serves nothing and does not load gRPC. A worker is a new process and never a fork, which
gRPC does not support. Each worker has one end of a socket pair: it writes a line when it serves,
and stops when the other end is closed, so that no worker outlives a supervisor that was killed.
"""

import asyncio
import contextlib
import itertools
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta

import structlog
from prometheus_client.multiprocess import mark_process_dead

from auth_service.config.durations import duration_text
from auth_service.config.loading import GENERATED_KEY, Settings
from auth_service.errors import ConfigError
from auth_service.serving.shared_port import require_free
from auth_service.serving.wiring import database_url, embedded_directory
from auth_service.serving.worker import RETIRE
from auth_service.telemetry.logs import configure_logging
from auth_service.telemetry.metrics import METRICS_DIRECTORY, WORKER_SLOT

__all__ = ["Supervisor", "WorkerFailed"]

log = structlog.get_logger(__name__)

FIRST_DELAY = 0.1  # seconds before a crashed worker is replaced; doubled after each crash
LONGEST_DELAY = 10.0
STEADY = 60.0  # seconds of serving after which the delay is FIRST_DELAY again
CONNECTION_AGE = timedelta(minutes=1)
"""The default of AUTH_MAX_CONNECTION_AGE for workers; a worker's restart takes up to this long."""
STOP_MARGIN = 15.0  # seconds after AUTH_DRAIN_TIMEOUT until a worker is killed


class WorkerFailed(Exception):
    """A worker ended before it served; `code` is its exit code, or the negative signal number."""

    def __init__(self, code: int) -> None:
        super().__init__(f"a worker ended with {code} before it served")
        self.code = code


class _WorkerKilled(WorkerFailed):
    """A signal killed it, as when the machine is out of memory; another may start."""

    def __init__(self, code: int, pid: int) -> None:
        super().__init__(code)
        self.pid = pid


class _Worker:
    """One process; `ended` returns its exit code, and `successor` replaces it in a restart."""

    def __init__(
        self,
        slot: int,
        process: asyncio.subprocess.Process,
        line: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.slot = slot
        self.process = process
        self.ended: asyncio.Task[int]
        self.reader, self.writer = line
        self.served_at: float | None = None
        self.successor: _Worker | None = None
        self.ending = False

    async def line(self) -> bool:
        """Wait for its next line (it serves, or has no clients left); False if it ended."""
        try:
            return bool(await self.reader.readline())
        except ConnectionError:
            return False

    async def end(self, patience: float) -> None:
        """Stop it with SIGTERM, and after `patience` seconds with SIGKILL."""
        self.ending = True
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        if not (await asyncio.wait({self.ended}, timeout=patience))[0]:
            log.error("worker_killed", pid=self.process.pid)
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await asyncio.wait({self.ended})


class Supervisor:
    """Runs `command` in AUTH_WORKERS processes.

    The command gets the option `--supervised N`: N is the descriptor of its end of the socket pair.
    """

    def __init__(
        self, settings: Settings, command: Sequence[str], *, stop_margin: float = STOP_MARGIN
    ) -> None:
        self._settings = settings
        self._command = command
        configured = "max_connection_age" in settings.model_fields_set
        self._connection_age = settings.max_connection_age if configured else CONNECTION_AGE
        self._patience = settings.drain_timeout.total_seconds() + stop_margin
        self._longest_leave = 2 * self._connection_age.total_seconds() + self._patience
        self._environment: dict[str, str] = {}
        self._workers: set[_Worker] = set()
        self._slots: set[int] = set()
        self._stop_asked = asyncio.Event()
        self._restart_asked = asyncio.Event()

    async def run(self, on_serving: Callable[[], Awaitable[None]]) -> bool:
        """Serve until `stop` is called; return whether every worker exited with 0.

        `on_serving` is awaited when all workers serve. Raises ConfigError for wrong settings, and
        WorkerFailed if a worker exits before that; it has logged the cause. One that a signal kills
        is replaced.
        """
        configure_logging(self._settings.log_level, self._settings.log_format)
        self._require_own_ports()
        async with AsyncExitStack() as stack:
            self._environment = os.environ | await self._shared(stack)
            work = asyncio.create_task(self._serve(on_serving))
            stop = asyncio.create_task(self._stop_asked.wait())
            try:
                await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    work.result()
            finally:
                work.cancel()
                stop.cancel()
                await asyncio.gather(work, stop, return_exceptions=True)
                clean = await self._drain()
            return clean

    def stop(self) -> None:
        """Let all workers finish their calls and stop."""
        self._stop_asked.set()

    def restart(self) -> None:
        """Replace the workers one by one, each when its successor serves and no client is left."""
        self._restart_asked.set()

    def _require_own_ports(self) -> None:
        if self._settings.grpc_reuse_port:
            raise ConfigError(
                "AUTH_GRPC_REUSE_PORT is for processes that you start, but "
                f"AUTH_WORKERS={self._settings.workers} starts its own; unset one of them"
            )
        require_free("AUTH_GRPC_ADDRESS", self._settings.grpc_address)
        if self._settings.http_address != "off":
            require_free("AUTH_HTTP_ADDRESS", self._settings.http_address)
        if self._settings.probe_address is not None:
            require_free("AUTH_PROBE_ADDRESS", self._settings.probe_address)

    async def _shared(self, stack: AsyncExitStack) -> dict[str, str]:
        """Return the variables that workers get in addition to the environment."""
        settings = self._settings
        metrics = stack.enter_context(tempfile.TemporaryDirectory(prefix="auth-service-metrics-"))
        shared = {
            "AUTH_WORKERS": str(settings.workers),
            "AUTH_GRPC_REUSE_PORT": "true",
            "AUTH_MAX_CONNECTION_AGE": duration_text(self._connection_age),
            METRICS_DIRECTORY: metrics,
        }
        if "hash_workers" not in settings.model_fields_set:  # workers share the CPUs
            shared["AUTH_HASH_WORKERS"] = str(max(1, settings.hash_workers // settings.workers))
        if settings.database_url is None:
            shared |= await self._embedded(stack)
        return shared

    async def _embedded(self, stack: AsyncExitStack) -> dict[str, str]:
        settings, directory = self._settings, embedded_directory(self._settings)
        found = {"AUTH_DATABASE_URL": await stack.enter_async_context(database_url(settings))}
        if settings.master_key is None and settings.master_key_file is None:
            settings.master_key_bytes(directory)  # generates it if it is missing
            found["AUTH_MASTER_KEY_FILE"] = str(directory / GENERATED_KEY)
        return found

    async def _serve(self, on_serving: Callable[[], Awaitable[None]]) -> None:
        # The first one alone, so that an error that all would have is reported once.
        workers = [await self._start()]
        others = range(1, self._settings.workers)
        try:
            async with asyncio.TaskGroup() as group:  # a failure ends the other starts
                starts = [group.create_task(self._start()) for _ in others]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        workers += [start.result() for start in starts]
        await on_serving()
        await asyncio.gather(self._restarts(), *map(self._keep, workers))

    async def _start(self) -> _Worker:
        """Launch a worker, and others while signals kill them. Raises WorkerFailed."""
        try:
            return await self._launch()
        except _WorkerKilled as killed:
            worker, _ = await self._replace(killed.pid, FIRST_DELAY, despite=_WorkerKilled)
            return worker

    async def _launch(self) -> _Worker:
        """Start a worker and return it when it serves. Raises WorkerFailed."""
        # The slot names the files of the worker's metrics; a reused slot continues their counts.
        slot = next(number for number in itertools.count() if number not in self._slots)
        self._slots.add(slot)
        try:
            worker = await self._spawn(slot)
        except OSError as error:  # out of memory, processes or descriptors
            log.error("worker_not_started", error=str(error))  # noqa: TRY400 - the text is enough
            self._slots.discard(slot)
            raise WorkerFailed(1) from error
        self._workers.add(worker)
        worker.ended = asyncio.create_task(self._reap(worker))
        log.info("worker_started", pid=worker.process.pid)
        if not await worker.line():
            code = await asyncio.shield(worker.ended)
            raise _WorkerKilled(code, worker.process.pid) if code < 0 else WorkerFailed(code)
        worker.served_at = _now()
        return worker

    async def _spawn(self, slot: int) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            line = await asyncio.open_connection(sock=ours)
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command,
                    "--supervised",
                    str(theirs.fileno()),
                    env=self._environment | {WORKER_SLOT: str(slot)},
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # Ctrl-C reaches only the supervisor, which stops them
                )
            except BaseException:
                line[1].close()
                raise
        return _Worker(slot, process, line)

    async def _reap(self, worker: _Worker) -> int:
        code = await worker.process.wait()
        tell = log.info if worker.ending else log.warning
        tell("worker_exited", pid=worker.process.pid, code=code)
        worker.writer.close()
        mark_process_dead(worker.slot, self._environment[METRICS_DIRECTORY])
        self._workers.discard(worker)
        self._slots.discard(worker.slot)
        return code

    async def _keep(self, worker: _Worker) -> None:
        """Follow a worker's successors, and replace the worker that crashes."""
        delay = FIRST_DELAY
        while True:
            await asyncio.wait({worker.ended})
            if worker.successor is not None:
                worker = worker.successor
                continue
            steady = _now() - (worker.served_at or 0) >= STEADY
            delay = FIRST_DELAY if steady else delay
            worker, delay = await self._replace(worker.process.pid, delay)

    async def _replace(
        self, pid: int, delay: float, *, despite: type[WorkerFailed] = WorkerFailed
    ) -> tuple[_Worker, float]:
        """Start workers until one serves; return it, and the delay before the next replacement.

        Raises WorkerFailed if one fails in another way than `despite`.
        """
        while True:
            await asyncio.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY)
            try:
                worker = await self._launch()
            except despite:
                continue
            log.info("worker_replaced", pid=pid, by=worker.process.pid)
            return worker, delay

    async def _restarts(self) -> None:
        while True:
            await self._restart_asked.wait()
            self._restart_asked.clear()
            try:
                await self._restart_all()
            except WorkerFailed as error:
                log.error("restart_abandoned", error=str(error))  # noqa: TRY400 - the worker logged why

    async def _restart_all(self) -> None:
        """Replace one worker after the other, each by one that already serves."""
        for old in [worker for worker in self._workers if worker.served_at is not None]:
            if old.ended.done():
                continue
            new = await self._launch()
            if old.ended.done():  # it crashed in the meantime, and _keep replaces it
                await new.end(self._patience)
                continue
            old.successor = new
            old.writer.write(RETIRE)
            with contextlib.suppress(TimeoutError):  # the worker hangs
                await asyncio.wait_for(old.line(), self._longest_leave)
            await old.end(self._patience)
            log.info("worker_replaced", pid=old.process.pid, by=new.process.pid)

    async def _drain(self) -> bool:
        log.info("draining")
        served = [worker for worker in self._workers if worker.served_at is not None]
        await asyncio.gather(*(worker.end(self._patience) for worker in self._workers))
        return all(worker.ended.result() == 0 for worker in served)


def _now() -> float:
    return asyncio.get_running_loop().time()
