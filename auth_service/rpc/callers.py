"""Identifies the caller of an RPC: by the access token in its metadata, or by its certificate.

`authz.admission` reads the token (RFC 6750 section 2.1); this module only fetches the metadata.
"""

from auth_service.authz.admission import Rule, Verifier, claims_of
from auth_service.rpc.dispatcher import Context
from auth_service.tokens.access import AccessClaims

__all__ = ["caller_if_any", "caller_of", "certificate_names"]

_ANY_VALID_TOKEN = Rule()


def caller_of(context: Context, verifier: Verifier) -> AccessClaims:
    """Return the claims of the caller's access token; raises Refused."""
    return claims_of(verifier, _ANY_VALID_TOKEN, _authorization(context))


def caller_if_any(context: Context, verifier: Verifier) -> AccessClaims | None:
    """Return the claims of the caller's token, or None if it sends none; raises Refused."""
    return caller_of(context, verifier) if _authorization(context) else None


def certificate_names(context: Context) -> set[str]:
    """Return the subject alternative names of the caller's verified certificate (mTLS)."""
    names = context.auth_context().get("x509_subject_alternative_name", ())
    return {name.decode("utf-8", "replace") for name in names}


def _authorization(context: Context) -> list[str]:
    metadata = context.invocation_metadata() or ()
    return [str(value) for key, value in metadata if key == "authorization"]
