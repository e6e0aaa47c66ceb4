"""The table of rules, and the principal of the running code."""

import contextlib
from datetime import timedelta
from typing import Any

import pytest

from auth_service.authz.admission import Rule
from auth_service.client.principal import acting_as, current_principal, principal
from auth_service.client.rules import INFRASTRUCTURE, PUBLIC, Rules
from auth_service.tokens.access import AccessClaims

ADMIN = Rule("orders", roles=("admin",))
READ = Rule("orders", scope=("orders.read",))
CLAIMS = AccessClaims(
    issuer="https://auth.test",
    subject="ada",
    audience=("orders",),
    expires_at=1,
    issued_at=0,
    token_id="t",
    session_id="s",
    client_id="c",
    scope=(),
    roles=(),
    auth_time=0,
    amr=(),
)


def test_an_exact_name_comes_before_its_service() -> None:
    """The rule of a method has precedence, wherever it is in the table."""
    rules = Rules({"/o.Orders/Delete": ADMIN, "/o.Orders/*": READ})
    assert rules.of("/o.Orders/Delete") is ADMIN
    assert rules.of("/o.Orders/List") is READ


@pytest.mark.parametrize(
    "method", ["/o.Orders2/List", "/p.Orders/List", "/o.Orders", "", "List", "/o.Orders/x/List"]
)
def test_other_methods_fall_to_the_default(method: str) -> None:
    """A rule of one service does not apply to another with a similar name."""
    rules = Rules({"/o.Orders/*": PUBLIC})
    assert rules.of(method) == Rule()
    assert not rules.of(method).public
    assert Rules({"/o.Orders/*": PUBLIC}, ADMIN).of(method) is ADMIN


@pytest.mark.parametrize(
    "key",
    [
        *("", "/", "*", "/*", "/*/*", "o.Orders/List", "/o.Orders", "/o.Orders/", "/o.*/List"),
        *("/o.Orders/Li*", "/o.Orders/**", "/o/Orders/List", "/o.Orders/List ", "/o.Orders/List\n"),
    ],
)
def test_a_key_of_another_form_is_refused(key: str) -> None:
    """A key that never matches is a mistake: it would leave a method to the default."""
    with pytest.raises(ValueError, match=r"must be \"/pkg"):
        Rules({key: ADMIN})


def test_the_table_is_taken_as_it_is() -> None:
    """A later change of the mapping changes no rule."""
    table = {"/o.Orders/*": ADMIN}
    rules = Rules(table)
    table["/o.Orders/*"] = PUBLIC
    assert rules.of("/o.Orders/List") is ADMIN


@pytest.mark.parametrize("name", ["scope", "roles", "acr_values"])
def test_a_string_is_no_tuple(name: str) -> None:
    """With a forgotten comma, each letter would be a required scope or role."""
    with pytest.raises(ValueError, match="tuples"):
        Rule(**{name: "admin"})  # type: ignore[arg-type]


@pytest.mark.parametrize("scope", ["", "a b", 'a"', "a\\b", "a\r\nx: y", "é"])
def test_a_scope_has_the_alphabet_of_scopes(scope: str) -> None:
    """A header quotes it (RFC 6749 section 3.3)."""
    with pytest.raises(ValueError, match="not a scope"):
        Rule(scope=(scope,))


def test_a_public_method_asks_for_nothing_that_is_not_looked_at() -> None:
    """A role on a public method would look like protection."""
    rules: tuple[Any, ...] = (
        {"scope": ("a",)},
        {"roles": ("a",)},
        {"max_age": timedelta(0)},
        {"acr_values": ("a",)},
    )
    for rule in rules:
        with pytest.raises(ValueError, match="public"):
            Rule(public=True, **rule)
    assert Rule("orders", public=True).audience == "orders"


def test_the_infrastructure_is_public() -> None:
    """Health and reflection, in both of its versions, can be merged into a table."""
    rules = Rules({**INFRASTRUCTURE, "/o.Orders/*": ADMIN})
    assert rules.of("/grpc.health.v1.Health/Watch").public
    for version in ("v1", "v1alpha"):
        name = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        assert rules.of(name).public


def test_the_principal_is_there_for_as_long_as_the_block_runs() -> None:
    """Also if the block raises, and for nested blocks."""
    assert current_principal.get() is None
    with acting_as(CLAIMS):
        assert principal() is CLAIMS
        with acting_as(None):
            assert current_principal.get() is None
        assert current_principal.get() is CLAIMS
    with contextlib.suppress(KeyError), acting_as(CLAIMS):
        raise KeyError
    assert current_principal.get() is None


def test_where_there_is_no_principal_the_error_says_why() -> None:
    """A handler that needs one gets a clear error, not an AttributeError."""
    with pytest.raises(LookupError, match="no principal: "):
        principal()
