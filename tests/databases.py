"""The databases of tests: migrated, empty, and each with a name that no other test has used.

The audience `internal` is registered, the default one: open to all, with any scope.

Copying the template writes 8 MB for each test. So a returned database is emptied and used again
under a new name, which nothing left from the earlier test knows. A database whose schema was
changed is dropped instead.
"""

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg

from auth_service.db.migrate import migrate

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = $1 AND backend_type = 'client backend'
"""

# Servers add partitions over time. A table that never had a row has no size.
EMPTY = """
    DO $$
    DECLARE
        partitions text;
        filled text;
    BEGIN
        SELECT string_agg(oid::regclass::text, ', ') INTO partitions FROM pg_class
        WHERE relispartition AND relkind = 'r' AND pg_get_expr(relpartbound, oid) <> 'DEFAULT';
        IF partitions IS NOT NULL THEN
            EXECUTE 'DROP TABLE ' || partitions;
        END IF;
        SELECT string_agg(oid::regclass::text, ', ') INTO filled FROM pg_class
        WHERE oid >= 16384 AND relkind = 'r' AND relname <> 'alembic_version'
            AND pg_relation_size(oid) > 0;
        IF filled IS NOT NULL THEN
            EXECUTE 'TRUNCATE ' || filled || ' RESTART IDENTITY CASCADE';
        END IF;
        INSERT INTO audiences (id, name, scope, open, created_at)
        VALUES (gen_random_uuid(), 'internal', '{*}', true, '2024-01-01Z');
    END
    $$
"""

# All that a test can change in a database besides rows. Copies of one template have the same OIDs.
# Files, sizes and ages are left out, since PostgreSQL changes them itself.
CATALOGS = (
    *("pg_attrdef", "pg_cast", "pg_class", "pg_collation", "pg_constraint", "pg_conversion"),
    *("pg_default_acl", "pg_event_trigger", "pg_extension", "pg_namespace", "pg_operator"),
    *("pg_policy", "pg_proc", "pg_publication", "pg_rewrite", "pg_statistic_ext", "pg_trigger"),
    *("pg_ts_config", "pg_type"),
)
VOLATILE = "{relfilenode,relpages,reltuples,relallvisible,relallfrozen,relfrozenxid,relminmxid}"
ENTRIES = (
    *(
        f"SELECT to_jsonb(r) - '{VOLATILE}'::text[] FROM {catalog} r WHERE oid >= 16384"  # noqa: S608
        for catalog in CATALOGS
    ),
    "SELECT to_jsonb(r) FROM pg_attribute r WHERE attrelid >= 16384",
    "SELECT to_jsonb(r) FROM pg_index r WHERE indexrelid >= 16384",
    "SELECT to_jsonb(r) FROM pg_inherits r",
    "SELECT to_jsonb(r) FROM alembic_version r",
    """
    SELECT to_jsonb(r) - '{oid,datname,datfrozenxid,datminmxid}'::text[] FROM pg_database r
    WHERE datname = current_database()
    """,
    """
    SELECT to_jsonb(r) - 'setdatabase'
    FROM pg_db_role_setting r JOIN pg_database d ON setdatabase = d.oid
    WHERE datname = current_database()
    """,
)
SCHEMA = f"""
    SELECT md5(string_agg(entry::text, ' ' ORDER BY entry::text))
    FROM ({" UNION ALL ".join(ENTRIES)}) AS entries (entry)
"""  # noqa: S608 - only the constants above


# The search path of test databases lets "public" hide PostgreSQL's own function, so that a test can
# set the clock of its database. Without a row it is PostgreSQL's clock.
CLOCK = """
    CREATE TABLE test_clock (now timestamptz NOT NULL);
    CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
    'SELECT coalesce((SELECT now FROM public.test_clock), pg_catalog.clock_timestamp())';
"""
SET_CLOCK = """
    WITH stopped AS (UPDATE test_clock SET now = $1 RETURNING 1)
    INSERT INTO test_clock SELECT $1 WHERE NOT EXISTS (SELECT FROM stopped)
"""


class Databases:
    """Creates databases on one server, and reuses them."""

    def __init__(self, url: str, admin: "Connection", template: str, schema: str) -> None:
        self.url = url
        self._admin = admin
        self._template = template
        self._schema = schema
        self._empty: list[str] = []

    @classmethod
    async def open(cls, url: str) -> "Databases":
        """Create the template, on a server whose user can create databases."""
        admin = await asyncpg.connect(url)
        template = f"auth_template_{uuid4().hex}"
        await admin.execute(f"CREATE DATABASE {template}")
        databases = cls(url, admin, template, "")
        await migrate(databases.database(template))
        connection = await asyncpg.connect(databases.database(template))
        await connection.execute(CLOCK)
        await connection.close()
        await databases._use_test_clock(template)
        databases._schema = await databases._cleared(template)
        return databases

    def database(self, name: str) -> str:
        """Return the URL of a database of this server."""
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{name}"))

    async def take(self) -> str:
        """Return the name of a migrated, empty database."""
        if self._empty:
            return self._empty.pop()
        name = await self.create(self._template)
        await self._use_test_clock(name)
        return name

    async def create(self, template: str) -> str:
        """Return the name of a new database."""
        name = _new_name()
        await self._admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    async def give_back(self, name: str) -> None:
        """Prepare a database for another test, or drop it."""
        while await self._admin.fetch(OTHERS, name):
            await asyncio.sleep(0.002)
        new = _new_name()
        await self._admin.execute(f"ALTER DATABASE {name} RENAME TO {new}")
        if await self._cleared(new) == self._schema:
            self._empty.append(new)
        else:
            await self.drop(new)

    async def drop(self, name: str) -> None:
        """Remove a database, even if clients are connected to it."""
        await self._admin.execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def close(self) -> None:
        """Drop the remaining databases."""
        for name in (*self._empty, self._template):
            await self.drop(name)
        await self._admin.close()

    async def _use_test_clock(self, name: str) -> None:
        await self._admin.execute(f"ALTER DATABASE {name} SET search_path = public, pg_catalog")

    async def _cleared(self, name: str) -> str:
        """Empty a database; return a hash of its schema."""
        connection = await asyncpg.connect(self.database(name))
        try:
            await connection.execute(EMPTY)
            return str(await connection.fetchval(SCHEMA))
        except asyncpg.PostgresError:
            return ""  # the schema cannot be emptied
        finally:
            await connection.close()


def _new_name() -> str:
    return f"auth_test_{uuid4().hex}"


async def set_clock(url: str, now: datetime) -> None:
    """Stop the clock of a test's database at a time."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(SET_CLOCK, now)
    finally:
        await connection.close()
