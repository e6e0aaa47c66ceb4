"""What each gRPC method asks of its callers, in one readable table.

Owns which rule holds for a method. Knows nothing of how tokens are carried.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType

from auth_service.authz.admission import Rule

__all__ = ["INFRASTRUCTURE", "PUBLIC", "Rules"]

_GOOD_TOKEN = Rule()
_KEY = re.compile(r"/[^/*\s]+/([^/*\s]+|\*)")


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

    def __init__(self, table: Mapping[str, Rule], default: Rule = _GOOD_TOKEN) -> None:
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
