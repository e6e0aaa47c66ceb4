"""Each command that uses the database leaves one row in the audit log, by its operator."""

import json
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import structlog
from click.testing import CliRunner, Result

from auth_service.cli.app import cli
from auth_service.cli.terminal import Exit
from tests.acceptance.servers import environment
from tests.conftest import Outside

PASSWORD = "a password of some length"
OPERATOR = f"{pwd.getpwuid(os.getuid()).pw_name}@{socket.gethostname()}"


@dataclass(frozen=True)
class Commands:
    """Runs commands on a database, and reads the audit log."""

    database_url: str
    outside: Outside

    def run(self, *arguments: str, stdin: str = "") -> Result:
        """Run a command."""
        return CliRunner().invoke(cli, arguments, input=stdin, env=environment(self.database_url))

    def rows(self, *arguments: str, stdin: str = "") -> list[dict[str, Any]]:
        """Return the rows that a command leaves."""
        before = self._all()
        self.run(*arguments, stdin=stdin)
        return [row for row in self._all() if row not in before]

    def count(self, event: str) -> int:
        """Return how many rows there are of this event."""
        return len([row for row in self._all() if row["event"] == event])

    def until(self, event: str, count: int) -> None:
        """Return once there are so many rows of this event."""
        while self.count(event) < count:
            pass

    def _all(self) -> list[dict[str, Any]]:
        async def read() -> list[dict[str, Any]]:
            connection = await asyncpg.connect(self.database_url)
            try:
                found = await connection.fetch("SELECT * FROM audit_log ORDER BY event")
                return [dict(row) for row in found]
            finally:
                await connection.close()

        return self.outside.run(read())


@pytest.fixture(scope="module")
def commands(module_database_url: str, outside: Outside) -> Iterator[Commands]:
    """A database with a user, an account and a key."""
    made = Commands(module_database_url, outside)
    for names in (("ada", "countess"), ("bob",)):
        assert made.run("users", "create", *names, stdin=PASSWORD).exit_code == 0
    assert made.run("service-accounts", "create", "billing").exit_code == 0
    assert made.run("audiences", "create", "books").exit_code == 0
    yield made
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("arguments", "stdin", "event"),
    [
        ("users create eve", PASSWORD, "user.created"),
        ("users list", "", "cli.users_list"),
        ("users show ada", "", "cli.users_show"),
        ("users set-password ada", PASSWORD, "user.password_changed"),
        ("users update ada --role staff", "", "user.updated"),
        ("users add-identifier ada ada2", "", "user.identifier_added"),
        ("users remove-identifier ada countess", "", "user.identifier_removed"),
        ("users require-password-change ada", "", "user.password_change_required"),
        ("users require-password-change ada --off", "", "user.password_change_waived"),
        ("users delete bob", "", "user.deleted"),
        ("users disable ada", "", "user.disabled"),
        ("users enable ada", "", "user.enabled"),
        ("sessions list ada", "", "cli.sessions_list"),
        ("sessions revoke --user ada", "", "user.sessions_revoked"),
        ("sessions revoke --user ada --begun-before 2026-01-01", "", "user.sessions_revoked"),
        ("service-accounts update billing --role staff", "", "service_account.updated"),
        ("service-accounts disable billing", "", "service_account.disabled"),
        ("audiences update books --scope read", "", "audience.updated"),
        ("audiences grant books --user ada", "", "audience.granted"),
        ("keys rotate --algorithm EdDSA", "", "key.created"),
        ("keys list", "", "cli.keys_list"),
        ("keys export --shared", "", "cli.keys_export"),
        ("keys export-public", "", "cli.keys_export_public"),
        ("token explain", "a.b.c", "token.explained"),
    ],
)
def test_a_command_leaves_one_row(
    commands: Commands, arguments: str, stdin: str, event: str
) -> None:
    """By the user of the operating system."""
    (row,) = commands.rows(*arguments.split(), stdin=stdin)
    assert (row["event"], row["outcome"]) == (event, "OK")
    assert (row["actor_kind"], row["actor"]) == ("operator", OPERATOR)
    assert row["credential"] == "operating_system"


