"""The file of AUTH_WORKLOAD_ISSUERS_FILE: who vouches for workloads, and whom each may log in as.

Owns the form of the file, and the error for one that is wrong. Does not read any key.
"""

import re
import tomllib
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from auth_service.addresses import is_loopback
from auth_service.config.key_files import refuse_open_file
from auth_service.config.types import Duration, File, wrong
from auth_service.errors import ConfigError

__all__ = [
    "IssuerSettings",
    "KeysUrl",
    "MappingSettings",
    "Table",
    "Text",
    "read_issuers",
    "read_toml",
    "refuse_twins",
]

_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_URL_INTERVAL, _FILE_INTERVAL = timedelta(minutes=5), timedelta(seconds=30)
_SOURCES = ("jwks_file", "jwks_url", "workload_api")
Text = Annotated[str, Field(min_length=1, max_length=512)]
T = TypeVar("T", bound="Table")


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise wrong("is not a URL") from None
    if not host or parts.username or parts.fragment or parts.scheme not in ("http", "https"):
        raise wrong("is not an https URL without user and fragment")
    if parts.scheme == "http" and not is_loopback(f"{host}:{port or 80}"):
        raise wrong("is not https, so anyone on the way could replace the keys")
    return value


KeysUrl = Annotated[str, AfterValidator(_url)]
"""Where a JWK Set is."""


class Table(BaseModel):
    """A table of a TOML file: no key but those that are named."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class MappingSettings(Table):
    """One `[[issuer.account]]`: a subject, and the service account as which it logs in."""

    subject: Text
    client_id: Text
    claims: dict[str, str] = Field(default_factory=dict)
    allow_default_account: bool = False


class IssuerSettings(Table):
    """One `[[issuer]]`."""

    kind: Literal["kubernetes", "spiffe", "jwks"]
    issuer: Text | None = None
    trust_domain: str | None = None
    audience: Text | None = None
    jwks_file: File | None = None
    jwks_url: KeysUrl | None = None
    workload_api: File | None = None
    ca_file: File | None = None
    bearer_token_file: File | None = None
    refresh_interval: Duration | None = None
    stale_after: Duration = timedelta(hours=1)
    max_lifetime: Duration = timedelta(hours=24)
    max_age: Duration = timedelta(hours=24)
    mtls: bool = False
    account: tuple[MappingSettings, ...] = ()

    @property
    def name(self) -> str:
        """What the tokens name it, which mappings refer to."""
        return f"spiffe://{self.trust_domain}" if self.kind == "spiffe" else str(self.issuer)

    @property
    def interval(self) -> timedelta:
        """The time between two readings of its keys."""
        default = _FILE_INTERVAL if self.jwks_url is None else _URL_INTERVAL
        return self.refresh_interval or default

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        spiffe = self.kind == "spiffe"
        if spiffe and (self.issuer is not None or not self._is_trust_domain()):
            raise wrong('needs trust_domain, as "example.org", and has no issuer')
        if not spiffe and (self.issuer is None or self.trust_domain is not None):
            raise wrong(f"needs issuer, the `iss` of its tokens, for kind {self.kind}")
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        # A trust domain may let certificates in only, for which no key is read.
        if len(given) != 1 and not (self.mtls and not given):
            raise wrong(f"needs one of {', '.join(_SOURCES)}")
        if not spiffe and (self.workload_api or self.mtls):
            raise wrong("has workload_api or mtls, which are for kind spiffe")
        if self.jwks_url is None and (self.ca_file or self.bearer_token_file):
            raise wrong("has ca_file or bearer_token_file, which go with jwks_url")
        if self.bearer_token_file and str(self.jwks_url).startswith("http:"):
            raise wrong("has bearer_token_file, which goes over https only")
        subjects = [each.subject for each in self.account]
        if len(set(subjects)) != len(subjects):
            raise wrong("maps a subject twice")
        return self

    def _is_trust_domain(self) -> bool:
        return _TRUST_DOMAIN.fullmatch(self.trust_domain or "") is not None


class _File(Table):
    issuer: tuple[IssuerSettings, ...] = ()


def read_issuers(path: Path, what: str = "AUTH_WORKLOAD_ISSUERS_FILE") -> list[IssuerSettings]:
    """Return the issuers of a TOML file. Raises ConfigError with all that is wrong in it."""
    issuers = read_toml(_File, path, what, "docs/workloads.md").issuer
    refuse_twins([each.name for each in issuers], path, what)
    for each in issuers:
        for name in ("jwks_file", "ca_file", "bearer_token_file"):
            if (file := getattr(each, name)) is not None:
                refuse_open_file(file, f"{what}: {name} of {each.name}", 0)
    return list(issuers)


def read_toml(of: type[T], path: Path, what: str, page: str) -> T:
    """Return what a TOML file has. Raises ConfigError; `page` has an example."""
    refuse_open_file(path, what, 0)
    try:
        return of(**tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        problems = "\n".join(_problem(item, page) for item in error.errors(include_url=False))
        raise ConfigError(f"{what}: {path} is wrong:\n{problems}") from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError(f"{what}: {path} is not TOML: {error}") from error


def refuse_twins(names: Sequence[str], path: Path, what: str) -> None:
    """Raise ConfigError if an issuer is there twice."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{what}: {path} has the issuer {twice[0]} twice; keep one of them")


def _problem(item: Any, page: str) -> str:
    where = ".".join(str(part + 1) if isinstance(part, int) else part for part in item["loc"])
    message = item["msg"][:1].lower() + item["msg"][1:]
    return f"  {where or 'the file'}: {message}; {page} has an example"
