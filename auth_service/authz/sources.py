"""The address that a call comes from: of its connection, or, behind proxies, what they say.

Owns whose word counts. Each proxy adds the address of its own client at the right end of
x-forwarded-for, or of Forwarded (RFC 7239). What stands left of the first address that is no
trusted proxy's may be anybody's invention.
"""

import re
from collections.abc import Sequence
from typing import Any

from auth_service.addresses import host_of_peer, ip_of
from auth_service.authz.certificates import TrustedProxies

__all__ = ["FORWARDED", "FORWARDED_FOR", "Sources"]

FORWARDED_FOR = "x-forwarded-for"
FORWARDED = "forwarded"

_WORD = r"[\w!#$%&'*+.^`|~-]+"
_PAIR = re.compile(rf'[ \t]*({_WORD})=({_WORD}|"(?:[^"\\]|\\.)*")[ \t]*', re.ASCII)
_NODE = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d+)?|(\d+\.\d+\.\d+\.\d+)(?::\d+)?", re.ASCII)


class Sources:
    """Tells the IP address of the client of a call."""

    def __init__(self, proxies: TrustedProxies, header: str = FORWARDED_FOR) -> None:
        """`header` is the one that the proxies write, FORWARDED_FOR or FORWARDED.

        The other one is not read: proxies that do not know it pass on what clients send.
        """
        self._proxies = proxies
        self._header = header
        self._entry = _forwarded if header == FORWARDED else _plain

    @property
    def header(self) -> str:
        """The name of the header whose values `of_host` takes."""
        return self._header

    def of_call(self, context: Any) -> str:
        """Return the address of the client of a gRPC call, as `of_host` does."""
        host = host_of_peer(context.peer())
        if not self._proxies.knows(host):
            return _address(host)
        metadata = context.invocation_metadata() or ()
        return self.of_host(host, [str(value) for key, value in metadata if key == self._header])

    def of_host(self, host: str | None, values: Sequence[str]) -> str:
        """Return the client's address, by that of its connection and the values of the header.

        It is empty if it is unknown: on a Unix socket, and if a trusted proxy names no client. An
        entry that is not an address counts as the proxy that wrote it.
        """
        entries = ",".join(values).split(",") if values else []
        if self._proxies.knows(host) and not entries:
            return ""
        while self._proxies.knows(host) and entries:
            named = self._entry(entries.pop().strip(" \t"))
            if named is None:
                break
            host = named
        return _address(host)


def _address(host: str | None) -> str:
    try:
        return "" if host is None else str(ip_of(host))
    except ValueError:
        return ""


def _plain(entry: str) -> str | None:
    """Return the address in an entry of x-forwarded-for, which may have a port."""
    try:
        return str(ip_of(entry))
    except ValueError:
        return _node(entry)


def _forwarded(element: str) -> str | None:
    """Return the address in `for` of an element of Forwarded (RFC 7239 section 4)."""
    pairs = [_PAIR.fullmatch(pair) for pair in element.split(";")]
    named = [pair[2] for pair in pairs if pair is not None and pair[1].lower() == "for"]
    if None in pairs or len(named) != 1:
        return None
    return _node(named[0].strip('"'))


def _node(text: str) -> str | None:
    """Return the address in a node with or without port (RFC 7239 section 6)."""
    node = _NODE.fullmatch(text)
    try:
        return None if node is None else str(ip_of(node[1] or node[2]))
    except ValueError:
        return None
