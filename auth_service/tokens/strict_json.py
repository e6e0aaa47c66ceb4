"""Decodes JSON that every parser understands in the same way (RFC 8259 section 4).

Python's parser takes the last of two members with the same name, where another parser may take the
first. It also accepts NaN and Infinity, which are not JSON.
"""

import json
from typing import Any

__all__ = ["decode"]

_SPACES = " \t\n\r"


def decode(text: str) -> Any:
    """Return the value of a JSON text.

    Raises json.JSONDecodeError if the text is not JSON, and ValueError for a duplicate member, NaN,
    Infinity and a value that is nested too deeply. Neither error quotes the text.
    """
    try:
        # As `decode` does, without its two regular expressions for the spaces around.
        value, end = _DECODER.raw_decode(text, len(text) - len(text.lstrip(_SPACES)))
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if end != len(text.rstrip(_SPACES)):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("has a member twice")
    return members


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"has {name}, which is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
