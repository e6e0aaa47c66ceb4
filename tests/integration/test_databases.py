"""The databases of tests: migrated and empty, regardless of the tests before."""

import asyncio
import os
import subprocess

import asyncpg
import pytest

from tests.conftest import Outside
from tests.databases import Databases

USER = """
    INSERT INTO users VALUES ('00000000-0000-0000-0000-000000000000', '', '{}', '{}', false, now())
"""
ROWS = """
    INSERT INTO user_identifiers VALUES ('ada', '00000000-0000-0000-0000-000000000000', 0);
    INSERT INTO login_throttle VALUES ('ada', now());
    SELECT create_audit_partition(now());
    INSERT INTO audit_log VALUES (now(), 'login'), (now() + interval '1 year', 'login')
"""
LEFT = """
    SELECT (SELECT count(*) FROM users) + (SELECT count(*) FROM user_identifiers)
        + (SELECT count(*) FROM login_throttle) + (SELECT count(*) FROM audit_log)
        + (SELECT count(*) - 1 FROM pg_inherits WHERE inhparent = 'audit_log'::regclass)
"""
WORK_MEM = """
    DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 64', current_database()); END $$
"""
HERE = "SELECT oid FROM pg_database WHERE datname = current_database()"


def oid_after(databases: Databases, outside: Outside, *changes: str) -> tuple[int, int, int]:
    """Change a database and return it; return its OID, that of the next, and the rows left."""

    async def work() -> tuple[int, int, int]:
        name = await databases.take()
        connection = await asyncpg.connect(databases.database(name))
        before = await connection.fetchval(HERE)
        for change in changes:
            await connection.execute(change)
        await databases.give_back(name)  # while the connection is still open
        again = await databases.take()
        assert again != name
        with pytest.raises(asyncpg.InvalidCatalogNameError):
            await asyncpg.connect(databases.database(name))
        connection = await asyncpg.connect(databases.database(again))
        after, left = await connection.fetchval(HERE), await connection.fetchval(LEFT)
        await connection.close()
        await databases.give_back(again)
        return before, after, left

    return outside.run(work())


def test_a_database_is_used_again_empty_and_renamed(databases: Databases, outside: Outside) -> None:
    """Rows and partitions are gone, and old connections are closed."""
    before, after, left = oid_after(databases, outside, USER, ROWS)
    assert (after, left) == (before, 0)


@pytest.mark.parametrize(
    "change",
    [
        "DROP INDEX sessions_id",
        "ALTER TABLE users ALTER COLUMN roles DROP NOT NULL",
        "CREATE FUNCTION more() RETURNS void LANGUAGE sql AS ''",
        "DELETE FROM alembic_version",
        WORK_MEM,
    ],
)
def test_a_database_whose_schema_was_changed_is_not_used_again(
    databases: Databases, outside: Outside, change: str
) -> None:
    """The next test gets another database, as migrated."""
    before, after, left = oid_after(databases, outside, change, USER)
    assert after != before
    assert left == 0


async def test_the_server_has_the_version_that_was_asked_for(postgres_url: str) -> None:
    """The version of the binaries in AUTH_TEST_POSTGRES_BIN, or of the embedded PostgreSQL."""
    binaries = os.environ.get("AUTH_TEST_POSTGRES_BIN")
    expected = ("15", "18") if "AUTH_TEST_DATABASE_URL" in os.environ else ("18",)
    if binaries:
        command = [f"{binaries}/postgres", "--version"]
        said = (await asyncio.to_thread(subprocess.check_output, command)).decode()
        expected = (said.removeprefix("postgres (PostgreSQL) ").partition(".")[0],)
    connection = await asyncpg.connect(postgres_url)
    try:
        assert (await connection.fetchval("SHOW server_version")).partition(".")[0] in expected
    finally:
        await connection.close()
