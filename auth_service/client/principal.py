"""Who calls: the claims of the access token, at hand wherever the handler's code runs.

Owns the context variable. The interceptors and the ASGI middleware set it while a handler runs;
threads that a handler starts by itself do not inherit it (see `contextvars.copy_context`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from auth_service.tokens.access import AccessClaims

__all__ = ["acting_as", "current_principal", "principal"]

current_principal: ContextVar[AccessClaims | None] = ContextVar("current_principal", default=None)
"""The caller's claims; None outside of a call, and in a public one that came without a token."""


def principal() -> AccessClaims:
    """Return the caller's claims; raises LookupError where there are none."""
    claims = current_principal.get()
    if claims is None:
        raise LookupError(
            "no principal here: this code runs outside of a call that the auth interceptor or "
            "middleware guards, or in a public one that came without a good token"
        )
    return claims


@contextmanager
def acting_as(claims: AccessClaims | None) -> Iterator[None]:
    """Make these claims the principal for as long as the block runs; None makes it nobody."""
    token = current_principal.set(claims)
    try:
        yield
    finally:
        current_principal.reset(token)
