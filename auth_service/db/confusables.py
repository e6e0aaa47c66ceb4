"""Which identifiers look the same: the skeleton of UTS #39, section 4, kept in a unique index.

Characters of ASCII stand for themselves: `corner` and `comer` are two names. All others become what
they look like, so a letter of another script is no second one. `confusables.txt` is made by
`python -m tests.confusables`; a new version of it needs a migration that writes the skeletons anew.
"""

import unicodedata
from functools import cache
from importlib import resources

__all__ = ["skeleton"]

_ROUNDS = 2  # what a prototype is in lower case may look like something else


def skeleton(identifier: str) -> str | None:
    """Return what a normalised identifier looks like; None if that is the identifier itself."""
    if identifier.isascii():
        return None
    text = identifier
    for _ in range(_ROUNDS):
        mapped = unicodedata.normalize("NFD", text).translate(_prototypes())
        text = unicodedata.normalize("NFD", mapped.casefold())
    return None if text == identifier else text


@cache
def _prototypes() -> dict[int, str]:
    """Return what each character looks like. Reading takes some milliseconds, once."""
    text = resources.files(__package__).joinpath("confusables.txt").read_text("utf-8")
    lines = (line.split(";") for line in text.splitlines() if not line.startswith("#"))
    return {
        int(code, 16): "".join(chr(int(each, 16)) for each in prototype.split())
        for code, prototype in lines
    }
