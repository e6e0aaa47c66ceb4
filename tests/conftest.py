"""Fixtures of all tests: a clock, and a migrated PostgreSQL database for each test.

One PostgreSQL a test process: an embedded one, or the one that AUTH_TEST_DATABASE_URL names, whose
user must be allowed to create databases.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from auth_service.db import pool as pools
from auth_service.db.embedded import EmbeddedPostgres
from auth_service.db.migrate import migrate
from auth_service.db.store import Store
from tests.clock import FakeClock
from tests.folders import open_folder

if TYPE_CHECKING:
    from auth_service.db.pool import Pool

# Tests start PostgreSQL beside running gRPC threads. What is forked is replaced by another program
# at once, and gRPC's own care for forks, unless it is told so, may hurt it in between.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

Result = TypeVar("Result")


@dataclass(frozen=True)
class PostgresServer:
    """A running server, in which tests make databases."""

    url: str
    template: str

    def database(self, name: str) -> str:
        """Return the URL of one of its databases."""
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    async def execute(self, sql: str) -> None:
        """Run a statement, outside of the databases of tests."""
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()


def outside_loop(work: Coroutine[Any, Any, Result]) -> Result:
    """Run in a loop of its own, so that a fixture of the session depends on no test's loop."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, work).result()


@pytest.fixture
def clock() -> FakeClock:
    """A clock that the test moves."""
    return FakeClock()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL with a migrated template database."""
    if url := os.environ.get("AUTH_TEST_DATABASE_URL"):
        yield from _with_template(url)
        return
    with open_folder() as directory:
        server = EmbeddedPostgres(directory / "pg", durable=False)
        try:
            outside_loop(server.start())
            yield from _with_template(server.dsn)
        finally:
            outside_loop(server.stop())


def _with_template(url: str) -> Iterator[PostgresServer]:
    server = PostgresServer(url, f"auth_template_{uuid4().hex}")
    outside_loop(server.execute(f"CREATE DATABASE {server.template}"))
    try:
        outside_loop(migrate(server.database(server.template)))
        yield server
    finally:
        outside_loop(server.execute(f"DROP DATABASE {server.template} WITH (FORCE)"))


@pytest.fixture
def database_url(postgres: PostgresServer) -> Iterator[str]:
    """A migrated, empty database of the test's own."""
    yield from _database(postgres, f"TEMPLATE {postgres.template}")


@pytest.fixture(scope="module")
def module_database_url(postgres: PostgresServer) -> Iterator[str]:
    """A migrated database that the tests of a module share."""
    yield from _database(postgres, f"TEMPLATE {postgres.template}")


@pytest.fixture
def empty_database_url(postgres: PostgresServer) -> Iterator[str]:
    """A database of the test's own that was never migrated."""
    yield from _database(postgres, "TEMPLATE template0")


def _database(postgres: PostgresServer, options: str) -> Iterator[str]:
    name = f"auth_test_{uuid4().hex}"
    outside_loop(postgres.execute(f"CREATE DATABASE {name} {options}"))
    yield postgres.database(name)
    outside_loop(postgres.execute(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
async def pool(database_url: str) -> "AsyncIterator[Pool]":
    """Connections to the test's database."""
    pool = await pools.connect(database_url, min_size=1, max_size=10)
    yield pool
    pool.terminate()


@pytest.fixture
def store(pool: "Pool") -> Store:
    """The store on the test's database."""
    return Store(pool)
