"""The certificate of an HTTP client, as the thumbprint that a bound token names (RFC 8705).

It is that of the TLS connection. Behind a proxy of AUTH_TRUSTED_PROXIES it is the one that the
proxy names, never the proxy's own.
"""

from collections.abc import Callable

from starlette.requests import Request

from auth_service.authz.certificates import FORWARDED, TrustedProxies, presented_to_proxy

__all__ = ["CLIENT_CERTIFICATE", "CertificateOf", "certificate_of"]

CLIENT_CERTIFICATE = "client_certificate"
"""Where a connection keeps the thumbprint of the certificate of its client, in its state."""

CertificateOf = Callable[[Request], str]


def certificate_of(proxies: TrustedProxies) -> CertificateOf:
    """Return the function that tells the thumbprint of a client's certificate, or empty."""

    def tell(request: Request) -> str:
        if proxies.knows(request.client.host if request.client else None):
            return presented_to_proxy(request.headers.getlist(FORWARDED))
        found: str = request.scope.get("state", {}).get(CLIENT_CERTIFICATE, "")
        return found

    return tell
