"""Opens the database for the commands that work on it without a server's RPCs.

A command uses the embedded PostgreSQL of a running server. If none runs, it starts one for its own
duration.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from auth_service.audit import Origin, begin, operator
from auth_service.cli.settings import settings_of
from auth_service.config.loading import Settings
from auth_service.core.accounts import Accounts
from auth_service.core.auditing import Auditor
from auth_service.models import Revocation
from auth_service.serving.wiring import Database, accounts, open_database, password_hasher
from auth_service.telemetry.logs import configure_logging

__all__ = ["Backend", "open_backend", "run"]

Result = TypeVar("Result")

_SIZE = {"database_pool_min": 1, "database_pool_max": 2, "hash_workers": 1}
"""The settings of size for a command, which does one thing at a time."""


@dataclass(frozen=True, slots=True)
class Backend:
    """What a command works with."""

    settings: Settings
    database: Database
    accounts: Accounts


@asynccontextmanager
async def open_backend(settings: Settings) -> AsyncIterator[Backend]:
    """Open the database and the accounts; at the end, notify running servers of revocations."""
    settings = settings.model_copy(update=_SIZE)
    revocations: list[Revocation] = []
    async with open_database(settings, join=True) as database:
        hasher = password_hasher(settings)
        try:
            yield Backend(
                settings, database, accounts(settings, database, hasher, revocations.append)
            )
        finally:
            hasher.close()
        if revocations:
            await database.store.notify_revocations()


def run(config_file: Path | None, work: Callable[[Backend], Awaitable[Result]]) -> Result:
    """Run `work` on the database of the settings, as one call in the audit log."""

    async def _run() -> Any:
        begin(partial(Origin.of, "", {}), operator(socket.gethostname()))
        async with open_backend(settings) as backend:
            database = backend.database
            try:
                return await Auditor(database.store, database.clock).audited(event, work(backend))
            finally:
                await database.store.flush_audit()

    _, *words = click.get_current_context().command_path.replace("-", "_").split()
    event = f"cli.{'_'.join(words)}"
    settings = settings_of(config_file)
    configure_logging("warning", settings.log_format)  # to stderr: stdout is the command's answer
    result: Result = asyncio.run(_run())
    return result
