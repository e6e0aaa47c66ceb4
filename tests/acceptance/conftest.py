"""Fixtures that start real servers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.servers import Client, Proxy, ServerProcess

StartServer = Callable[..., ServerProcess]
MakeClient = Callable[[str], Awaitable[Client]]
MakeProxy = Callable[[tuple[str, int] | str], Awaitable[Proxy]]


@pytest.fixture
def start_server(database_url: str, tmp_path: Path) -> Iterator[StartServer]:
    """Start a server on the database of the test; block until it is SERVING."""
    servers: list[ServerProcess] = []

    def start(*, url: str = database_url, **settings: str) -> ServerProcess:
        log = tmp_path / f"server-{len(servers)}.log"
        server = ServerProcess(url, log, **settings)
        servers.append(server)
        return server.start()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
async def client() -> AsyncIterator[MakeClient]:
    """Make connected clients, which are closed at the end."""
    clients: list[Client] = []

    async def make(address: str) -> Client:
        clients.append(Client(address))
        return await clients[-1].ready()

    yield make
    await asyncio.gather(*(made.channel.close() for made in clients))


@pytest.fixture
async def proxy() -> AsyncIterator[MakeProxy]:
    """Make proxies, which are closed at the end."""
    proxies: list[Proxy] = []

    async def make(target: tuple[str, int] | str) -> Proxy:
        proxies.append(Proxy(target))
        await proxies[-1].open()
        return proxies[-1]

    yield make
    for made in proxies:
        await made.cut()
