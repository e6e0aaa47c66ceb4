"""A primary and its standby, both embedded PostgreSQL servers of the test's own."""

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import asyncpg

from auth_service.db.embedded import EmbeddedPostgres
from auth_service.db.embedded_files import account_for, make_directory, reachable_binaries
from auth_service.db.migrate import migrate


class Pair:
    """Two servers that replicate one database; `url` names both hosts, the standby first."""

    def __init__(self, primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
        self.primary = primary
        self.standby = standby

    @property
    def url(self) -> str:
        """Return the URL that names both hosts."""
        sockets = [parse_qs(urlsplit(each.dsn).query)["host"][0] for each in self._servers()]
        return "postgresql://auth@/auth?" + urlencode({"host": ",".join(sockets), "port": 5432})

    def _servers(self) -> tuple[EmbeddedPostgres, EmbeddedPostgres]:
        return self.standby, self.primary

    async def wait_for_standby(self, *, replicated: bool) -> None:
        """Set whether the primary's commits wait for a standby, and return once they do."""
        names = "*" if replicated else ""
        await execute(self.primary.dsn, f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
        await execute(self.primary.dsn, "SELECT pg_reload_conf()")
        state = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        await until(self.primary.dsn, state, int(replicated))


@asynccontextmanager
async def replicating_pair(folder: Path) -> AsyncIterator[Pair]:
    """Yield a migrated primary and a standby that follows it."""
    async with EmbeddedPostgres(folder / "primary", durable=False) as primary:
        await migrate(primary.dsn)
        await asyncio.to_thread(_base_backup, primary, folder / "standby")
        async with EmbeddedPostgres(folder / "standby", durable=False) as standby:
            await until(primary.dsn, "SELECT count(*) FROM pg_stat_replication", 1)
            yield Pair(primary, standby)


def _base_backup(primary: EmbeddedPostgres, directory: Path) -> None:
    data = directory / "data"
    account = account_for(data)
    make_directory(directory)
    directory.chmod(0o777)
    binaries = reachable_binaries(directory, account)
    (sockets,) = parse_qs(urlsplit(primary.dsn).query)["host"]
    subprocess.run(
        [binaries / "pg_basebackup", "--pgdata", data, "--host", sockets, "--username", "auth",
         "--write-recovery-conf", "--checkpoint", "fast", "--no-sync"],
        check=True, cwd="/", user=account and account.uid, group=account and account.gid,
        extra_groups=None if account is None else [],
    )  # fmt: skip
    directory.chmod(0o711)


async def execute(url: str, sql: str) -> object:
    """Run a statement on a connection of its own; return the first value."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def until(url: str, sql: str, expected: object) -> None:
    """Return once a statement yields a value."""
    async with asyncio.timeout(30):
        while await execute(url, sql) != expected:
            await asyncio.sleep(0.02)
