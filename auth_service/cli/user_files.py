"""Files of users to import: JSON lines or CSV, read line by line.

Owns the form of the files. What a user may be is the core's to say.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

from auth_service.cli.terminal import Exit, fail
from auth_service.core.user_import import ImportedUser, Refusal

__all__ = ["FORMATS", "format_of", "rows"]

FORMATS = ("csv", "jsonl")
COLUMNS = ("id", "identifiers", "password_hash", "roles", "scope", "disabled", "created_at")
LIST_SEPARATOR = ";"  # in a cell of CSV

_BOOLEANS = {"": False, "false": False, "f": False, "0": False, "true": True, "t": True, "1": True}


def format_of(file: str) -> str:
    """Return the format by a file's name."""
    return "csv" if Path(file).suffix.lower() == ".csv" else "jsonl"


def rows(lines: TextIO, form: str) -> Iterator[ImportedUser | Refusal]:
    """Yield the users of a file; what is no user in form is a refusal. Positions are lines."""
    return _of_csv(lines) if form == "csv" else _of_json(lines)


def _of_json(lines: Iterable[str]) -> Iterator[ImportedUser | Refusal]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            given = json.loads(line)
        except (ValueError, RecursionError):
            yield Refusal(number, "line", "is not JSON")
            continue
        if isinstance(given, dict):
            yield _row(number, given)
        else:
            yield Refusal(number, "line", "is not a JSON object")


def _of_csv(lines: Iterable[str]) -> Iterator[ImportedUser | Refusal]:
    reader = csv.DictReader(lines, restkey="", strict=True)
    header = _header(reader)
    if unknown := [name for name in header if name not in COLUMNS]:
        fail(Exit.USAGE, f"unknown columns: {', '.join(unknown)}", _KNOWN)
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            number: int = reader.reader.line_num  # that of DictReader is behind after an error
            yield Refusal(number, "line", f"is not CSV: {error}")
            continue
        if cells is None:
            return
        yield _of_cells(reader.line_num, cells)


def _header(reader: "csv.DictReader[str]") -> list[str]:
    try:
        return list(reader.fieldnames or ())
    except csv.Error as error:
        fail(Exit.USAGE, f"the first line is not CSV: {error}", _KNOWN)


_KNOWN = f"the first line names the columns, some of {', '.join(COLUMNS)}"


def _of_cells(number: int, cells: Mapping[str, Any]) -> ImportedUser | Refusal:
    if "" in cells or None in cells.values():
        return Refusal(number, "line", "has not as many cells as the first line")
    given: dict[str, object] = dict(cells)
    for name in ("identifiers", "roles", "scope"):
        given[name] = [
            each.strip() for each in cells.get(name, "").split(LIST_SEPARATOR) if each.strip()
        ]
    given["disabled"] = _BOOLEANS.get(cells.get("disabled", "").lower())
    return _row(number, given)


def _row(number: int, given: Mapping[str, Any]) -> ImportedUser | Refusal:
    try:
        if unknown := given.keys() - set(COLUMNS):
            raise _WrongError("line", f"has an unknown member, {min(unknown)[:40]!r}")
        return ImportedUser(
            position=number,
            identifiers=_texts(given, "identifiers"),
            password_hash=_hash(given.get("password_hash")),
            user_id=_text(given, "id"),
            roles=_texts(given, "roles"),
            scope=_texts(given, "scope"),
            disabled=_boolean(given),
            created_at=_moment(_text(given, "created_at")),
        )
    except _WrongError as error:
        return Refusal(number, *error.args)


class _WrongError(Exception):
    """A member has a value of the wrong type; the arguments are its name and the problem."""


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _WrongError(name, "must be a string")
    return value


def _texts(given: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = given.get(name) or []
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
        raise _WrongError(name, "must be a string or a list of strings")
    return tuple(values)


def _hash(value: object) -> str:
    """Return the text of a hash, which is an object for Keycloak."""
    if isinstance(value, dict):
        return json.dumps(value)
    if value is not None and not isinstance(value, str):
        raise _WrongError("password_hash", "must be a string, or a credential of Keycloak's")
    return value or ""


def _boolean(given: Mapping[str, Any]) -> bool:
    value = given.get("disabled", False)
    if not isinstance(value, bool):
        raise _WrongError("disabled", "must be true or false")
    return value


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        problem = "must be a time of RFC 3339 with its zone, for example 2026-01-31T12:00:00Z"
        raise _WrongError("created_at", problem)
    return moment
