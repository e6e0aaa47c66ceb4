"""The version of a database's schema: upgrades it to that of this code, or checks it.

Knows the migrations by the names of their files, `<revision>_<what>.py`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from auth_service.db.driver_errors import translated
from auth_service.db.pool import open_connection
from auth_service.db.statements import statements
from auth_service.errors import ConfigError

if TYPE_CHECKING:
    from auth_service.db.pool import Connection, Pool

__all__ = ["migrate", "revisions", "schema_version_ok"]


async def migrate(url: str, *, transaction_pooling: bool = False) -> None:
    """Upgrade the database to the newest schema; safe if several do so at once.

    Raises Unavailable if the database cannot be reached, ConfigError if it refuses the connection.
    """
    connection = await open_connection(url, transaction_pooling=transaction_pooling)
    try:
        with translated():
            if await _is_up_to_date(connection):
                return
    finally:
        await connection.close()
    # Takes half a second to import, and as much memory as the rest of the service.
    from auth_service.db.upgrade import upgrade  # noqa: PLC0415 - rarely needed

    await upgrade(url, transaction_pooling=transaction_pooling)


def revisions() -> list[str]:
    """Return the revisions that this code knows, oldest first."""
    versions = Path(__file__).with_name("migrations") / "versions"
    return sorted(path.name.partition("_")[0] for path in versions.glob("[0-9]*_*.py"))


async def schema_version_ok(pool: "Pool") -> None:
    """Raise ConfigError if the schema lacks a migration that this code needs.

    A newer schema passes: during a rolling update the old servers run on it for a while.
    """
    async with pool.acquire() as connection:
        if not await _is_up_to_date(connection):
            raise ConfigError("the database's schema is not up to date; run `auth-service migrate`")


async def _is_up_to_date(connection: "Connection") -> bool:
    known, sql = revisions(), statements()
    migrated = await connection.fetchval(sql["schema_is_migrated"])
    current = await connection.fetchval(sql["schema_version"]) if migrated else None
    return current is not None and (current == known[-1] or current not in known)
