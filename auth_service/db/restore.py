"""Writes again what a failover lost, from what this process still knows.

An asynchronous standby that is promoted lacks the last commits of its primary; a crash may lose
those made with synchronous_commit off. Replicas still know the revocations, the ended sessions, the
disabled users and the keys of these commits. Several may write at the same time: each writes only
what the database lacks. Knows nothing of when a failover happened.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from auth_service.db.driver_errors import translated
from auth_service.db.key_store import KeyStore
from auth_service.db.revocations import record_revocation
from auth_service.db.sessions import end_all_sessions
from auth_service.db.statements import statements
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
        self._disabled: dict[str, datetime] = {}  # user id → when the revocation expires
        self._sql = statements()

    def note(self, found: Iterable[Revocation]) -> None:
        """Remember which users are disabled; a row that was read says so last."""
        for revocation in found:
            if revocation.disables:
                self._disabled[revocation.target] = revocation.expires_at
            elif revocation.xid:
                self._disabled.pop(revocation.target, None)

    async def restore(self, connection: "Connection", now: datetime) -> None:
        """Write what the database of this connection lacks; `now` is the time of its clock.

        Raises Unavailable if the database fails. It may be called again.
        """
        self._disabled = {user: until for user, until in self._disabled.items() if until > now}
        if self._key_store is not None:
            kids = await self._key_store.restore(self._keys(), connection)
            if kids:
                log.warning("keys_restored", kids=kids)
        restored = 0
        for part in self._revocations.parts():
            for start in range(0, len(part), BATCH):
                with translated():
                    lost = await self._lost(part[start : start + BATCH], connection)
                    if lost:
                        await self._write(lost, connection, now)
                restored += len(lost)
        if restored:
            log.warning("revocations_restored", count=restored)

    async def _lost(
        self, batch: Sequence[Revocation], connection: "Connection"
    ) -> list[Revocation]:
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
        found = await connection.fetch(self._sql["end_sessions"], ids, now) if ids else []
        return {str(row["id"]) for row in found}

    def _extended(self, each: Revocation, live: set[str], now: datetime) -> Revocation:
        if each.kind is RevocationKind.SESSION and each.target in live:
            return replace(each, expires_at=max(each.expires_at, now + self._life))
        return each

    async def _end_user(self, lost: Revocation, connection: "Connection", now: datetime) -> None:
        """Sign a user out again, or disable the user again."""
        user_id = _uuid(lost.target)
        if user_id is None or not await connection.fetchrow(self._sql["lock_user"], user_id):
            await record_revocation(connection, lost, now)  # of a service account, or of nobody
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
        await connection.execute(self._sql["write_audit"], now, event, user_id, None)


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
