"""Network addresses: whether one stays on this machine.

An address is what gRPC listens on and dials: `host:port`, `[IPv6]:port`, `unix:path`, and the same
after a resolver's scheme (`dns:`, `ipv4:`, `ipv6:`; gRPC Name Resolution).
"""

import ipaddress
import re
from urllib.parse import unquote

__all__ = ["is_loopback", "is_loopback_host"]

_RESOLVER = re.compile(r"(dns:(//[^/]*/)?|ipv4:|ipv6:)", re.IGNORECASE)


def is_loopback(address: str) -> bool:
    """Tell whether only this machine can reach an address."""
    if address.startswith(("unix:", "unix-abstract:")):
        return True
    resolver = _RESOLVER.match(address)
    # ipv4: and ipv6: take several addresses.
    addresses = unquote(address[resolver.end() :] if resolver else address).split(",")
    return all(is_loopback_host(_host(each)) for each in addresses)


def is_loopback_host(host: str) -> bool:
    """Tell whether a host name, or an IP address without its brackets, is of this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _host(address: str) -> str:
    if address.startswith("["):  # RFC 3986 section 3.2.2
        return address[1:].partition("]")[0]
    return address.partition(":")[0]
