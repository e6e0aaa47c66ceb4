"""serve and migrate: the commands that run the service and prepare its database."""

import asyncio
from pathlib import Path

import click
import uvloop

from auth_service.cli.database import open_database
from auth_service.cli.development import prepare
from auth_service.cli.settings import config_option, settings_of
from auth_service.cli.terminal import Exit, examples, fail
from auth_service.config import Settings
from auth_service.db import migrate as migrations
from auth_service.db.embedded import EmbeddedPostgresError
from auth_service.errors import ConfigError
from auth_service.server import Server

__all__ = ["migrate", "serve"]


@click.command(
    epilog=examples(
        "auth-service serve --dev",
        "AUTH_DATABASE_URL=postgresql://… AUTH_MASTER_KEY_FILE=… auth-service serve",
        "auth-service serve --config /etc/auth-service.toml",
    )
)
@click.option(
    "--dev",
    is_flag=True,
    help="Also apply migrations, make a first user, and print grpcurl lines to try it with.",
)
@config_option
def serve(dev: bool, config_file: Path | None) -> None:
    """Serve gRPC and HTTP until SIGTERM or Ctrl-C, then let calls in flight finish.

    Without AUTH_DATABASE_URL the service starts a PostgreSQL of its own in AUTH_EMBEDDED_DIR.
    """
    settings = settings_of(config_file)
    try:
        uvloop.run(_serve(settings, dev))
    except EmbeddedPostgresError as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        fail(Exit.UNAVAILABLE, f"cannot serve: {error}", "is AUTH_GRPC_ADDRESS in use already?")


async def _serve(settings: Settings, dev: bool) -> None:
    if dev and settings.database_url is not None:
        await migrations.migrate(settings.database_url.get_secret_value())
    server = Server(settings)
    await server.start()
    try:
        if dev:
            click.echo(await prepare(settings))
        await server.run()
    finally:
        await server.stop()


@click.command(
    epilog=examples("auth-service migrate", "AUTH_DATABASE_URL=postgresql://… auth-service migrate")
)
@config_option
def migrate(config_file: Path | None) -> None:
    """Bring the database's schema up to date; safe to run at any time, by several at once."""
    settings = settings_of(config_file)

    async def work() -> None:
        async with open_database(settings) as dsn:
            await migrations.migrate(dsn)

    asyncio.run(work())
    click.echo("the schema is up to date", err=True)
