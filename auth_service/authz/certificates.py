"""The certificate that a caller presents, as the thumbprint that a bound token names (RFC 8705).

Owns whose word counts: that of the TLS connection, or, behind a trusted proxy, that of the header
x-forwarded-client-cert alone. A thumbprint is the SHA-256 of a certificate in DER, in base64url;
it is empty for a caller without a certificate.
"""

import binascii
import hashlib
import ipaddress
import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from auth_service import base64url
from auth_service.addresses import host_of_peer, ip_of

__all__ = [
    "FORWARDED",
    "TrustedProxies",
    "presented",
    "presented_to_proxy",
    "thumbprint",
    "thumbprint_of_pem",
]

FORWARDED = "x-forwarded-client-cert"

_PAIR = r'[A-Za-z]+=(?:"(?:[^"\\]|\\.)*"|[^";,]*)'
_ELEMENT = f"{_PAIR}(?:;{_PAIR})*;?"
_LIST = re.compile(f"(?:{_ELEMENT},[ \\t]*)*({_ELEMENT})")
_PAIRS = re.compile(_PAIR)
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class TrustedProxies:
    """The networks of the proxies whose word on the client's certificate is taken."""

    def __init__(self, networks: Collection[str] = ()) -> None:
        """Raises ValueError for a text that is not a network, such as 10.0.0.0/8 or ::1."""
        self._networks = tuple(map(ipaddress.ip_network, networks))
        self._knows = lru_cache(maxsize=4096)(self._contains)

    def knows(self, host: str | None) -> bool:
        """Tell whether an IP address is that of a trusted proxy; no other text is."""
        return bool(self._networks) and host is not None and self._knows(host)

    def knows_peer(self, peer: str) -> bool:
        """Tell the same of a peer as gRPC names it: ipv4:10.0.0.1:50051."""
        return bool(self._networks) and self.knows(host_of_peer(peer))

    def _contains(self, host: str) -> bool:
        try:
            address = ip_of(host)
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def presented(context: Any, proxies: TrustedProxies) -> str:
    """Return the thumbprint of the certificate of a gRPC call's client.

    A proxy's own certificate is never taken for that of the client behind it.
    """
    if proxies.knows_peer(context.peer()):
        metadata = context.invocation_metadata() or ()
        return presented_to_proxy([value for key, value in metadata if key == FORWARDED])
    pem = next(iter(context.auth_context().get("x509_pem_cert", ())), b"")
    return _thumbprint_of_pem(bytes(pem))


def presented_to_proxy(values: Sequence[str]) -> str:
    """Return the thumbprint in the values of x-forwarded-client-cert.

    Only the last element counts: the proxy in front of this service has written it. Envoy puts
    `Hash` there, the SHA-256 in hexadecimal; `Cert` is the certificate as URL-encoded PEM. What
    is not in this form, or names one of them twice, names no certificate.
    """
    elements = _LIST.fullmatch(",".join(values))
    if elements is None:
        return ""
    pairs = [pair.partition("=") for pair in _PAIRS.findall(elements[1])]
    given = [
        (name.lower(), value.strip('"'))
        for name, _, value in pairs
        if name.lower() in ("hash", "cert")
    ]
    fields = dict(given)
    if len(fields) != len(given):
        return ""
    if "hash" not in fields:
        return thumbprint_of_pem(unquote(fields.get("cert", "")))
    digest = fields["hash"]
    return base64url.encode(bytes.fromhex(digest)) if _SHA256.fullmatch(digest) else ""


def thumbprint(der: bytes) -> str:
    """Return the thumbprint of a certificate in DER (RFC 8705 section 3.1)."""
    return base64url.encode(hashlib.sha256(der).digest())


def thumbprint_of_pem(pem: str) -> str:
    """Return the thumbprint of the first certificate in PEM; empty if there is none."""
    return _thumbprint_of_pem(pem.encode(errors="replace"))


@lru_cache(maxsize=1024)  # decoding takes ten times as long as finding it again
def _thumbprint_of_pem(pem: bytes) -> str:
    found = _PEM.search(pem)
    try:
        return thumbprint(binascii.a2b_base64(found[1])) if found else ""
    except ValueError:
        return ""
