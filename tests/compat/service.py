"""Starts the service that the client's tests call."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.acceptance.servers import PASSWORD, ServerProcess, make_user
from tests.compat.live import ADMIN, SERVICE_ACCOUNT, Live
from tests.integration.serving import make_service_account

__all__ = ["serving"]


@contextmanager
def serving(database_url: str, log: Path) -> Iterator[Live]:
    """Serve on a migrated, empty database, with an admin and a service account; blocks."""

    async def accounts() -> str:
        await make_user(database_url, ADMIN, roles=("admin",))
        return await make_service_account(database_url, SERVICE_ACCOUNT)

    secret = asyncio.run(accounts())
    server = ServerProcess(database_url, log).start()
    try:
        yield Live(server.address, PASSWORD, secret)
    finally:
        server.stop()
