"""Logs: their content, what is masked, and how they are written."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import structlog

from auth_service.telemetry.logs import configure_logging, mask_secrets
from auth_service.telemetry.metrics import (
    METRICS_CONTENT_TYPE,
    RPC_DURATION,
    RPC_TOTAL,
    Successes,
    metrics_text,
)
from auth_service.telemetry.repeats import MAX_DISTINCT, MAX_REPEATED, Repeats

MASK = "**********"


@pytest.fixture(autouse=True)
def _own_configuration() -> Iterator[None]:
    """Logging is configured once per process: restore the defaults."""
    yield
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


def entry(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the one line of JSON that was logged."""
    written: dict[str, Any] = json.loads(capsys.readouterr().err)
    return written


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "new_password",
        "access_token",
        "RefreshToken",
        "client_secret",
        "Authorization",
        "credentials",
        "master_key",
        "SHARED_KEY",
        "password_hash",
    ],
)
def test_whatever_is_named_like_a_secret_is_masked(name: str) -> None:
    """Masking depends on the name, in any case, and hides even the length."""
    assert mask_secrets(None, "info", {"event": "x", name: "hunter2"}) == {"event": "x", name: MASK}


@pytest.mark.parametrize("value", [b"hunter2", 7, None, ["hunter2"]])
def test_a_secret_of_any_type_is_masked(value: object) -> None:
    """Values that are not text are masked too."""
    assert mask_secrets(None, "info", {"token": value}) == {"token": MASK}


