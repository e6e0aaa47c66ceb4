"""The database's clock as a process estimates it, whatever time its machine believes it is."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from auth_service.clock import DatabaseClock, seconds, steady_seconds, utc_now
from auth_service.serving.clock_watch import ClockWatch

START = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
SKEW = timedelta(seconds=10)


@dataclass
class Machine:
    """A machine whose two clocks a test moves."""

    wall: float = START.timestamp()
    steady: float = 1000.0

    def pass_time(self, by: float) -> None:
        """Let time pass on both."""
        self.wall += by
        self.steady += by

    def clock(self, database: datetime = START, round_trip: float = 0.0) -> DatabaseClock:
        """Return the clock of a database that has just answered."""
        return DatabaseClock(
            database,
            self.steady - round_trip,
            self.steady,
            wall=lambda: self.wall,
            steady=lambda: self.steady,
        )


@pytest.mark.parametrize("off", [0.0, 30.0, -3600.0, 1e9])
def test_the_machines_own_time_decides_nothing(off: float) -> None:
    """Neither where it starts, nor when somebody sets it."""
    machine = Machine(wall=START.timestamp() + off)
    clock = machine.clock()
    assert clock() == START
    machine.pass_time(5)
    machine.wall -= 7200
    assert clock() == START + timedelta(seconds=5)
    assert seconds(clock)() == clock.seconds() == clock().timestamp()


def test_a_first_reading_is_taken_to_be_from_the_middle_of_its_round_trip() -> None:
    """So the estimate is wrong by half a round trip at most."""
    clock = Machine().clock(START, round_trip=0.2)
    assert clock() == START + timedelta(seconds=0.1)


@pytest.mark.parametrize("within", [0.0, 0.5, 1.0])
def test_a_reading_that_agrees_moves_nothing(within: float) -> None:
    """However slow the answer was: the estimate lies within its bounds."""
    machine = Machine()
    clock = machine.clock()
    machine.pass_time(20)
    read = START + timedelta(seconds=6 + 14 * within)
    clock.adjust(read, sent=machine.steady - 14, received=machine.steady)
    assert clock() == START + timedelta(seconds=20)


@pytest.mark.parametrize("drift", [-3.0, 0.5, 3600.0])
def test_a_reading_that_disagrees_corrects_as_far_as_it_proves(drift: float) -> None:
    """After a failover to a server with another time, and where a clock drifts."""
    machine = Machine()
    clock = machine.clock()
    machine.pass_time(20)
    read = START + timedelta(seconds=20 + drift)
    clock.adjust(read, sent=machine.steady - 0.01, received=machine.steady)
    assert abs((clock() - read).total_seconds()) <= 0.01


def test_the_steady_clock_goes_on() -> None:
    """It never goes back."""
    readings = [steady_seconds() for _ in range(100)]
    assert readings == sorted(readings)
    assert seconds(utc_now)() == pytest.approx(utc_now().timestamp(), abs=5)


@pytest.mark.parametrize("off", [11.0, -11.0, 3600.0])
def test_a_wrong_clock_is_reported_once_and_measured(off: float) -> None:
    """In the log at each change, as a metric, and in the verdict."""
    machine = Machine()
    watch = ClockWatch(machine.clock(), SKEW)
    with capture_logs() as logs:
        assert watch.agrees()
        machine.wall += off
        assert not watch.agrees()
        assert not watch.agrees()
        assert REGISTRY.get_sample_value("auth_clock_ahead_seconds") == pytest.approx(off)
        machine.wall -= off
        assert watch.agrees()
    assert [entry["event"] for entry in logs] == ["clock_differs", "clock_agrees"]
    assert logs[0]["log_level"] == "error"
    assert logs[0]["ahead_of_database"] == pytest.approx(off)


@pytest.mark.parametrize("off", [10.0, -10.0])
def test_clocks_may_differ_by_what_verifiers_allow(off: float) -> None:
    """AUTH_CLOCK_SKEW is the bound, and included."""
    machine = Machine()
    watch = ClockWatch(machine.clock(), SKEW)
    machine.wall += off
    assert watch.agrees()
