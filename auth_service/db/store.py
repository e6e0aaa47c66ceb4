"""What the service keeps: one method a statement or a transaction of PostgreSQL.

Owns which statements make one state change. Knows no rules: the caller says what, and when. Every
method raises Unavailable where the database cannot be reached or does not answer in time.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from auth_service.db import rows
from auth_service.db.pool import acquire, statements, translated
from auth_service.db.rounds import Rounds
from auth_service.errors import AlreadyExists, InvalidCredentials, NotFound
from auth_service.models import Revocation, RevocationKind, ServiceAccount, Session, User

if TYPE_CHECKING:
    from auth_service.db.pool import Connection, Pool

__all__ = ["Store"]

REVOCATION_PAGE = 1000  # some ten milliseconds of the event loop
PRUNE_BATCH = 1000
PRUNE_ROUNDS = 100  # of a batch each; what is left waits for the next prune
SHORTEST_WAIT = timedelta(milliseconds=1)


class Store:
    """The database of the service."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._sql = statements()
        self._rotations = Rounds(pool, self._sql["rotate_free_session"], ("user_id", "id"))

    # Users and service accounts

    async def create_user(self, user: User) -> None:
        """Add a user. Raises AlreadyExists where an identifier is taken."""
        try:
            await self._execute(
                "create_user", user.id, user.password_hash, user.roles, user.scope, user.disabled,
                user.created_at, user.identifiers,
            )  # fmt: skip
        except asyncpg.UniqueViolationError as error:
            raise AlreadyExists("a user with one of these identifiers exists already") from error

    async def get_user(self, user_id: UUID) -> User | None:
        """Return a user by id."""
        row = await self._row("get_user", user_id)
        return rows.user(row) if row else None

    async def find_user(self, identifier: str) -> User | None:
        """Return a user by a normalised identifier."""
        row = await self._row("find_user", identifier)
        return rows.user(row) if row else None

    async def list_users(self, limit: int, after: UUID | None = None) -> list[User]:
        """Return a page of users, by id."""
        return [rows.user(row) for row in await self._rows("list_users", limit, after)]

    async def set_password_hash(
        self, user_id: UUID, password_hash: str, *, only_if: str | None = None
    ) -> None:
        """Store the same password hashed anew; nothing changes where it is not `only_if` now."""
        changed = await self._row("set_password_hash", user_id, password_hash, only_if)
        if changed is None and only_if is None:
            raise NotFound("no such user")

    async def set_user_disabled(
        self, user_id: UUID, disabled: bool, revocation: Revocation | None, now: datetime
    ) -> Revocation | None:
        """Disable a user and end all sessions, or enable the user again (no revocation).

        Returns the revocation as it was recorded.
        """
        event = "user.disabled" if disabled else "user.enabled"
        async with self._transaction() as connection:
            await self._require_user(connection, "set_user_disabled", user_id, disabled)
            if revocation is not None:
                revocation = await self._end_user_sessions(connection, user_id, revocation, now)
            await connection.execute(self._sql["write_audit"], now, event, user_id, None)
        return revocation

    async def change_password(
        self,
        user_id: UUID,
        password_hash: str,
        revocation: Revocation,
        now: datetime,
    ) -> Revocation:
        """Store a new password and end all sessions; return the revocation as it was recorded."""
        async with self._transaction() as connection:
            await self._require_user(connection, "set_password_hash", user_id, password_hash, None)
            recorded = await self._end_user_sessions(connection, user_id, revocation, now)
            await connection.execute(
                self._sql["write_audit"], now, "user.password_changed", user_id, None
            )
        return recorded

    async def change_own_password(
        self,
        user: User,
        session_id: UUID,
        password_hash: str,
        revocation: Revocation,
        now: datetime,
    ) -> list[Revocation]:
        """Store a new password and end all sessions but one, of which every token stays good.

        So `revocation`, which is of the user, is recorded for each other session instead; returns
        these. Raises InvalidCredentials where the password is no longer that of `user`.
        """
        async with self._transaction() as connection:
            changed = await connection.fetchrow(
                self._sql["set_password_hash"], user.id, password_hash, user.password_hash
            )
            if changed is None:
                raise InvalidCredentials
            ended = await connection.fetch(self._sql["end_user_sessions"], user.id, now, session_id)
            # Keeps out the login that proved the old password and is about to begin a session.
            await connection.execute(self._sql["bar_user"], user.id, revocation.issued_before, now)
            life = revocation.expires_at - now  # of a token, and more
            recorded = [
                Revocation(RevocationKind.SESSION, str(row["id"]), revocation.expires_at)
                for row in ended
                if row["refreshed_at"] + life > now
            ]
            for each in recorded:
                await self._revoke(connection, each, now)
            await connection.execute(
                self._sql["write_audit"], now, "user.password_changed", user.id, session_id
            )
        return recorded

    async def create_service_account(self, account: ServiceAccount) -> None:
        """Add a service account. Raises AlreadyExists where its id is taken."""
        try:
            await self._execute(
                "create_service_account", account.client_id, account.secret_hash, account.roles,
                account.scope, account.disabled, account.created_at,
            )  # fmt: skip
        except asyncpg.UniqueViolationError as error:
            raise AlreadyExists("a service account with this id exists already") from error

    async def find_service_account(self, client_id: str) -> ServiceAccount | None:
        """Return a service account by id."""
        row = await self._row("find_service_account", client_id)
        return rows.service_account(row) if row else None

    async def list_service_accounts(self) -> list[ServiceAccount]:
        """Return all service accounts, by id."""
        return [rows.service_account(row) for row in await self._rows("list_service_accounts")]

    async def reserve_login_attempt(
        self, identifier: str, now: datetime, burst: int, refill: timedelta
    ) -> tuple[User | None, timedelta | None]:
        """Take one of `burst` attempts; one comes back each `refill`.

        Returns the user of the identifier, if there is one, and None; or, where no attempt was
        left, None and the time until the next.
        """
        row = await self._row("reserve_login_attempt", identifier, now, burst, refill)
        user = rows.user(row) if row and row["id"] else None
        wait: timedelta | None = row["wait"] if row else None
        return user, None if wait is None else max(wait, SHORTEST_WAIT)

    async def clear_login_attempts(self, identifier: str) -> None:
        """Give back all attempts of an identifier."""
        await self._execute("clear_login_attempts", identifier)

    # Sessions

    async def create_session(
        self,
        session: Session,
        request_id: str | None = None,
        revoked_before: datetime | None = None,
        identifier: str | None = None,
    ) -> Session:
        """Add a session, or return the one that the same request of the user made before.

        Gives back all login attempts of `identifier`, of which the password was proved. Raises
        InvalidCredentials where the user was disabled, removed, given another password or signed
        out everywhere since the caller looked, and saw `revoked_before`.
        """
        row = await self._row(
            "create_session", *rows.session_arguments(session), request_id, revoked_before,
            identifier,
        )  # fmt: skip
        if row is None and request_id is not None:
            row = await self._row("find_requested_session", session.user_id, request_id)
        if row is None:
            raise InvalidCredentials
        return rows.session(row)

    async def rotate_free_session(
        self,
        user_id: UUID,
        session_id: UUID,
        generation: int,
        scope: tuple[str, ...],
        now: datetime,
        refresh_expires_at: datetime,
    ) -> tuple[Session, tuple[str, ...]] | None:
        """Do as rotate_session, together with all who ask at the same time, whatever their session.

        None as well where somebody else holds the session just now. A caller who is cancelled does
        not stop it.
        """
        row = await self._rotations.row(
            user_id, session_id, generation, scope, now, refresh_expires_at
        )
        return (rows.session(row), tuple(row["roles"])) if row else None

    async def rotate_session(
        self,
        user_id: UUID,
        session_id: UUID,
        generation: int,
        scope: tuple[str, ...],
        now: datetime,
        refresh_expires_at: datetime,
    ) -> tuple[Session, tuple[str, ...]] | None:
        """Step a live session from `generation` to the next, if it was granted all of `scope`.

        Returns the session and its user's roles, or None where nothing was changed.
        """
        row = await self._row(
            "rotate_session", user_id, session_id, generation, scope, now, refresh_expires_at
        )
        return (rows.session(row), tuple(row["roles"])) if row else None

    async def adopt_generation(
        self,
        user_id: UUID,
        session_id: UUID,
        generation: int,
        scope: tuple[str, ...],
        now: datetime,
        refresh_expires_at: datetime,
    ) -> tuple[Session, tuple[str, ...]] | None:
        """Step a session that is behind `generation` to the one after it, else as rotate_session.

        For a database that lost its last commits in a failover.
        """
        row = await self._row(
            "adopt_generation", user_id, session_id, generation, scope, now, refresh_expires_at
        )
        return (rows.session(row), tuple(row["roles"])) if row else None

    async def get_session(
        self, user_id: UUID, session_id: UUID
    ) -> tuple[Session, tuple[str, ...], bool] | None:
        """Return a session, live or not, its user's roles, and whether the user is disabled."""
        row = await self._row("get_session", user_id, session_id)
        return (rows.session(row), tuple(row["roles"]), row["disabled"]) if row else None

    async def find_session(self, session_id: UUID) -> Session | None:
        """Return a session, live or not, by its id alone."""
        row = await self._row("find_session", session_id)
        return rows.session(row) if row else None

    async def list_sessions(
        self, user_id: UUID, now: datetime, limit: int | None = None
    ) -> list[Session]:
        """Return the live sessions of a user, newest first, all of them or so many."""
        found = await self._rows("list_sessions", user_id, now, limit)
        return [rows.session(row) for row in found]

    async def revoke_session(
        self, user_id: UUID, session_id: UUID, revocation: Revocation, now: datetime, event: str
    ) -> bool:
        """End a session; False, with nothing written, where it is absent or was ended before."""
        async with self._transaction() as connection:
            ended = await connection.fetchrow(self._sql["end_session"], user_id, session_id, now)
            if ended is None:
                return False
            await self._revoke(connection, revocation, now)
            await connection.execute(self._sql["write_audit"], now, event, user_id, session_id)
        return True

    async def revoke_user(self, user_id: UUID, revocation: Revocation, now: datetime) -> Revocation:
        """End all sessions of a user. Raises NotFound; returns the revocation as recorded."""
        async with self._transaction() as connection:
            recorded = await self._end_user_sessions(connection, user_id, revocation, now)
            await connection.execute(
                self._sql["write_audit"], now, "user.sessions_revoked", user_id, None
            )
        return recorded

    # Revocations

    async def add_revocation(self, revocation: Revocation, now: datetime) -> None:
        """Record a revocation; of one that is recorded, the later times hold."""
        async with acquire(self._pool) as connection:
            await self._revoke(connection, revocation, now)

    async def revocations_since(self, cursor: int) -> tuple[list[Revocation], int]:
        """Return revocations committed since the answer that gave `cursor`, and the next cursor.

        0 asks for all. No commit is skipped, however late; some may be given more than once.
        """
        async with acquire(self._pool) as connection:
            pages = [page async for page in self.pages_of_revocations(cursor, connection)]
        return [revocation for found, _ in pages for revocation in found], pages[-1][1]

    async def pages_of_revocations(
        self, cursor: int, connection: "Connection"
    ) -> AsyncGenerator[tuple[list[Revocation], int], None]:
        """Yield the same page by page: a million in one answer outlasts any statement timeout.

        All pages are of one snapshot, and each names the next cursor; there is at least one.
        What is new since a cursor is mostly little, and comes in one page by one round trip.
        """
        sql = self._sql["revocations_since"]
        with translated():
            if cursor:
                # A statement of its own: PostgreSQL's plan for everything would not suit a poll.
                found = await connection.fetch(sql + " LIMIT $2", cursor, REVOCATION_PAGE)
                if len(found) < REVOCATION_PAGE:
                    yield _page(found)
                    return
            async with connection.transaction(readonly=True):
                opened = await connection.cursor(sql, cursor)
                while found := await opened.fetch(REVOCATION_PAGE):
                    yield _page(found)

    async def epoch(self, connection: "Connection") -> str:
        """Return within what the cursors of `revocations_since` can be compared; "" if unknown.

        Another database has another one, and so has this one after a failover or a crash.
        """
        try:
            with translated():
                found: str | None = await connection.fetchval(self._sql["database_epoch"])
        except asyncpg.PostgresError:  # not allowed to us, or not that kind of database
            return ""
        return found or ""

    async def notify_revocations(self) -> None:
        """Wake the feeds of all replicas. Takes a lock of the whole database: coalesce."""
        await self._execute("notify_revocations")

    async def prune(self, now: datetime) -> int:
        """Delete what no longer matters, in short statements; return how many rows went."""
        pruned = 0
        for name in ("prune_revocations", "prune_sessions", "prune_login_throttle"):
            for _ in range(PRUNE_ROUNDS):
                row = await self._row(name, now, PRUNE_BATCH)
                count = row["count"] if row else 0
                pruned += count
                if count < PRUNE_BATCH:
                    break
        return pruned

    async def extend_audit_log(self, now: datetime) -> None:
        """See that the audit log has partitions for this month and the next."""
        await self._execute("extend_audit_log", now)

    async def ping(self) -> None:
        """Return where the database answers."""
        await self._execute("ping")

    # The ways to PostgreSQL

    async def _execute(self, name: str, *arguments: Any) -> None:
        async with acquire(self._pool) as connection:
            await connection.execute(self._sql[name], *arguments)

    async def _row(self, name: str, *arguments: Any) -> asyncpg.Record | None:
        async with acquire(self._pool) as connection:
            return await connection.fetchrow(self._sql[name], *arguments)

    async def _rows(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        async with acquire(self._pool) as connection:
            return await connection.fetch(self._sql[name], *arguments)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator["Connection"]:
        async with acquire(self._pool) as connection, connection.transaction():
            yield connection

    async def _require_user(
        self, connection: "Connection", name: str, user_id: UUID, *arguments: Any
    ) -> None:
        if await connection.fetchrow(self._sql[name], user_id, *arguments) is None:
            raise NotFound("no such user")

    async def _end_user_sessions(
        self,
        connection: "Connection",
        user_id: UUID,
        revocation: Revocation,
        now: datetime,
    ) -> Revocation:
        # The user's row first: a login under way holds it, and its session is then seen and ended.
        await self._require_user(connection, "lock_user", user_id)
        await connection.execute(self._sql["end_user_sessions"], user_id, now, None)
        barred = await connection.fetchval(
            self._sql["bar_user"], user_id, revocation.issued_before, now
        )
        recorded = replace(revocation, issued_before=barred)
        await self._revoke(connection, recorded, now)
        return recorded

    async def _revoke(
        self, connection: "Connection", revocation: Revocation, now: datetime
    ) -> None:
        await connection.execute(
            self._sql["add_revocation"], revocation.kind.value, revocation.target,
            revocation.issued_before, revocation.expires_at, now,
        )  # fmt: skip


def _page(found: list[asyncpg.Record]) -> tuple[list[Revocation], int]:
    return [rows.revocation(row) for row in found if row["kind"] is not None], found[0]["cursor"]
