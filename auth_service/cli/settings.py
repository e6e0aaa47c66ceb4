"""The settings of a command: AUTH_* variables, --config, the embedded directory."""

import os
from pathlib import Path
from typing import Any

import click

from auth_service.config.loading import Settings, load_settings, unknown_variables

__all__ = ["config_option", "settings_of"]

config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="TOML file with settings (default: AUTH_CONFIG_FILE).",
)


def settings_of(config_file: Path | None, **overrides: Any) -> Settings:
    """Load the settings; `embedded_dir` is set if the embedded PostgreSQL is used."""
    for warning in unknown_variables(os.environ):
        click.echo(f"warning: {warning}", err=True)
    settings = load_settings(config_file, **overrides)
    if settings.database_url is None and settings.embedded_dir is None:
        from auth_service.serving.wiring import embedded_directory  # noqa: PLC0415 - slow to load

        return settings.model_copy(update={"embedded_dir": embedded_directory(settings)})
    return settings
