"""`make chaos`: run the experiments, print what became of the promises, and fail if one broke.

    python -m tests.chaos [--short] [--write] [NAME …]

Owns which experiments there are, how often each breaks something, and the time that they may take.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import attacks, clocks, database_faults, kills, network, one_token, watchers
from tests.chaos.processes import ROOT
from tests.chaos.row import Row, table

SECONDS = {"long": 15 * 60.0, "short": 3 * 60.0}
REPORT = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- make chaos: begin -->\n", "<!-- make chaos: end -->\n"
Run = Callable[[], Awaitable[Row | list[Row]]]


@dataclass(frozen=True)
class Experiment:
    """The long and the short form of an experiment; some have no short one."""

    long: Run
    short: Run | None = None


EXPERIMENTS = {
    "replicas": Experiment(
        lambda: kills.kill_replicas(100, 120), lambda: kills.kill_replicas(5, 12)
    ),
    "workers": Experiment(lambda: kills.kill_workers(100, 90), lambda: kills.kill_workers(5, 12)),
    "freeze": Experiment(
        lambda: database_faults.freeze((5, 14, 30)), lambda: database_faults.freeze((12,))
    ),
    "killed": Experiment(lambda: database_faults.killed(3), lambda: database_faults.killed(1)),
    "stopped": Experiment(lambda: database_faults.stopped(3)),
    "connections": Experiment(lambda: database_faults.out_of_connections(3)),
    "read-only": Experiment(lambda: database_faults.read_only(3)),
    "database-link": Experiment(lambda: network.database_link(3)),
    "client-link": Experiment(lambda: network.service_links(3)),
    "cuts": Experiment(lambda: network.cuts(1000, 60), lambda: network.cuts(30, 8)),
    "attacks": Experiment(attacks.attack, lambda: attacks.attack(attacks.IN_SHORT, short=True)),
    "clocks": Experiment(clocks.wrong_clocks),
    "watchers": Experiment(lambda: watchers.lost_replica(500, 20_000, resume=False)),
    "watchers-million": Experiment(lambda: watchers.lost_replica(500, 1_000_000, resume=True)),
    "one-token": Experiment(
        lambda: one_token.one_token(1000, 60), lambda: one_token.one_token(20, 8)
    ),
}


async def run(names: list[str], form: str) -> list[Row]:
    """Run experiments in turn; one for which there is no time left counts as failed."""
    rows, deadline = [], time.monotonic() + SECONDS[form]
    for name in names:
        experiment = EXPERIMENTS[name]
        if (begin := experiment.short if form == "short" else experiment.long) is None:
            continue
        print(f"chaos: {name} …", file=sys.stderr, flush=True)
        started = time.monotonic()
        found = await _limited(name, begin, deadline - time.monotonic())
        rows += found
        broken = "; ".join(text for row in found for text in row.broken()) or "all kept"
        print(f"chaos: {name}: {time.monotonic() - started:.0f} s, {broken}", file=sys.stderr)
    return rows


async def _limited(name: str, begin: Run, seconds: float) -> list[Row]:
    if seconds <= 0:
        return [Row(name, failure="not run: the time was up")]
    try:
        async with asyncio.timeout(seconds):
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
    parser.add_argument("--write", action="store_true", help="put the table in docs/reliability.md")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(EXPERIMENTS))
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(EXPERIMENTS):
        parser.error(f"no such experiment: {', '.join(sorted(unknown))}")
    names = arguments.names or list(EXPERIMENTS)
    rows = asyncio.run(run(names, "short" if arguments.short else "long"))
    print(table(rows))
    if arguments.write:
        write(REPORT, table(rows))
    sys.exit(1 if any(row.broken() for row in rows) else 0)


if __name__ == "__main__":
    main()
