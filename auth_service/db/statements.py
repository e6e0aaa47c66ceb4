"""The statements of queries.sql, by name."""

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

__all__ = ["statements"]

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


@cache
def statements() -> Mapping[str, str]:
    """Return the statements by name."""
    text = resources.files(__package__).joinpath("queries.sql").read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    return {name: sql.strip() for name, sql in zip(parts[::2], parts[1::2], strict=True)}
