"""The life of signing keys: published, active, retired, removed; or compromised.

Owns when a key signs and how long it is trusted. Its dates are decided once, by whoever makes the
key, and written down; each replica then moves on by its clock alone. A key is published longer
before it signs than the slowest cache of keys takes to refresh, and is trusted until the last token
that it signed has expired.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from auth_service.clock import Clock
from auth_service.db.key_store import Decide, KeyStore
from auth_service.errors import AlreadyExists, ConfigError, NotFound
from auth_service.models import KeyState, StoredKey
from auth_service.tokens.keys import (
    KeyRing,
    MasterKey,
    SigningKey,
    decrypt_key,
    encrypt_key,
    generate_key,
)

__all__ = ["KeyPolicy", "SigningKeys", "replace_master_key", "root_key"]

log = structlog.get_logger(__name__)

ROOT_KEY = "root"
_ROOT_KEY_BYTES = 32
_TO_COME = (KeyState.PUBLISHED, KeyState.ACTIVE)
_TRUSTED = (*_TO_COME, KeyState.RETIRED)


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """What new keys are, and the times of their life."""

    algorithm: str | None = None
    """Of new keys; None: that of the key before, HS256 at first."""
    configured: SigningKey | None = None
    """The shared key of the settings: the HS256 key, in place of any in the database."""
    publish_lead: timedelta = timedelta(minutes=30)
    rotation_interval: timedelta = timedelta(days=30)
    """How long a key signs; zero: until somebody rotates by hand."""
    keep: timedelta = timedelta(minutes=20)
    """How long a key is trusted after it has signed last: the life of an access token and more."""


class SigningKeys:
    """Keeps a KeyRing as the database and the clock say, and changes what the database says."""

    def __init__(
        self, store: KeyStore, master_key: MasterKey, policy: KeyPolicy, clock: Clock
    ) -> None:
        self._store = store
        self._master_key = master_key
        self._policy = policy
        self._clock = clock
        self._rows: dict[str, StoredKey] = {}
        self._opened: dict[str, SigningKey] = {}
        self.ring = KeyRing()

    async def start(self) -> None:
        """Fill the ring; make a key where none signs. Raises ConfigError for a wrong master key."""
        rows = await self._load()
        if self._wanting(rows):
            await self._make(self._wanting)
            rows = await self._load()
        self.update(rows)

    def update(self, changed: Iterable[StoredKey] = ()) -> bool:
        """Take in keys that changed and move on to now; return whether the ring is another one."""
        for row in changed:
            self._rows[row.kid] = row
        now = self._clock()
        keys = {row.kid: key for row in self._trusted(now) if (key := self._open(row)) is not None}
        if (configured := self._configured()) is not None:
            keys[configured.kid] = configured
        active = self._signs(now, keys)
        if set(keys) == {key.kid for key in self.ring} and active == self.ring.active_kid:
            return False
        self.ring.replace(keys.values(), active)
        log.info("keys_changed", kids=sorted(keys), signs=active)
        return True

    def known(self) -> list[StoredKey]:
        """Return the keys of the database that this process knows, but for those that are removed.

        What a failover lost of them must be written again, or tokens of a key that is in no
        database could not be verified elsewhere.
        """
        now = self._clock()
        return [row for row in self._rows.values() if row.state(now) is not KeyState.REMOVED]

    async def rotate_if_due(self) -> bool:
        """Publish the next key if it is time, unless another replica did; return if it was done."""
        if not self._due(self._rows.values()):
            return False
        return bool(await self._make(self._due))

    async def rotate(
        self, algorithm: str | None = None, activate_in: timedelta | None = None
    ) -> StoredKey:
        """Publish a new key, which takes over after `activate_in` (by default the policy's lead).

        Raises ConfigError where the settings name another algorithm.
        """
        wanted = self.next_algorithm(algorithm)
        return await self.add(await asyncio.to_thread(generate_key, wanted), activate_in)

    def next_algorithm(self, wanted: str | None = None) -> str:
        """Return what the next key is for, unless something is wanted: that of the key before.

        Raises ConfigError where the settings name another algorithm.
        """
        algorithm = wanted or self._algorithm(self._rows.values())
        self._require_allowed(algorithm)
        return algorithm

    async def stored(self) -> list[StoredKey]:
        """Return all keys of the database, the newest first."""
        return sorted(await self._store.load(), key=lambda row: row.created_at, reverse=True)

    @property
    def configured(self) -> SigningKey | None:
        """The shared key of the settings, which is not the database's, while it is trusted."""
        return self._configured()

    async def add(self, key: SigningKey, activate_in: timedelta | None = None) -> StoredKey:
        """Publish this key. Raises AlreadyExists where it is or was in the ring."""
        self._require_allowed(key.algorithm)
        now = self._clock()
        lead = self._policy.publish_lead if activate_in is None else activate_in
        new = encrypt_key(key, self._master_key, now, now + lead)

        def decide(present: list[StoredKey]) -> list[StoredKey]:
            if any(row.kid == new.kid for row in present):
                raise AlreadyExists("this key is or was in the key ring")
            signs = any(row.state(now) is KeyState.ACTIVE for row in present)
            if not signs and self._configured(present) is None:
                return self._succeed(present, replace(new, activate_at=now), now)
            return self._succeed(present, new, now)

        await self._change(decide)
        return self._rows[new.kid]

    async def retire(self, kid: str) -> StoredKey:
        """Stop to sign with a key; another signs from now on, a new one if there is none.

        Raises NotFound for a key that does not sign, and will not; ConfigError for that of the
        settings, which only they can end.
        """
        now = self._clock()
        if (configured := self._configured()) is not None and configured.kid == kid:
            raise ConfigError(
                "this key is AUTH_SHARED_KEY; rotate to another algorithm, or unset it here"
            )

        def change(row: StoredKey) -> StoredKey:
            if row.state(now) not in _TO_COME:
                raise NotFound(f"key {kid} is {row.state(now)}: it does not sign")
            return replace(row, retire_at=now, remove_at=now + self._policy.keep)

        return await self._end(kid, change)

    async def compromise(self, kid: str) -> StoredKey:
        """Trust a key no more, at once and everywhere; another signs from now on.

        Its tokens are no good any more; sessions go on, as refresh tokens are signed otherwise.
        """
        now = self._clock()
        return await self._end(kid, lambda row: replace(row, compromised_at=now))

    async def _end(self, kid: str, change: Callable[[StoredKey], StoredKey]) -> StoredKey:
        now = self._clock()
        spare = encrypt_key(
            await asyncio.to_thread(generate_key, self._algorithm(self._rows.values())),
            self._master_key, now, now,
        )  # fmt: skip

        def decide(present: list[StoredKey]) -> list[StoredKey]:
            ended = change(self._find(kid, present, now))
            left = [row for row in present if row.kid != kid] + [ended]
            fresh = [spare] if self._missing(left) else []
            return [ended, *fresh, *self._without_gap([*left, *fresh], now)]

        await self._change(decide)
        return self._rows[kid]

    async def _make(self, needed: Callable[[Iterable[StoredKey]], bool]) -> list[StoredKey]:
        """Publish a key if, once nobody else decides, one is still needed."""
        rows = await self._store.load()
        key = await asyncio.to_thread(generate_key, self._algorithm(rows))
        now = self._clock()

        def decide(present: list[StoredKey]) -> list[StoredKey]:
            if not needed(present):
                return []
            signs = any(row.state(now) is KeyState.ACTIVE for row in present)
            lead = self._policy.publish_lead if signs else timedelta(0)
            return self._succeed(present, encrypt_key(key, self._master_key, now, now + lead), now)

        return await self._change(decide)

    async def _change(self, decide: Decide) -> list[StoredKey]:
        """Write what is decided, unless the master key was replaced since this process started.

        What it sealed with the old one, no server could open at its next start.
        """

        def guarded(present: list[StoredKey]) -> Iterable[StoredKey]:
            for row in present:
                self._require_ours(row)
            return decide(present)

        changed = await self._store.change(guarded)
        self.update(changed)
        return changed

    async def _load(self) -> list[StoredKey]:
        rows = await self._store.load()
        for row in rows:
            self._require_ours(row)
        return rows

    def _require_ours(self, row: StoredKey) -> None:
        if row.encrypted_secret:
            self._master_key.decrypt(row.kid, row.encrypted_secret)

    def _succeed(
        self, present: Iterable[StoredKey], new: StoredKey, now: datetime
    ) -> list[StoredKey]:
        """Return the new key, and those that sign until then or would sign after."""
        until, gone = new.activate_at, new.activate_at + self._policy.keep
        return [
            new,
            *(
                replace(row, retire_at=until, remove_at=gone)
                for row in present
                if row.state(now) in _TO_COME and (row.retire_at is None or row.retire_at > until)
            ),
        ]

    def _without_gap(self, rows: Iterable[StoredKey], now: datetime) -> list[StoredKey]:
        """Return the keys that sign for longer, up to the next, as the one between was ended."""
        to_come = sorted((row for row in rows if row.state(now) in _TO_COME), key=_order)
        longer = []
        for row, after in zip(to_come, [*to_come[1:], None], strict=False):
            until = after.activate_at if after else None
            if row.retire_at is not None and (until is None or row.retire_at < until):
                gone = until + self._policy.keep if until else None
                longer.append(replace(row, retire_at=until, remove_at=gone))
        return longer

    # What the rows say

    def _missing(self, rows: Iterable[StoredKey]) -> bool:
        """Tell whether nothing signs."""
        if self._configured(rows) is not None and self._policy.algorithm in (None, "HS256"):
            return False
        now = self._clock()
        return not any(row.state(now) is KeyState.ACTIVE for row in rows)

    def _wanting(self, rows: Iterable[StoredKey]) -> bool:
        """Tell whether nothing signs, or nothing of the algorithm that the settings name will.

        Asked at the start alone: replicas of different settings would replace each other's keys.
        """
        rows, algorithm = list(rows), self._policy.algorithm
        if self._missing(rows):
            return True
        if algorithm is None or (algorithm == "HS256" and self._configured(rows) is not None):
            return False
        now = self._clock()
        newest = max((row for row in rows if row.state(now) in _TO_COME), key=_order)
        return newest.algorithm != algorithm

    def _due(self, rows: Iterable[StoredKey]) -> bool:
        rows = list(rows)
        if self._missing(rows):
            return True
        now, policy = self._clock(), self._policy
        if not policy.rotation_interval:
            return False
        if self._configured(rows) is not None and self._algorithm(rows) == "HS256":
            return False
        newest = max((row for row in rows if row.state(now) in _TO_COME), key=_order)
        return newest.activate_at + policy.rotation_interval - policy.publish_lead <= now

    def _signs(self, now: datetime, keys: dict[str, SigningKey]) -> str | None:
        active = [r for r in self._rows.values() if r.state(now) is KeyState.ACTIVE]
        newest = max((r for r in active if r.kid in keys), key=_order, default=None)
        configured = self._configured()
        if configured is not None and (
            self._policy.algorithm == "HS256" or newest is None or newest.algorithm == "HS256"
        ):
            return configured.kid
        return newest.kid if newest else None

    def _algorithm(self, rows: Iterable[StoredKey]) -> str:
        if self._policy.algorithm is not None:
            return self._policy.algorithm
        now = self._clock()
        to_come = [row for row in rows if row.state(now) in _TO_COME]
        return max(to_come, key=_order).algorithm if to_come else "HS256"

    def _require_allowed(self, algorithm: str) -> None:
        if self._policy.algorithm not in (None, algorithm):
            raise ConfigError(
                f"AUTH_SIGNING_ALGORITHM is {self._policy.algorithm}: unset it to rotate to another"
            )
        if algorithm == "HS256" and self._configured() is not None:
            raise ConfigError(
                "the HS256 key is AUTH_SHARED_KEY and not the database's; set it anew here and in "
                "the services that verify, or unset it"
            )

    def _configured(self, rows: Iterable[StoredKey] | None = None) -> SigningKey | None:
        """Return the shared key of the settings, unless it is compromised."""
        configured = self._policy.configured
        known = self._rows.values() if rows is None else rows
        if configured is None or any(r.kid == configured.kid and r.compromised_at for r in known):
            return None
        return configured

    def _find(self, kid: str, present: Iterable[StoredKey], now: datetime) -> StoredKey:
        for row in present:
            if row.kid == kid:
                return row
        configured = self._policy.configured
        if configured is not None and configured.kid == kid:
            return StoredKey(kid, configured.algorithm, b"", now, now)
        raise NotFound(f"there is no key {kid}; see keys list")

    def _trusted(self, now: datetime) -> list[StoredKey]:
        return [r for r in self._rows.values() if r.state(now) in _TRUSTED and r.encrypted_secret]

    def _open(self, row: StoredKey) -> SigningKey | None:
        """Return a key, which stays open; None where this process has another master key."""
        if row.kid not in self._opened:
            try:
                self._opened[row.kid] = decrypt_key(row, self._master_key)
            except ConfigError as error:
                log.error("key_cannot_be_opened", kid=row.kid, error=error.text)  # noqa: TRY400
                return None
        return self._opened[row.kid]


async def root_key(store: KeyStore, master_key: MasterKey) -> MasterKey:
    """Return the key from which those of refresh tokens are derived, made at the first start.

    It is not the master key itself, so that this one can be replaced without ending a session.
    """
    fresh = master_key.encrypt(ROOT_KEY, secrets.token_bytes(_ROOT_KEY_BYTES))
    return MasterKey(master_key.decrypt(ROOT_KEY, await store.root_key(fresh)))


async def replace_master_key(store: KeyStore, old: MasterKey, new: MasterKey) -> int:
    """Encrypt all keys anew, in one transaction; return how many signing keys there were."""
    return await store.reseal(
        ROOT_KEY, lambda name, sealed: new.encrypt(name, old.decrypt(name, sealed))
    )


def _order(row: StoredKey) -> tuple[datetime, datetime, str]:
    return row.activate_at, row.created_at, row.kid
