"""The caller: the claims of its access token, available wherever the handler's code runs.

Owns the context variables. The interceptors and the ASGI middleware set it while a handler runs;
threads that a handler starts by itself do not inherit it (see `contextvars.copy_context`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from auth_service.tokens.access import AccessClaims

__all__ = ["acting_as", "current_principal", "principal", "received_token"]

current_principal: ContextVar[AccessClaims | None] = ContextVar("current_principal", default=None)
"""The caller's claims; None outside of a call, and for an anonymous caller."""

_received: ContextVar[str] = ContextVar("received_token", default="")


def received_token() -> str:
    """Return the caller's access token; empty outside of a call, and for an anonymous caller."""
    return _received.get()


def principal() -> AccessClaims:
    """Return the caller's claims; raises LookupError if there are none."""
    claims = current_principal.get()
    if claims is None:
        raise LookupError(
            "no principal: this code runs outside of a call that the auth interceptor or "
            "middleware guards, or in a public call without a valid token"
        )
    return claims


@contextmanager
def acting_as(claims: AccessClaims | None, token: str = "") -> Iterator[None]:
    """Make these claims the principal while the block runs; None stands for no principal.

    `token` is the access token with these claims.
    """
    before, received_before = current_principal.set(claims), _received.set(token)
    try:
        yield
    finally:
        _received.reset(received_before)
        current_principal.reset(before)
