"""What each gRPC method asks of its callers, in one readable table.

Owns the form of a rule and which rule holds for a method. Knows nothing of how tokens are carried.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from auth_service.tokens import AccessClaims

__all__ = ["INFRASTRUCTURE", "PUBLIC", "Rule", "Rules", "Verifier"]

_KEY = re.compile(r"/[^/*\s]+/([^/*\s]+|\*)")
_SCOPE_TOKEN = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 section 3.3


class Verifier(Protocol):
    """What tells a good access token from a bad one, in memory: called on every request."""

    def verify(
        self,
        token: str,
        *,
        audience: str = "",
        required_scope: Collection[str] = (),
        required_roles: Collection[str] = (),
    ) -> AccessClaims:
        """Return the claims of a good token; raises InvalidToken or RevocationsStale."""
        ...


@dataclass(frozen=True, slots=True)
class Rule:
    """What one method asks of its callers; `Rule()` is a good token and nothing more.

    The token must be for `audience` (empty: for anybody) and hold all of `scope` and `roles`.
    A `public` method takes every caller; a token that satisfies `audience` still makes its holder
    the principal. Raises ValueError for a rule that cannot mean what it says.
    """

    audience: str = ""
    scope: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    public: bool = False

    def __post_init__(self) -> None:
        # A lone string is a collection too, of its letters: ("admin") for ("admin",).
        given: tuple[object, ...] = (self.scope, self.roles)
        if any(isinstance(each, str) for each in given):
            raise ValueError("scope and roles are tuples of strings, not a string")
        # It is quoted in www-authenticate, so that nothing may break out of there.
        for scope in self.scope:
            if not _SCOPE_TOKEN.fullmatch(scope):
                raise ValueError(f"not a scope (RFC 6749 section 3.3): {scope!r}")
        if self.public and (self.scope or self.roles):
            raise ValueError("a public method asks for no scope and no role")


PUBLIC = Rule(public=True)
"""Takes every caller, with a token or without one."""

INFRASTRUCTURE: Mapping[str, Rule] = MappingProxyType(
    {
        "/grpc.health.v1.Health/*": PUBLIC,
        "/grpc.reflection.v1.ServerReflection/*": PUBLIC,
        "/grpc.reflection.v1alpha.ServerReflection/*": PUBLIC,
    }
)
"""What load balancers and grpcurl call without a token: `Rules({**INFRASTRUCTURE, …})`."""


class Rules:
    """The rules of a server, by method; an exact name comes before its service's `*`.

    Keys are "/pkg.Service/Method" or "/pkg.Service/*"; raises ValueError for any other form. A
    method that the table does not name falls to `default`.
    """

    def __init__(self, table: Mapping[str, Rule], default: Rule = Rule()) -> None:
        for key in table:
            if not _KEY.fullmatch(key):
                raise ValueError(f'not "/pkg.Service/Method" or "/pkg.Service/*": {key!r}')
        self._table = dict(table)
        self._default = default

    def of(self, method: str) -> Rule:
        """Return the rule of a method, given as gRPC names it: "/pkg.Service/Method"."""
        if (rule := self._table.get(method)) is not None:
            return rule
        return self._table.get(f"{method.rpartition('/')[0]}/*", self._default)
