"""Which calls leave a row in the audit log of their own, and what the row says of a failure.

Owns that each call leaves exactly one: that of its change, which the store writes with the change,
or else one of its own.
"""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar, Unpack
from uuid import UUID

from auth_service import audit
from auth_service.audit import About, Actor, ActorKind
from auth_service.clock import Clock
from auth_service.db.store import Store
from auth_service.errors import AuthError
from auth_service.tokens.access import AccessClaims

__all__ = ["LOGIN_FAILED", "Auditor", "identify_caller", "outcome_of", "subject_of"]

LOGIN_FAILED = "login.failed"
_INTERNAL, _CANCELLED = "INTERNAL", "CANCELLED"

T = TypeVar("T")


class Auditor:
    """Closes calls in the audit log."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def audited(self, event: str, work: Awaitable[T], **about: Unpack[About]) -> T:
        """Do the work of a call. If no row tells of it then, write one, before its result is given.

        The row of a failure follows a moment later, since anybody can make calls that fail.
        """
        try:
            result = await work
        except (Exception, asyncio.CancelledError) as error:
            self.failed(event, error, **about)
            raise
        if not audit.current().has_row:
            await self._store.write_audit(audit.row(event, self._clock(), **about))
        return result

    def failed(self, event: str, error: BaseException, **about: Unpack[About]) -> None:
        """Write a moment later that the call in progress failed."""
        row = audit.closing_row(event, self._clock(), outcome_of(error), **about)
        self._store.write_audit_later(row)

    @contextmanager
    def attempt(self, credential: str) -> Iterator[None]:
        """Audit the failure of proving who the caller is by this kind of credential."""
        audit.identify(Actor(ActorKind.NOBODY, "", credential))
        try:
            yield
        except AuthError as error:
            self.failed(LOGIN_FAILED, error)
            raise


def outcome_of(error: BaseException) -> str:
    """Return what the log says of an error: its stable reason, never its text."""
    if isinstance(error, asyncio.CancelledError):
        return _CANCELLED
    reason: object = getattr(error, "reason", None)  # of AuthError, and of a refusal
    return reason if isinstance(reason, str) and reason.isidentifier() else _INTERNAL


def identify_caller(claims: AccessClaims) -> None:
    """Say that the call in progress is made with this access token."""
    kind = ActorKind.USER if claims.session_id else ActorKind.SERVICE_ACCOUNT
    audit.identify(Actor(kind, claims.subject, "access_token"))


def subject_of(claims: AccessClaims) -> About:
    """Return whose token it is: a user's, of a session, or a service account's."""
    details = {"token_id": claims.token_id}
    try:
        return About(
            user_id=UUID(claims.subject), session_id=UUID(claims.session_id), details=details
        )
    except ValueError:
        return About(client_id=claims.subject, details=details)
