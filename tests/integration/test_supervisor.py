"""The supervisor, with small processes that implement its protocol and serve nothing."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from auth_service.config.loading import Settings
from auth_service.errors import ConfigError
from auth_service.serving.supervisor import Supervisor, WorkerFailed
from tests.acceptance.servers import eventually
from tests.ports import free_address

WORKER = """
import asyncio, os, pathlib, signal, sys, time
from datetime import timedelta
from auth_service.serving.worker import report_serving

async def main():
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    report = asyncio.create_task(report_serving(int(sys.argv[-1]), timedelta(seconds=0.1)))
    await stopped.wait()
    report.cancel()

directory, mode = pathlib.Path(sys.argv[1]), sys.argv[2]
served = len(list(directory.iterdir()))
if mode == "never" or (mode == "once" and served >= 2):
    sys.exit(7)
if mode == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(int(sys.argv[-1]), b"serving\\n")
    while True:
        signal.pause()
slot = os.environ["AUTH_WORKER_SLOT"]
(directory / f"{os.getpid()}.{slot}").touch()
if mode == f"killed {served}":
    os.kill(os.getpid(), signal.SIGKILL)
if mode == "second" and slot != "0":
    while len(list(directory.iterdir())) < 3:
        time.sleep(0.01)
    if slot == "2":
        os.read(int(sys.argv[-1]), 1)
    sys.exit(7)
asyncio.run(main())
"""

PROGRAM = (sys.executable, "-c", WORKER)

Supervise = Callable[..., "Run"]


class Run:
    """A running supervisor."""

    def __init__(
        self,
        directory: Path,
        mode: str,
        program: tuple[str, ...] = PROGRAM,
        stop_margin: float = 60,
        **settings: Any,
    ) -> None:
        self.directory = directory
        values: dict[str, Any] = {
            "database_url": "postgresql://nobody@127.0.0.1/none",
            "workers": 2,
        }
        values["grpc_address"] = free_address()
        command = [*program, str(directory), mode]
        self.serving = asyncio.Event()
        self.supervisor = Supervisor(
            Settings(**values | settings), command, stop_margin=stop_margin
        )
        self.task = asyncio.create_task(self.supervisor.run(self._on_serving))

    async def _on_serving(self) -> None:
        self.serving.set()

    async def started(self) -> set[int]:
        """Return the pids when all workers serve."""
        await asyncio.wait_for(self.serving.wait(), 60)
        return self.pids()

    def pids(self) -> set[int]:
        """Return the pids of all workers that have served."""
        return {int(file.stem) for file in self.directory.iterdir()}

    def slots(self) -> list[str]:
        """Return the slots of all workers that have served."""
        return sorted(file.suffix[1:] for file in self.directory.iterdir())

    async def stop(self) -> bool:
        self.supervisor.stop()
        return await self.task


@pytest.fixture
async def supervise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Supervise]:
    """Start supervisors, which are stopped at the end."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    directory = tmp_path / "served"
    directory.mkdir()
    runs: list[Run] = []

    def start(mode: str = "well", **settings: Any) -> Run:
        runs.append(Run(directory, mode, **settings))
        return runs[-1]

    yield start
    for run in runs:
        run.supervisor.stop()
    await asyncio.gather(*(run.task for run in runs), return_exceptions=True)
    structlog.reset_defaults()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_stop_ends_every_worker_cleanly(supervise: Supervise) -> None:
    """All have ended when run() returns, and its result is that none was killed."""
    run = supervise(workers=3)
    pids = await run.started()
    assert len(pids) == 3
    assert await run.stop()
    assert all(map(gone, pids))


async def test_a_killed_worker_is_replaced_in_its_slot(supervise: Supervise) -> None:
    """The replacement continues the metrics of the killed worker, so that totals never decrease."""
    run = supervise()
    before = await run.started()
    os.kill(next(iter(before)), signal.SIGKILL)

    async def replaced() -> bool:
        return len(run.pids()) == 3

    await eventually(replaced, what="another worker serves")
    assert run.slots() in (["0", "0", "1"], ["0", "1", "1"])
    assert await run.stop()


