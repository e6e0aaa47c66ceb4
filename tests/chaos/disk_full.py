"""PostgreSQL on a file system without a free byte: a small tmpfs, which only root can mount."""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from tests.chaos.fleet import Database, open_fleet
from tests.chaos.kills import audited
from tests.chaos.row import Row
from tests.folders import open_folder

__all__ = ["disk_full"]

FULL_SECONDS = 4.0
SIZE = "400m"
FILL = "CREATE TABLE chaos AS SELECT repeat('x', 1000) FROM generate_series(1, 500)"


async def disk_full(times: int) -> Row:
    """Fill the disk of PostgreSQL, and free it again."""
    row = Row(f"PostgreSQL's disk full for {FULL_SECONDS:g} s")
    if os.geteuid() != 0:
        row.failure = "not run: only root can mount a small disk"
        return row
    with open_folder("chaos-") as folder, _mounted(folder / "disk") as disk:
        async with open_fleet(data=disk / "postgres") as fleet, audited(row, fleet) as model:
            database = fleet.database
            for _ in range(times):
                with _filled(disk):
                    await _assert_full(database)
                    await asyncio.sleep(FULL_SECONDS)
                if not await database.answers():  # without a byte for its log it stops
                    row.remark = "PostgreSQL had stopped and was started again"
                    await database.stop()
                    await database.start()
                row.recovered(await model.write())
                await asyncio.sleep(1)
    return row


async def _assert_full(database: Database) -> None:
    with contextlib.suppress(asyncpg.DiskFullError):
        await database.execute(FILL)
        raise AssertionError("the disk is not full")


@contextmanager
def _mounted(path: Path) -> Iterator[Path]:
    path.mkdir(mode=0o711)
    options = f"size={SIZE},mode=0711"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def _filled(disk: Path) -> Iterator[None]:
    """Leave no byte free on a disk."""
    filler = disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(2**16)):
                pass
        status = os.statvfs(disk)
        assert status.f_bavail == 0, f"{status.f_bavail} blocks are free"
        yield
    finally:
        filler.unlink()
