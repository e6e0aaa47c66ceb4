"""Network addresses: whether one stays on this machine, and which network it is of.

An address is what gRPC listens on and dials: `host:port`, `[IPv6]:port`, `unix:path`, and the same
after a resolver's scheme (`dns:`, `ipv4:`, `ipv6:`; gRPC Name Resolution).
"""

import ipaddress
import re
from urllib.parse import unquote

__all__ = ["host_of_peer", "ip_of", "is_loopback", "is_loopback_host", "network_of"]

_RESOLVER = re.compile(r"(dns:(//[^/]*/)?|ipv4:|ipv6:)", re.IGNORECASE)
_PEER = re.compile(r"ipv[46]:(?:\[(.+)\]|([^:]+)):\d+")

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


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


def host_of_peer(peer: str) -> str | None:
    """Return the IP address of a peer as gRPC names it, such as ipv4:10.0.0.1:50051; else None."""
    named = _PEER.fullmatch(unquote(peer))
    return None if named is None else named[1] or named[2]


def ip_of(host: str) -> IpAddress:
    """Return the IP address in a text. ::ffff:10.0.0.1 is 10.0.0.1, and zones do not count.

    Raises ValueError.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def network_of(address: IpAddress, ipv4_bits: int, ipv6_bits: int) -> str:
    """Return the network of so many bits that an address is of."""
    bits = ipv4_bits if address.version == 4 else ipv6_bits
    return str(ipaddress.ip_network((address, bits), strict=False))


def _host(address: str) -> str:
    if address.startswith("["):  # RFC 3986 section 3.2.2
        return address[1:].partition("]")[0]
    return address.partition(":")[0]
