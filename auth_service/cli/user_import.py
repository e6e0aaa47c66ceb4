"""users import: the command that brings users of another system in."""

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TextIO

import click

from auth_service.cli.database import Backend, run
from auth_service.cli.settings import config_option
from auth_service.cli.terminal import Exit, examples, json_option
from auth_service.cli.user_files import FORMATS, format_of, rows
from auth_service.core.user_import import MAX_BATCH, ImportedUser, Refusal

__all__ = ["import_users"]

PROGRESS = 100_000  # lines between two reports


@click.command(
    "import",
    epilog=examples(
        "auth-service users import users.jsonl --dry-run",
        "auth-service users import users.csv",
        "pg_dump_of_yours | auth-service users import - --format jsonl --json",
    ),
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--format", "form", type=click.Choice(FORMATS), help="Default: by the file's name.")
@click.option("--dry-run", is_flag=True, help="Check the file; write nothing.")
@json_option
@config_option
def import_users(
    file: str, form: str | None, dry_run: bool, as_json: bool, config_file: Path | None
) -> None:
    """Import users with the hashes of passwords.

    FILE may be -, for standard input. Each line is a user: JSON lines, or CSV whose first line
    names the columns. docs/migrate.md describes both. Users who exist already are left alone, so an
    interrupted import is run again. Each refused line is printed with its number and the reason;
    the exit code is then 1.
    """

    async def work(backend: Backend) -> dict[str, int]:
        with _opened(file) as lines:
            return await _import(backend, rows(lines, form or format_of(file)), dry_run, as_json)

    counts = run(config_file, work)
    if as_json:
        click.echo(json.dumps(counts))
    else:
        made = "would be created" if dry_run else "created"
        click.echo(
            f"{counts['created']} {made}, {counts['existing']} existed already, "
            f"{counts['refused']} refused",
            err=True,
        )
    if counts["refused"]:
        raise click.exceptions.Exit(Exit.REFUSED)


async def _import(
    backend: Backend, given: Iterator[ImportedUser | Refusal], dry_run: bool, as_json: bool
) -> dict[str, int]:
    counts = {"created": 0, "existing": 0, "refused": 0}
    while batch := list(islice(given, MAX_BATCH)):
        users = [each for each in batch if isinstance(each, ImportedUser)]
        result = await backend.accounts.imports.add(users, dry_run=dry_run)
        refused = [each for each in batch if isinstance(each, Refusal)]
        refusals = sorted((*refused, *result.refusals), key=lambda each: each.position)
        for each in refusals:
            _report(each, as_json)
        before = sum(counts.values())
        counts["created"] += result.created
        counts["existing"] += result.existing
        counts["refused"] += len(refusals)
        if before // PROGRESS < (done := sum(counts.values())) // PROGRESS:
            click.echo(f"{done} lines read", err=True)
    return counts


def _report(refusal: Refusal, as_json: bool) -> None:
    if as_json:
        record = {"line": refusal.position, "field": refusal.field, "problem": refusal.problem}
        click.echo(json.dumps(record))
    else:
        click.echo(f"line {refusal.position}: {refusal.field} {refusal.problem}")


@contextmanager
def _opened(file: str) -> Iterator[TextIO]:
    """Yield the lines. What is not UTF-8 becomes text that no user may have."""
    encoding, errors = "utf-8-sig", "surrogateescape"
    if file == "-":
        yield io.TextIOWrapper(sys.stdin.buffer, encoding=encoding, errors=errors, newline="")
        return
    with Path(file).open(encoding=encoding, errors=errors, newline="") as lines:
        yield lines
