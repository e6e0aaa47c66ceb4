"""What other services install: verifying access tokens without a call.

    from auth_service.client import InvalidToken, local_verifier

    verifier = local_verifier(os.environ["AUTH_SHARED_KEY"], issuer="https://auth.internal")
    claims = verifier.verify(token, audience="orders")  # raises InvalidToken

A verifier that has nothing but the key does not hear of revocations: a revoked token stays good
here until it expires. Call Validate where that matters.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from auth_service import base64url
from auth_service.errors import InactiveReason, InvalidToken
from auth_service.keys import KeyRing
from auth_service.keys import shared_key as _shared_key
from auth_service.revocation import RevocationList
from auth_service.tokens import AccessClaims, TokenVerifier

__all__ = ["AccessClaims", "InactiveReason", "InvalidToken", "TokenVerifier", "local_verifier"]


def _utc_now() -> datetime:
    return datetime.now(UTC)


def local_verifier(
    shared_key: str, *, issuer: str, clock: Callable[[], datetime] = _utc_now
) -> TokenVerifier:
    """Return a verifier of tokens that are signed with the shared key (HS256).

    `shared_key` is the value of AUTH_SHARED_KEY, base64url of 32 bytes or more; raises ValueError
    for other text and ConfigError for a shorter key.
    """
    key = _shared_key(base64url.decode(shared_key.strip().rstrip("=")))
    return TokenVerifier(KeyRing([key]), RevocationList(clock), issuer=issuer, clock=clock)
