"""JSON that two readers could understand differently is refused."""

import json

import pytest

from auth_service.tokens import strict_json


def test_json_is_decoded() -> None:
    """To the same value as by the standard library."""
    text = '{"a": [1, 2.5, null, true, {"a": "\\u00e9"}]}'
    assert strict_json.decode(text) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"a": 1, "a": 1}', "twice"),
        ('[{"b": {"a": 1, "a": 2}}]', "twice"),
        ("NaN", "NaN"),
        ("[-Infinity]", "Infinity"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    ],
)
def test_what_json_leaves_open_is_refused(text: str, told: str) -> None:
    """A duplicate member, a constant of JavaScript, and nesting without a limit."""
    with pytest.raises(ValueError, match=told):
        strict_json.decode(text)


@pytest.mark.parametrize("text", ["\n{}", "{}\r\n", " \t{} "])
def test_spaces_around_it_are_skipped(text: str) -> None:
    """RFC 8259 section 2 allows four characters for them."""
    assert strict_json.decode(text) == {}


def test_the_place_counts_the_spaces_before() -> None:
    """An editor shows it by counting from the beginning of the text."""
    with pytest.raises(json.JSONDecodeError) as caught:
        strict_json.decode('\n\n{"a": ?}')
    assert (caught.value.lineno, caught.value.pos) == (3, 8)


@pytest.mark.parametrize("text", ["", " ", "{", "secret", "\ufeff{}", "{} {}", "\u00a0{}", "{}\f"])
def test_what_is_not_json_is_refused_with_its_place(text: str) -> None:
    """The message does not quote the text, which may be a secret."""
    with pytest.raises(json.JSONDecodeError) as caught:
        strict_json.decode(text)
    assert "secret" not in str(caught.value)
