"""The rules of renewal: when, how long to wait, and what an error means."""

from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from auth_service.client.token_life import TokenLife, reason_of
from auth_service.errors import (
    AuthError,
    InvalidCredentials,
    InvalidGrant,
    RateLimited,
    Unavailable,
)
from tests.clock import FakeClock

MINUTE = timedelta(minutes=1)
Code = grpc.StatusCode


def life_of(clock: FakeClock, jitter: float = 0.5, ahead: float = 0.2) -> TokenLife:
    return TokenLife(clock=clock, ahead=ahead, jitter=lambda: jitter)


def rpc_error(
    code: grpc.StatusCode, *details: Message, raw: bytes | None = None
) -> grpc.aio.AioRpcError:
    status = status_pb2.Status(code=code.value[0])
    for detail in details:
        status.details.add().Pack(detail)
    trailing = grpc.aio.Metadata(
        ("x-other", "1"),
        ("grpc-status-details-bin", status.SerializeToString() if raw is None else raw),
    )
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details="why")


def info(reason: str, domain: str = "authn") -> Message:
    detail: Message = error_details_pb2.ErrorInfo(reason=reason, domain=domain)
    return detail


def retry_in(seconds: float) -> Message:
    delay = duration_pb2.Duration()
    delay.FromTimedelta(timedelta(seconds=seconds))
    detail: Message = error_details_pb2.RetryInfo(retry_delay=delay)
    return detail


@pytest.mark.parametrize(("jitter", "minutes"), [(0.0, 85), (0.5, 80), (0.999999, 75.001)])
def test_a_token_is_due_at_75_to_85_per_cent_of_its_life(
    clock: FakeClock, jitter: float, minutes: float
) -> None:
    """The jitter spreads the renewals of a fleet, within bounds."""
    life = life_of(clock, jitter)
    life.accept("a", clock.now + 100 * MINUTE)
    clock.advance(minutes * MINUTE - timedelta(seconds=1))
    assert life.current() == "a"
    clock.advance(timedelta(seconds=2))
    assert life.current() is None
    assert life.usable() == "a"
    clock.advance(30 * MINUTE)
    assert life.usable() is None


@pytest.mark.parametrize("ahead", [0.0, -0.1, 0.8, 1.0])
def test_a_share_that_leaves_no_life_is_refused(clock: FakeClock, ahead: float) -> None:
    """No jitter can make a token due before it was issued."""
    with pytest.raises(ValueError, match="ahead"):
        life_of(clock, ahead=ahead)


def test_a_fast_clock_does_not_renew_at_each_call(clock: FakeClock) -> None:
    """A token that has expired by the local clock is used for a moment."""
    life = life_of(clock)
    life.accept("a", clock.now - MINUTE)
    assert life.current() == "a"
    clock.advance(timedelta(seconds=1))
    assert life.current() is None
    assert life.usable() is None


def test_attempts_follow_each_other_ever_more_slowly_then_pause(clock: FakeClock) -> None:
    """The delay doubles from a tenth of a second; beyond two seconds it is a pause."""
    life = life_of(clock, jitter=1.0)
    delays = [life.failed(rpc_error(Code.UNAVAILABLE)) for _ in range(6)]
    assert delays == [pytest.approx(x) for x in (0.1, 0.2, 0.4, 0.8, 1.6)] + [None]
    with pytest.raises(Unavailable) as raised:
        life.current()
    assert raised.value.retry_after == timedelta(seconds=3.2)
    clock.advance(timedelta(seconds=3.2))
    assert life.current() is None
    for _ in range(2000):
        assert life.failed(rpc_error(Code.UNAVAILABLE)) is None
    clock.advance(timedelta(seconds=14.9))
    with pytest.raises(Unavailable):
        life.current()
    clock.advance(timedelta(seconds=0.1))
    assert life.current() is None


@pytest.mark.parametrize(("jitter", "delay"), [(0.0, 0.05), (0.5, 0.075), (1.0, 0.1)])
def test_jitter_takes_at_most_half_of_a_delay(
    clock: FakeClock, jitter: float, delay: float
) -> None:
    """Clients that fail together do not return together."""
    assert life_of(clock, jitter).failed(rpc_error(Code.DEADLINE_EXCEEDED)) == pytest.approx(delay)


