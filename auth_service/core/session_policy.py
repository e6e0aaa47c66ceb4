"""The rules of sessions that the settings define, and the revocations that follow from them."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from auth_service.models import Revocation, RevocationKind
from auth_service.tokens.revocation import whole_second_after

__all__ = ["SessionPolicy"]

_LONGEST_USUAL_TOKEN = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """How long tokens are valid."""

    issuer: str
    default_audience: tuple[str, ...]
    access_ttl: timedelta = timedelta(minutes=15)
    refresh_idle_ttl: timedelta = timedelta(days=7)
    refresh_absolute_ttl: timedelta = timedelta(days=30)
    refresh_grace: timedelta = timedelta(seconds=10)
    clock_skew: timedelta = timedelta(seconds=10)

    def revocation_expiry(self, now: datetime) -> datetime:
        """Return when the last token that was issued before `now` has expired.

        At least an hour later: tokens from before the lifetime was shortened may still be in use.
        """
        return now + max(self.access_ttl, _LONGEST_USUAL_TOKEN) + timedelta(minutes=1)

    def session_revocation(self, session_id: UUID, now: datetime) -> Revocation:
        """Return the revocation of every access token of a session."""
        return Revocation(RevocationKind.SESSION, str(session_id), self.revocation_expiry(now))

    def user_revocation(self, subject: str, now: datetime) -> Revocation:
        """Return the revocation of every access token that a subject was issued before `now`.

        The store moves `issued_before` forward if a session has tokens that are dated ahead.
        """
        return Revocation(
            RevocationKind.USER, subject, self.revocation_expiry(now), whole_second_after(now)
        )
