"""Shared by all commands: exit codes, secrets from a prompt or stdin, output, errors."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, NoReturn, TypeVar
from uuid import UUID

import click

from auth_service.config.durations import parse_duration

__all__ = [
    "EXIT_CODES",
    "Exit",
    "Failure",
    "duration",
    "examples",
    "fail",
    "json_option",
    "moment",
    "show",
    "table",
    "thumbprint_option",
]

Command = TypeVar("Command", bound=Callable[..., Any])


class Exit(IntEnum):
    """The exit codes of the commands."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    CONFIG = 3
    UNAVAILABLE = 4


EXIT_CODES = (
    "Exit codes: 0 success, or the token is active; 1 refused, or the token is not active; 2 wrong "
    "usage; 3 wrong configuration; 4 server or database unavailable, try again."
)


class Failure(click.ClickException):
    """Ends the command with an error and, if there is one, a hint on stderr."""

    def __init__(self, code: Exit, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.exit_code = code  # type: ignore[misc]
        self.hint = hint

    def show(self, file: Any = None) -> None:
        """Print the error and the hint to stderr."""
        click.echo(f"error: {self.message}", file=file, err=True)
        if self.hint:
            click.echo(f"hint: {self.hint}", file=file, err=True)


def fail(code: Exit, text: str, hint: str = "") -> NoReturn:
    """End the command with an error."""
    raise Failure(code, text, hint)


def examples(*lines: str) -> str:
    """Return an epilog with examples, whose lines click does not wrap, and the exit codes."""
    return "\n\n".join(["\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines), EXIT_CODES])


def duration(_context: click.Context, _option: click.Parameter, text: str | None) -> Any:
    """Return the value of an option as a timedelta; the callback of the option."""
    try:
        return None if text is None else parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} {error}, for example 30m") from error


max_age_option = click.option(
    "--max-age",
    callback=duration,
    help="How long ago the user may have logged in, for example 5m.",
)
acr_option = click.option(
    "--acr",
    multiple=True,
    help="A value of acr that suffices, such as 2fa; may be repeated, and one is enough.",
)


def moment(_context: click.Context, _option: click.Parameter, text: str | None) -> datetime | None:
    """Return the value of an option as a moment; without an offset it is in UTC."""
    try:
        found = None if text is None else datetime.fromisoformat(text)
    except ValueError as error:
        raise click.BadParameter(
            f"{text!r} is no time, for example 2026-11-26T10:00:00Z"
        ) from error
    return found.replace(tzinfo=UTC) if found is not None and found.tzinfo is None else found


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
thumbprint_option = click.option(
    "--certificate-thumbprint",
    default="",
    help="The SHA-256 of the presenter's certificate in DER, in base64url.",
)


def read_secret(prompt: str, *, confirm: bool = False) -> str:
    """Prompt without echo on a terminal; otherwise read the first line of standard input.

    Secrets are never arguments: every user of the machine can see those, and shells store them.
    """
    if sys.stdin.isatty():
        entered: str = click.prompt(prompt, hide_input=True, confirmation_prompt=confirm, err=True)
        return entered
    try:
        secret = sys.stdin.readline().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        fail(Exit.USAGE, f"the {prompt.lower()} on standard input is not UTF-8")
    if not secret:
        fail(
            Exit.USAGE,
            f"no {prompt.lower()} on standard input",
            "pass it on standard input, or use a terminal",
        )
    return secret


def plain(value: object) -> object:
    """Return a value as a JSON value."""
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        case UUID():
            return str(value)
        case tuple() | list():
            return [plain(item) for item in value]
        case dict():
            return {name: plain(item) for name, item in value.items()}
        case _:
            return value


def show(record: Mapping[str, object], *, as_json: bool) -> None:
    """Print a record: a JSON object, or a line for each field."""
    if as_json:
        click.echo(json.dumps({name: plain(value) for name, value in record.items()}))
        return
    width = max(map(len, record), default=0)
    for name, value in record.items():
        click.echo(f"{name:<{width}}  {_text(value)}".rstrip())


def table(records: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    """Print records: a JSON array, or columns with a heading."""
    if as_json:
        click.echo(json.dumps([{n: plain(v) for n, v in record.items()} for record in records]))
        return
    if not records:
        click.echo("none", err=True)
        return
    rows = [[name.upper() for name in records[0]]]
    rows += [[_text(value) for value in record.values()] for record in records]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def _text(value: object) -> str:
    value = plain(value)
    if isinstance(value, list):
        value = ",".join(map(str, value))
    return {None: "-", True: "yes", False: "no", "": "-"}.get(value, str(value))  # type: ignore[call-overload, no-any-return]