def test_the_delay_that_the_service_asks_for_is_kept(clock: FakeClock) -> None:
    """RetryInfo is the minimum; the random part is added to it."""
    life = life_of(clock, jitter=0.0)
    assert life.failed(rpc_error(Code.UNAVAILABLE, retry_in(1.5))) == pytest.approx(1.55)
    assert life.failed(rpc_error(Code.RESOURCE_EXHAUSTED, retry_in(30))) is None
    clock.advance(timedelta(seconds=30))
    with pytest.raises(RateLimited, match="RESOURCE_EXHAUSTED: why"):
        life.current()
    clock.advance(timedelta(seconds=0.1))
    assert life.current() is None


def test_the_old_token_is_used_in_a_pause_until_it_expires(clock: FakeClock) -> None:
    """There is no attempt in a pause, and none is needed."""
    life = life_of(clock)
    life.accept("a", clock.now + 10 * MINUTE)
    clock.advance(9 * MINUTE)
    assert life.failed(rpc_error(Code.RESOURCE_EXHAUSTED, retry_in(120))) is None
    assert not life.healthy
    assert life.current() == "a"
    clock.advance(MINUTE)
    with pytest.raises(RateLimited):
        life.current()
    life.accept("b", clock.now + 10 * MINUTE)
    assert life.healthy
    assert life.current() == "b"


def test_a_failure_that_time_may_not_mend_is_not_tried_again_at_once(clock: FakeClock) -> None:
    """It ends the renewal, and a second passes before the next."""
    life = life_of(clock)
    assert life.failed(ZeroDivisionError("x")) is None
    with pytest.raises(ZeroDivisionError):
        life.current()
    clock.advance(timedelta(seconds=1))
    assert life.current() is None


def test_an_ended_session_stays_ended(clock: FakeClock) -> None:
    """The remaining token is dropped too: it was most likely revoked with the session."""
    life = life_of(clock)
    life.accept("a", clock.now + 10 * MINUTE)
    assert life.failed(rpc_error(Code.UNAUTHENTICATED, info("INVALID_GRANT"))) is None
    clock.advance(timedelta(days=999))
    with pytest.raises(InvalidGrant):
        life.current()


def test_renewals_are_forced_ten_seconds_apart(clock: FakeClock) -> None:
    """A service that refuses every token does not cause a refresh in every call."""
    life = life_of(clock)
    life.accept("a", clock.now + 10 * MINUTE)
    life.invalidate("other")
    assert life.current() == "a"
    life.invalidate("a")
    assert life.current() is None
    assert life.usable() == "a"
    life.accept("b", clock.now + 10 * MINUTE)
    life.invalidate("a")
    life.invalidate("b")
    assert life.current() == "b"
    clock.advance(timedelta(seconds=10))
    life.invalidate("b")
    assert life.current() is None


def test_there_is_nothing_to_invalidate_at_first(clock: FakeClock) -> None:
    """A token that the source did not return is ignored."""
    life = life_of(clock)
    life.invalidate("a")
    assert life.current() is None


@pytest.mark.parametrize(
    ("error", "kind", "retry_after"),
    [
        (rpc_error(Code.UNAUTHENTICATED, info("INVALID_GRANT")), InvalidGrant, None),
        (rpc_error(Code.UNAUTHENTICATED, info("INVALID_CREDENTIALS")), InvalidCredentials, None),
        (rpc_error(Code.UNAUTHENTICATED, info("INVALID_GRANT", "mesh")), AuthError, None),
        (rpc_error(Code.UNAVAILABLE), Unavailable, 0),
        (rpc_error(Code.UNAVAILABLE, info("UNAVAILABLE"), retry_in(2)), Unavailable, 2),
        (rpc_error(Code.UNAVAILABLE, raw=b"\xff"), Unavailable, 0),
        (rpc_error(Code.DEADLINE_EXCEEDED), Unavailable, 0),
        (rpc_error(Code.RESOURCE_EXHAUSTED, retry_in(3)), RateLimited, 3),
        (rpc_error(Code.INTERNAL), AuthError, None),
    ],
)
def test_what_a_refusal_means(
    error: grpc.aio.AioRpcError, kind: type[AuthError], retry_after: float | None
) -> None:
    """The service's reason decides; without one, as from a proxy, the code."""
    meaning = reason_of(error)
    assert type(meaning) is kind
    assert meaning.__cause__ is error
    if retry_after is not None:
        assert getattr(meaning, "retry_after") == timedelta(seconds=retry_after)  # noqa: B009


def test_no_token_shows(clock: FakeClock) -> None:
    """The held token does not show either."""
    life = life_of(clock)
    life.accept("secret", datetime.now(UTC))
    assert "secret" not in repr(vars(life))
