"""config: the commands that show, check and document the settings."""

import json
from pathlib import Path

import click

from auth_service.cli.settings import config_option, settings_of
from auth_service.cli.terminal import examples, json_option
from auth_service.clock import utc_now
from auth_service.config.reference import masked, reference

__all__ = ["config"]


@click.group(
    epilog=examples("auth-service config show", "auth-service config check --config auth.toml")
)
def config() -> None:
    """Show, check and document the settings."""


@config.command(epilog=examples("auth-service config show", "auth-service config show --json"))
@json_option
@config_option
def show(as_json: bool, config_file: Path | None) -> None:
    """Print the settings in effect, with secrets masked."""
    values = masked(settings_of(config_file))
    if as_json:
        click.echo(json.dumps(values))
        return
    for name, value in values.items():
        # Strings, numbers, booleans and lists of strings are the same in JSON and in TOML.
        click.echo(f"# {name} is unset" if value is None else f"{name} = {json.dumps(value)}")


@config.command(
    epilog=examples(
        "auth-service config check", "auth-service config check --config auth.toml --database"
    )
)
@click.option("--database", is_flag=True, help="Also connect to the database and check its schema.")
@config_option
def check(database: bool, config_file: Path | None) -> None:
    """Check the settings; exit with 3 if they are wrong."""
    settings = settings_of(config_file)
    settings.check_files()
    if settings.migrate_from_file is not None:
        from auth_service.serving.migration import old_issuers  # noqa: PLC0415 - slow

        old_issuers(settings, utc_now)
    if settings.workload_issuers_file is not None:
        from auth_service.serving.workloads import configured_mappings  # noqa: PLC0415 - slow

        configured_mappings(settings)
    if settings.database_url is not None:
        settings.master_key_bytes()
    if database:
        from auth_service.cli.database import run  # noqa: PLC0415 - only this needs the database

        run(config_file, lambda backend: backend.database.store.ping())
    click.echo("the configuration is valid", err=True)


@config.command(epilog=examples("auth-service config docs > docs/configuration.md"))
def docs() -> None:
    """Print the reference of all settings in Markdown."""
    click.echo(reference(), nl=False)
