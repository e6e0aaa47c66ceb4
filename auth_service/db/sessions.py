"""Sessions: one method for each statement or transaction.

Owns which statements make up one change of a session. Knows no rules: the caller decides.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from auth_service import audit
from auth_service.db import rows
from auth_service.db.audit import write_audit
from auth_service.db.batcher import Batcher
from auth_service.db.executor import Executor
from auth_service.db.revocations import record_revocation
from auth_service.db.statements import statements
from auth_service.errors import InvalidCredentials, NotFound
from auth_service.models import Revocation, Session, Taken

if TYPE_CHECKING:
    import asyncpg

    from auth_service.db.pool import Connection, Pool

__all__ = [
    "FoundSession",
    "RotatedSession",
    "Rotation",
    "SessionStore",
    "end_all_sessions",
    "insert_session",
    "require_user",
]


class Rotation(NamedTuple):
    """A step of a session to the generation after `generation`: the arguments of rotate_session."""

    user_id: UUID
    session_id: UUID
    generation: int
    oldest: int
    """The earliest generation from which the step may start. It equals `generation`, except for a
    database that lost its last commits in a failover."""
    scope: tuple[str, ...]
    idle_ttl: timedelta
    clock_skew: timedelta
    """How far ahead of the database's clock a session may be dated."""
    request_hash: bytes | None
    token_id: bytes
    """The `jti` of the refresh token, decoded. Nothing changes unless the row's seed makes it."""
    audience: tuple[str, ...]
    """The audiences of the access token, out of the session's; all of those if empty."""
    own_audience: str
    """The service's own audience, which needs no grant."""
    certificate: str
    """The thumbprint of the client's certificate, or empty. A bound session needs its own."""


class RotatedSession(NamedTuple):
    """A session after its step, the present roles of its user, and the scopes of the audiences."""

    session: Session
    roles: tuple[str, ...]
    audience_scope: tuple[str, ...]


class FoundSession(NamedTuple):
    """A session as it was read, and the database's time at that moment."""

    session: Session
    roles: tuple[str, ...]
    disabled: bool
    read_at: datetime
    refused: tuple[str, ...]
    """Audiences for which the user may have no tokens, out of those that were asked for."""
    audience_scope: tuple[str, ...]
    """The scopes that belong to the audiences that were asked for."""


