"""Who calls: the bearer token in a call's metadata (RFC 6750 section 2.1)."""

from typing import Any

from auth_service.core.validation import Validation
from auth_service.errors import InactiveReason, InvalidToken
from auth_service.tokens.access import AccessClaims

__all__ = ["caller_if_any", "caller_of", "certificate_names"]


def caller_of(context: Any, validation: Validation) -> AccessClaims:
    """Return the claims of the caller's access token; raises InvalidToken, RevocationsStale."""
    given = [v for k, v in context.invocation_metadata() or () if k == "authorization"]
    if len(given) != 1:
        what = "more than one authorization" if given else "an access token is required"
        raise InvalidToken(
            InactiveReason.MALFORMED, f"{what}; send metadata `authorization: Bearer …` once"
        )
    scheme, _, token = str(given[0]).partition(" ")
    if scheme.lower() != "bearer":
        raise InvalidToken(
            InactiveReason.MALFORMED, "the authorization is not of the form `Bearer …`"
        )
    return validation.verify(token.strip())


def caller_if_any(context: Any, validation: Validation) -> AccessClaims | None:
    """Return the claims of the caller's token, None without one; raises as `caller_of` does."""
    if any(key == "authorization" for key, _ in context.invocation_metadata() or ()):
        return caller_of(context, validation)
    return None


def certificate_names(context: Any) -> set[str]:
    """Return the subject alternative names of the caller's verified certificate (mTLS)."""
    names = context.auth_context().get("x509_subject_alternative_name", ())
    return {name.decode("utf-8", "replace") for name in names}
