"""A replica whose clock jumps away from the database's, by libfaketime."""

import asyncio
import json
from pathlib import Path

from tests.acceptance.servers import ServerProcess
from tests.chaos.fleet import open_fleet
from tests.chaos.kills import audited
from tests.chaos.processes import BUILD
from tests.chaos.row import Row

__all__ = ["wrong_clocks"]

LIBRARY = "usr/lib/*/faketime/libfaketimeMT.so.1"  # as Debian's package has it
OFFSETS = {"30 s ahead": 30, "30 s behind": -30, "an hour ahead": 3600, "an hour behind": -3600}
OFF_SECONDS = 3.0
NOTICED_SECONDS = 20.0
CLOSE = 2.0  # seconds between an injected offset and the one that the replica tells


async def wrong_clocks() -> list[Row]:
    """Set the clock of one of two replicas wrong while both are called, and right again."""
    libraries = [*(BUILD / "debian").glob(LIBRARY), *Path("/").glob(LIBRARY)]
    assert libraries, "libfaketime is missing (bash tests/chaos/install.sh)"
    rows = []
    async with open_fleet(1) as fleet:
        offset = fleet.folder / "offset"
        offset.write_text("+0\n")
        replica = await fleet.add(
            LD_PRELOAD=str(libraries[0]),
            FAKETIME_TIMESTAMP_FILE=str(offset),
            FAKETIME_CACHE_DURATION="1",  # seconds between two looks at that file
            FAKETIME_DONT_FAKE_MONOTONIC="1",
        )
        for name, seconds in OFFSETS.items():
            row = Row(f"the clock of one of two replicas {name}")
            async with audited(row, fleet) as model:
                changes = _changes(replica)
                offset.write_text(f"{seconds:+d}\n")
                told = await _next_change(replica, changes, "clock_differs")
                assert abs(told - seconds) < CLOSE, f"the clock is off by {told:.1f} s"
                await asyncio.sleep(OFF_SECONDS)
                offset.write_text("+0\n")
                await _next_change(replica, changes + 1, "clock_agrees")
                row.recovered(await model.write())
            rows.append(row)
    return rows


def _changes(replica: ServerProcess) -> int:
    return len(_entries(replica))


def _entries(replica: ServerProcess) -> list[dict[str, object]]:
    """Return what the replica has logged of its clock."""
    lines = [line for line in replica.output().splitlines() if '"clock_' in line]
    return [entry for entry in map(json.loads, lines) if "ahead_of_database" in entry]


async def _next_change(replica: ServerProcess, before: int, event: str) -> float:
    """Return how far ahead the replica finds its clock, once it has logged a change."""
    async with asyncio.timeout(NOTICED_SECONDS):
        while len(found := _entries(replica)) <= before:
            await asyncio.sleep(0.1)
    assert found[-1]["event"] == event, found[-1]
    return float(str(found[-1]["ahead_of_database"]))
