"""Parses a rule from the configuration of a gateway: named texts, the same at every edge.

    audience  required audience of the token
    scope     required scopes, separated by spaces
    roles     required roles, separated by commas; spaces around a role are ignored
    public    "true": anonymous callers and CORS preflights pass; excludes all but audience
    max_age     how many seconds ago the user may have logged in (RFC 9470)
    acr_values  values of `acr` that suffice, separated by spaces (RFC 9470)

Without any of them, a valid token suffices. Everything else is an error, so that a rule with a
mistake admits nobody. Errors begin with the name and quote no text, which may come from a caller.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta

from auth_service.authz.admission import Rule
from auth_service.tokens import assurance

__all__ = ["EXCHANGE", "NAMES", "parse_audience", "parse_flag", "parse_rule"]

NAMES = ("audience", "scope", "roles", "public", "max_age", "acr_values")
EXCHANGE = "exchange_audience"
"""Beside a rule: the audience of the token that the upstream sees instead of the caller's."""

_EXCLUDED = ("scope", "roles", "max_age", "acr_values")  # from a public rule
_SECONDS = re.compile(r"[0-9]{1,9}")
_MAX_LENGTH = 4096  # characters of one text: edges cache rules, and callers may send them


def parse_rule(given: Iterable[tuple[str, str]], beside: Collection[str] = ()) -> Rule:
    """Return the rule of these names and texts. Raises ValueError, which says how to correct it.

    `beside` are further names, which the edge reads itself. The error quotes an unknown name.
    """
    texts = _texts(given, (*NAMES, *beside))
    public = parse_flag(texts, "public")
    if public and any(name in texts for name in _EXCLUDED):
        raise ValueError(
            f"public: cannot be combined with {', '.join(_EXCLUDED[:-1])} or {_EXCLUDED[-1]}; "
            "remove one of them"
        )
    audience, roles = parse_audience(texts, "audience"), _roles(texts)
    max_age, acr_values = _max_age(texts), _acr_values(texts)
    try:
        scope = tuple(texts.get("scope", "").split())
        return Rule(audience, scope, roles, public, max_age, acr_values)
    except ValueError:  # its text quotes the scope
        raise ValueError(
            'scope: must be visible ASCII without " and \\ (RFC 6749 section 3.3); separate '
            "scopes by spaces"
        ) from None


def parse_flag(texts: Mapping[str, str], name: str) -> bool:
    """Return the flag with this name, False if it is absent. Raises ValueError."""
    if (text := texts.get(name, "false")) not in ("true", "false"):
        raise ValueError(f'{name}: must be "true" or "false"')
    return text == "true"


def _texts(given: Iterable[tuple[str, str]], known: Collection[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, text in given:
        if name not in known:
            raise ValueError(f"{name[:80]!r} is unknown; the names are {', '.join(known)}")
        if name in texts:  # another reader could take the other one
            raise ValueError(f"{name}: is given twice; combine the two")
        if not text.strip() or len(text) > _MAX_LENGTH:  # empty: for example an unset variable
            raise ValueError(f"{name}: must have 1 to {_MAX_LENGTH} characters, or be removed")
        texts[name] = text
    return texts


def parse_audience(texts: Mapping[str, str], name: str) -> str:
    """Return the audience with this name, empty if it is absent. Raises ValueError."""
    audience = texts.get(name, "")
    if audience != audience.strip() or not audience.isprintable():
        raise ValueError(
            f"{name}: must not have control characters, or spaces around it; remove them"
        )
    return audience


def _roles(texts: Mapping[str, str]) -> tuple[str, ...]:
    if "roles" not in texts:
        return ()
    roles = tuple(role.strip() for role in texts["roles"].split(","))
    if "" in roles:
        raise ValueError("roles: one role is empty; separate roles by single commas")
    if not all(map(str.isprintable, roles)):
        raise ValueError("roles: must not have control characters; remove them")
    return roles


def _max_age(texts: Mapping[str, str]) -> timedelta | None:
    if (text := texts.get("max_age")) is None:
        return None
    if not _SECONDS.fullmatch(text):
        raise ValueError('max_age: must be a whole number of seconds, for example "300"')
    return timedelta(seconds=int(text))


def _acr_values(texts: Mapping[str, str]) -> tuple[str, ...]:
    values = tuple(dict.fromkeys(texts.get("acr_values", "").split()))
    if not set(values) <= set(assurance.SUPPORTED):  # no user could satisfy it
        raise ValueError(
            f"acr_values: must be of {', '.join(assurance.SUPPORTED)}; separate them by spaces"
        )
    return values
