"""The file of AUTH_MIGRATE_FROM_FILE: whose tokens are traded for sessions, and until when.

Owns the form of the file, and the error for one that is wrong. Reads shared keys only.
"""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, StrictBool, StrictStr, model_validator

from auth_service.config.issuers import KeysUrl, Table, Text, read_toml, refuse_twins
from auth_service.config.key_files import refuse_open_file
from auth_service.config.types import Duration, File, wrong
from auth_service.errors import ConfigError

__all__ = ["MIGRATE_FROM_FILE", "MigrateFromSettings", "read_migrate_from"]

MIGRATE_FROM_FILE = "AUTH_MIGRATE_FROM_FILE"
_SOURCES = ("jwks_file", "jwks_url", "secret_file")
_URL_INTERVAL, _FILE_INTERVAL = timedelta(minutes=5), timedelta(seconds=30)
_Value = StrictStr | StrictBool


class MigrateFromSettings(Table):
    """One `[[migrate_from]]`."""

    issuer: Text
    without_iss: bool = False
    jwks_file: File | None = None
    jwks_url: KeysUrl | None = None
    ca_file: File | None = None
    refresh_interval: Duration | None = None
    stale_after: Duration = timedelta(hours=1)
    secret_file: File | None = None
    algorithms: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    audience: Text | None = None
    claims: Annotated[
        dict[str, _Value | Annotated[tuple[_Value, ...], Field(min_length=1)]], Field(min_length=1)
    ]
    user_claim: Text = "sub"
    user: Literal["id", "identifier"]
    prefix: Annotated[str, Field(max_length=64)] = ""
    until: AwareDatetime
    max_age: Duration = timedelta(days=30)

    @property
    def interval(self) -> timedelta:
        """The time between two readings of its keys."""
        default = _FILE_INTERVAL if self.jwks_url is None else _URL_INTERVAL
        return self.refresh_interval or default

    @property
    def accepted_claims(self) -> dict[str, tuple[str | bool, ...]]:
        """The claims that its tokens must have, each with the values that will do."""
        return {
            name: value if isinstance(value, tuple) else (value,)
            for name, value in self.claims.items()
        }

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len([name for name in _SOURCES if getattr(self, name) is not None]) != 1:
            raise wrong(f"needs one of {', '.join(_SOURCES)}")
        if self.jwks_url is None and self.ca_file is not None:
            raise wrong("has ca_file, which goes with jwks_url")
        if self.prefix and self.user == "id":
            raise wrong('has prefix, which goes with user = "identifier"')
        return self

    def shared_key(self) -> bytes | None:
        """Return the key that it shares with this service, if it does. Raises ConfigError."""
        if self.secret_file is None:
            return None
        refuse_open_file(
            self.secret_file, f"{MIGRATE_FROM_FILE}: secret_file of {self.issuer}", 0o077
        )
        return self.secret_file.read_bytes().rstrip(b"\r\n")


class _File(Table):
    migrate_from: tuple[MigrateFromSettings, ...] = ()


def read_migrate_from(path: Path) -> list[MigrateFromSettings]:
    """Return the issuers of a TOML file. Raises ConfigError with all that is wrong in it."""
    issuers = read_toml(_File, path, MIGRATE_FROM_FILE, "docs/migrate.md").migrate_from
    refuse_twins([each.issuer for each in issuers], path, MIGRATE_FROM_FILE)
    if sum(each.without_iss for each in issuers) > 1:
        raise ConfigError(
            f"{MIGRATE_FROM_FILE}: {path} has without_iss = true twice, so that nothing tells the "
            "tokens of the two apart; keep one of them"
        )
    for each in issuers:
        for name in ("jwks_file", "ca_file"):
            if (file := getattr(each, name)) is not None:
                refuse_open_file(file, f"{MIGRATE_FROM_FILE}: {name} of {each.issuer}", 0)
        each.shared_key()
    return list(issuers)
