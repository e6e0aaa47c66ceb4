"""The signing keys and the root key in PostgreSQL.

Owns that only one process at a time decides on keys, across all replicas. Sees private keys only
encrypted, and does not know what the dates of a key mean.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from auth_service.db import rows
from auth_service.db.audit import write_audit
from auth_service.db.cursor import Cursor
from auth_service.db.driver_errors import translated
from auth_service.db.key_events import changes_of_key, dates_of_key
from auth_service.db.statements import statements
from auth_service.models import StoredKey

if TYPE_CHECKING:
    from auth_service.db.pool import Connection, Pool

__all__ = ["Decide", "KeyStore"]

Decide = Callable[[list[StoredKey]], Iterable[StoredKey]]


class KeyStore:
    """The keys of the service. Every method raises Unavailable if the database is down."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._sql = statements()

    async def load(self) -> list[StoredKey]:
        """Return all signing keys in the order in which they sign."""
        async with self._pool.acquire() as connection:
            return [rows.key(row) for row in await connection.fetch(self._sql["load_keys"])]

    async def changed_since(self, cursor: Cursor, connection: "Connection") -> list[StoredKey]:
        """Return the keys that changed after a cursor of `revocations_since`."""
        with translated():
            found = await connection.fetch(self._sql["keys_since"], cursor.end, cursor.running)
        return [rows.key(row) for row in found]

    async def change(self, decide: Decide) -> list[StoredKey]:
        """Call `decide` with the present keys, write the keys that it returns, and return them.

        Nothing is written if `decide` raises.
        """
        async with self._locked() as connection:
            present = [rows.key(row) for row in await connection.fetch(self._sql["load_keys"])]
            known = {key.kid: key for key in present}
            changed = []
            for key in decide(present):
                arguments = rows.key_arguments(key)
                at = await connection.fetchval(self._sql["put_key"], *arguments)
                changed.append(replace(key, changed_at=at))
                events = changes_of_key(known.get(key.kid), changed[-1], at)
                await connection.execute(self._sql["write_audit"], events)
        return changed

    async def audit_dates(self, since: datetime, now: datetime) -> None:
        """Write to the audit log which dates of keys have come, unless that is written already."""
        events = [event for key in await self.load() for event in dates_of_key(key, since, now)]
        if events:
            async with self._pool.durable() as connection:
                await connection.execute(self._sql["write_audit"], events)

    async def restore(self, known: Iterable[StoredKey], connection: "Connection") -> list[str]:
        """Write what the database lost of these keys; return the ids of those that it lacked.

        Replicas that do this at the same time come to the same result: of two versions of a key the
        one that was written later holds.
        """
        restored = []
        with translated():
            async with connection.transaction():
                await connection.execute(self._sql["lock_keys"])
                for key in known:
                    arguments = *rows.key_arguments(key), key.changed_at
                    kid = await connection.fetchval(self._sql["restore_key"], *arguments)
                    if kid:
                        restored.append(kid)
                        now = await connection.fetchval(self._sql["read_clock"])
                        await write_audit(connection, "key.restored", now, kid=kid)
        return restored

    async def root_key(self, encrypted: bytes) -> bytes:
        """Return the encrypted root key; if there is none yet, `encrypted` becomes it."""
        async with self._locked() as connection:
            made = await connection.fetchval(self._sql["insert_root_key"], encrypted)
            if made is not None:
                await write_audit(connection, "root_key.created", made)
            found: bytes = await connection.fetchval(self._sql["load_root_key"])
        return found

    async def reencrypt(self, root_name: str, change: Callable[[str, bytes], bytes]) -> int:
        """Replace all that is encrypted by `change(name, encrypted)`; return the number of keys."""
        async with self._locked() as connection:
            root = await connection.fetchval(self._sql["load_root_key"])
            if root is not None:
                await connection.execute(self._sql["replace_root_key"], change(root_name, root))
            found = [rows.key(row) for row in await connection.fetch(self._sql["load_keys"])]
            for key in filter(lambda key: key.encrypted_secret, found):
                renewed = replace(key, encrypted_secret=change(key.kid, key.encrypted_secret))
                await connection.execute(self._sql["put_key"], *rows.key_arguments(renewed))
            at = await connection.fetchval(self._sql["read_clock"])
            await write_audit(connection, "keys.encrypted_anew", at)
        return len(found)

    async def prune(self, now: datetime) -> None:
        """Delete the keys that were removed or compromised long ago."""
        async with self._pool.acquire() as connection:
            await connection.execute(self._sql["prune_keys"], now)

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator["Connection"]:
        async with self._pool.transaction() as connection:
            await connection.execute(self._sql["lock_keys"])
            yield connection
