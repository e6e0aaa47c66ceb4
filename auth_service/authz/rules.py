"""A rule as the configuration of a gateway has it: texts under names, alike at every edge.

    audience  whom the token must be for
    scope     what it must hold, all of it, separated by blanks
    roles     likewise, separated by commas; blanks around one are no part of it
    public    "true": strangers pass, CORS preflights too; not with scope or roles

Without any, a good token is enough. Whatever else is there is an error: a rule with a slip in it
must not let anybody in. Errors begin with the name, and quote no text: some come from strangers.
"""

from collections.abc import Collection, Iterable, Mapping

from auth_service.authz.admission import Rule

__all__ = ["NAMES", "parse_flag", "parse_rule"]

NAMES = ("audience", "scope", "roles", "public")

_MAX_LENGTH = 4096  # characters of one text; edges remember rules, and strangers may send some


def parse_rule(given: Iterable[tuple[str, str]], beside: Collection[str] = ()) -> Rule:
    """Return the rule of these names and texts; raises ValueError, which says how to mend it.

    `beside` are further names that the edge reads itself. An unknown name is quoted.
    """
    texts = _texts(given, (*NAMES, *beside))
    public = parse_flag(texts, "public")
    if public and ("scope" in texts or "roles" in texts):
        raise ValueError("public: goes with neither scope nor roles; leave it out, or those")
    audience, roles = _audience(texts), _roles(texts)
    try:
        return Rule(audience, tuple(texts.get("scope", "").split()), roles, public)
    except ValueError:  # it quotes
        raise ValueError(
            'scope: must be of visible ASCII without " and \\ (RFC 6749 section 3.3); separate '
            "several by blanks"
        ) from None


def parse_flag(texts: Mapping[str, str], name: str) -> bool:
    """Return what stands under this name, or False; raises ValueError."""
    if (text := texts.get(name, "false")) not in ("true", "false"):
        raise ValueError(f'{name}: must be "true" or "false"')
    return text == "true"


def _texts(given: Iterable[tuple[str, str]], known: Collection[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for name, text in given:
        if name not in known:
            raise ValueError(f"{name[:80]!r} is unknown; known are {', '.join(known)}")
        if name in texts:  # two readers could take different ones
            raise ValueError(f"{name}: is there twice; put all of it into one")
        if not text.strip() or len(text) > _MAX_LENGTH:  # a variable that is not set, say
            raise ValueError(f"{name}: must have 1 to {_MAX_LENGTH} characters; or leave it out")
        texts[name] = text
    return texts


def _audience(texts: Mapping[str, str]) -> str:
    audience = texts.get("audience", "")
    if audience != audience.strip() or not audience.isprintable():
        raise ValueError(
            "audience: must hold no control characters, and no blanks around it; take them out"
        )
    return audience


def _roles(texts: Mapping[str, str]) -> tuple[str, ...]:
    if "roles" not in texts:
        return ()
    roles = tuple(role.strip() for role in texts["roles"].split(","))
    if "" in roles:
        raise ValueError("roles: one is empty; separate them by single commas")
    if not all(map(str.isprintable, roles)):
        raise ValueError("roles: must hold no control characters; take them out")
    return roles
