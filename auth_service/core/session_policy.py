"""The rules of sessions that the settings decide, and the revocations that follow from them."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from auth_service.models import Revocation, RevocationKind
from auth_service.tokens.revocation import whole_second_after

__all__ = ["SessionPolicy"]

_LONGEST_USUAL_TOKEN = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class SessionPolicy:
    """How long tokens last, and how many logins one identifier may try."""

    issuer: str
    default_audience: tuple[str, ...]
    access_ttl: timedelta = timedelta(minutes=15)
    refresh_idle_ttl: timedelta = timedelta(days=7)
    refresh_absolute_ttl: timedelta = timedelta(days=30)
    refresh_grace: timedelta = timedelta(seconds=10)
    clock_skew: timedelta = timedelta(seconds=10)
    login_burst: int = 10
    login_refill: timedelta = timedelta(seconds=10)

    def revocation_expiry(self, now: datetime) -> datetime:
        """Return when the last token issued until `now` has expired, on any replica's clock.

        Not less than an hour on: tokens may be about from before the lifetime was shortened.
        """
        return now + max(self.access_ttl, _LONGEST_USUAL_TOKEN) + timedelta(minutes=1)

    def session_revocation(self, session_id: UUID, now: datetime) -> Revocation:
        """Return what revokes every access token of a session."""
        return Revocation(RevocationKind.SESSION, str(session_id), self.revocation_expiry(now))

    def user_revocation(self, subject: str, now: datetime) -> Revocation:
        """Return what revokes every access token of a user or service account until `now`.

        The store moves its `issued_before` on where a session holds tokens that are dated ahead.
        """
        return Revocation(
            RevocationKind.USER, subject, self.revocation_expiry(now), whole_second_after(now)
        )
