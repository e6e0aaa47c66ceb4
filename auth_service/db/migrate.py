"""Brings the schema of a database to the version of this code.

Owns how migrations run; what they do stands in migrations/versions.
"""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from auth_service.db.pool import acquire, open_connection, statements, translated
from auth_service.errors import ConfigError

if TYPE_CHECKING:
    from auth_service.db.pool import Pool

__all__ = ["migrate", "schema_version_ok"]

LOCK = 0x6175_7468_6E31  # "authn1": any number, the same for all who migrate
LOCK_RETRY = 0.1  # seconds
MIGRATION_TIMEOUT = timedelta(minutes=30)


async def migrate(url: str) -> None:
    """Upgrade the database to the newest schema; safe where several do so at once.

    Raises Unavailable where the database cannot be reached, ConfigError where it refuses us.
    """

    async def creator() -> "asyncpg.Connection[asyncpg.Record]":
        return await open_connection(url, statement_timeout=MIGRATION_TIMEOUT)

    # With a creator the very same URL works as for the pool: sockets, sslmode and all.
    engine = create_async_engine("postgresql+asyncpg://", async_creator=creator, poolclass=NullPool)
    try:
        with translated():
            async with engine.connect() as connection:
                await _lock(connection)
                await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()  # and the lock goes with the connection


async def schema_version_ok(pool: "Pool") -> None:
    """Raise ConfigError where the schema lacks a migration that this code needs.

    A newer schema passes: during a rolling update the old servers run on it for a while.
    """
    scripts = ScriptDirectory.from_config(_config())
    head = scripts.get_current_head()
    sql = statements()
    async with acquire(pool) as connection:
        migrated = await connection.fetchval(sql["schema_is_migrated"])
        current = await connection.fetchval(sql["schema_version"]) if migrated else None
    known = {script.revision for script in scripts.walk_revisions()}
    if current is None or (current != head and current in known):
        raise ConfigError("the database's schema is not up to date; run `auth-service migrate`")


async def _lock(connection: AsyncConnection) -> None:
    # Asks again and again instead of waiting inside PostgreSQL, where the waiting statement's
    # snapshot would block a CREATE INDEX CONCURRENTLY of the one who holds the lock.
    while True:
        taken = await connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": LOCK})
        await connection.commit()
        if taken:
            return
        await asyncio.sleep(LOCK_RETRY)


def _upgrade(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _config() -> Config:
    config = Config()
    location = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", location.replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
