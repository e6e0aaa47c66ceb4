"""What the audit log tells of a signing key: that it was made or compromised, and its dates.

A date may come while nobody acts, so each replica writes it, and the row is there once.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from auth_service import audit
from auth_service.models import StoredKey

__all__ = ["changes_of_key", "dates_of_key"]

CLOCKS_DIFFER = timedelta(seconds=1)
"""By how much the clock that set a date of "now" may be ahead of the database's."""


def changes_of_key(before: StoredKey | None, after: StoredKey, at: datetime) -> list[str]:
    """Return the rows of a change of a key that is made at this moment."""
    details = {"algorithm": after.algorithm}
    events = []
    if before is None and after.encrypted_secret:  # not a mark on the shared key of the settings
        events.append(audit.row("key.created", at, kid=after.kid, details=details))
    if after.compromised_at is not None and (before is None or before.compromised_at is None):
        events.append(audit.row("key.compromised", at, kid=after.kid, details=details))
    since = dict(_dates(before)) if before is not None else {}
    return events + [
        audit.certain_row(event, date, after.kid, kid=after.kid, details=details)
        for event, date in _dates(after)
        if date <= at + CLOCKS_DIFFER and since.get(event) != date
    ]


def dates_of_key(key: StoredKey, since: datetime, now: datetime) -> list[str]:
    """Return the rows of the dates of a key that came in this time."""
    details = {"algorithm": key.algorithm}
    return [
        audit.certain_row(event, date, key.kid, kid=key.kid, details=details)
        for event, date in _dates(key)
        if since <= date <= now
    ]


def _dates(key: StoredKey) -> Iterator[tuple[str, datetime]]:
    """Yield what happens to a key, and when; once it is compromised nothing more happens."""
    dates = (
        ("key.activated", key.activate_at),
        ("key.retired", key.retire_at),
        ("key.removed", key.remove_at),
    )
    for event, date in dates:
        if date is not None and (key.compromised_at is None or date < key.compromised_at):
            yield event, date