async def test_a_worker_that_fails_at_the_first_start_stops_everything(
    supervise: Supervise, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is that of the worker, and no other worker is started."""
    with pytest.raises(WorkerFailed) as failed:
        await supervise("never").task
    assert failed.value.code == 7
    assert capsys.readouterr().err.count("worker_started") == 1


@pytest.mark.parametrize(
    ("mode", "slots"), [("killed 0", ["0", "0", "1"]), ("killed 1", ["0", "1", "1"])]
)
async def test_a_worker_that_is_killed_at_the_first_start_is_replaced(
    supervise: Supervise, capsys: pytest.CaptureFixture[str], mode: str, slots: list[str]
) -> None:
    """The service starts although the system has killed a worker before it served."""
    run = supervise(mode)
    await run.started()
    log = capsys.readouterr().err
    assert log.count("worker_exited") == log.count("code=-9") == 1
    assert log.count("worker_replaced") == 1
    assert run.slots() == slots
    assert await run.stop()


async def test_a_worker_that_fails_ends_the_starts_of_the_others(
    supervise: Supervise, capsys: pytest.CaptureFixture[str]
) -> None:
    """The worker that is stopped while it starts, by a signal, is not replaced."""
    tasks = asyncio.all_tasks()
    run = supervise("second", workers=3)
    with pytest.raises(WorkerFailed) as failed:
        await run.task
    assert failed.value.code == 7
    assert all(map(gone, run.pids()))
    assert not asyncio.all_tasks() - tasks - {run.task}
    log = capsys.readouterr().err
    assert log.count("worker_started") == 3
    assert log.count("code=-15") == 1


async def test_a_replacement_that_does_not_start_is_retried(supervise: Supervise) -> None:
    """After a crash while no worker can start, the other workers continue to serve."""
    run = supervise("once")
    before = await run.started()
    with capture_logs() as entries:
        os.kill(min(before), signal.SIGKILL)

        async def tried_twice() -> bool:
            return [entry["event"] for entry in entries].count("worker_started") >= 2

        await eventually(tried_twice, what="two replacements were tried")
        assert not run.task.done()
        assert not gone(max(before))


async def test_a_restart_keeps_the_workers_if_no_successor_starts(
    supervise: Supervise,
) -> None:
    """An error in a changed configuration stops no worker."""
    run = supervise("once")
    before = await run.started()
    with capture_logs() as entries:
        run.supervisor.restart()

        async def abandoned() -> bool:
            return any(entry["event"] == "restart_abandoned" for entry in entries)

        await eventually(abandoned, what="the restart is abandoned")
    assert run.pids() == before
    assert not any(map(gone, before))
    assert await run.stop()


async def test_a_restart_changes_every_process(supervise: Supervise) -> None:
    """Each new worker serves before an old one ends."""
    run = supervise()
    before = await run.started()
    run.supervisor.restart()

    async def all_changed() -> bool:
        return len(run.pids()) == 4 and all(map(gone, before))

    await eventually(all_changed, what="all pids have changed")
    assert not any(map(gone, run.pids() - before))
    assert set(run.slots()) <= {"0", "1", "2"}
    assert await run.stop()


async def test_a_worker_that_does_not_stop_is_killed_and_logged(supervise: Supervise) -> None:
    """The result of run() is that not all workers stopped cleanly."""
    run = supervise("deaf", stop_margin=0.1, drain_timeout="0s")
    await run.started()
    with capture_logs() as entries:
        assert not await run.stop()
    assert [entry["event"] for entry in entries].count("worker_killed") == 2


async def test_a_command_that_cannot_be_run_is_an_error(supervise: Supervise) -> None:
    """An error of the operating system does not crash the supervisor."""
    with pytest.raises(WorkerFailed):
        await supervise(program=("/nonexistent",)).task


async def test_a_port_shared_with_others_is_refused(supervise: Supervise) -> None:
    """The newest worker is found by the number of listening sockets."""
    with pytest.raises(ConfigError, match="AUTH_GRPC_REUSE_PORT"):
        await supervise(grpc_reuse_port=True).task
