"""Identifies the caller of an RPC: by the access token in its metadata, or by its certificate.

`authz.admission` reads the token (RFC 6750 section 2.1), and `authz.certificates` the certificate;
this module only fetches the metadata.
"""

import contextlib
from functools import partial
from uuid import UUID

from cryptography import x509

from auth_service.authz.admission import Refused, Rule, Verifier, claims_of
from auth_service.authz.certificates import TrustedProxies, presented
from auth_service.authz.sources import Sources
from auth_service.core.auditing import identify_caller
from auth_service.core.throttle import LoginOrigin
from auth_service.rpc.dispatcher import Context
from auth_service.tokens.access import AccessClaims

__all__ = ["Callers"]


class Callers:
    """Reads the access tokens of callers, which must be for this service (RFC 9068 section 4)."""

    def __init__(
        self, verifier: Verifier, audience: str, proxies: TrustedProxies, sources: Sources
    ) -> None:
        self._verifier = verifier
        self._rule = Rule(audience)
        self._proxies = proxies
        self._sources = sources

    def require(self, context: Context) -> AccessClaims:
        """Return the claims of the caller's access token; raises Refused."""
        certificate = partial(self.certificate, context)
        claims = claims_of(self._verifier, self._rule, _authorization(context), certificate)
        identify_caller(claims)
        return claims

    def certificate(self, context: Context) -> str:
        """Return the thumbprint of the caller's certificate; empty if it presents none."""
        return presented(context, self._proxies)

    def find(self, context: Context) -> AccessClaims | None:
        """Return the claims of the caller's token, or None if it sends none; raises Refused."""
        return self.require(context) if _authorization(context) else None

    def origin(self, context: Context, device_token: str) -> LoginOrigin:
        """Return where a login comes from; an access token that is good for nothing is none."""
        session = None
        with contextlib.suppress(Refused, ValueError):  # ValueError: of a service account
            certificate = partial(self.certificate, context)
            caller = claims_of(self._verifier, self._rule, _authorization(context), certificate)
            if not caller.actors:
                session = UUID(caller.subject), UUID(caller.session_id)
        shown = (device_token,) if device_token else ()
        return LoginOrigin(
            self._sources.of_call(context), shown, session, self.certificate(context)
        )

    def names(self, context: Context) -> set[str]:
        """Return the subject alternative names of the caller's verified certificate (mTLS).

        A trusted proxy's certificate is not that of the client behind it: it names nobody.
        """
        if self._proxies.knows_peer(context.peer()):
            return set()
        names = context.auth_context().get("x509_subject_alternative_name", ())
        return {name.decode("utf-8", "replace") for name in names}

    def uris(self, context: Context) -> list[str]:
        """Return the URIs in the caller's verified certificate (mTLS); none of an authority's.

        gRPC does not tell a URI from another name, so the certificate is read (X509-SVID section
        2). A trusted proxy's names nobody.
        """
        if self._proxies.knows_peer(context.peer()):
            return []
        for pem in context.auth_context().get("x509_pem_cert", ()):
            return _uris(x509.load_pem_x509_certificate(pem))
        return []


def _uris(certificate: x509.Certificate) -> list[str]:
    extensions = certificate.extensions
    with contextlib.suppress(x509.ExtensionNotFound):
        if extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return []
    with contextlib.suppress(x509.ExtensionNotFound):
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.UniformResourceIdentifier)
    return []


def _authorization(context: Context) -> list[str]:
    metadata = context.invocation_metadata() or ()
    return [str(value) for key, value in metadata if key == "authorization"]
