"""Writes again what a failover lost, from what this process still knows.

An asynchronous standby that is promoted lacks the last commits of its primary; a crash may lose
those made with synchronous_commit off. Replicas still know the revocations, the ended sessions, the
disabled accounts and the keys of these commits. Several may write at the same time: each writes
only what the database lacks. Knows nothing of when a failover happened.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from auth_service import audit
from auth_service.db.audit import write_audit
from auth_service.db.driver_errors import translated
from auth_service.db.key_store import KeyStore
from auth_service.db.revocations import record_revocation
from auth_service.db.service_accounts import end_service_tokens
from auth_service.db.sessions import end_all_sessions
from auth_service.db.statements import statements
from auth_service.errors import NotFound
from auth_service.models import Revocation, RevocationKind, StoredKey
from auth_service.tokens.revocation import RevocationList, whole_second_after

if TYPE_CHECKING:
    from auth_service.db.pool import Connection

__all__ = ["Restorer"]

log = structlog.get_logger(__name__)

BATCH = 1000  # revocations in one statement; about 15 ms of the database


class Restorer:
    """Knows what this process must not let a database forget."""

    def __init__(
        self,
        revocations: RevocationList,
        key_store: KeyStore | None = None,
        keys: Callable[[], Iterable[StoredKey]] = tuple,
        *,
        life: timedelta = timedelta(minutes=61),
    ) -> None:
        """`keys` returns the keys that this process knows.

        `life` is how long a revocation made now must stay: the longest lifetime of an access token.
        """
        self._revocations = revocations
        self._key_store = key_store
        self._keys = keys
        self._life = life
        self._disabled: dict[str, datetime] = {}  # user or client id → when the revocation expires
        self._present: dict[RevocationKind, set[int]] | None = None
        """Hashes of the ids that the database has, while everything is read to compare."""
        self._sql = statements()

    def begin(self) -> None:
        """Compare from now on: what is read until `restore` is what the database has."""
        self._present = {RevocationKind.TOKEN: set(), RevocationKind.SESSION: set()}

    def note(self, found: Sequence[Revocation], *, read: bool = True) -> None:
        """Take note of revocations that were read from the database, or made here.

        A row that was read says last whether an account is disabled.
        """
        for kind, ids in (self._present or {}).items() if read else ():
            ids.update(hash(each.target) for each in found if each.kind is kind)
        for revocation in found:
            if revocation.disables:
                self._disabled[revocation.target] = revocation.expires_at
            elif read:
                self._disabled.pop(revocation.target, None)

    async def restore(self, connection: "Connection", now: datetime) -> bool:
        """Write what the database lacks, and return whether that was anything.

        `now` is the time of the database's clock. Without `begin` nothing is written. Raises
        Unavailable if the database fails; then call `begin`, and read everything again.
        """
        present, self._present = self._present, None
        if present is None:
            return False
        self._disabled = {user: until for user, until in self._disabled.items() if until > now}
        restored: list[str] = []
        if self._key_store is not None:
            restored = await self._key_store.restore(self._keys(), connection)
        if restored:
            log.warning("keys_restored", kids=restored)
        count = 0
        for part in self._revocations.parts():
            # Of users it may have an earlier bound. That is for the database to compare.
            beyond = [each for each in part if hash(each.target) not in present.get(each.kind, ())]
            for start in range(0, len(beyond), BATCH):
                with translated():
                    lost = await self._lost(beyond[start : start + BATCH], connection)
                    if lost:
                        await self._write(lost, connection, now)
                count += len(lost)
            await asyncio.sleep(0)  # other calls have their turn
        if count:
            log.warning("revocations_restored", count=count)
        return bool(restored or count)

    async def _lost(
        self, batch: Sequence[Revocation], connection: "Connection"
    ) -> list[Revocation]:
        """Return what the database lacks still: other replicas write it at the same time."""
        columns = (
            [known.kind.value for known in batch],
            [known.target for known in batch],
            [known.issued_before for known in batch],
            [known.expires_at for known in batch],
        )
        found = await connection.fetch(self._sql["lost_revocations"], *columns)
        return [batch[row["n"]] for row in found]

    async def _write(
        self, lost: Iterable[Revocation], connection: "Connection", now: datetime
    ) -> None:
        # Every replica locks the same rows in the same order.
        others: list[Revocation] = []
        users: list[Revocation] = []
        for revocation in sorted(lost, key=lambda each: (each.kind, each.target)):
            (users if revocation.kind is RevocationKind.USER else others).append(revocation)
        async with connection.transaction():
            sessions = [each for each in others if each.kind is RevocationKind.SESSION]
            live = await self._end_sessions(sessions, connection, now)
            for each in others:
                await record_revocation(connection, self._extended(each, live, now), now)
        for each in users:
            async with connection.transaction():
                await self._end_user(each, connection, now)

    async def _end_sessions(
        self, sessions: Iterable[Revocation], connection: "Connection", now: datetime
    ) -> set[str]:
        """End these sessions again; return which were live, and may have been refreshed since."""
        ids = [session_id for each in sessions if (session_id := _uuid(each.target)) is not None]
        written = audit.row("session.revoked", now)
        found = await connection.fetch(self._sql["end_sessions"], ids, now, written) if ids else []
        return {str(row["id"]) for row in found}

    def _extended(self, each: Revocation, live: set[str], now: datetime) -> Revocation:
        if each.kind is RevocationKind.SESSION and each.target in live:
            return replace(each, expires_at=max(each.expires_at, now + self._life))
        return each

    async def _end_user(self, lost: Revocation, connection: "Connection", now: datetime) -> None:
        """Sign a user out again, or disable the user again."""
        user_id = _uuid(lost.target)
        if user_id is None or not await connection.fetchrow(self._sql["lock_user"], user_id):
            await self._end_service(lost, connection, now)
            return
        again = replace(lost, expires_at=max(lost.expires_at, now + self._life))
        if lost.target in self._disabled:
            # A login may have succeeded since: everything up to now ends.
            await connection.execute(self._sql["set_user_disabled"], user_id, True)
            again = replace(again, issued_before=whole_second_after(now), disables=True)
            await end_all_sessions(connection, user_id, again, now)
            event = "user.disabled"
        else:
            # A session that began later stays. One from before may have been refreshed since, and
            # bar_user moves the bound past its tokens.
            before = lost.issued_before
            await connection.execute(self._sql["end_sessions_before"], user_id, before, now)
            barred = await connection.fetchval(self._sql["bar_user"], user_id, before, now)
            await record_revocation(connection, replace(again, issued_before=barred), now)
            event = "user.sessions_revoked"
        await write_audit(connection, event, now, user_id=user_id)

    async def _end_service(self, lost: Revocation, connection: "Connection", now: datetime) -> None:
        """Disable a service account again, or end its tokens again."""
        event = "service_account.tokens_revoked"
        again = lost
        if lost.target in self._disabled:
            event = "service_account.disabled"
            again = replace(
                lost,
                expires_at=max(lost.expires_at, now + self._life),
                issued_before=whole_second_after(now),
                disables=True,
            )
        try:
            await end_service_tokens(connection, again, now)
        except NotFound:  # deleted, or not an account of this service
            await record_revocation(connection, lost, now)
            return
        await write_audit(connection, event, now, client_id=lost.target)


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
