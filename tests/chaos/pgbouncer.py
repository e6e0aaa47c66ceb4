"""pgbouncer in transaction mode between the service and PostgreSQL, and what has to work there.

bash tests/chaos/install.sh && .venv/bin/python -m tests.chaos.pgbouncer
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from authn.v1 import auth_service_pb2 as pb

from auth_service.db import pool as pools
from auth_service.db.embedded import EmbeddedPostgres
from auth_service.db.migrate import migrate
from auth_service.db.upgrade import LOCK
from auth_service.errors import ConfigError
from auth_service.serving.server import Server
from tests.acceptance.servers import Client, make_user
from tests.chaos.processes import BUILD, Process, free_port, postgres_account
from tests.folders import open_folder
from tests.integration.serving import address, make_settings

__all__ = ["main", "pgbouncer"]

CONFIG = """
[databases]
auth = host={sockets} port=5432 dbname=auth user=auth
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {size}
"""
SERVER_CONNECTIONS = 2
"""Fewer than the service's own, so that each is shared and statements of one meet the other."""
SESSIONS = 20


@contextlib.asynccontextmanager
async def pgbouncer(folder: Path, dsn: str, size: int = SERVER_CONNECTIONS) -> AsyncIterator[str]:
    """Run pgbouncer before the embedded PostgreSQL of `dsn`; yield the URL that leads through it.

    With one `size` for all, clients share that many server connections.
    """
    port = free_port()
    (sockets,) = parse_qs(urlsplit(dsn).query)["host"]
    config = folder / "pgbouncer.ini"
    config.write_text(CONFIG.format(sockets=sockets, port=port, size=size))
    if (account := postgres_account()) is not None:
        os.chown(config, *account)
    libraries = {"LD_LIBRARY_PATH": str(BUILD / "debian/usr/lib/x86_64-linux-gnu")}
    command: list[str | Path] = [BUILD / "debian/usr/sbin/pgbouncer", config]
    process = Process(command, folder / "pgbouncer.log", libraries)
    await process.start()
    try:
        url = f"postgresql://auth@127.0.0.1:{port}/auth?sslmode=disable"
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError):
                    await (await asyncpg.connect(url, statement_cache_size=0)).close()
                    break
                await asyncio.sleep(0.02)
        yield url
    finally:
        await process.stop()


async def main(folder: Path) -> None:
    """Migrate, serve and use the service through pgbouncer. Raises what goes wrong."""
    async with (
        EmbeddedPostgres(folder / "pg", durable=False) as postgres,
        pgbouncer(folder, postgres.dsn) as url,
    ):
        with pytest.raises(ConfigError, match="AUTH_DATABASE_TRANSACTION_POOLING"):
            await migrate(url)
        for _ in range(2):
            await asyncio.gather(*(migrate(url, transaction_pooling=True) for _ in range(3)))
        direct = await asyncpg.connect(postgres.dsn)
        held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = $1"
        assert await direct.fetchval(held, LOCK & 0xFFFFFFFF) == 0
        await direct.close()
        await make_user(postgres.dsn)
        settings = make_settings(
            url, database_transaction_pooling=True, feed_poll_interval="50ms", login_burst=1000
        )
        servers = [Server(settings) for _ in range(2)]
        await asyncio.gather(*(server.start() for server in servers))
        try:
            clients = [await Client(address(server)).ready() for server in servers]
            await asyncio.gather(
                *(_use(clients[n % 2], clients[1 - n % 2]) for n in range(SESSIONS))
            )
        finally:
            await asyncio.gather(*(server.stop() for server in servers))
        # The premise: the clients did share the server's connections.
        pool = await pools.connect(url, min_size=8, max_size=8, transaction_pooling=True)
        calls = [pool.fetchval("SELECT pg_backend_pid() FROM pg_sleep(0.02)") for _ in range(16)]
        assert len(set(await asyncio.gather(*calls))) <= SERVER_CONNECTIONS
        await pool.close()


async def _use(here: Client, there: Client) -> None:
    """Log in, refresh ten times, and have the other replica learn of the revocation."""
    tokens = await here.login()
    for _ in range(10):
        tokens = await here.refresh(tokens.refresh_token)
    assert (await there.validate(tokens.access_token)).active
    await here.auth.Revoke(pb.RevokeRequest(refresh_token=tokens.refresh_token), timeout=30)
    async with asyncio.timeout(10):
        while (await there.validate(tokens.access_token)).active:
            await asyncio.sleep(0.02)


if __name__ == "__main__":
    with open_folder("chaos-") as directory:
        asyncio.run(main(directory))
