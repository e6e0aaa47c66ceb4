"""How figures are taken and printed."""

import statistics
import time
from collections.abc import Callable, Sequence


def seconds_each(call: Callable[[], object], calls: int) -> float:
    """Return the mean duration of a call over a run of them."""
    started = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - started) / calls


def interleaved(
    sides: dict[str, Callable[[], object]], calls: int, rounds: int
) -> dict[str, float]:
    """Return the median over rounds of each side's seconds a call; each round runs every side."""
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            seen[name].append(seconds_each(call, calls))
    return {name: statistics.median(values) for name, values in seen.items()}


def spread(values: Sequence[float]) -> str:
    """Return median, p99 and maximum, in milliseconds."""
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    figures = statistics.median(ordered), p99, ordered[-1]
    return "median {:.2f} ms, p99 {:.2f} ms, max {:.2f} ms".format(*(v * 1000 for v in figures))
