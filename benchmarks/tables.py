"""Rows by the million, made in SQL, as the service itself would have written them."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg

from auth_service.db.sessions import Rotation
from auth_service.db.statements import statements
from auth_service.tokens.refresh import token_id

SESSIONS_A_USER = 5
PASSWORD = "correct horse battery staple"

# No foreign key is checked row by row; every user is there.
_USERS = """
INSERT INTO users (id, password_hash, roles, scope, disabled, created_at)
SELECT md5('user' || n)::uuid, $2, '{}', '{}', false, now() FROM generate_series(1, $1::int) n
"""
_IDENTIFIERS = """
INSERT INTO user_identifiers (identifier, user_id, position)
SELECT 'user-' || n, md5('user' || n)::uuid, 1 FROM generate_series(1, $1::int) n
"""
_SESSIONS = """
INSERT INTO sessions (
    user_id, id, generation, seed, client_id, device_label, audience, scope, amr, auth_time,
    created_at, refreshed_at, refresh_expires_at, expires_at
)
SELECT md5('user' || 1 + (n - 1) % $2::int)::uuid, md5('session' || n)::uuid, 0,
    sha256(n::text::bytea), 'web', 'a laptop', '{internal}', '{}', '{pwd}', at, at, at,
    at + interval '7 days', at + interval '30 days'
FROM generate_series(1, $1::int) n, date_trunc('second', now()) at
"""
_REVOCATIONS = """
INSERT INTO revocations (kind, target, expires_at, created_at)
SELECT 'session', md5('revoked' || n)::uuid::text, now() + (1800 + n % 1800) * interval '1 second',
    now()
FROM generate_series(1, $1::int) n
"""


async def fill(url: str, *, sessions: int = 0, revocations: int = 0, argon2_hash: str = "") -> None:
    """Fill the tables of a database, and let PostgreSQL take its statistics.

    All users have the password of `argon2_hash`; without one none can log in.
    """
    connection: Any = await asyncpg.connect(url, timeout=60, command_timeout=None)
    await connection.execute("SET session_replication_role = replica")
    users = sessions // SESSIONS_A_USER
    await connection.execute(_USERS, users, argon2_hash)
    await connection.execute(_IDENTIFIERS, users)
    await connection.execute(_SESSIONS, sessions, users)
    await connection.execute(_REVOCATIONS, revocations)
    await connection.execute("VACUUM (ANALYZE) users, user_identifiers, sessions, revocations")
    await connection.execute("CHECKPOINT")
    await connection.close()


async def session_rows(url: str, count: int) -> list[Any]:
    """Return that many sessions from all over the table."""
    connection: Any = await asyncpg.connect(url)
    rows: list[Any] = await connection.fetch(
        "SELECT * FROM sessions ORDER BY md5(id::text) LIMIT $1", count
    )
    await connection.close()
    return rows


def rotate_statement() -> str:
    """Return the UPDATE of a refresh, as the service has it."""
    return statements()["rotate_session"]


def rotation(user: UUID, session: UUID, generation: int, seed: bytes) -> Rotation:
    """Return the arguments of that UPDATE."""
    week, skew = timedelta(days=7), timedelta(seconds=10)
    jti = token_id(seed, generation)
    return Rotation(user, session, generation, generation, (), week, skew, None, jti, (), "", "")
