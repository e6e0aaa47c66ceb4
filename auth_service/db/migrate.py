"""The version of a database's schema: brings it to that of this code, or tells that it is not.

Knows the migrations by the names of their files, `<revision>_<what>.py`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from auth_service.db.pool import acquire, open_connection, statements, translated
from auth_service.errors import ConfigError

if TYPE_CHECKING:
    from auth_service.db.pool import Connection, Pool

__all__ = ["migrate", "revisions", "schema_version_ok"]


async def migrate(url: str) -> None:
    """Upgrade the database to the newest schema; safe where several do so at once.

    Raises Unavailable where the database cannot be reached, ConfigError where it refuses us.
    """
    connection = await open_connection(url)
    try:
        with translated():
            if await _is_up_to_date(connection):
                return
    finally:
        await connection.close()
    # Half a second, and as much memory as all the rest of the service.
    from auth_service.db.upgrade import upgrade  # noqa: PLC0415 - rarely needed

    await upgrade(url)


def revisions() -> list[str]:
    """Return the revisions that this code knows, the newest last."""
    versions = Path(__file__).with_name("migrations") / "versions"
    return sorted(path.name.partition("_")[0] for path in versions.glob("[0-9]*_*.py"))


async def schema_version_ok(pool: "Pool") -> None:
    """Raise ConfigError where the schema lacks a migration that this code needs.

    A newer schema passes: during a rolling update the old servers run on it for a while.
    """
    async with acquire(pool) as connection:
        if not await _is_up_to_date(connection):
            raise ConfigError("the database's schema is not up to date; run `auth-service migrate`")


async def _is_up_to_date(connection: "Connection") -> bool:
    known, sql = revisions(), statements()
    migrated = await connection.fetchval(sql["schema_is_migrated"])
    current = await connection.fetchval(sql["schema_version"]) if migrated else None
    return current is not None and (current == known[-1] or current not in known)