class SessionStore(Executor):
    """The sessions of users."""

    def __init__(self, pool: "Pool") -> None:
        super().__init__(pool)
        self._rotations = Batcher(pool, self._sql["rotate_session"], ("user_id", "id"))

    async def create_session(
        self,
        session: Session,
        request_id: str | None = None,
        revoked_before: datetime | None = None,
        taken: Sequence[Taken] = (),
    ) -> Session:
        """Add a session, or return the one that the same request of the user made before.

        Gives back what the attempt has taken, whose password was proved. Raises
        InvalidCredentials if the user was disabled, removed, given another password or signed out
        everywhere since the caller read `revoked_before`.
        """
        async with self._pool.durable() as connection:
            row = await insert_session(connection, session, request_id, revoked_before, taken)
        if row is None and request_id is not None:
            row = await self._row("find_requested_session", session.user_id, request_id)
        if row is None:
            raise InvalidCredentials
        return rows.session(row)

    async def step_up_session(
        self,
        user_id: UUID,
        session_id: UUID,
        amr: tuple[str, ...],
        acr: str,
        auth_time: datetime,
        revoked_before: datetime | None,
    ) -> None:
        """Note how and when the user of a live session was authenticated again.

        Raises InvalidCredentials if the session has ended, or for what create_session raises it.
        """
        row = await self._row(
            "step_up_session", user_id, session_id, amr, acr, auth_time, revoked_before,
            audit.row("session.stepped_up", auth_time, user_id=user_id, session_id=session_id),
        )  # fmt: skip
        if row is None:
            raise InvalidCredentials

    async def rotate_free_session(self, rotation: Rotation) -> RotatedSession | None:
        """Do the same as rotate_session, in one batch with the other rotations of the moment.

        Also returns None if another transaction holds the session's row. A rotation that has begun
        completes even if the caller is cancelled.
        """
        return _rotated(await self._rotations.row(*rotation))

    async def rotate_session(self, rotation: Rotation) -> RotatedSession | None:
        """Rotate a live session that was granted all of the scope; None if nothing changed.

        Waits for other transactions that hold its row.
        """
        async with self._transaction() as connection:
            await connection.execute(
                self._sql["lock_session"], rotation.user_id, rotation.session_id
            )
            return _rotated(await connection.fetchrow(self._sql["rotate_session"], *rotation))

    async def get_session(
        self,
        user_id: UUID,
        session_id: UUID,
        audience: tuple[str, ...] = (),
        own_audience: str = "",
    ) -> FoundSession | None:
        """Return a session, live or ended; the audiences are those of a Rotation."""
        row = await self._row("get_session", user_id, session_id, audience, own_audience)
        if row is None:
            return None
        return FoundSession(
            rows.session(row),
            tuple(row["roles"]),
            row["disabled"],
            row["read_at"],
            tuple(row["refused"] or ()),
            tuple(row["audience_scope"]),
        )

    async def find_session(self, session_id: UUID) -> Session | None:
        """Return a session, live or ended, by its id alone."""
        row = await self._row("find_session", session_id)
        return rows.session(row) if row else None

    async def list_sessions(
        self, user_id: UUID, now: datetime, limit: int | None = None
    ) -> list[Session]:
        """Return the live sessions of a user, newest first, at most `limit` of them."""
        found = await self._rows("list_sessions", user_id, now, limit)
        return [rows.session(row) for row in found]

    async def end_session(
        self,
        user_id: UUID,
        session_id: UUID,
        revocation: Revocation,
        now: datetime,
        event: str,
        outcome: str = audit.OK,
    ) -> bool:
        """End a session. Returns False, and writes nothing, if it is absent or had ended."""
        async with self._transaction() as connection:
            ended = await connection.fetchrow(self._sql["end_session"], user_id, session_id, now)
            if ended is None:
                return False
            await record_revocation(connection, revocation, now)
            await write_audit(
                connection, event, now, outcome, user_id=user_id, session_id=session_id
            )
        return True

    async def end_user_sessions(
        self, user_id: UUID, revocation: Revocation, now: datetime
    ) -> Revocation:
        """End all sessions of a user; return the revocation as recorded. Raises NotFound."""
        async with self._transaction() as connection:
            recorded = await end_all_sessions(connection, user_id, revocation, now)
            await write_audit(connection, "user.sessions_revoked", now, user_id=user_id)
        return recorded


def _rotated(row: "asyncpg.Record | None") -> RotatedSession | None:
    if row is None:
        return None
    return RotatedSession(rows.session(row), tuple(row["roles"]), tuple(row["audience_scope"]))


async def require_user(
    connection: "Connection", name: str, user_id: UUID, *arguments: object
) -> None:
    """Run a statement of a user's row. Raises NotFound if there is no such user."""
    if await connection.fetchrow(statements()[name], user_id, *arguments) is None:
        raise NotFound("no such user")


async def insert_session(
    connection: "Connection",
    session: Session,
    request_id: str | None,
    revoked_before: datetime | None,
    taken: Sequence[Taken] = (),
) -> "asyncpg.Record | None":
    """Add a session on a connection; the arguments are those of `create_session`.

    Returns None if the user may have none, or if the request made one before.
    """
    return await connection.fetchrow(
        statements()["create_session"], *rows.session_arguments(session), request_id,
        revoked_before, [each.slot for each in taken], session.bound_to, session.acr,
        audit.row(
            "session.created", session.created_at, user_id=session.user_id, session_id=session.id
        ),
        [each.amount for each in taken],
    )  # fmt: skip


async def end_all_sessions(
    connection: "Connection",
    user_id: UUID,
    revocation: Revocation,
    now: datetime,
) -> Revocation:
    """End all sessions of a user within a transaction; return the revocation as recorded."""
    # The user's row is locked first: a login in progress holds it, so its session is ended too.
    await require_user(connection, "lock_user", user_id)
    await connection.execute(statements()["end_user_sessions"], user_id, now, None)
    barred = await connection.fetchval(
        statements()["bar_user"], user_id, revocation.issued_before, now
    )
    recorded = replace(revocation, issued_before=barred)
    await record_revocation(connection, recorded, now)
    return recorded
