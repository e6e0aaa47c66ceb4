"""Migrations: many replicas may run them at once, and a server notices if one is missing."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from auth_service.clock import utc_now
from auth_service.core.credentials import secret_hash
from auth_service.db import pool as pools
from auth_service.db.migrate import migrate, revisions, schema_version_ok
from auth_service.db.store import Store
from auth_service.db.upgrade import config
from auth_service.errors import ConfigError, Unavailable
from tests.audiences import register
from tests.integration.core import make_core

if TYPE_CHECKING:
    from auth_service.db.pool import Pool


async def test_replicas_that_start_at_once_migrate_once(empty_database_url: str) -> None:
    """Four at once on an empty database succeed, and a fifth changes nothing."""
    await asyncio.gather(*(migrate(empty_database_url) for _ in range(4)))
    await migrate(empty_database_url)
    pool = await pools.connect(empty_database_url, min_size=1)
    await schema_version_ok(pool)
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    assert await pool.fetchval(locks) == 0
    pool.terminate()


async def test_a_missing_migration_is_reported_with_the_command_to_run(
    empty_database_url: str,
) -> None:
    """A server does not start on a database without its schema."""
    pool = await pools.connect(empty_database_url, min_size=1)
    with pytest.raises(ConfigError, match="auth-service migrate"):
        await schema_version_ok(pool)
    pool.terminate()


async def test_newer_schema_passes(pool: "Pool") -> None:
    """During a rolling update an old server runs on the new schema."""
    await pool.execute("UPDATE alembic_version SET version_num = 'from the future'")
    await schema_version_ok(pool)


def test_the_name_of_a_migration_begins_with_its_revision() -> None:
    """The server knows the revisions, and their order, by these names."""
    newest_first = [
        script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()
    ]
    assert revisions() == newest_first[::-1]


async def test_failed_migration_leaves_nothing(empty_database_url: str) -> None:
    """A table that exists already fails the migration, and none of the others remains."""
    connection = await asyncpg.connect(empty_database_url)
    await connection.execute("CREATE TABLE audit_log ()")
    with pytest.raises(Exception, match="audit_log"):
        await migrate(empty_database_url)
    assert await connection.fetchval("SELECT to_regclass('users') IS NULL")
    await connection.execute("DROP TABLE audit_log")
    await migrate(empty_database_url)
    await connection.close()


async def test_a_service_account_of_the_schema_before_keeps_its_secret(
    empty_database_url: str,
) -> None:
    """It opens the account after the upgrade, and has an id and the date of the account."""
    made = datetime(2024, 5, 1, tzinfo=UTC)
    connection = await asyncpg.connect(empty_database_url)
    await _upgrade_to(empty_database_url, "0005")
    await connection.execute(
        "INSERT INTO service_accounts VALUES ('billing', $1, '{verifier}', '{read}', false, $2)",
        secret_hash("the secret"),
        made,
    )
    await migrate(empty_database_url)
    pool = await pools.connect(empty_database_url, min_size=1)
    core = make_core(Store(pool), utc_now)
    await register(core.store, "internal")
    pair = await core.sessions.login_client("billing", "the secret")
    assert core.claims(pair.access_token).roles == ("verifier",)
    (kept,) = (await core.accounts.services.get("billing")).secrets
    assert (kept.created_at, kept.expires_at) == (made, None)
    _, second = await core.accounts.services.create_secret("billing")
    await core.accounts.services.delete_secret("billing", kept.id)
    assert [each.id for each in (await core.accounts.services.get("billing")).secrets] == [
        second.id
    ]
    await core.shielded.drain()
    core.hasher.close()
    pool.terminate()
    await connection.close()


async def test_the_audiences_of_live_sessions_are_registered(empty_database_url: str) -> None:
    """Open to all and with any scope: nobody is logged out, and no token has fewer scopes."""
    await _upgrade_to(empty_database_url, "0006")
    connection = await asyncpg.connect(empty_database_url)
    user, now = uuid4(), utc_now()
    await connection.execute("INSERT INTO users VALUES ($1, '', '{}', '{}', false, $2)", user, now)
    week = timedelta(days=7)
    for audience, expires_at, revoked_at in (
        (("internal", "orders"), now + week, None),
        (("orders", "billing"), now + week, None),
        (("expired",), now - week, None),
        (("revoked",), now + week, now),
    ):
        await connection.execute(
            """
            INSERT INTO sessions (
                user_id, id, generation, seed, client_id, device_label, audience, scope, amr,
                auth_time, created_at, refreshed_at, refresh_expires_at, expires_at, revoked_at
            )
            VALUES ($1, $2, 0, '', '', '', $3, '{}', '{}', $4, $4, $4, $5, $5, $6)
            """,
            user, uuid4(), audience, now, expires_at, revoked_at,
        )  # fmt: skip
    await migrate(empty_database_url)
    found = await connection.fetch("SELECT name, scope, open FROM audiences ORDER BY name")
    expected = [(name, ["*"], True) for name in ("billing", "internal", "orders")]
    assert [tuple(row) for row in found] == expected
    assert await connection.fetchval("SELECT audiences FROM users") == []
    acr = await connection.fetch("SELECT DISTINCT acr FROM sessions")
    assert [row["acr"] for row in acr] == ["1fa"]  # they began with a password
    await connection.close()


async def test_identifiers_that_look_alike_already_are_kept(empty_database_url: str) -> None:
    """The first has what it looks like, the other stands for itself, and no third one is added."""
    await _upgrade_to(empty_database_url, "0015")
    connection = await asyncpg.connect(empty_database_url)
    user, add = uuid4(), "INSERT INTO user_identifiers (identifier, user_id, position) VALUES"
    await connection.execute(
        """
        INSERT INTO users (id, password_hash, roles, scope, disabled, created_at)
        VALUES ($1, '', '{}', '{}', false, now())
        """,
        user,
    )
    names = ["paypal", "p\u0430ypal", "\u03bfmega", "\u043emega", "ann smith", "m\u00fcller"]
    for position, name in enumerate(names):
        await connection.execute(f"{add} ($1, $2, $3)", name, user, position)
    await migrate(empty_database_url)
    found = await connection.fetch("SELECT * FROM user_identifiers ORDER BY position")
    assert [row["identifier"] for row in found] == names
    looks = [row["skeleton"] for row in found]
    assert looks == [None, None, "omega", None, None, "mu\u0308ller"]
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute(f"{add} ('omega', $1, 9)", user)
    await connection.close()


async def _upgrade_to(url: str, revision: str) -> None:
    """Apply the migrations up to a revision."""

    def upgrade_to(connection: Connection) -> None:
        settings = config()
        settings.attributes["connection"] = connection
        command.upgrade(settings, revision)

    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url)
    )
    async with engine.connect() as connection:
        await connection.run_sync(upgrade_to)
        await connection.commit()
    await engine.dispose()


async def test_unreachable_database_is_unavailable() -> None:
    """Nothing listens at that address."""
    with pytest.raises(Unavailable):
        await migrate("postgresql://auth@127.0.0.1:1/auth")
