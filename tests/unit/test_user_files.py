"""Files of users to import: CSV and JSON lines, and what is said of lines that are neither."""

import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from auth_service.cli.terminal import Failure
from auth_service.cli.user_files import format_of, rows
from auth_service.core.user_import import ImportedUser, Refusal
from tests.foreign_hashes import BCRYPT, KEYCLOAK_SHA256

FULL = ImportedUser(
    position=2,
    identifiers=("ada@example.com", "ada"),
    password_hash=BCRYPT,
    user_id="6f1e1f9e-6a1a-4a53-9d2c-0a1de7d5a001",
    roles=("staff", "on call"),
    scope=("read", "write"),
    disabled=True,
    created_at=datetime(2024, 5, 1, 12, 30, tzinfo=UTC),
)


def read(text: str, form: str) -> list[ImportedUser | Refusal]:
    """Return what is in a file."""
    return list(rows(io.StringIO(text, newline=""), form))


def test_the_format_follows_from_the_name() -> None:
    """And is JSON lines otherwise, as for standard input."""
    assert [format_of(name) for name in ("a.csv", "A.CSV", "a.jsonl", "-")] == [
        "csv", "csv", "jsonl", "jsonl"
    ]  # fmt: skip


def test_csv_has_lists_in_cells_and_columns_in_any_order() -> None:
    """Quoted as RFC 4180 says, with the line numbers of an editor."""
    text = (
        "created_at,identifiers,password_hash,id,roles,scope,disabled\r\n"
        f"2024-05-01 12:30:00+00,ada@example.com; ada,{BCRYPT},{FULL.user_id},"
        "staff;on call,read;write,t\r\n"
        '\r\n,"bob",,,,,\r\n'
    )
    assert read(text, "csv") == [FULL, ImportedUser(4, identifiers=("bob",))]


def test_json_lines_have_the_same_members() -> None:
    """One identifier may stand without a list, null is nothing, and empty lines do not count."""
    full = {
        "identifiers": ["ada@example.com", "ada"],
        "password_hash": BCRYPT,
        "id": FULL.user_id,
        "roles": ["staff", "on call"],
        "scope": ["read", "write"],
        "disabled": True,
        "created_at": "2024-05-01T12:30:00Z",
    }
    bob = {"identifiers": "bob", "password_hash": None, "roles": None}
    text = f"\n{json.dumps(full)}\n{json.dumps(bob)}"
    assert read(text, "jsonl") == [FULL, ImportedUser(3, identifiers=("bob",))]


def test_a_credential_of_keycloak_is_an_object() -> None:
    """As it stands in an export."""
    line = json.dumps({"identifiers": ["ada"], "password_hash": json.loads(KEYCLOAK_SHA256)})
    [user] = read(line, "jsonl")
    assert isinstance(user, ImportedUser)
    assert json.loads(user.password_hash) == json.loads(KEYCLOAK_SHA256)


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("{", "line"),
        ("[" * 100_000, "line"),
        ("[]", "line"),
        ('"ada"', "line"),
        ('{"identifier": "ada"}', "line"),
        ('{"identifiers": 1}', "identifiers"),
        ('{"identifiers": ["ada", 1]}', "identifiers"),
        ('{"roles": {"a": 1}}', "roles"),
        ('{"password_hash": 1}', "password_hash"),
        ('{"id": 7}', "id"),
        ('{"disabled": "no"}', "disabled"),
        ('{"disabled": null}', "disabled"),
        ('{"created_at": 1}', "created_at"),
        ('{"created_at": "yesterday"}', "created_at"),
        ('{"created_at": "2024-05-01T12:30:00"}', "created_at"),
    ],
    ids=lambda value: value[:40],
)
def test_a_line_of_json_that_is_no_user_is_refused_by_its_number(line: str, field: str) -> None:
    """And the lines around it are read."""
    around = '{"identifiers": "ada"}'
    first, refusal, last = read(f"{around}\n{line}\n{around}", "jsonl")
    assert isinstance(refusal, Refusal)
    assert (refusal.position, refusal.field) == (2, field)
    assert (first, last) == tuple(ImportedUser(n, identifiers=("ada",)) for n in (1, 3))


@pytest.mark.parametrize(
    ("line", "field"),
    [("bob", "line"), ("bob,,more", "line"), ("bob,perhaps", "disabled"), ('"a"b,', "line")],
)
def test_a_line_of_csv_that_is_no_user_is_refused_by_its_number(line: str, field: str) -> None:
    """And the lines around it are read."""
    _, refusal, last = read(f"identifiers,disabled\nada,\n{line}\nada,f", "csv")
    assert isinstance(refusal, Refusal)
    assert (refusal.position, refusal.field) == (3, field)
    assert last == ImportedUser(4, identifiers=("ada",))


@pytest.mark.parametrize("header", ["identifiers,email", '"a"b', ",identifiers"])
def test_a_header_with_other_columns_ends_the_command(header: str) -> None:
    """It would be the same mistake in every line."""
    with pytest.raises(Failure) as failure:
        read(f"{header}\nada,x", "csv")
    assert "password_hash" in failure.value.hint


def test_an_empty_file_has_no_users() -> None:
    """In either format."""
    nothing: list[Any] = []
    assert read("", "csv") == read("", "jsonl") == nothing
