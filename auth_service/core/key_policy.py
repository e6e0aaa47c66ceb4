"""The rules of signing keys: which key signs, what its successor is, and how long each is trusted.

A key is published, then active, then retired, and at last removed; or it is compromised. These
states follow from dates in its row. The rules here read and set these dates, given all rows and a
moment. They know neither the database nor private keys.
"""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from auth_service.errors import ConfigError
from auth_service.models import KeyState, StoredKey
from auth_service.tokens.keys import SigningKey

__all__ = ["KeyPolicy"]

_TO_COME = (KeyState.PUBLISHED, KeyState.ACTIVE)
_TRUSTED = (*_TO_COME, KeyState.RETIRED)


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """The properties of new keys, and how long each state lasts."""

    algorithm: str | None = None
    """The algorithm of new keys; None: that of the key before, and HS256 for the first one."""
    configured: SigningKey | None = None
    """The shared key of the settings: the HS256 key, in place of any in the database."""
    publish_lead: timedelta = timedelta(minutes=30)
    """How long a key is published before it signs: longer than the slowest cache of keys."""
    rotation_interval: timedelta = timedelta(days=30)
    """How long a key signs; zero: until somebody rotates by hand."""
    keep: timedelta = timedelta(minutes=20)
    """How long a key is trusted after it last signed: more than the lifetime of an access token."""

    # Which key signs

    def shared_key(self, rows: Iterable[StoredKey]) -> SigningKey | None:
        """Return the shared key of the settings, unless it is compromised."""
        key = self.configured
        if key is None or any(row.kid == key.kid and row.compromised_at for row in rows):
            return None
        return key

    def signing_kid(
        self, rows: Sequence[StoredKey], usable: Container[str], now: datetime
    ) -> str | None:
        """Return the id of the key that signs; None if none does.

        `usable` holds the ids of the keys that this process can decrypt.
        """
        active = [row for row in rows if row.state(now) is KeyState.ACTIVE and row.kid in usable]
        newest = max(active, key=_order, default=None)
        shared = self.shared_key(rows)
        if shared is not None and (
            self.algorithm == "HS256" or newest is None or newest.algorithm == "HS256"
        ):
            return shared.kid
        return newest.kid if newest else None

    def trusted(self, rows: Iterable[StoredKey], now: datetime) -> list[StoredKey]:
        """Return the keys of the database that verify tokens."""
        return [row for row in rows if row.state(now) in _TRUSTED and row.encrypted_secret]

    def find(self, kid: str, rows: Iterable[StoredKey], now: datetime) -> StoredKey | None:
        """Return the row of a key; one that is made up for the shared key, which has none yet."""
        shared = self.configured
        if shared is not None and shared.kid == kid:
            rows = [*rows, StoredKey(kid, shared.algorithm, b"", now, now)]
        return next((row for row in rows if row.kid == kid), None)

    # Whether a new key is needed

    def is_missing(self, rows: Sequence[StoredKey], now: datetime) -> bool:
        """Tell whether no key signs."""
        if self.shared_key(rows) is not None and self.algorithm in (None, "HS256"):
            return False
        return not any(row.state(now) is KeyState.ACTIVE for row in rows)

    def is_wanted(self, rows: Sequence[StoredKey], now: datetime) -> bool:
        """Tell whether no key signs, or none of the algorithm of the settings ever will.

        Asked only at the start: replicas with different settings would replace each other's keys.
        """
        if self.is_missing(rows, now):
            return True
        if self.algorithm is None or (
            self.algorithm == "HS256" and self.shared_key(rows) is not None
        ):
            return False
        return _newest(rows, now).algorithm != self.algorithm

    def is_due(self, rows: Sequence[StoredKey], now: datetime) -> bool:
        """Tell whether no key signs, or the next one has to be published now."""
        if self.is_missing(rows, now):
            return True
        if not self.rotation_interval:
            return False
        if self.shared_key(rows) is not None and self.next_algorithm(rows, now) == "HS256":
            return False
        newest = _newest(rows, now)
        return newest.activate_at + self.rotation_interval - self.publish_lead <= now

    def next_algorithm(self, rows: Iterable[StoredKey], now: datetime) -> str:
        """Return the algorithm of the next key."""
        if self.algorithm is not None:
            return self.algorithm
        to_come = [row for row in rows if row.state(now) in _TO_COME]
        return max(to_come, key=_order).algorithm if to_come else "HS256"

    def require_allowed(self, algorithm: str, rows: Iterable[StoredKey]) -> None:
        """Raise ConfigError if the settings rule out a new key of this algorithm."""
        if self.algorithm not in (None, algorithm):
            raise ConfigError(
                f"AUTH_SIGNING_ALGORITHM is {self.algorithm}: unset it to rotate to another"
            )
        if algorithm == "HS256" and self.shared_key(rows) is not None:
            raise ConfigError(
                "the HS256 key is AUTH_SHARED_KEY and not the database's; change it here and in "
                "the services that verify, or unset it"
            )

    # What becomes of the others

    def with_successor(
        self, rows: Iterable[StoredKey], new: StoredKey, now: datetime
    ) -> list[StoredKey]:
        """Return a new key, and with new dates the keys that would sign after it takes over."""
        until, gone = new.activate_at, new.activate_at + self.keep
        return [
            new,
            *(
                replace(row, retire_at=until, remove_at=gone)
                for row in rows
                if row.state(now) in _TO_COME and (row.retire_at is None or row.retire_at > until)
            ),
        ]

    def without_gap(self, rows: Iterable[StoredKey], now: datetime) -> list[StoredKey]:
        """Return the keys that have to sign longer because the key after them was ended."""
        to_come = sorted((row for row in rows if row.state(now) in _TO_COME), key=_order)
        longer = []
        for row, after in zip(to_come, [*to_come[1:], None], strict=False):
            until = after.activate_at if after else None
            if row.retire_at is not None and (until is None or row.retire_at < until):
                gone = until + self.keep if until else None
                longer.append(replace(row, retire_at=until, remove_at=gone))
        return longer

    def retired(self, row: StoredKey, now: datetime) -> StoredKey | None:
        """Return a key that stops signing now; None if it neither signs nor will sign."""
        if row.state(now) not in _TO_COME:
            return None
        return replace(row, retire_at=now, remove_at=now + self.keep)


def _newest(rows: Iterable[StoredKey], now: datetime) -> StoredKey:
    return max((row for row in rows if row.state(now) in _TO_COME), key=_order)


def _order(row: StoredKey) -> tuple[datetime, datetime, str]:
    return row.activate_at, row.created_at, row.kid
