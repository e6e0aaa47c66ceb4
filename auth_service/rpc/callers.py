"""Identifies the caller of an RPC: by the access token in its metadata, or by its certificate.

`authz.admission` reads the token (RFC 6750 section 2.1); this module only fetches the metadata.
"""

import contextlib

from cryptography import x509

from auth_service.authz.admission import Rule, Verifier, claims_of
from auth_service.rpc.dispatcher import Context
from auth_service.tokens.access import AccessClaims

__all__ = ["Callers", "certificate_names", "certificate_uris"]


class Callers:
    """Reads the access tokens of callers, which must be for this service (RFC 9068 section 4)."""

    def __init__(self, verifier: Verifier, audience: str) -> None:
        self._verifier = verifier
        self._rule = Rule(audience)

    def require(self, context: Context) -> AccessClaims:
        """Return the claims of the caller's access token; raises Refused."""
        return claims_of(self._verifier, self._rule, _authorization(context))

    def find(self, context: Context) -> AccessClaims | None:
        """Return the claims of the caller's token, or None if it sends none; raises Refused."""
        return self.require(context) if _authorization(context) else None


def certificate_names(context: Context) -> set[str]:
    """Return the subject alternative names of the caller's verified certificate (mTLS)."""
    names = context.auth_context().get("x509_subject_alternative_name", ())
    return {name.decode("utf-8", "replace") for name in names}


def certificate_uris(context: Context) -> list[str]:
    """Return the URIs in the caller's verified certificate (mTLS); none of an authority's.

    gRPC does not tell a URI from another name, so the certificate is read (X509-SVID section 2).
    """
    for pem in context.auth_context().get("x509_pem_cert", ()):
        extensions = x509.load_pem_x509_certificate(pem).extensions
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
