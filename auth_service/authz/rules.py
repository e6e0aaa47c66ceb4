"""Parses a rule from the configuration of a gateway: named texts, the same at every edge.

    audience  required audience of the token
    scope     required scopes, separated by spaces
    roles     required roles, separated by commas; spaces around a role are ignored
    public    "true": anonymous callers and CORS preflights pass; excludes scope and roles

Without any of them, a valid token suffices. Everything else is an error, so that a rule with a
mistake admits nobody. Errors begin with the name and quote no text, which may come from a caller.
"""

from collections.abc import Collection, Iterable, Mapping

from auth_service.authz.admission import Rule

__all__ = ["EXCHANGE", "NAMES", "parse_audience", "parse_flag", "parse_rule"]

NAMES = ("audience", "scope", "roles", "public")
EXCHANGE = "exchange_audience"
"""Beside a rule: the audience of the token that the upstream sees instead of the caller's."""

_MAX_LENGTH = 4096  # characters of one text: edges cache rules, and callers may send them


def parse_rule(given: Iterable[tuple[str, str]], beside: Collection[str] = ()) -> Rule:
    """Return the rule of these names and texts. Raises ValueError, which says how to correct it.

    `beside` are further names, which the edge reads itself. The error quotes an unknown name.
    """
    texts = _texts(given, (*NAMES, *beside))
    public = parse_flag(texts, "public")
    if public and ("scope" in texts or "roles" in texts):
        raise ValueError("public: cannot be combined with scope or roles; remove one of them")
    audience, roles = parse_audience(texts, "audience"), _roles(texts)
    try:
        return Rule(audience, tuple(texts.get("scope", "").split()), roles, public)
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
