"""Fixtures of all tests: a clock, and a migrated PostgreSQL database for each test.

There is one PostgreSQL per test process: an embedded one, or one of the version in
AUTH_TEST_POSTGRES_BIN (see tests/postgres.py), or the server of AUTH_TEST_DATABASE_URL, whose user
must be able to create databases.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import structlog
from hypothesis import settings

from auth_service.db import pool as pools
from auth_service.db.store import Store
from tests.clock import FakeClock
from tests.databases import Databases
from tests.folders import open_folder
from tests.postgres import new_postgres

if TYPE_CHECKING:
    from auth_service.db.pool import Pool

# Tests start PostgreSQL while gRPC threads run. The forked processes execute another program at
# once. gRPC's support for forks is therefore not needed, and it could break them in between.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

# A busy machine may take any time over an example.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

Result = TypeVar("Result")


class Outside:
    """An event loop in a thread for session fixtures, which do not depend on the loop of a test."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._runner = asyncio.Runner()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Return the result of a coroutine."""
        return self._thread.submit(self._runner.run, work).result()

    def close(self) -> None:
        """Stop the loop and the thread."""
        self._thread.submit(self._runner.close).result()
        self._thread.shutdown()


@pytest.fixture(autouse=True, scope="module")
def _logs_of_a_module() -> Iterator[None]:
    """A server sets up the logs of its process: leave nothing of that to the next module."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def clock() -> FakeClock:
    """A clock that the test advances."""
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
    """The databases of the tests."""
    databases = outside.run(Databases.open(postgres_url))
    yield databases
    outside.run(databases.close())


@pytest.fixture
def database_url(outside: Outside, databases: Databases) -> Iterator[str]:
    """A migrated, empty database for one test."""
    name = outside.run(databases.take())
    yield databases.database(name)
    outside.run(databases.give_back(name))


@pytest.fixture(scope="module")
def module_database_url(outside: Outside, databases: Databases) -> Iterator[str]:
    """A migrated database for the tests of a module."""
    name = outside.run(databases.take())
    yield databases.database(name)
    outside.run(databases.give_back(name))


@pytest.fixture
def empty_database_url(outside: Outside, databases: Databases) -> Iterator[str]:
    """A database for one test without a schema."""
    name = outside.run(databases.create("template0"))
    yield databases.database(name)
    outside.run(databases.drop(name))


@pytest.fixture
async def pool(database_url: str) -> "AsyncIterator[Pool]":
    """A pool of connections to the database of the test."""
    pool = await pools.connect(database_url, min_size=1, max_size=10)
    yield pool
    pool.terminate()


@pytest.fixture
def store(pool: "Pool") -> Store:
    """The store on the database of the test."""
    return Store(pool)
