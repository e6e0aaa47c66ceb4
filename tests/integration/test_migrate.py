"""Migrations: many replicas may run them at once, and a server notices if one is missing."""

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest
from alembic.script import ScriptDirectory

from auth_service.db import pool as pools
from auth_service.db.migrate import migrate, revisions, schema_version_ok
from auth_service.db.upgrade import config
from auth_service.errors import ConfigError, Unavailable

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


async def test_unreachable_database_is_unavailable() -> None:
    """Nothing listens at that address."""
    with pytest.raises(Unavailable):
        await migrate("postgresql://auth@127.0.0.1:1/auth")
