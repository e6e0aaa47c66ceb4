"""kill -9 of a replica, and of a worker, over and over while the workload runs."""

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.acceptance.servers import ServerProcess
from tests.chaos.audit import audit
from tests.chaos.fleet import USERS, Fleet, open_fleet
from tests.chaos.model import Model
from tests.chaos.row import Row

__all__ = ["audited", "kill_replicas", "kill_workers"]

START_SECONDS = 60.0
BETWEEN = 0.2  # seconds at least in which all are up


@asynccontextmanager
async def audited(row: Row, fleet: Fleet) -> AsyncIterator[Model]:
    """Run the workload for the length of a block, and check everything afterwards."""
    model = Model(row, fleet.addresses, USERS)
    async with model.running():
        yield model
    await audit(model, fleet.database.direct_url)
    if not row.failure and (found := fleet.tracebacks()):
        row.failure = f"a traceback in the log: {found[0].splitlines()[-1]}"


async def kill_replicas(times: int, seconds: float) -> Row:
    """Kill one of two replicas, and start it again."""
    row = Row("kill -9 of one of two replicas")
    async with open_fleet() as fleet, audited(row, fleet) as model:
        deadline = time.monotonic() + seconds
        while row.times < times and time.monotonic() < deadline:
            restarting = asyncio.create_task(fleet.kill(row.times % 2))
            row.recovered(await model.write())
            await restarting
            await asyncio.sleep(BETWEEN)
    return row


async def kill_workers(times: int, seconds: float) -> Row:
    """Kill one of four workers, which their supervisor replaces."""
    row = Row("kill -9 of one of four workers")
    async with open_fleet(1, AUTH_WORKERS="4") as fleet, audited(row, fleet) as model:
        server, killed = fleet.replicas[0], set[int]()
        async with asyncio.timeout(START_SECONDS):
            while len(_logged(server, "serving")) < 4:
                await asyncio.sleep(0.1)
        deadline = time.monotonic() + seconds
        while row.times < times and time.monotonic() < deadline:
            if len(_logged(server, "serving")) < 3 + len(killed):  # too few are replaced so far
                await asyncio.sleep(0.05)
                continue
            started = {entry["pid"] for entry in _logged(server, "worker_started")}
            exited = {entry["pid"] for entry in _logged(server, "worker_exited")}
            victim = random.choice(sorted(started - exited - killed))
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
            row.recovered(await model.write())
            await asyncio.sleep(BETWEEN)
        exits = [entry["pid"] for entry in _logged(server, "worker_exited") if entry["code"] == -9]
        others = [entry for entry in _logged(server, "worker_exited") if entry["pid"] not in killed]
        row.remark = f"{len(others)} more ended by themselves" if others else ""
        assert len(killed.difference(exits)) <= 1, f"{len(exits)} of {len(killed)} were killed"
    return row


def _logged(server: ServerProcess, event: str) -> list[dict[str, Any]]:
    """Return the entries of one kind that the processes of a server have logged."""
    lines = [line for line in server.output().splitlines() if f'"{event}"' in line]
    return [entry for entry in map(json.loads, lines) if entry["event"] == event]
