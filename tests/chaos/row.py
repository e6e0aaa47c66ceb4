"""The row of an experiment: what was injected, and what became of the promises."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["NEVER", "Row", "table"]

NEVER = ("INTERNAL", "UNKNOWN")
"""The statuses that no fault may cause."""


@dataclass
class Row:
    """The figures of one experiment. All but the errors that a client retries should be 0."""

    injected: str
    times: int = 0
    recovery: float = 0.0
    """The longest time in seconds from the end of a fault to the next acknowledged write."""
    calls: int = 0
    """How many calls were answered with success."""
    lost: int = 0
    """Acknowledged logins, refreshes and revocations that the database does not have."""
    forked: int = 0
    """Refresh tokens that got two different successors."""
    logged_out: int = 0
    """Sessions that a documented retry ended."""
    wrong: int = 0
    """Verdicts against the truth: active beyond the stated staleness, or inactive without cause."""
    came_back: int = 0
    """Revocations that were in force and no longer are."""
    errors: Counter[str] = field(default_factory=Counter)
    """How often each status came."""
    may_lose: bool = False
    """Whether the fault may lose what was acknowledged (replication without durability)."""
    failure: str = ""
    """Why the experiment could not be made or broke off."""
    remark: str = ""

    def recovered(self, seconds: float) -> None:
        """Count a fault and the time that it took to recover from it."""
        self.times += 1
        self.recovery = max(self.recovery, seconds)

    def broken(self) -> list[str]:
        """Return the promises that do not hold, each with its count."""
        counts = {
            "acknowledged operations lost": 0 if self.may_lose else self.lost,
            "sessions forked": self.forked,
            "logouts by a documented retry": 0 if self.may_lose else self.logged_out,
            "wrong verdicts": self.wrong,
            "revocations that came back": self.came_back,
        } | {status: self.errors[status] for status in NEVER}
        broken = [f"{count} {what}" for what, count in counts.items() if count]
        failure = self.failure or ("" if self.times else "nothing was injected")
        return [*broken, failure] if failure else broken


HEAD = (
    "what was injected", "times", "recovery, s", "calls", "lost", "forked", "logged out",
    "wrong verdicts", "came back", "errors that clients retry", "INTERNAL, UNKNOWN", "kept",
)  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table of Markdown."""
    lines = [HEAD, tuple("---" for _ in HEAD), *(_cells(row) for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cells(row: Row) -> tuple[str, ...]:
    retried = {status: count for status, count in row.errors.items() if status not in NEVER}
    errors = ", ".join(f"{status} {count}" for status, count in sorted(retried.items())) or "none"
    counts = (row.lost, row.forked, row.logged_out, row.wrong, row.came_back)
    never = sum(row.errors[status] for status in NEVER)
    kept = "; ".join(row.broken()) or "yes"
    return (
        f"{row.injected}{f' ({row.remark})' if row.remark else ''}",
        str(row.times),
        f"{row.recovery:.1f}",
        str(row.calls),
        *map(str, counts),
        errors,
        str(never),
        kept.replace("\n", " ").replace("|", "/")[:300],
    )
