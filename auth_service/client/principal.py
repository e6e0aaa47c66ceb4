"""The caller: the claims of its access token, available wherever the handler's code runs.

Owns the context variables. The interceptors and the ASGI middleware set it while a handler runs;
threads that a handler starts by itself do not inherit it (see `contextvars.copy_context`).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

from auth_service.authz.admission import Admission
from auth_service.tokens.access import AccessClaims

__all__ = ["acting_as", "acting_for", "current_principal", "principal", "received_token"]

current_principal: ContextVar[AccessClaims | None] = ContextVar("current_principal", default=None)
"""The caller's claims; None outside of a call, and for an anonymous caller."""

_received: ContextVar[tuple[str, str]] = ContextVar("received_token", default=("", ""))


def received_token() -> tuple[str, str]:
    """Return the caller's access token, and the thumbprint of its certificate.

    Both are empty outside of a call and for an anonymous caller; the second also for a caller
    without a certificate.
    """
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
def acting_as(
    claims: AccessClaims | None, token: str = "", certificate: str = ""
) -> Iterator[None]:
    """Make these claims the principal while the block runs; None stands for no principal.

    `token` is the access token with these claims, and `certificate` the thumbprint of the caller's.
    """
    before = current_principal.set(claims)
    received_before = _received.set((token, certificate))
    try:
        yield
    finally:
        _received.reset(received_before)
        current_principal.reset(before)


def acting_for(admission: Admission) -> AbstractContextManager[None]:
    """Make an admitted caller the principal while the block runs."""
    return acting_as(admission.claims, admission.token, admission.certificate)
