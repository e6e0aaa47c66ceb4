"""Normal forms and limits of the fields of a request."""

import unicodedata
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_service.core import fields
from auth_service.errors import InvalidArgument

UNPRINTABLE = ["a\0b", "a\rb", "a\nb", "a\x7fb", "a\ud800b", "a\u202eb", "a\u200bb"]


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("Alice@Example.ORG", "alice@example.org"),
        ("  alice\t", "alice"),
        ("\uff21lice", "alice"),
        ("e\u0301", "\xe9"),
        ("ﬁona", "fiona"),
        ("straße", "strasse"),
        ("ΣΊΣΥΦΟΣ", "σίσυφοσ"),
        ("\u212bngstr\xf6m", "\xe5ngstr\xf6m"),
    ],
)
def test_one_person_has_one_identifier(written: str, normal: str) -> None:
    """Case, width, ligatures and Unicode forms do not turn one person into two."""
    assert fields.identifier(written) == normal


@given(st.text(max_size=300))
def test_normalising_an_identifier_twice_is_normalising_it_once(value: str) -> None:
    """A stored identifier is found by any of its spellings."""
    try:
        normal = fields.identifier(value)
    except InvalidArgument:
        return
    assert fields.identifier(normal) == normal
    assert fields.identifier(unicodedata.normalize("NFD", normal)) == normal
    assert normal.isprintable()
    normal.encode()


@pytest.mark.parametrize(
    "value", ["", " ", "\u3000", "a" * 255, "\ufdfa" * 20, "\u0301\u0323" * 100_000, *UNPRINTABLE]
)
def test_a_bad_identifier_is_refused_by_its_field(value: str) -> None:
    """Empty, too long once normalised, costly to normalise, or unprintable."""
    with pytest.raises(InvalidArgument) as caught:
        fields.identifier(value, "user")
    assert caught.value.violations[0].field == "user"


def test_the_longest_identifier_is_taken() -> None:
    """RFC 5321 allows an address of 254 characters."""
    assert len(fields.identifier("A" * 254)) == 254


def test_a_label_may_be_empty_and_is_kept_as_it_is() -> None:
    """A label is only displayed."""
    assert fields.label("", "label") == ""
    assert fields.label("Ana’s Phone", "label") == "Ana’s Phone"
    assert fields.label("x" * 256, "label") == "x" * 256


@pytest.mark.parametrize("value", ["x" * 257, *UNPRINTABLE])
def test_a_bad_label_is_refused(value: str) -> None:
    """It can carry neither a header nor text that PostgreSQL refuses."""
    with pytest.raises(InvalidArgument, match=r"^device_label: "):
        fields.label(value, "device_label")


def test_labels_are_kept_in_order_and_once() -> None:
    """A repeated audience or role counts once."""
    assert fields.labels(["b", "a", "b"], "roles") == ("b", "a")
    assert fields.labels([], "roles") == ()


def test_a_bad_item_is_named_by_its_index() -> None:
    """The error names the index of the item."""
    with pytest.raises(InvalidArgument, match=r"^roles\[1\]: must not be empty"):
        fields.labels(["a", ""], "roles")
    with pytest.raises(InvalidArgument, match=r"^roles\[0\]: must not contain"):
        fields.labels(["\n"], "roles")
    with pytest.raises(InvalidArgument, match=r"^scope\[2\]: "):
        fields.scope(["a", "b", "c d"])


def test_too_many_items_are_refused() -> None:
    """The limit is 64."""
    assert len(fields.labels([str(n) for n in range(64)], "roles")) == 64
    with pytest.raises(InvalidArgument, match="at most 64"):
        fields.labels(["a"] * 65, "roles")
    with pytest.raises(InvalidArgument, match="at most 64"):
        fields.scope(["a"] * 65)


def test_scope_is_kept_in_order_and_once() -> None:
    """Any scope token of RFC 6749 section 3.3 is accepted."""
    assert fields.scope(["read", "a:b/c", "!", "read"]) == ("read", "a:b/c", "!")


@pytest.mark.parametrize("value", ["", " ", 'a"', "a\\", "é", "a\n", "x" * 129])
def test_a_bad_scope_is_refused(value: str) -> None:
    """Scope is sent as text separated by spaces, so a space would add a scope."""
    with pytest.raises(InvalidArgument):
        fields.scope([value])


def test_a_request_id_is_optional() -> None:
    """Without one a retry is simply another request."""
    assert fields.request_id("") is None
    assert fields.request_id("12345678") == "12345678"


@pytest.mark.parametrize("value", ["1234567", "x" * 129, "with space", "12345678\n", "ééééééééé"])
def test_a_bad_request_id_is_refused(value: str) -> None:
    """Too short to be unique, too long, or not visible ASCII."""
    with pytest.raises(InvalidArgument, match=r"^request_id: "):
        fields.request_id(value)


def test_a_uuid_is_read() -> None:
    """Its case does not matter."""
    text = "0192f0c1-7f2e-4c1b-9c57-0d7b2f1f4a10"
    assert fields.uuid(text.upper(), "session_id") == UUID(text)


@pytest.mark.parametrize("value", ["", "x", "0192f0c1", "../../etc", "0" * 31, "\0" * 32, "\ud800"])
def test_a_bad_uuid_is_refused(value: str) -> None:
    """It never reaches the database."""
    with pytest.raises(InvalidArgument, match=r"^session_id: must be a UUID"):
        fields.uuid(value, "session_id")
