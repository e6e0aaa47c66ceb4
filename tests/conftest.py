"""Fixtures of all tests: a clock, and a migrated PostgreSQL database for each test.

One PostgreSQL a test process: an embedded one, or one of the version in AUTH_TEST_POSTGRES_BIN (see
tests/postgres.py), or the server that AUTH_TEST_DATABASE_URL names, whose user must be allowed to
create databases.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from auth_service.db import pool as pools
from auth_service.db.store import Store
from tests.clock import FakeClock
from tests.databases import Databases
from tests.folders import open_folder
from tests.postgres import new_postgres

if TYPE_CHECKING:
    from auth_service.db.pool import Pool

# Tests start PostgreSQL beside running gRPC threads. What is forked is replaced by another program
# at once, and gRPC's own care for forks, unless it is told so, may hurt it in between.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

Result = TypeVar("Result")


class Outside:
    """A loop in a thread, so that what lives as long as the session depends on no test's loop."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._runner = asyncio.Runner()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Return what the work returns."""
        return self._thread.submit(self._runner.run, work).result()

    def close(self) -> None:
        """End the loop and the thread."""
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()


@pytest.fixture
def clock() -> FakeClock:
    """A clock that the test moves."""
    return FakeClock()


@pytest.fixture(scope="session")
def outside() -> Iterator[Outside]:
    """The loop of the session's fixtures."""
    outside = Outside()
    yield outside
    outside.close()


@pytest.fixture(scope="session")
def postgres_url(outside: Outside) -> Iterator[str]:
    """A PostgreSQL server, as the URL of one of its databases."""
    if url := os.environ.get("AUTH_TEST_DATABASE_URL"):
        yield url
        return
    with open_folder() as directory:
        server = new_postgres(directory / "pg")
        try:
            outside.run(server.start())
            yield server.dsn
        finally:
            outside.run(server.stop())


@pytest.fixture(scope="session")
def databases(outside: Outside, postgres_url: str) -> Iterator[Databases]:
    """Where tests get their databases from."""
    databases = outside.run(Databases.open(postgres_url))
    yield databases
    outside.run(databases.close())


@pytest.fixture
def database_url(outside: Outside, databases: Databases) -> Iterator[str]:
    """A migrated, empty database of the test's own."""
    name = outside.run(databases.take())
    yield databases.database(name)
    outside.run(databases.give_back(name))


@pytest.fixture(scope="module")
def module_database_url(outside: Outside, databases: Databases) -> Iterator[str]:
    """A migrated database that the tests of a module share."""
    name = outside.run(databases.take())
    yield databases.database(name)
    outside.run(databases.give_back(name))


@pytest.fixture
def empty_database_url(outside: Outside, databases: Databases) -> Iterator[str]:
    """A database of the test's own that was never migrated."""
    name = outside.run(databases.create("template0"))
    yield databases.database(name)
    outside.run(databases.drop(name))


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
