"""The settings as people read them: masked values, and the table in docs/configuration.md.

Everything here is read off the Settings class, so that the table cannot say anything else.
"""

from datetime import timedelta
from pathlib import Path

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from auth_service.base64url import MAKE_A_SECRET
from auth_service.config.durations import duration_text
from auth_service.config.loading import Settings, example_of, value_text, variable_of

__all__ = ["masked", "reference"]


def masked(settings: Settings) -> dict[str, object]:
    """Return the settings as plain values fit to be shown: secrets masked."""
    return {name: _plain(getattr(settings, name)) for name in Settings.model_fields}


def reference() -> str:
    """Return docs/configuration.md."""
    rows = [_row(name, info) for name, info in Settings.model_fields.items()]
    return "\n".join([_INTRODUCTION, *rows, ""])


_INTRODUCTION = f"""\
# Configuration

<!-- Made by `python -m auth_service config docs`; change auth_service/config.py instead. -->

Every setting is an environment variable. The same names without `AUTH_`, in lower case, may stand
in a TOML file that `--config` or `AUTH_CONFIG_FILE` names; a variable wins over the file. Durations
are a number with `ms`, `s`, `m`, `h` or `d`. `auth-service config show` prints what is in force,
`auth-service config check` tells whether the service would start with it.

Refused at start: a key below 256 bits, or one that is plainly not random; a key file that others
can read (`chmod 600`); no TLS on an address that is not loopback, unless
`AUTH_ALLOW_PLAINTEXT=true`; a database of your own without a master key; a key given both as a
variable and as a file; an unknown key in the TOML file. An unknown `AUTH_*` variable gets a
warning.

Make a key: `{MAKE_A_SECRET}`

The commands exit with 0 (done, or the token is active), 1 (refused, or not active), 2 (wrong
usage), 3 (wrong configuration) or 4 (a server or database is not available; try again). The client
commands (`login`, `refresh`, `validate`, `revoke`) read `AUTH_ADDRESS` and `AUTH_CA_FILE`.

| Variable | Default | Meaning | Example |
|---|---|---|---|"""


def _row(name: str, info: FieldInfo) -> str:
    default = "all CPUs but one" if info.default_factory else _plain(info.default)
    shown = "" if default is None else f"`{value_text(default)}`"
    example = value_text(example_of(info)).replace("|", "\\|")
    return f"| `{variable_of(name)}` | {shown} | {info.description} | `{example}` |"


def _plain(value: object) -> object:
    match value:
        case SecretStr():
            return "**********"
        case timedelta():
            return duration_text(value)
        case Path():
            return str(value)
        case tuple():
            return list(value)
        case _:
            return value