def test_a_command_that_fails_leaves_one_row(commands: Commands) -> None:
    """With the reason."""
    (row,) = commands.rows("users", "disable", "nobody")
    assert (row["event"], row["outcome"]) == ("cli.users_disable", "NOT_FOUND")
    assert row["actor"] == OPERATOR


def test_each_event_of_a_key_leaves_one_row(commands: Commands) -> None:
    """A key that signs at once takes over from the one before, and may be ended by hand."""
    assert [(row["event"], row["kid"]) for row in commands.rows("keys", "list")] == [
        ("cli.keys_list", None)
    ]
    made = commands.rows("keys", "rotate", "--algorithm", "EdDSA", "--activate-in", "0s")
    (kid,) = {row["kid"] for row in made if row["event"] == "key.created"}
    assert [row["event"] for row in made if row["kid"] == kid] == ["key.activated", "key.created"]
    ended = commands.rows("keys", "retire", kid)
    assert ("key.retired", kid) in [(row["event"], row["kid"]) for row in ended]
    withdrawn = commands.rows("keys", "compromise", kid)
    assert [(row["event"], row["kid"]) for row in withdrawn] == [("key.compromised", kid)]
    assert {row["actor"] for row in made + ended + withdrawn} == {OPERATOR}


def test_rows_are_listed_as_lines_of_json(commands: Commands) -> None:
    """The newest first, with what is empty left out."""
    commands.run("users", "show", "nobody")
    commands.run("users", "show", "ada")
    listed = commands.run("audit", "list", "--event", "cli.users_*", "--limit", "2", "--json")
    last, before = map(json.loads, listed.stdout.splitlines())
    assert (last["event"], last["outcome"], last["actor"]) == ("cli.users_show", "OK", OPERATOR)
    assert before["outcome"] == "NOT_FOUND"
    assert "source" not in last
    assert datetime.fromisoformat(last["time"]) >= datetime.fromisoformat(before["time"])
    failures = commands.run("audit", "list", "--failures", "--limit", "1")
    assert "NOT_FOUND" in failures.stdout


def test_a_follower_goes_on_after_a_restart(commands: Commands, tmp_path: Path) -> None:
    """Rows before it begins are left out, those in between are not; the last may come again."""
    cursor, events = tmp_path / "cursor", dict[str, str]()
    follow = [sys.executable, "-m", "auth_service", "audit", "follow", "--event", "user.*"]
    for name, expected in (("mia", 1), ("noa", 3)):
        begun = commands.count("cli.audit_follow")
        with subprocess.Popen(
            [*follow, "--cursor-file", str(cursor)],
            env=environment(commands.database_url),
            stdout=subprocess.PIPE,
            text=True,
        ) as follower:
            if name == "mia":
                commands.until("cli.audit_follow", begun + 1)
            commands.run("users", "create", name, stdin=PASSWORD)
            assert follower.stdout is not None
            while len(events) < expected:
                row = json.loads(follower.stdout.readline())
                events[row["id"]] = row["event"]
            follower.terminate()
        commands.run("users", "disable", name)
    assert list(events.values()) == ["user.created", "user.disabled", "user.created"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\xff", "cannot be read"), (b"nothing", "holds no cursor")],
    ids=["bytes", "text"],
)
def test_a_cursor_file_that_is_none_is_named(
    commands: Commands, tmp_path: Path, content: bytes, said: str
) -> None:
    """In one line, with what to do."""
    file = tmp_path / "cursor"
    file.write_bytes(content)
    result = commands.run("audit", "follow", "--cursor-file", str(file))
    assert result.exit_code == Exit.USAGE
    assert f"{file} {said}" in result.output
    assert "hint: " in result.output
