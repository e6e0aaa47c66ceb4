"""serve and migrate: the commands that run the service and update its database schema."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import uvloop

from auth_service.cli.development import prepare
from auth_service.cli.settings import config_option, settings_of
from auth_service.cli.terminal import Exit, examples, fail
from auth_service.config.loading import Settings, load_settings
from auth_service.db import migrate as migrations
from auth_service.serving.memory import share_arenas
from auth_service.serving.shared_port import prefer_newest
from auth_service.serving.supervisor import Supervisor, WorkerFailed
from auth_service.serving.wiring import database_url
from auth_service.serving.worker import report_serving

if TYPE_CHECKING:
    from auth_service.serving.server import Server

__all__ = ["migrate", "serve"]


@click.command(
    epilog=examples(
        "auth-service serve --dev",
        "AUTH_DATABASE_URL=postgresql://… AUTH_MASTER_KEY_FILE=… auth-service serve",
        "auth-service serve --workers 4 --config /etc/auth-service.toml",
    )
)
@click.option(
    "--dev",
    is_flag=True,
    help="Also migrate the database, create a first user, and print grpcurl commands to try.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Number of processes that share the ports (default: AUTH_WORKERS, or 1).",
)
@click.option("--supervised", type=int, hidden=True)  # set by a supervisor for its workers
@config_option
def serve(dev: bool, workers: int | None, supervised: int | None, config_file: Path | None) -> None:
    """Serve gRPC and HTTP until SIGTERM or Ctrl-C.

    Calls in flight may finish. Without AUTH_DATABASE_URL the service starts an embedded PostgreSQL
    in AUTH_EMBEDDED_DIR. With several workers, a worker that crashes is replaced, and SIGHUP
    restarts the workers one by one.
    """
    try:
        if supervised is not None:
            uvloop.run(_serve_supervised(load_settings(config_file), supervised))
            return
        settings = settings_of(config_file, **({} if workers is None else {"workers": workers}))
        if settings.workers > 1:
            asyncio.run(_supervise(settings, dev, config_file))
        else:
            uvloop.run(_serve(settings, dev))
    except OSError as error:
        fail(
            Exit.UNAVAILABLE, f"cannot serve: {error}", "check whether AUTH_GRPC_ADDRESS is in use"
        )


async def _serve(settings: Settings, dev: bool) -> None:
    if dev:
        await _migrate_own_database(settings)
    server = await _started(settings)
    try:
        if dev:
            click.echo(await prepare(settings))
        await server.run()
    finally:
        await server.stop()


async def _serve_supervised(settings: Settings, line: int) -> None:
    server = await _started(settings)
    try:
        prefer_newest(settings.workers)
        report = asyncio.create_task(report_serving(line, settings.max_connection_age))
        await server.run()
        report.cancel()
    finally:
        await server.stop()


async def _started(settings: Settings) -> "Server":
    # Imported here because a supervisor needs no gRPC.
    from auth_service.serving.server import Server  # noqa: PLC0415

    share_arenas()
    server = Server(settings)
    server.handle_signals()
    await server.start()
    return server


async def _supervise(settings: Settings, dev: bool, config_file: Path | None) -> None:
    command = [sys.executable, "-m", "auth_service", "serve"]
    if config_file is not None:
        command += ["--config", str(config_file)]

    async def on_serving() -> None:
        if dev:
            click.echo(await prepare(settings))

    if dev:
        await _migrate_own_database(settings)
    supervisor = Supervisor(settings, command)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    loop.add_signal_handler(signal.SIGHUP, supervisor.restart)
    try:
        clean = await supervisor.run(on_serving)
    except WorkerFailed as error:  # the worker has printed the cause
        raise click.exceptions.Exit(max(error.code, Exit.REFUSED)) from error
    if not clean:
        fail(Exit.REFUSED, "not every worker stopped cleanly", "see worker_exited in the log")


async def _migrate_own_database(settings: Settings) -> None:
    if settings.database_url is not None:
        await migrations.migrate(
            settings.database_url.get_secret_value(),
            transaction_pooling=settings.database_transaction_pooling,
        )


@click.command(
    epilog=examples("auth-service migrate", "AUTH_DATABASE_URL=postgresql://… auth-service migrate")
)
@config_option
def migrate(config_file: Path | None) -> None:
    """Update the schema of the database.

    It is safe at any time, also while servers run or several processes migrate.
    """
    settings = settings_of(config_file)

    async def work() -> None:
        async with database_url(settings, join=True) as url:
            await migrations.migrate(url, transaction_pooling=settings.database_transaction_pooling)

    asyncio.run(work())
    click.echo("the schema is up to date", err=True)
