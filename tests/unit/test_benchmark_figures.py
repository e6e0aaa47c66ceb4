"""The arithmetic of benchmarks/figures.py; nothing is timed here."""

from collections.abc import Awaitable, Callable

import pytest

from benchmarks.figures import Verdict, in_turn, medians, ratios


def test_a_goal_is_judged_by_the_median() -> None:
    """One slow round among three does not decide."""
    assert Verdict("rate", [0.5, 0.9, 1.1], at_least=0.9).met
    assert not Verdict("rate", [0.5, 0.8, 1.1], at_least=0.9).met


def test_an_upper_bound_is_met_from_below() -> None:
    """Memory and delays have bounds that must not be passed."""
    assert Verdict("memory", [60.0], at_most=60).met
    assert not Verdict("memory", [60.5], at_most=60).met


@pytest.mark.parametrize(
    ("verdict", "share"),
    [
        (Verdict("rate", [1.8], at_least=0.9), 2.0),
        (Verdict("memory", [30.0], at_most=60), 2.0),
        (Verdict("growth", [0.0], at_most=10), float("inf")),
    ],
)
def test_twice_as_good_as_asked_is_a_share_of_two(verdict: Verdict, share: float) -> None:
    """Whichever way the bound points."""
    assert verdict.share == share


def test_ratios_are_taken_round_by_round() -> None:
    """A round in which the machine was slow counts for both sides."""
    assert ratios([10.0, 5.0], [20.0, 10.0]) == [0.5, 0.5]


async def test_every_other_round_runs_backwards() -> None:
    """No side is always first."""
    order: list[str] = []

    def side(name: str) -> Callable[[], Awaitable[float]]:
        async def run() -> float:
            order.append(name)
            return float(len(order))

        return run

    seen = await in_turn({"a": side("a"), "b": side("b")}, rounds=2)
    assert order == ["a", "b", "b", "a"]
    assert medians(seen) == {"a": 2.5, "b": 2.5}
