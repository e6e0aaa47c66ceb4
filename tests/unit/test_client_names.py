"""The names that `auth_service.client` exports are all that its users need."""

import inspect
import re
import typing
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import pytest

from auth_service import client, errors
from auth_service.errors import AuthError

EXPORTED = {name: getattr(client, name) for name in client.__all__}
CALLABLE = {name: each for name, each in EXPORTED.items() if callable(each)}


def functions(exported: Any) -> Iterator[FunctionType]:
    """Yield the functions that a user can call: the function itself, or the class's public ones."""
    if isinstance(exported, FunctionType):
        yield exported
        return
    for name, member in inspect.getmembers(exported, inspect.isfunction):
        if name == "__init__" or not name.startswith("_"):
            yield member


def named(hint: Any) -> Iterator[str]:
    """Yield the names of our own classes in an annotation."""
    for part in typing.get_args(hint):
        yield from named(part)
    if inspect.isclass(hint) and hint.__module__.startswith("auth_service."):
        yield hint.__name__


@pytest.mark.parametrize("exported", CALLABLE.values(), ids=CALLABLE)
def test_signatures_name_exported_classes_only(exported: Any) -> None:
    """A user can annotate a variable with any class that a parameter or a result has."""
    for function in functions(exported):
        if function.__module__.startswith("auth_service."):
            for hint in typing.get_type_hints(function).values():
                assert {name for name in named(hint) if not name.startswith("_")} <= set(EXPORTED)


def test_each_error_that_a_docstring_names_is_exported() -> None:
    """A user can catch whatever the library says that it raises."""
    known = {name for name, each in vars(errors).items() if inspect.isclass(each)}
    texts = [inspect.getdoc(each) or "" for each in CALLABLE.values()]
    texts += [inspect.getdoc(each) or "" for one in CALLABLE.values() for each in functions(one)]
    mentioned = set(re.findall(r"[A-Z]\w+", " ".join(texts))) & known
    assert {"InvalidToken", "RevocationsStale", "InvalidGrant"} <= mentioned
    assert mentioned <= set(EXPORTED)


def test_errors_can_be_caught_by_their_kind() -> None:
    """All that is exported has an exported parent, up to AuthError."""
    exported = [each for each in EXPORTED.values() if inspect.isclass(each)]
    for error in exported:
        if issubclass(error, AuthError):
            assert {parent.__name__ for parent in error.__mro__[:-3]} <= set(EXPORTED)
