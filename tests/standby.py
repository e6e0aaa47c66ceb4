"""A primary PostgreSQL and its asynchronous standby, with a failover that loses the last commits.

Both are embedded and reached by Unix sockets. `Pair.url` is one address, which leads to the primary
as a virtual IP address does; `Pair.urls` names both servers, as a list of hosts does.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg

from auth_service.db.embedded import EmbeddedPostgres
from auth_service.db.migrate import migrate
from tests.folders import open_folder
from tests.postgres import new_postgres

__all__ = ["Pair", "execute", "open_pair", "until"]

TIMEOUT = 60.0  # seconds that no step takes on a working machine


class Pair:
    """Two servers. `primary` is the one that `url` leads to; `standby` follows it at first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._address = folder / "address"
        self.primary = new_postgres(folder / "one")
        self.standby = new_postgres(folder / "two")

    @property
    def url(self) -> str:
        """The address of the primary, which stays the same over a failover."""
        return f"postgresql://auth@/auth?host={self._address}&port=5432"

    @property
    def urls(self) -> str:
        """A URL that names both servers as hosts, the standby first."""
        hosts = [_sockets(server) for server in (self.standby, self.primary)]
        return f"postgresql://auth@/auth?host={','.join(hosts)}&port=5432,5432"

    async def start(self) -> None:
        """Create the primary with the schema in it, copy it, and start both."""
        await self.primary.start()
        await migrate(self.primary.dsn)
        await self.primary.stop()
        one, two = self._folder / "one", self._folder / "two"
        await asyncio.to_thread(_copy, one, two)
        await self.primary.start()
        self._write(two / "data" / "standby.signal", "")
        settings = two / "data" / "postgresql.auto.conf"
        conninfo = f"host={_sockets(self.primary)} port=5432 user=auth"
        self._write(settings, settings.read_text() + f"primary_conninfo = '{conninfo}'\n")
        await self.standby.start()
        await self.streaming()
        self.lead_to(self.primary)

    async def stop(self) -> None:
        """Stop both servers, whatever state they are in."""
        self.hide()
        await self.standby.stop()
        await self.primary.stop()

    def lead_to(self, server: EmbeddedPostgres) -> None:
        """Let new connections to `url` reach this server."""
        self.hide()
        self._address.symlink_to(_sockets(server))

    def hide(self) -> None:
        """Let no new connection to `url` reach anything."""
        self._address.unlink(missing_ok=True)

    async def streaming(self) -> None:
        """Return once the standby has replayed all that the primary has written."""
        lag = "SELECT pg_wal_lsn_diff(pg_last_wal_replay_lsn(), $1::text::pg_lsn) >= 0"
        written = await execute(self.primary.dsn, "SELECT pg_current_wal_flush_lsn()::text")
        await until(self.standby.dsn, lag, True, written)

    async def wait_for_standby(self, *, replicated: bool) -> None:
        """Set whether the primary's commits wait for the standby, and return once they do."""
        names = "*" if replicated else ""
        setting = f"ALTER SYSTEM SET synchronous_standby_names = '{names}'"
        await execute(self.primary.dsn, setting)
        await execute(self.primary.dsn, "SELECT pg_reload_conf()")
        state = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        await until(self.primary.dsn, state, int(replicated))

    async def cut(self) -> None:
        """Let the standby catch up, then end its replication: what is committed now is lost."""
        # Commits are asynchronous on this server: flush what was made so far.
        await execute(self.primary.dsn, "SELECT pg_switch_wal()")
        await self.streaming()
        await execute(self.standby.dsn, "ALTER SYSTEM SET primary_conninfo = ''")
        await execute(self.standby.dsn, "SELECT pg_reload_conf()")
        await until(self.standby.dsn, "SELECT count(*) FROM pg_stat_wal_receiver", 0)

    def kill_primary(self) -> None:
        """End the primary as a power failure does."""
        pid = int((self._folder / "one" / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)

    async def promote(self) -> None:
        """Make the standby the primary of a new timeline; `url` leads where it led before."""
        assert await execute(self.standby.dsn, "SELECT pg_promote(true, 60)")

    async def fail_over(self) -> None:
        """Kill the primary, promote the standby, and lead the address to it."""
        self.hide()
        self.kill_primary()
        await self.promote()
        self.lead_to(self.standby)

    def _write(self, path: Path, text: str) -> None:
        owner = path.parent.stat()
        path.write_text(text)
        os.chown(path, owner.st_uid, owner.st_gid)


@asynccontextmanager
async def open_pair() -> AsyncIterator[Pair]:
    """Yield a pair that is running."""
    with open_folder("pair-") as folder:
        pair = Pair(folder)
        try:
            await pair.start()
            yield pair
        finally:
            await pair.stop()


async def execute(url: str, sql: str, *arguments: Any) -> Any:
    """Run a statement on a connection of its own; return the first value."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql, *arguments)
    finally:
        await connection.close()


async def until(url: str, sql: str, expected: object, *arguments: Any) -> None:
    """Return once a statement yields a value."""
    async with asyncio.timeout(TIMEOUT):
        while await execute(url, sql, *arguments) != expected:
            await asyncio.sleep(0.01)


def _sockets(server: EmbeddedPostgres) -> str:
    (sockets,) = parse_qs(urlsplit(server.dsn).query)["host"]
    return sockets


def _copy(source: Path, target: Path) -> None:
    """Copy the files of a server that is stopped, and keep their owner."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("lock"))
    for path in (source, *source.rglob("*")):
        if path.name != "lock":
            status = path.stat()
            os.chown(target / path.relative_to(source), status.st_uid, status.st_gid)
