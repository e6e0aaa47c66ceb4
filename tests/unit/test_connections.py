"""Which connection gives way when there is no room for another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_service.web.connections import Connections, Limits, Place, source_of


class Crowd:
    """Connections by number, and the order in which they were evicted."""

    def __init__(self, connections: int, per_source: int) -> None:
        self.connections = Connections(Limits(connections, per_source))
        self.places: list[Place] = []
        self.evicted: list[int] = []

    def enter(self, source: str = "a") -> Place:
        """Add a connection."""
        number = len(self.places)
        place = self.connections.enter(source, lambda: self.evicted.append(number))
        self.places.append(place)
        return place


def test_below_the_limits_no_connection_is_closed() -> None:
    """Up to the last place."""
    crowd = Crowd(connections=3, per_source=3)
    for _ in range(3):
        crowd.enter()
    assert (crowd.evicted, len(crowd.connections)) == ([], 3)


def test_the_one_that_has_waited_longest_gives_way() -> None:
    """A connection that has worked meanwhile waits behind the others."""
    crowd = Crowd(connections=3, per_source=3)
    first, *_ = (crowd.enter() for _ in range(3))
    first.work()
    first.wait()
    for _ in range(3):
        crowd.enter()
    assert crowd.evicted == [1, 2, 0]
    assert len(crowd.connections) == 3


def test_a_source_at_its_limit_evicts_its_own() -> None:
    """Others of the process are spared, though they have waited longer."""
    crowd = Crowd(connections=10, per_source=2)
    for source in ("b", "a", "a", "a"):
        crowd.enter(source)
    assert crowd.evicted == [1]


def test_a_connection_that_works_does_not_give_way() -> None:
    """If all work, one more is admitted, which is the next to give way."""
    crowd = Crowd(connections=2, per_source=2)
    for _ in range(2):
        crowd.enter().work()
    crowd.enter()
    assert (crowd.evicted, len(crowd.connections)) == ([], 3)
    crowd.enter()
    assert (crowd.evicted, len(crowd.connections)) == ([2], 3)


@given(
    st.lists(
        st.tuples(st.sampled_from(["enter", "wait", "work", "leave"]), st.integers(0, 30)),
        max_size=200,
    )
)
def test_whatever_happens_the_limits_hold_and_nothing_is_left(
    steps: list[tuple[str, int]],
) -> None:
    """Each connection is evicted at most once; the count is that of those that are there."""
    crowd = Crowd(connections=5, per_source=3)
    working: set[Place] = set()
    gone: set[int] = set()
    for step, number in steps:
        if step == "enter":
            crowd.enter("abc"[number % 3])
        elif number < len(crowd.places):
            place = crowd.places[number]
            getattr(place, step)()
            if step == "leave":
                gone.add(number)
            alive = number not in gone and number not in crowd.evicted
            (working.add if step == "work" and alive else working.discard)(place)
        assert len(crowd.evicted) == len(set(crowd.evicted))
        there = set(range(len(crowd.places))) - gone - set(crowd.evicted)
        assert len(crowd.connections) == len(there)
        assert not any(crowd.places[number] in working for number in crowd.evicted)
    for place in crowd.places:
        place.leave()
    assert len(crowd.connections) == 0


@pytest.mark.parametrize(
    ("host", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("::1", "::"),
        ("testclient", "testclient"),
    ],
)
def test_an_ipv6_client_counts_by_its_network(host: str, source: str) -> None:
    """One client has all addresses of 64 bits."""
    assert source_of(host) == source
