"""Rules as texts in the configuration of a gateway."""

from datetime import timedelta

import pytest

from auth_service.authz.admission import Rule
from auth_service.authz.rules import NAMES, parse_flag, parse_rule

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({}, Rule()),
        ({"audience": "the orders"}, Rule("the orders")),
        ({"scope": "read"}, Rule(scope=("read",))),
        ({"scope": " read  orders:write\n"}, Rule(scope=("read", "orders:write"))),
        ({"roles": "staff"}, Rule(roles=("staff",))),
        ({"roles": " staff, night shift\n"}, Rule(roles=("staff", "night shift"))),
        ({"public": "false", "roles": "staff"}, Rule(roles=("staff",))),
        ({"public": "true", "audience": "orders"}, Rule("orders", public=True)),
        (
            {"audience": "orders", "scope": "a b", "roles": "c,d"},
            Rule("orders", ("a", "b"), ("c", "d")),
        ),
        ({"audience": "a" * 4096}, Rule("a" * 4096)),
        ({"max_age": "0"}, Rule(max_age=timedelta(0))),
        ({"max_age": "300"}, Rule(max_age=timedelta(minutes=5))),
        ({"acr_values": "2fa"}, Rule(acr_values=("2fa",))),
        ({"acr_values": " 2fa  phr\n2fa"}, Rule(acr_values=("2fa", "phr"))),
    ],
)
def test_a_rule_is_what_its_texts_say(given: dict[str, str], rule: Rule) -> None:
    """An absent name requires nothing."""
    assert parse_rule(given.items()) == rule


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, text) for name in NAMES for text in ("", " ", "\n")),
        *(("audience", text) for text in (" a", "a\n", "a\0", "a\r\nb", "a\x85b")),
        *(("scope", text) for text in (f'{SECRET}"', f"{SECRET}\\", "\0", "\xe9", "\ufffd")),
        *(("roles", text) for text in (",", ", ,", "a,", ",a", "a,,b", "a, ,b", "a,b\0", "a\nb")),
        *(("max_age", text) for text in ("5m", "-1", "1.5", "+1", " 1", "1e3", "٣", "1" * 10)),
        *(("acr_values", text) for text in ("2", "2FA", "2fa,phr", "2fa mfa", SECRET, "\0")),
        *(("public", text) for text in ("yes", "1", "True", "true ", "true,false", SECRET)),
    ],
)
def test_a_slip_is_refused_by_its_name(name: str, text: str) -> None:
    """The error begins with the name, says how to correct it, and quotes nothing."""
    with pytest.raises(ValueError, match=rf"^{name}: .*(must|leave|separate)") as raised:
        parse_rule([(name, text)])
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("name", NAMES)
def test_a_text_has_an_end(name: str) -> None:
    """Edges cache rules, so their size is bounded."""
    with pytest.raises(ValueError, match=rf"^{name}: must have 1 to 4096 characters"):
        parse_rule([(name, "a" * 4097)])


@pytest.mark.parametrize("name", ["Public", "scopes", "", "remove_authorization"])
def test_an_unknown_name_is_refused_with_those_that_are_known(name: str) -> None:
    """A misspelt name would otherwise require nothing."""
    with pytest.raises(
        ValueError, match=r"the names are audience, scope, roles, public, max_age, acr_values$"
    ) as raised:
        parse_rule([("audience", "a"), (name, "true")])
    assert repr(name) in str(raised.value)


def test_a_name_from_outside_is_truncated_in_the_log() -> None:
    """The error stays on one line and is bounded in length."""
    with pytest.raises(ValueError, match="is unknown") as raised:
        parse_rule([("a\nb" * 1000, "true")])
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("second", ["read", "write"])
def test_nothing_is_there_twice(second: str) -> None:
    """Even with an equal value: another reader of the configuration could take the other one."""
    with pytest.raises(ValueError, match=r"^scope: is given twice"):
        parse_rule([("scope", "read"), ("scope", second)])


@pytest.mark.parametrize(
    ("name", "text"),
    [("scope", "a"), ("roles", "a"), ("max_age", "300"), ("acr_values", "2fa")],
)
def test_who_takes_everybody_asks_for_nothing(name: str, text: str) -> None:
    """A role in a public rule would look like a protection."""
    with pytest.raises(
        ValueError,
        match=r"^public: cannot be combined with scope, roles, max_age or acr_values; remove",
    ):
        parse_rule({"public": "true", name: text}.items())


def test_an_edge_may_have_names_of_its_own_beside() -> None:
    """They have the same form, and require nothing of a token."""
    assert parse_rule([("hide", "true"), ("audience", "a")], beside=("hide",)) == Rule("a")
    for given in ([("hide", "")], [("hide", "true")] * 2):
        with pytest.raises(ValueError, match=r"^hide: "):
            parse_rule(given, beside=("hide",))


def test_a_flag_is_true_or_false() -> None:
    """An absent flag is false."""
    given: tuple[dict[str, str], ...] = ({"hide": "true"}, {"hide": "false"}, {})
    assert [parse_flag(texts, "hide") for texts in given] == [True, False, False]
    with pytest.raises(ValueError, match=r'^hide: must be "true" or "false"'):
        parse_flag({"hide": "1"}, "hide")
