"""The service on a Patroni cluster whose leader is killed, frozen and cut off."""

import asyncio
import time

from auth_service.db.migrate import migrate
from tests.chaos.audit import audit
from tests.chaos.failover import repair
from tests.chaos.fleet import USERS, Fleet, create_users
from tests.chaos.model import Model
from tests.chaos.patroni import Cluster, Mode
from tests.chaos.row import Row
from tests.folders import open_folder

__all__ = ["FAULTS", "lost_leaders"]

FAULTS = ("kill", "freeze", "cut_off")
RECOVERY_SECONDS = 60.0
WORK_SECONDS = 2.0  # before the fault, so that something is under way, and after it
SETTINGS: dict[Mode, dict[str, str]] = {
    "asynchronous": {},
    "synchronous": {"AUTH_DURABILITY": "replicated"},
}


async def lost_leaders(mode: Mode, times: int, faults: tuple[str, ...] = FAULTS) -> list[Row]:
    """Break the leader in each way, so many times each, under two replicas of the service."""
    rows = []
    with open_folder("chaos-") as folder:
        cluster = Cluster(folder)
        try:
            await cluster.start()
            await migrate(cluster.url)
            await create_users(cluster.url)
            await cluster.set_mode(mode)
            for fault in faults:
                row = Row(f"Patroni, {mode} replication, leader: {fault.replace('_', ' ')}")
                row.may_lose = mode == "asynchronous"
                rows.append(row)
                (folder / fault).mkdir()
                async with Fleet(folder / fault, cluster.url).running(2, **SETTINGS[mode]) as fleet:
                    await _lose(row, fleet, cluster, fault, times)
        finally:
            await cluster.stop()
    return rows


async def _lose(row: Row, fleet: Fleet, cluster: Cluster, fault: str, times: int) -> None:
    model = Model(row, fleet.addresses, USERS)
    async with model.running():
        for _ in range(times):
            await cluster.settled()
            leader = await cluster.leader()
            await asyncio.sleep(WORK_SECONDS)
            started = time.monotonic()
            if (broken := getattr(leader, fault)()) is not None:
                await broken
            try:
                async with asyncio.timeout(RECOVERY_SECONDS):
                    while await cluster.leader() is leader:
                        await asyncio.sleep(0.05)
                elected = time.monotonic() - started
                row.recovered(await model.write())
                await asyncio.sleep(WORK_SECONDS)
            finally:
                await repair(leader, fault)
            row.remark = f"recovery counts from the election, {elected:.0f} s after the fault"
    await cluster.settled()
    await audit(model, cluster.direct_url(await cluster.leader()))
    if not row.failure and (found := fleet.tracebacks()):
        row.failure = f"a traceback in the log: {found[0].splitlines()[-1]}"
