"""`make chaos`: run the experiments, print what became of the promises, and fail if one broke.

    python -m tests.chaos [--short | --by-hand] [--write] [NAME …]

Owns which experiments there are, how often each breaks something, and the time that they may take.
"""

import argparse
import asyncio
import math
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import (
    attacks,
    clocks,
    database_faults,
    disk_full,
    failovers,
    kills,
    network,
    one_token,
    verifiers,
    watchers,
)
from tests.chaos.processes import ROOT
from tests.chaos.row import Row, table

SECONDS = {"long": 15 * 60.0, "short": 5 * 60.0, "by hand": math.inf}
"""After how long a form fails."""
REPORT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- make chaos: begin -->\n", "<!-- make chaos: end -->\n"
Run = Callable[[], Awaitable[Row | list[Row]]]


@dataclass(frozen=True)
class Experiment:
    """The forms of an experiment. The long one stands in for one by hand that is missing."""

    long: Run | None = None
    short: Run | None = None
    by_hand: Run | None = None
    """Everything that was asked for, for as long as it takes."""

    def form(self, name: str) -> Run | None:
        """Return a form."""
        return {"long": self.long, "short": self.short}.get(name, self.by_hand or self.long)


EXPERIMENTS = {
    "replicas": Experiment(
        lambda: kills.kill_replicas(100, 80),
        lambda: kills.kill_replicas(5, 12),
        lambda: kills.kill_replicas(100, math.inf),
    ),
    "workers": Experiment(
        lambda: kills.kill_workers(100, 60),
        lambda: kills.kill_workers(5, 12),
        lambda: kills.kill_workers(100, math.inf),
    ),
    "freeze": Experiment(
        lambda: database_faults.freeze((5, 14, 30)), lambda: database_faults.freeze((12,))
    ),
    "killed": Experiment(lambda: database_faults.killed(2), lambda: database_faults.killed(1)),
    "stopped": Experiment(lambda: database_faults.stopped(2)),
    "connections": Experiment(lambda: database_faults.out_of_connections(2)),
    "read-only": Experiment(lambda: database_faults.read_only(2)),
    "disk-full": Experiment(lambda: disk_full.disk_full(2)),
    "failover-asynchronous": Experiment(
        lambda: failovers.lost_leaders("asynchronous", 1, ("kill", "freeze")),
        by_hand=lambda: failovers.lost_leaders("asynchronous", 20),
    ),
    "failover-synchronous": Experiment(
        lambda: failovers.lost_leaders("synchronous", 1, ("kill", "cut_off")),
        by_hand=lambda: failovers.lost_leaders("synchronous", 20),
    ),
    "database-link": Experiment(lambda: network.database_link(2)),
    "client-link": Experiment(lambda: network.service_links(2)),
    "cuts": Experiment(
        lambda: network.cuts(1000, 40),
        lambda: network.cuts(30, 8),
        lambda: network.cuts(1000, math.inf),
    ),
    "clocks": Experiment(clocks.wrong_clocks),
    "one-token": Experiment(
        lambda: one_token.one_token(1000, 40),
        lambda: one_token.one_token(20, 8),
        lambda: one_token.one_token(1000, math.inf),
    ),
    "attacks": Experiment(attacks.attack, lambda: attacks.attack(attacks.IN_SHORT, short=True)),
    "watch-cuts": Experiment(
        lambda: verifiers.cut_streams(1000, 40),
        lambda: verifiers.cut_streams(1000, 30),
        lambda: verifiers.cut_streams(1000, math.inf),
    ),
    "watchers": Experiment(lambda: watchers.lost_replica(500, 20_000, resume=False)),
    "watchers-million": Experiment(lambda: watchers.lost_replica(500, 1_000_000, resume=True)),
    "watchers-million-fresh": Experiment(
        by_hand=lambda: watchers.lost_replica(500, 1_000_000, resume=False, within=600)
    ),
}


async def run(names: list[str], form: str) -> list[Row]:
    """Run experiments in turn; one for which there is no time left counts as failed."""
    rows, deadline = [], time.monotonic() + SECONDS[form]
    if (task := asyncio.current_task()) is not None:  # whatever was started has to be ended
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    for name in names:
        if (begin := EXPERIMENTS[name].form(form)) is None:
            continue
        print(f"chaos: {name} …", file=sys.stderr, flush=True)
        started = time.monotonic()
        found = await _limited(name, begin, deadline - time.monotonic())
        rows += found
        broken = "; ".join(text for row in found for text in row.broken()) or "all kept"
        took = time.monotonic() - started
        print(f"chaos: {name}: {took:.0f} s, {broken}", file=sys.stderr, flush=True)
    return rows


async def _limited(name: str, begin: Run, seconds: float) -> list[Row]:
    if seconds <= 0:
        return [Row(name, failure="not run: the time was up")]
    try:
        async with asyncio.timeout(None if seconds == math.inf else seconds):
            found = await begin()
    except Exception as error:  # noqa: BLE001 - a row for each experiment, whatever it met
        return [Row(name, failure=f"{type(error).__name__}: {error}")]
    return found if isinstance(found, list) else [found]


def write(path: Path, text: str) -> None:
    """Replace the part of the page that a run makes."""
    before, _, rest = path.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}{text}\n{END}{after}")


def main() -> None:
    """Run what the arguments name, or everything."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a few minutes, for CI")
    parser.add_argument("--by-hand", action="store_true", help="in full, without a time limit")
    parser.add_argument("--write", action="store_true", help="put the table in docs/reliability.md")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(EXPERIMENTS))
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(EXPERIMENTS):
        parser.error(f"no such experiment: {', '.join(sorted(unknown))}")
    names = arguments.names or list(EXPERIMENTS)
    form = "short" if arguments.short else "by hand" if arguments.by_hand else "long"
    rows = asyncio.run(run(names, form))
    print(table(rows))
    if arguments.write:
        write(REPORT, table(rows))
    sys.exit(1 if any(row.broken() for row in rows) else 0)


if __name__ == "__main__":
    main()
