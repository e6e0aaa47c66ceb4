"""How figures are taken, compared and printed."""

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Verdict:
    """What a question's goal is, and what was measured."""

    question: str
    measured: Sequence[float]
    """One figure a round, or one alone."""
    at_least: float | None = None
    at_most: float | None = None
    unit: str = "times"
    sides: Mapping[str, float] = field(default_factory=dict)
    """The medians that the figure was made of."""
    note: str = ""

    @property
    def median(self) -> float:
        """The figure that counts."""
        return statistics.median(self.measured)

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        low = self.at_least is None or self.median >= self.at_least
        return low and (self.at_most is None or self.median <= self.at_most)

    @property
    def goal(self) -> str:
        """The goal in words."""
        sign, bound = ("≤", self.at_most) if self.at_least is None else ("≥", self.at_least)
        return f"{sign} {bound:g} {self.unit}"

    @property
    def share(self) -> float:
        """How far the goal is met: 1 means met, 2 twice the goal."""
        if self.at_least is not None:
            return self.median / self.at_least
        assert self.at_most is not None
        return self.at_most / self.median if self.median > 0 else float("inf")

    def __str__(self) -> str:
        low, high = min(self.measured), max(self.measured)
        spread = f" ({low:.3g} to {high:.3g})" if len(self.measured) > 1 else ""
        met = "met" if self.met else "NOT MET"
        return f"{self.question}: {self.median:.3g} {self.unit}{spread}; goal {self.goal}: {met}"


def seconds_each(call: Callable[[], object], calls: int) -> float:
    """Return the mean duration of a call over a run of them."""
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - started) / calls


def interleaved(
    sides: Mapping[str, Callable[[], object]], calls: int, rounds: int
) -> dict[str, list[float]]:
    """Return each side's seconds a call, one a round; each round runs every side."""
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            seen[name].append(seconds_each(call, calls))
    return seen


async def in_turn(
    sides: Mapping[str, Callable[[], Awaitable[float]]], rounds: int
) -> dict[str, list[float]]:
    """Return what each side gave, one figure a round; each round runs every side.

    Every other round runs them backwards, so that none is always first.
    """
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            seen[name].append(await sides[name]())
    return seen


def ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Return the ratio of two sides in each round, where noise of the machine meets both."""
    return [a / b for a, b in zip(over, under, strict=True)]


def medians(seen: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the median of each side."""
    return {name: statistics.median(values) for name, values in seen.items()}


def show(seen: Mapping[str, Sequence[float]], unit: str, digits: int = 0) -> None:
    """Print median and spread of each side."""
    for name, values in seen.items():
        low, middle, high = min(values), statistics.median(values), max(values)
        print(
            f"  {name:44} {middle:10,.{digits}f} {unit} ({low:,.{digits}f} to {high:,.{digits}f})"
        )


def spread(values: Sequence[float]) -> str:
    """Return median, p99 and maximum, in milliseconds."""
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    figures = statistics.median(ordered), p99, ordered[-1]
    return "median {:.2f} ms, p99 {:.2f} ms, max {:.2f} ms".format(*(v * 1000 for v in figures))
