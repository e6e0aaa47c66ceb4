"""The configuration: AUTH_* variables and an optional TOML file, read once, checked, frozen.

Owns the sources of settings, and the error for a setting that is wrong.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from auth_service.config.key_files import refuse_open_file
from auth_service.config.settings import GENERATED_KEY, PREFIX, Settings, variable_of
from auth_service.errors import ConfigError

__all__ = [
    "GENERATED_KEY",
    "Settings",
    "example_of",
    "load_settings",
    "unknown_variables",
    "value_text",
    "variable_of",
]

CONFIG_FILE_VARIABLE = "AUTH_CONFIG_FILE"
OTHER_VARIABLES = (CONFIG_FILE_VARIABLE, "AUTH_ADDRESS", "AUTH_CA_FILE")
"""AUTH_* variables that are not settings of the server."""


def load_settings(config_file: Path | None = None, **overrides: Any) -> Settings:
    """Read overrides, then AUTH_* variables, then the TOML file. Raises ConfigError.

    The file is `config_file`, or else that of AUTH_CONFIG_FILE, if any. An earlier source wins.
    """
    named = config_file or os.environ.get(CONFIG_FILE_VARIABLE)
    path = Path(named) if named else None
    values = {} if path is None else _read_toml(path)
    present = {name.upper() for name in os.environ}
    from_file = {name: v for name, v in values.items() if variable_of(name) not in present}
    try:
        settings = Settings(**{**from_file, **overrides})
    except ValidationError as error:
        raise ConfigError(_explain(error, from_file, path)) from None
    settings.check_files()
    return settings


def unknown_variables(environ: Iterable[str]) -> list[str]:
    """Return a warning for each AUTH_* variable that is not a setting.

    It is not an error: Kubernetes sets AUTH_PORT and similar variables for a Service named "auth".
    """
    known = [*map(variable_of, Settings.model_fields), *OTHER_VARIABLES]
    unknown = sorted(n for n in environ if n.startswith(PREFIX) and n not in known)
    return [f"{name} is not a setting and has no effect{_nearest(name, known)}" for name in unknown]


def value_text(value: object) -> str:
    """Return the value of a setting as written in a variable."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list) else str(value)


def example_of(info: FieldInfo) -> object:
    """Return the example of a setting for its errors and its row of the reference."""
    return info.examples[0] if info.examples else ""


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""


def _explain(error: ValidationError, from_file: Mapping[str, object], path: Path | None) -> str:
    """Return a line for each wrong value: variable, problem and example, but no secret."""
    problems = []
    for item in error.errors(include_input=True, include_url=False):
        if not item["loc"]:
            problems.append(item["msg"])
            continue
        name = str(item["loc"][0])
        info = Settings.model_fields.get(name)
        if info is None:
            problems.append(f"{name} is not a setting{_nearest(name, Settings.model_fields)}")
            continue
        where = f" ({name} in {path})" if name in from_file else ""
        value = "" if "SecretStr" in str(info.annotation) else f" {item['input']!r}"
        message = item["msg"][:1].lower() + item["msg"][1:]
        problems.append(
            f"{variable_of(name)}{where}:{value} {message}; example: "
            f"{variable_of(name)}={value_text(example_of(info))}"
        )
    return "\n".join(problems)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"the configuration file {path} cannot be read: {error.strerror}; "
            f"check --config and {CONFIG_FILE_VARIABLE}"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f'{path} is not TOML: {error}; example of a line: issuer = "https://auth.example.com"'
        ) from error
    known = list(Settings.model_fields)
    for name in values:
        if name not in known:
            raise ConfigError(
                f"{path}: {name} is not a setting{_nearest(name, known)}; "
                "see docs/configuration.md, or run auth-service config docs"
            )
    if {"master_key", "shared_key"} & values.keys():
        refuse_open_file(path, "the configuration file, which has a key", 0o077)
    return values
