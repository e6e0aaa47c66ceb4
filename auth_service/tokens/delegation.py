"""The chain of a token that was exchanged: who acts for its subject, and what it came from.

Owns the claims `act` (RFC 8693 section 4.1) and `parents`, and their strict form. The claim `act`
names the actors, newest first, each inside the one before it. The claim `parents` is this service's
own. It has one entry for each actor, in the same order: `jti` and `iat` of the token that was
exchanged, and `iat` of the actor's own token. So whoever verifies the token can tell whether any of
these is revoked, without having seen them.
"""

from typing import Any, NamedTuple

from auth_service.tokens import jws

__all__ = ["MAX_DEPTH", "Chain", "Link", "as_claims", "read_chain"]

MAX_DEPTH = 5
"""How many exchanges may lie between a token and the login."""


class Link(NamedTuple):
    """One exchange; times are whole seconds since the epoch."""

    actor: str
    """The `sub` of the service account that exchanged."""
    actor_issued_at: int
    """The `iat` of the actor's own token."""
    parent_id: str
    """The `jti` of the token that was exchanged."""
    parent_issued_at: int
    """Its `iat`."""


Chain = tuple[Link, ...]
"""The exchanges of a token, newest first; empty for the token of a login."""


def as_claims(chain: Chain) -> dict[str, Any]:
    """Return the claims of a chain that is not empty."""
    act: dict[str, Any] = {}
    for link in reversed(chain):
        act = {"sub": link.actor, "act": act} if act else {"sub": link.actor}
    parents = [[link.parent_id, link.parent_issued_at, link.actor_issued_at] for link in chain]
    return {"act": act, "parents": parents}


def read_chain(claims: dict[str, Any]) -> Chain:
    """Return the chain of a token with either claim. Raises InvalidToken for any other form."""
    act, parents = claims.get("act"), claims.get("parents")
    if type(parents) is not list or not 1 <= len(parents) <= MAX_DEPTH:
        raise jws.malformed()
    chain = []
    for entry in parents:
        if type(entry) is not list or len(entry) != 3:
            raise jws.malformed()
        parent_id, parent_issued_at, actor_issued_at = entry
        if type(act) is not dict or not act.keys() <= {"sub", "act"}:
            raise jws.malformed()
        actor: Any = act.get("sub")
        if not (_is_name(actor) and _is_name(parent_id)):
            raise jws.malformed()
        if not (_is_time(parent_issued_at) and _is_time(actor_issued_at)):
            raise jws.malformed()
        chain.append(Link(actor, actor_issued_at, parent_id, parent_issued_at))
        act = act.get("act")
    if act is not None:
        raise jws.malformed()
    return tuple(chain)


def _is_name(value: object) -> bool:
    return type(value) is str and 0 < len(value) <= jws.MAX_NAME_LENGTH and value.isprintable()


def _is_time(value: object) -> bool:
    return type(value) is int and 0 <= value <= jws.LATEST_TIME
