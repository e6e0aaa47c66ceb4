"""What each gRPC method requires of its callers, in one table.

Owns which rule applies to a method. Does not know how a call carries a token.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

from auth_service.authz.admission import Rule

__all__ = ["INFRASTRUCTURE", "PUBLIC", "Rules"]

_GOOD_TOKEN = Rule()
_KEY = re.compile(r"/[^/*\s]+/([^/*\s]+|\*)")


PUBLIC = Rule(public=True)
"""Admits every caller, with or without a token."""

INFRASTRUCTURE: Mapping[str, Rule] = MappingProxyType(
    {
        "/grpc.health.v1.Health/*": PUBLIC,
        "/grpc.reflection.v1.ServerReflection/*": PUBLIC,
        "/grpc.reflection.v1alpha.ServerReflection/*": PUBLIC,
    }
)
"""What load balancers and grpcurl call without a token: `Rules({**INFRASTRUCTURE, …})`."""


class Rules:
    """The rules of a server, by method; an exact name has precedence over its service's `*`.

    Keys are "/pkg.Service/Method" or "/pkg.Service/*"; raises ValueError for any other form. The
    rule of a method that the table does not name is `default`.
    """

    def __init__(self, table: Mapping[str, Rule], default: Rule = _GOOD_TOKEN) -> None:
        for key in table:
            if not _KEY.fullmatch(key):
                raise ValueError(f'must be "/pkg.Service/Method" or "/pkg.Service/*", not {key!r}')
        self._table = dict(table)
        self._default = default

    def of(self, method: str) -> Rule:
        """Return the rule of a method, which is named as in gRPC: "/pkg.Service/Method"."""
        if (rule := self._table.get(method)) is not None:
            return rule
        return self._table.get(f"{method.rpartition('/')[0]}/*", self._default)
