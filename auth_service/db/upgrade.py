"""Runs the migrations. Imported when there is something to migrate, as Alembic takes long to load.

Owns how migrations run; what they do stands in migrations/versions.
"""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from auth_service.db.pool import open_connection, translated

if TYPE_CHECKING:
    import asyncpg

__all__ = ["config", "upgrade"]

LOCK = 0x6175_7468_6E31  # "authn1": any number, the same for all who migrate
LOCK_RETRY = 0.1  # seconds
MIGRATION_TIMEOUT = timedelta(minutes=30)


async def upgrade(url: str) -> None:
    """See auth_service.db.migrate.migrate."""

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
    settings = config()
    settings.attributes["connection"] = connection
    command.upgrade(settings, "head")


def config() -> Config:
    """Return where Alembic finds the migrations."""
    settings = Config()
    location = str(Path(__file__).with_name("migrations"))
    settings.set_main_option("script_location", location.replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    return settings
