"""The signing keys of a process: loaded, rotated, retired, compromised.

The key ring follows the database and the clock. Each decision concerns all keys and is made under
a lock. The process that makes a key sets its dates once, in the database; each replica then follows
them by the clock alone. key_policy defines what the dates mean.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from auth_service import audit
from auth_service.clock import Clock
from auth_service.core.key_policy import KeyPolicy
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

__all__ = ["SigningKeys"]

log = structlog.get_logger(__name__)

CLOCKS_DIFFER = timedelta(milliseconds=500)
"""By how much a key that signs at once is dated back. The clocks of two replicas differ by a round
trip to the database, and the key of the one must sign by the clock of the other."""

Needed = Callable[[Sequence[StoredKey], datetime], bool]


class SigningKeys:
    """Keeps a KeyRing equal to what the database and the clock say, and changes the keys."""

    def __init__(
        self, store: KeyStore, master_key: MasterKey, policy: KeyPolicy, clock: Clock
    ) -> None:
        self._store = store
        self._master_key = master_key
        self._policy = policy
        self._clock = clock
        self._rows: dict[str, StoredKey] = {}
        self._decrypted: dict[str, SigningKey] = {}
        self.ring = KeyRing()

    async def start(self) -> None:
        """Fill the ring; make a key if none signs. Raises ConfigError for a wrong master key."""
        rows = await self._load()
        if self._policy.is_wanted(rows, self._clock()):
            with audit.by_service():  # whoever started this process
                await self._make(self._policy.is_wanted)
            rows = await self._load()
        self.update(rows)

    def update(self, changed: Iterable[StoredKey] = ()) -> bool:
        """Take in changed keys and move on to the present; return whether the ring changed."""
        for row in changed:
            self._rows[row.kid] = row
        now, rows = self._clock(), self._known()
        trusted = self._policy.trusted(rows, now)
        keys = {row.kid: key for row in trusted if (key := self._decrypt(row)) is not None}
        if (shared := self.configured) is not None:
            keys[shared.kid] = shared
        active = self._policy.signing_kid(rows, keys, now)
        if set(keys) == {key.kid for key in self.ring} and active == self.ring.active_kid:
            return False
        self.ring.replace(keys.values(), active)
        log.info("keys_changed", kids=sorted(keys), signs=active)
        return True

    def worth_restoring(self) -> list[StoredKey]:
        """Return the keys that the database must have, if a failover lost them.

        Otherwise this process could go on to sign with a key that no other one can verify.
        """
        now = self._clock()
        return [row for row in self._known() if row.state(now) is not KeyState.REMOVED]

    @property
    def configured(self) -> SigningKey | None:
        """The shared key of the settings, which is not in the database, while it is trusted."""
        return self._policy.shared_key(self._rows.values())

    async def stored(self) -> list[StoredKey]:
        """Return all keys of the database, the newest first."""
        return sorted(await self._store.load(), key=lambda row: row.created_at, reverse=True)

    # New keys

    async def rotate_if_due(self) -> bool:
        """Publish the next key if it is time and no other replica has; return whether it did."""
        if not self._policy.is_due(self._known(), self._clock()):
            return False
        return bool(await self._make(self._policy.is_due))

    async def rotate(
        self, algorithm: str | None = None, activate_in: timedelta | None = None
    ) -> StoredKey:
        """Publish a new key, which takes over after `activate_in` (default: the policy's lead).

        Raises ConfigError if the settings name another algorithm.
        """
        wanted = self.next_algorithm(algorithm)
        return await self.add(await asyncio.to_thread(generate_key, wanted), activate_in)

    def next_algorithm(self, wanted: str | None = None) -> str:
        """Return the algorithm of the next key: the wanted one, or that of the key before.

        Raises ConfigError if the settings name another algorithm.
        """
        algorithm = wanted or self._policy.next_algorithm(self._known(), self._clock())
        self._policy.require_allowed(algorithm, self._known())
        return algorithm

    async def add(self, key: SigningKey, activate_in: timedelta | None = None) -> StoredKey:
        """Publish this key. Raises AlreadyExists if it is or was in the ring."""
        policy = self._policy
        policy.require_allowed(key.algorithm, self._known())
        now = self._clock()
        lead = policy.publish_lead if activate_in is None else activate_in
        new = encrypt_key(key, self._master_key, now, now + lead)

        def decide(present: list[StoredKey]) -> list[StoredKey]:
            if any(row.kid == new.kid for row in present):
                raise AlreadyExists("this key is or was in the key ring")
            signs = any(row.state(now) is KeyState.ACTIVE for row in present)
            if not signs and policy.shared_key(present) is None:
                return policy.with_successor(present, replace(new, activate_at=now), now)
            return policy.with_successor(present, new, now)

        await self._change(decide)
        return self._rows[new.kid]

    async def _make(self, needed: Needed) -> list[StoredKey]:
        """Publish a key if one is still needed once this process holds the lock."""
        rows = await self._store.load()
        algorithm = self._policy.next_algorithm(rows, self._clock())
        key = await asyncio.to_thread(generate_key, algorithm)

        def decide(present: list[StoredKey]) -> list[StoredKey]:
            now = self._clock()  # not earlier: a key that was made meanwhile signs by now
            if not needed(present, now):
                return []
            signs = any(row.state(now) is KeyState.ACTIVE for row in present)
            lead = self._policy.publish_lead if signs else -CLOCKS_DIFFER
            new = encrypt_key(key, self._master_key, now, now + lead)
            return self._policy.with_successor(present, new, now)

        return await self._change(decide)

    # The end of keys

    async def retire(self, kid: str) -> StoredKey:
        """Stop signing with a key; another one signs from now on, a new one if there is none.

        Raises NotFound for a key that neither signs nor will sign, and ConfigError for the shared
        key of the settings, which only they can end.
        """
        now = self._clock()
        if (shared := self.configured) is not None and shared.kid == kid:
            raise ConfigError(
                "this key is AUTH_SHARED_KEY; rotate to another algorithm, or unset it here"
            )

        def change(row: StoredKey) -> StoredKey:
            retired = self._policy.retired(row, now)
            if retired is None:
                raise NotFound(f"key {kid} is {row.state(now)}: it does not sign")
            return retired

        return await self._end(kid, change)

    async def compromise(self, kid: str) -> StoredKey:
        """Stop trusting a key, at once and everywhere; another one signs from now on.

        Its access tokens become invalid. Sessions go on, since another key signs refresh tokens.
        """
        now = self._clock()
        return await self._end(kid, lambda row: replace(row, compromised_at=now))

    async def _end(self, kid: str, change: Callable[[StoredKey], StoredKey]) -> StoredKey:
        now, policy = self._clock(), self._policy
        algorithm = policy.next_algorithm(self._known(), now)
        key = await asyncio.to_thread(generate_key, algorithm)
        spare = encrypt_key(key, self._master_key, now, now)

        def decide(present: list[StoredKey]) -> list[StoredKey]:
            found = policy.find(kid, present, now)
            if found is None:
                raise NotFound(f"there is no key {kid}; see keys list")
            ended = change(found)
            left = [row for row in present if row.kid != kid] + [ended]
            fresh = [spare] if policy.is_missing(left, now) else []
            return [ended, *fresh, *policy.without_gap([*left, *fresh], now)]

        await self._change(decide)
        return self._rows[kid]

    # Rows

    async def _change(self, decide: Decide) -> list[StoredKey]:
        """Write what is decided, unless the master key was replaced since this process started.

        A server could not decrypt at its next start what the old master key had encrypted.
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

    def _known(self) -> list[StoredKey]:
        return list(self._rows.values())

    def _decrypt(self, row: StoredKey) -> SigningKey | None:
        """Return a key, once decrypted; None if this process has another master key."""
        if row.kid not in self._decrypted:
            try:
                self._decrypted[row.kid] = decrypt_key(row, self._master_key)
            except ConfigError as error:
                log.error("key_cannot_be_opened", kid=row.kid, error=error.text)  # noqa: TRY400
                return None
        return self._decrypted[row.kid]
