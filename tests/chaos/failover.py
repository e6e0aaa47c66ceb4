"""Fails the leader of a Patroni cluster over and over while a pool writes, and counts what is lost.

    bash tests/chaos/install.sh && .venv/bin/python -m tests.chaos.failover [ROUNDS]

Each round breaks the leader in each of four ways, first with asynchronous replication and then with
a synchronous standby and AUTH_DURABILITY=replicated. It prints a line for each fault. In the second
mode a write that was acknowledged and is missing afterwards fails the run.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg

from auth_service.db import pool as pools
from auth_service.db.migrate import migrate
from auth_service.db.store import Store
from auth_service.errors import Unavailable
from auth_service.models import Revocation, RevocationKind
from tests.chaos.patroni import Cluster, Mode, Node
from tests.folders import open_folder

__all__ = ["FAULTS", "Writer", "fail_over", "main", "repair"]

FAULTS = ("crash", "kill", "freeze", "cut_off")
WRITERS = 8
RECOVERY_SECONDS = 60.0


@dataclass
class Writer:
    """Records revocations all the time, and which of them were acknowledged."""

    store: Store
    acknowledged: list[str] = field(default_factory=list)
    failures: int = 0

    async def run(self) -> None:
        """Write until cancelled. Any error but Unavailable ends it."""
        while True:
            target, now = uuid4().hex, datetime.now(UTC)
            revocation = Revocation(RevocationKind.TOKEN, target, now + timedelta(days=1))
            try:
                await self.store.add_revocation(revocation, now)
            except Unavailable:
                self.failures += 1
            else:
                self.acknowledged.append(target)
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def writing(cluster: Cluster, mode: Mode) -> AsyncIterator[Writer]:
    """Write to the cluster from several tasks of one pool, for the length of a block."""
    pool = await pools.connect(cluster.url, min_size=4, replicated=mode == "synchronous")
    writer = Writer(Store(pool))
    tasks = [asyncio.create_task(writer.run()) for _ in range(WRITERS)]
    try:
        yield writer
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await pool.close()
        for error in ended:
            if isinstance(error, Exception):  # not Unavailable, or it would go on
                raise error


async def fail_over(cluster: Cluster, fault: str, writer: Writer) -> float:
    """Break the leader; return the seconds until another node acknowledges a write."""
    leader = await cluster.leader()
    started = time.monotonic()
    if (broken := getattr(leader, fault)()) is not None:
        await broken
    try:
        async with asyncio.timeout(RECOVERY_SECONDS):
            while (await cluster.leader()) is leader:
                await asyncio.sleep(0.05)
            before = len(writer.acknowledged)
            while len(writer.acknowledged) == before:
                await asyncio.sleep(0.01)
    finally:
        await repair(leader, fault)
    return time.monotonic() - started


async def repair(node: Node, fault: str) -> None:
    """Undo a fault."""
    match fault:
        case "kill":
            await node.restart()
        case "freeze":
            node.thaw()
        case "cut_off":
            await node.reconnect()


async def missing(cluster: Cluster, acknowledged: list[str]) -> int:
    """Return how many of these revocations the present leader does not have."""
    connection = await asyncpg.connect(cluster.direct_url(await cluster.leader()))
    sql = "SELECT count(*) FROM revocations WHERE target = ANY ($1)"
    found: int = await connection.fetchval(sql, acknowledged)
    await connection.close()
    return len(acknowledged) - found


async def main(folder: Path, rounds: int, report: Callable[[str], object] = print) -> int:
    """Run all faults; return how many writes were lost that a standby was said to have."""
    cluster, broken = Cluster(folder), 0
    try:
        await cluster.start()
        await migrate(cluster.url)
        report(f"{'mode':14}{'fault':9}{'seconds':>9}{'written':>9}{'refused':>9}{'lost':>6}")
        modes: tuple[Mode, Mode] = ("asynchronous", "synchronous")
        for mode in modes:
            await cluster.set_mode(mode)
            for fault in FAULTS * rounds:
                await cluster.settled()
                async with writing(cluster, mode) as writer:
                    await asyncio.sleep(1)
                    seconds = await fail_over(cluster, fault, writer)
                lost = await missing(cluster, writer.acknowledged)
                broken += lost if mode == "synchronous" else 0
                written, refused = len(writer.acknowledged), writer.failures
                report(f"{mode:14}{fault:9}{seconds:9.1f}{written:9}{refused:9}{lost:6}")
    finally:
        await cluster.stop()
    return broken


if __name__ == "__main__":
    with open_folder("chaos-") as directory:
        lost = asyncio.run(main(directory, int(sys.argv[1]) if sys.argv[1:] else 1))
    sys.exit(f"{lost} acknowledged writes were lost" if lost else 0)
