"""Runs the migrations. Imported only if there is something to migrate: Alembic is slow to load.

Owns how migrations run. What they do is in migrations/versions.
"""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from auth_service.db.driver_errors import translated
from auth_service.db.pool import open_connection

if TYPE_CHECKING:
    import asyncpg

__all__ = ["config", "upgrade"]

LOCK = 0x6175_7468_6E31  # "authn1": any number, the same for every migration
LOCK_RETRY = 0.1  # seconds
MIGRATION_TIMEOUT = timedelta(minutes=30)


async def upgrade(url: str, *, transaction_pooling: bool = False) -> None:
    """See auth_service.db.migrate.migrate."""

    async def creator() -> "asyncpg.Connection[asyncpg.Record]":
        return await open_connection(
            url, statement_timeout=MIGRATION_TIMEOUT, transaction_pooling=transaction_pooling
        )

    def connect() -> Any:
        # Behind a pooler the next transaction has another server connection: nothing prepared for
        # one is used again, and no name may be one that a server connection still has.
        return engine.sync_engine.dialect.loaded_dbapi.connect(
            async_creator_fn=creator,
            prepared_statement_cache_size=0,
            prepared_statement_name_func=_new_name,
        )

    # With a creator the same URL works as for the pool, with its sockets, hosts and sslmode.
    engine = create_async_engine("postgresql+asyncpg://", creator=connect, poolclass=NullPool)
    try:
        with translated():
            async with engine.connect() as connection:
                await _lock(connection)
                await connection.run_sync(_upgrade)
                await connection.commit()
    finally:
        await engine.dispose()


async def _lock(connection: AsyncConnection) -> None:
    """Begin the transaction of the migrations, which holds the lock until it ends.

    The lock belongs to the transaction and not to the session: behind a pooler the session goes to
    somebody else, and the lock with it. The wait is outside of the transaction, so that it holds no
    snapshot that a long migration would have to wait for.
    """
    while True:
        sql = text("SELECT pg_try_advisory_xact_lock(:key)")
        if await connection.scalar(sql, {"key": LOCK}):
            return
        await connection.rollback()
        await asyncio.sleep(LOCK_RETRY)


def _new_name() -> str:
    return f"auth_service_{uuid4().hex}"


def _upgrade(connection: Connection) -> None:
    settings = config()
    settings.attributes["connection"] = connection
    command.upgrade(settings, "head")


def config() -> Config:
    """Return the configuration of Alembic."""
    settings = Config()
    location = str(Path(__file__).with_name("migrations"))
    settings.set_main_option("script_location", location.replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    return settings
