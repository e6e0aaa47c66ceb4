"""audit: the commands that read the audit log."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

import click

from auth_service import audit as audits
from auth_service.cli.database import Backend, run
from auth_service.cli.settings import config_option
from auth_service.cli.terminal import Exit, examples, fail, json_option, moment, plain, table
from auth_service.db.audit_reader import AuditEvent, AuditFilter, AuditPosition

__all__ = ["audit"]

_PAGE = 500
_POLL = 1.0  # seconds
_SHOWN = ("time", "event", "outcome", "actor_kind", "actor", "source", "subject")


@click.group(
    epilog=examples(
        "auth-service audit list --user-id 0192f0c1-7f2e-4c1b-9c57-0d7b2f1f4a10",
        "auth-service audit follow --cursor-file /var/lib/siem/cursor",
    )
)
def audit() -> None:
    """Read the audit log: who did what, and from where."""


def filter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that select rows to a command, as its argument `wanted`."""

    @wraps(command)
    def wrapper(
        *, since: datetime | None, event: str | None, failures: bool, **arguments: Any
    ) -> Any:
        names = ("actor", "user_id", "client_id", "outcome", "source")
        given = {name: arguments.pop(name) for name in names}
        wanted = AuditFilter(start=since, event=event, failures_only=failures, **given)
        return command(wanted=wanted, **arguments)

    for option in (
        click.option("--source", help="Address that the call came from."),
        click.option("--failures", is_flag=True, help="Leave out what succeeded."),
        click.option("--outcome", help="OK, or the reason of an error."),
        click.option("--client-id", help="Service account that the row is about."),
        click.option("--user-id", type=click.UUID, help="User whom the row is about."),
        click.option("--actor", help="Id of who acted; name@host for commands."),
        click.option("--event", help="Event such as session.created, or user.* for several."),
        click.option("--since", callback=moment, help="Earliest time (ISO 8601; UTC by default)."),
    ):
        wrapper = option(wrapper)
    return wrapper


@audit.command(
    "list",
    epilog=examples(
        "auth-service audit list --event 'login.*' --failures",
        "auth-service audit list --actor root@db1 --since 2026-11-01 --json",
    ),
)
@filter_options
@click.option("--until", callback=moment, help="Rows before this time.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="The most rows to print.",
)
@json_option
@config_option
def list_(
    wanted: AuditFilter,
    until: datetime | None,
    limit: int,
    as_json: bool,
    config_file: Path | None,
) -> None:
    """List rows, the newest first.

    With --json each row is a line.
    """
    wanted = replace(wanted, end=until)

    async def work(backend: Backend) -> list[AuditEvent]:
        found: list[AuditEvent] = []
        while len(found) < limit:
            after = found[-1].key if found else None
            page = await backend.database.store.list_audit(
                wanted, min(_PAGE, limit - len(found)), after
            )
            if not page:
                break
            found += page
        return found[:limit]

    rows = [_record(event) for event in run(config_file, work)]
    if as_json:
        for row in rows:
            click.echo(_line(row))
    else:
        table([_short(row) for row in rows], as_json=False)


@audit.command(epilog=examples("auth-service audit follow --cursor-file cursor >> audit.jsonl"))
@filter_options
@click.option(
    "--cursor-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File that keeps the position, to go on after a restart.",
)
@config_option
def follow(wanted: AuditFilter, cursor_file: Path | None, config_file: Path | None) -> None:
    """Print each row as a line of JSON, as it comes.

    A row is printed once it is committed, and the command goes on until it is interrupted.
    It begins with what comes next, with --since in the past, or where --cursor-file ends.
    """

    async def work(backend: Backend) -> None:
        store = backend.database.store
        position = _read(cursor_file)
        if position is None and wanted.start is None:
            position = await store.audit_position()
        # Before it begins: it may end at any moment.
        row = audits.row("cli.audit_follow", backend.database.clock())
        await store.write_audit(row)
        while True:
            found, position, complete = await store.audit_since(position, wanted.start)
            for each in filter(wanted.matches, found):
                click.echo(_line(_record(each)))
            if found:
                _keep(cursor_file, position)
            if complete:
                await asyncio.sleep(_POLL)

    run(config_file, work)


def _read(cursor_file: Path | None) -> AuditPosition | None:
    if cursor_file is None or not cursor_file.exists():
        return None
    try:
        text = cursor_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(Exit.USAGE, f"{cursor_file} cannot be read: {error}", "name another --cursor-file")
    position = AuditPosition.parse(text.strip())
    if position is None:
        fail(Exit.USAGE, f"{cursor_file} holds no cursor", "delete it to start again from now")
    return position


def _keep(cursor_file: Path | None, position: AuditPosition) -> None:
    """Replace the file as a whole, so that a crash leaves the old or the new position."""
    if cursor_file is not None:
        new = cursor_file.with_name(f"{cursor_file.name}.new")
        try:
            new.write_text(f"{position}\n", encoding="utf-8")
            new.replace(cursor_file)
        except OSError as error:
            fail(Exit.USAGE, f"{cursor_file} cannot be written: {error.strerror}")


def _record(event: AuditEvent) -> dict[str, Any]:
    """Return a row without what is empty; the names are those of AuditEvent on the wire."""
    record: dict[str, Any] = {"time": event.at.astimezone(UTC).isoformat().replace("+00:00", "Z")}
    for name in AuditEvent.__slots__:
        value = getattr(event, name)
        if name != "at" and value:
            record[name] = value
    return record


def _line(record: dict[str, Any]) -> str:
    return json.dumps({name: plain(value) for name, value in record.items()})


def _short(record: dict[str, Any]) -> dict[str, Any]:
    about = ("user_id", "client_id", "audience", "kid", "subject")
    named = next((record[name] for name in about if name in record), None)
    return {name: record.get(name) for name in _SHOWN[:-1]} | {"about": named}