def test_what_is_not_secret_stays() -> None:
    """Method, peer and the event itself are not masked."""
    event = {"event": "token refused", "method": "/authn.v1.AuthService/Login", "ms": 1.5}
    assert mask_secrets(None, "info", dict(event)) == event


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_secret_does_not_reach_the_log(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Both forms of the log mask before they write."""
    configure_logging("info", form)
    structlog.get_logger().info("login", password="hunter2", peer="ipv4:127.0.0.1")
    written = capsys.readouterr().err
    assert "hunter2" not in written
    assert MASK in written
    assert "ipv4:127.0.0.1" in written


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_secret_bound_to_the_context_does_not_reach_the_log(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Values that a caller binds to all its entries are masked too."""
    configure_logging("info", form)
    structlog.contextvars.bind_contextvars(client_secret="hunter2", tenant="blue")
    structlog.get_logger().info("login")
    written = capsys.readouterr().err
    assert "hunter2" not in written
    assert "blue" in written


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A collector reads event, level and time in UTC without a pattern."""
    configure_logging("info", "json")
    structlog.get_logger().warning("slow\nquery", ms=12)
    written = entry(capsys)
    moment = datetime.fromisoformat(written.pop("timestamp"))
    assert moment.utcoffset() is not None
    assert written == {"event": "slow\nquery", "level": "warning", "ms": 12}


def test_json_tells_an_exception_in_the_same_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A traceback is data of its entry, not text of several lines."""
    configure_logging("info", "json")
    structlog.get_logger().error("failed", exc_info=ValueError("no such column"))
    (told,) = entry(capsys)["exception"]
    assert (told["exc_type"], told["exc_value"]) == ("ValueError", "no such column")


def test_console_tells_an_exception(capsys: pytest.CaptureFixture[str]) -> None:
    """A person who runs the service sees the traceback."""
    configure_logging("info", "console")
    structlog.get_logger().error("failed", exc_info=ValueError("no such column"))
    assert "ValueError: no such column" in capsys.readouterr().err


def test_console_has_no_colours_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A log in a file has no control characters."""
    configure_logging("info", "console")
    structlog.get_logger().info("serving", port=50051)
    written = capsys.readouterr().err
    assert "\x1b" not in written
    assert "serving" in written
    assert "port=50051" in written


@pytest.mark.parametrize("form", ["json", "console"])
def test_logs_go_to_stderr(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output is reserved for the output of commands."""
    configure_logging("info", form)
    structlog.get_logger().info("serving")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "serving" in captured.err


@pytest.mark.parametrize(
    ("level", "logged"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_only_entries_of_the_level_and_above_are_logged(
    level: str, logged: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The level is the least severe that is written."""
    configure_logging(level, "json")
    log = structlog.get_logger()
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("entry")
    lines = capsys.readouterr().err.splitlines()
    assert [json.loads(line)["level"] for line in lines] == logged


def test_a_logger_made_before_follows_the_configuration(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Modules create their loggers at import, before any setting is read."""
    log = structlog.get_logger("auth_service.early")
    configure_logging("warning", "json")
    log.info("unheard")
    log.warning("heard")
    assert entry(capsys)["event"] == "heard"


def test_the_metrics_of_one_process_are_its_own() -> None:
    """Without workers nothing is summed."""
    RPC_TOTAL.labels("/test/Method", "OK").inc(3)
    assert b'auth_rpc_total{code="OK",method="/test/Method"} 3.0' in metrics_text()
    assert METRICS_CONTENT_TYPE.startswith("text/plain; version=")


def test_successes_fall_into_the_buckets_that_one_observation_each_would() -> None:
    """At a bound, between two and beyond the last; no call is counted twice."""
    seconds = [0.0001, 0.0002, 0.00021, 0.0005, 0.3, 5.0, 6.0, 0.3]
    together = Successes.of("/test.Together/Method")
    together.seconds.extend(seconds)
    together.count()
    together.count()
    one_by_one = RPC_DURATION.labels("/test.OneByOne/Method")
    for each in seconds:
        one_by_one.observe(each)
    lines = metrics_text().decode().splitlines()
    found = [
        [
            line.replace(method, "")
            for line in lines
            if method in line and line.startswith("auth_rpc_duration") and "_created" not in line
        ]
        for method in ("/test.Together/Method", "/test.OneByOne/Method")
    ]
    assert found[0] == found[1]
    assert len(found[0]) > len(seconds)
    assert 'auth_rpc_total{code="OK",method="/test.Together/Method"} 8.0' in lines


# Entries that repeat


@pytest.fixture
def written() -> Iterator[list[Any]]:
    """The entries that pass a processor for repeats whose second ends when told."""
    entries: list[Any] = []

    def keep(_logger: object, _method: str, entry: Any) -> Any:
        entries.append(dict(entry))
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.processors.add_log_level, Second.repeats, keep])
    Second.now += 10
    yield entries
    Second.now += 10
    Second.repeats.flush()


class Second:
    """A clock that stands still until a test moves it, and what goes by it."""

    now = 0.0
    repeats = Repeats(lambda: Second.now)


def test_entries_that_repeat_are_summed_up(written: list[Any]) -> None:
    """Those that differ in duration and client alone are the same."""
    for number in range(1000):
        structlog.get_logger().info("http", path="/auth", status=401, ms=number, peer=str(number))
    assert len(written) == MAX_REPEATED
    Second.now += 1
    structlog.get_logger().info("other")
    assert written[MAX_REPEATED:] == [
        {
            "event": "repeated",
            "of": "http",
            "times": 1000 - MAX_REPEATED,
            "path": "/auth",
            "status": "401",
            "level": "info",
        },
        {"event": "other", "level": "info"},
    ]


def test_the_sum_is_written_without_another_entry(written: list[Any]) -> None:
    """And once only; it has the level of the entries that it stands for."""
    for _ in range(MAX_REPEATED + 1):
        structlog.get_logger().error("rpc_failed", exc_info=ValueError("x"))
    Second.now += 1
    for _ in range(3):
        Second.repeats.flush()
    (last,) = written[MAX_REPEATED:]
    assert (last["of"], last["times"], last["level"]) == ("rpc_failed", 1, "error")
    assert last["exception"] == "ValueError"
    assert "exc_info" not in last


def test_entries_that_say_something_else_are_all_written(written: list[Any]) -> None:
    """As those of an admin's changes, each of another user."""
    for number in range(MAX_DISTINCT):
        structlog.get_logger().info("admin", call="CreateUser", user_id=number)
    assert len(written) == MAX_DISTINCT


def test_entries_of_ever_new_kinds_are_summed_up_by_their_name(written: list[Any]) -> None:
    """A client that makes up values cannot fill the memory or the log."""
    for number in range(MAX_DISTINCT + 1000):
        structlog.get_logger().info("http", method=f"M{number}")
    assert len(written) == MAX_DISTINCT + MAX_REPEATED
    Second.now += 1
    Second.repeats.flush()
    assert written[-1] == {
        "event": "repeated",
        "of": "http",
        "times": 1000 - MAX_REPEATED,
        "level": "info",
    }
