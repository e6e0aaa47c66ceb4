"""What an experiment breaks: replicas on a database, which they reach through a link."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import asyncpg

from auth_service.db.embedded import EmbeddedPostgres
from auth_service.db.migrate import migrate
from tests.acceptance.servers import PASSWORD, ServerProcess, database_target, open_accounts
from tests.chaos.link import Link
from tests.chaos.processes import processes_in
from tests.folders import open_folder

__all__ = ["USERS", "Database", "Fleet", "create_users", "open_fleet"]

USERS = [f"user{number}@example.com" for number in range(12)]


class Database:
    """An embedded PostgreSQL that keeps its address when it is started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = EmbeddedPostgres(folder)  # durable: nothing acknowledged may get lost
        self.link = Link(("", 0))

    @property
    def url(self) -> str:
        """The database through the link."""
        return f"postgresql://auth@127.0.0.1:{self.link.port}/auth?sslmode=disable"

    @property
    def direct_url(self) -> str:
        """The database without the link."""
        return self._server.dsn

    async def start(self) -> None:
        """Start the server, and lead the link to it."""
        await self._server.start()
        self.link.target = database_target(self._server.dsn)

    async def stop(self) -> None:
        """Stop the server in order."""
        await self._server.stop()

    async def kill(self) -> None:
        """End all of its processes with SIGKILL; nothing of it is left afterwards."""
        self._signal(signal.SIGKILL)
        async with asyncio.timeout(20):
            while processes_in(self._folder / "data"):
                await asyncio.sleep(0.02)
        await self._server.stop()

    def freeze(self) -> None:
        """Stop all of its processes where they are."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._signal(signal.SIGCONT)

    async def answers(self, within: float = 2.0) -> bool:
        """Tell whether a new connection gets an answer."""
        try:
            async with asyncio.timeout(within):
                connection = await asyncpg.connect(self._server.dsn)
                await connection.close()
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return False
        return True

    async def execute(self, sql: str) -> None:
        """Run a statement that is no part of a transaction."""
        connection = await asyncpg.connect(self._server.dsn)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    def _signal(self, number: signal.Signals) -> None:
        found = processes_in(self._folder / "data")
        assert found, "PostgreSQL does not run"
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


class Fleet:
    """Several replicas of the service on one database."""

    def __init__(self, folder: Path, url: str, database: Database | None = None) -> None:
        self.folder = folder
        self._url = url
        self._database = database
        self.replicas: list[ServerProcess] = []

    @property
    def database(self) -> Database:
        """The embedded server, where it is one."""
        assert self._database is not None
        return self._database

    @property
    def addresses(self) -> list[str]:
        """Where the replicas serve gRPC."""
        return [replica.address for replica in self.replicas]

    async def add(self, **settings: str) -> ServerProcess:
        """Start one more replica."""
        log = self.folder / f"replica-{len(self.replicas)}.log"
        replica = ServerProcess(self._url, log, **settings)
        self.replicas.append(replica)
        await asyncio.to_thread(replica.start)
        return replica

    @contextlib.asynccontextmanager
    async def running(self, replicas: int, **settings: str) -> AsyncIterator[Self]:
        """Start replicas; at the end none of them may have ended by itself."""
        try:
            await asyncio.gather(*(self.add(**settings) for _ in range(replicas)))
            yield self
            ended = [each for each in self.replicas if each.process.poll() is not None]
            assert not ended, f"a replica ended by itself:\n{ended[0].output()[-2000:]}"
        finally:
            await asyncio.gather(*(asyncio.to_thread(each.stop) for each in self.replicas))

    async def kill(self, number: int) -> float:
        """Kill a replica and start it again at its address: in how many seconds."""
        replica, started = self.replicas[number], time.monotonic()
        replica.kill()
        assert replica.process.returncode == -signal.SIGKILL, "the replica had ended by itself"
        await asyncio.to_thread(replica.start, replica.address)
        return time.monotonic() - started

    def tracebacks(self) -> list[str]:
        """Return the last lines of the tracebacks that the replicas have logged."""
        found = []
        for replica in self.replicas:
            output = replica.output()
            if "Traceback" in output:
                found.append(output[output.rindex("Traceback") :][:1500])
        return found


@contextlib.asynccontextmanager
async def open_fleet(
    replicas: int = 2, *, data: Path | None = None, **settings: str
) -> AsyncIterator[Fleet]:
    """Yield replicas that serve, with USERS in their database, which may lie in a given folder."""
    with open_folder("chaos-") as folder:
        database = Database(data or folder / "postgres")
        try:
            await database.start()
            await migrate(database.direct_url)
            await create_users(database.direct_url)
            await database.link.open()
            async with Fleet(folder, database.url, database).running(replicas, **settings) as fleet:
                yield fleet
        finally:
            await database.link.close()
            with contextlib.suppress(AssertionError):
                database.thaw()
            await database.stop()


async def create_users(url: str) -> None:
    """Make the users of the workload."""
    async with open_accounts(url) as accounts:
        for user in USERS:
            await accounts.create_user([user], PASSWORD, scope=("read", "write"))
