"""Opens the database for the commands that work on it without a server's RPCs.

With the embedded PostgreSQL the running one is used, else it is started for the command's duration.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from auth_service.cli.settings import settings_of
from auth_service.config.loading import Settings
from auth_service.core.accounts import Accounts
from auth_service.core.passwords import Argon2Profile, PasswordHasher
from auth_service.core.session_policy import SessionPolicy
from auth_service.db import migrate as migrations
from auth_service.db import pool as pools
from auth_service.db.embedded import (
    EmbeddedPostgres,
    EmbeddedPostgresError,
    running_dsn,
)
from auth_service.db.key_store import KeyStore
from auth_service.db.store import Store
from auth_service.errors import ConfigError
from auth_service.models import Revocation
from auth_service.telemetry import configure_logging

__all__ = ["Backend", "open_backend", "open_database", "run"]

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Backend:
    """What a command may work with."""

    settings: Settings
    store: Store
    key_store: KeyStore
    accounts: Accounts


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[str]:
    """Give the URL of the database. Raises ConfigError where the embedded one cannot run."""
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    assert settings.embedded_dir is not None  # noqa: S101 - settings_of() saw to it
    async with AsyncExitStack() as stack:
        dsn = running_dsn(settings.embedded_dir)
        if dsn is None:
            embedded = EmbeddedPostgres(settings.embedded_dir)
            try:
                await stack.enter_async_context(embedded)
            except EmbeddedPostgresError as error:
                raise ConfigError(str(error)) from error
            dsn = embedded.dsn
            await migrations.migrate(dsn)
        yield dsn


@asynccontextmanager
async def open_backend(settings: Settings) -> AsyncIterator[Backend]:
    """Open the store and the accounts; at the end tell running servers of revocations."""
    revocations: list[Revocation] = []
    async with AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(open_database(settings))
        pool = await pools.connect(
            dsn,
            min_size=1,
            max_size=2,
            statement_timeout=settings.database_statement_timeout,
            connect_timeout=settings.database_connect_timeout,
        )
        stack.push_async_callback(pool.close)
        await migrations.schema_version_ok(pool)
        store = Store(pool)
        hasher = PasswordHasher(_profile(settings), workers=1)
        stack.callback(hasher.close)
        accounts = Accounts(
            store,
            hasher,
            _policy(settings),
            revocations.append,
            lambda: datetime.now(UTC),
            password_min_length=settings.password_min_length,
        )
        yield Backend(settings, store, KeyStore(pool), accounts)
        if revocations:
            await store.notify_revocations()


def run(config_file: Path | None, work: Callable[[Backend], Awaitable[Result]]) -> Result:
    """Run `work` on the database that the settings name."""

    async def _run() -> Any:
        async with open_backend(settings) as backend:
            return await work(backend)

    settings = settings_of(config_file)
    configure_logging("warning", settings.log_format)  # to stderr: stdout is the command's answer
    result: Result = asyncio.run(_run())
    return result


def _policy(settings: Settings) -> SessionPolicy:
    return SessionPolicy(
        issuer=settings.issuer,
        default_audience=settings.default_audience,
        access_ttl=settings.access_token_ttl,
    )


def _profile(settings: Settings) -> Argon2Profile:
    return Argon2Profile(
        settings.argon2_memory_kib, settings.argon2_time_cost, settings.argon2_parallelism
    )
