"""Settings: AUTH_* variables and an optional TOML file, read once, checked, frozen.

Owns every name, default and rule of the configuration, and the table of them in the docs. Knows
nothing of what the settings are for: no socket, database or token is touched here.
"""

import difflib
import ipaddress
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from auth_service.durations import parse_duration
from auth_service.errors import ConfigError
from auth_service.key_files import (
    MAKE_A_KEY,
    decode_key,
    generated_key,
    read_key,
    refuse_open_file,
)

__all__ = [
    "GENERATED_KEY",
    "Settings",
    "example_of",
    "load_settings",
    "unknown_variables",
    "value_text",
    "variable_of",
]

PREFIX = "AUTH_"
CONFIG_FILE_VARIABLE = "AUTH_CONFIG_FILE"
GENERATED_KEY = "master.key"
"""The file with the generated master key, in the directory of the embedded PostgreSQL."""
OTHER_VARIABLES = (CONFIG_FILE_VARIABLE, "AUTH_ADDRESS", "AUTH_CA_FILE")
"""AUTH_* variables that are not settings of the server: the file's name, and the client's."""

_WEB_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[\da-f:.]+\]|[\w.-]+)(?::(?P<port>\d{1,5}))?"
    r"(?P<path>(?:/[^?#\s]*)?)",
    re.ASCII | re.IGNORECASE,
)


def _wrong(text: str) -> PydanticCustomError:
    return PydanticCustomError("setting", "{text}", {"text": text})


def _duration(value: object) -> timedelta:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise _wrong(str(error)) from None


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _named_path(value: object) -> object:
    if value == "":
        raise _wrong("is empty; leave it out, or name a file")
    return value


def _address(value: str) -> str:
    if value.startswith("unix:"):
        return value
    host, colon, port = value.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise _wrong("is not host:port")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise _wrong("has an IPv6 address without brackets")
    return value


def _http_address(value: str) -> str:
    if value.startswith("unix:"):
        raise _wrong("is not host:port")
    return value if value == "off" else _address(value)


def _public_url(value: str) -> str:
    origin, path = _web_url(value, "is not a URL of http or https without user, query and fragment")
    return origin + path.rstrip("/")


def _origin(value: str) -> str:
    wrong = "is not an origin: http or https, an ASCII host and maybe a port, without a path"
    origin, path = _web_url(value, wrong)
    if path:
        raise _wrong(wrong)
    return origin


def _web_url(value: str, wrong: str) -> tuple[str, str]:
    """Return the origin as browsers write it (RFC 6454 section 6.2), and the path."""
    match = _WEB_URL.fullmatch(value)
    if match is None or int(match["port"] or 0) > 65535:
        raise _wrong(wrong)
    scheme, host = match["scheme"].lower(), match["host"].lower()
    usual = "443" if scheme == "https" else "80"
    port = "" if match["port"] in (None, usual) else f":{match['port']}"
    return f"{scheme}://{host}{port}", match["path"]


def _database_url(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("postgresql://", "postgres://")):
        raise _wrong("is not a URL that begins with postgresql://")
    return value


def _key(value: SecretStr) -> SecretStr:
    try:
        decode_key(value.get_secret_value())
    except ValueError as error:
        raise _wrong(str(error)) from None
    return value


Duration = Annotated[timedelta, BeforeValidator(_duration), Field(gt=timedelta(0))]
DurationOrZero = Annotated[timedelta, BeforeValidator(_duration), Field(ge=timedelta(0))]
Names = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=256)], ...],
    NoDecode,
    BeforeValidator(_split),
    Field(min_length=1, max_length=16),
]
OptionalNames = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=256)], ...],
    NoDecode,
    BeforeValidator(_split),
]
File = Annotated[Path, BeforeValidator(_named_path)]
Key = Annotated[SecretStr, AfterValidator(_key)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]
Address = Annotated[str, AfterValidator(_address)]
HttpAddress = Annotated[str, AfterValidator(_http_address)]
PublicUrl = Annotated[str, AfterValidator(_public_url)]
Origins = Annotated[
    tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode, BeforeValidator(_split)
]
Positive = Annotated[int, Field(ge=1)]


def _field(default: Any, text: str, example: object) -> Any:
    return Field(default, description=text, examples=[example])


class Settings(BaseSettings):
    """All settings of the service. Durations are `timedelta`; secrets are masked when shown."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    database_url: DatabaseUrl | None = _field(
        None,
        "The PostgreSQL database; TLS by sslmode and its kin. Without it an embedded PostgreSQL "
        "is started.",
        "postgresql://auth@db.internal/auth?sslmode=verify-full",
    )
    database_pool_min: Annotated[int, Field(ge=0)] = _field(
        2, "Connections that each process keeps open.", 2
    )
    database_pool_max: Positive = _field(10, "Connections that each process opens at most.", 10)
    database_statement_timeout: Duration = _field(
        timedelta(seconds=5), "How long one statement may take.", "5s"
    )
    database_connect_timeout: Duration = _field(
        timedelta(seconds=5), "How long connecting, or waiting for a connection, may take.", "5s"
    )
    embedded_dir: File | None = _field(
        None,
        "Where the embedded PostgreSQL keeps its data and the generated master key; `.data` below "
        "the current directory if unset.",
        "/var/lib/auth-service",
    )
    master_key: Key | None = _field(
        None,
        "The key that encrypts signing keys at rest and signs refresh tokens: base64url of 32 "
        "bytes or more. Never leaves the server. Generated with the embedded PostgreSQL only.",
        f"$({MAKE_A_KEY})",
    )
    master_key_file: File | None = _field(
        None,
        "A file (mode 0600) that holds the master key, instead of the variable.",
        "/run/secrets/auth-master-key",
    )
    shared_key: Key | None = _field(
        None,
        "The HS256 key that signs access tokens, and with which other services verify them: "
        "base64url of 32 bytes or more. Generated and kept in the database if unset.",
        f"$({MAKE_A_KEY})",
    )
    shared_key_file: File | None = _field(
        None,
        "A file (mode 0600) that holds the shared key, instead of the variable.",
        "/run/secrets/auth-shared-key",
    )
    issuer: Annotated[str, Field(min_length=1, max_length=256)] = _field(
        "https://auth.internal", "The claim `iss` of every token.", "https://auth.example.com"
    )
    default_audience: Names = _field(
        ("internal",),
        "The claim `aud` where Login names none; several are separated by commas.",
        "orders,billing",
    )
    access_token_ttl: Duration = _field(
        timedelta(minutes=15), "How long an access token is good.", "15m"
    )
    refresh_token_idle_ttl: Duration = _field(
        timedelta(days=7), "How long a session lasts without a refresh.", "7d"
    )
    refresh_token_absolute_ttl: Duration = _field(
        timedelta(days=30), "How long a session lasts at most.", "30d"
    )
    refresh_grace: DurationOrZero = _field(
        timedelta(seconds=10),
        "How long the retry of a refresh gets the same successor instead of counting as reuse.",
        "10s",
    )
    clock_skew: DurationOrZero = _field(
        timedelta(seconds=10), "How far in the future `iat` and `nbf` may lie.", "10s"
    )
    signing_algorithm: Literal["HS256", "EdDSA", "ES256", "RS256"] | None = _field(
        None,
        "What access tokens are signed with. Unset: HS256 at first, then what `keys rotate` says.",
        "EdDSA",
    )
    key_rotation_interval: DurationOrZero = _field(
        timedelta(days=30), "How long a key signs; 0: until `keys rotate`.", "30d"
    )
    key_publish_lead: DurationOrZero = _field(
        timedelta(minutes=30),
        "How long a key is known before it signs; longer than caches of keys last (Istio: 20m).",
        "30m",
    )
    verifier_certificates: OptionalNames = _field(
        (),
        "Names in client certificates (mTLS) that hold the verifier role, and so get shared keys.",
        "orders.internal,spiffe://mesh/ns/shop/sa/billing",
    )
    freshness_limit: Duration = _field(
        timedelta(seconds=5),
        "How old the knowledge of revocations may be; past it Validate answers UNAVAILABLE.",
        "5s",
    )
    feed_poll_interval: Duration = _field(
        timedelta(seconds=1), "How often revocations are looked for at the latest.", "1s"
    )
    verified_cache_size: Annotated[int, Field(ge=0)] = _field(
        10_000, "How many signatures found good are remembered; 0 for none.", 10_000
    )
    password_min_length: Annotated[int, Field(ge=8, le=128)] = _field(
        15, "The fewest characters of a password (NIST SP 800-63B: 15; never below 8).", 15
    )
    argon2_memory_kib: Annotated[int, Field(ge=7168)] = _field(
        19_456, "Memory of one argon2id hash in KiB (OWASP: 19456 with time 2).", 19_456
    )
    argon2_time_cost: Positive = _field(2, "Passes of one argon2id hash.", 2)
    argon2_parallelism: Positive = _field(1, "Lanes of one argon2id hash.", 1)
    hash_workers: Positive = Field(
        default_factory=lambda: os.cpu_count() or 1,
        description="How many passwords are hashed at the same time; if unset the CPUs, "
        "shared among workers.",
        examples=[4],
    )
    hash_queue: Positive = _field(
        64, "How many wait to be hashed; beyond it the answer is RESOURCE_EXHAUSTED.", 64
    )
    login_burst: Positive = _field(
        10, "How many failed logins of one identifier are taken at once.", 10
    )
    login_refill: Duration = _field(
        timedelta(seconds=10), "After how long one more is taken.", "10s"
    )
    grpc_address: Address = _field(
        "127.0.0.1:50051",
        "Where gRPC is served: host:port, [IPv6]:port or unix:path.",
        "[::]:50051",
    )
    http_address: HttpAddress = _field(
        "127.0.0.1:8080",
        "Where HTTP is served (keys, OAuth, forward-auth, browsers, probes, metrics): host:port "
        "or [IPv6]:port; `off` for nowhere. TLS as for gRPC, but for client certificates.",
        "[::]:8080",
    )
    public_url: PublicUrl | None = _field(
        None,
        "Where clients reach HTTP, through proxies; the issuer if unset.",
        "https://auth.example.com",
    )
    browser_origins: Origins = _field(
        (),
        "Origins of other pages that may use browser sessions, by CORS too; separated by commas.",
        "https://app.example.com",
    )
    access_cookie: bool = _field(
        False,
        "Whether browser sessions get the access token in a cookie too, which forward-auth reads.",
        True,
    )
    grpc_reuse_port: bool = _field(
        False,
        "Whether other processes that you start may serve the same ports (SO_REUSEPORT); workers "
        "share theirs without it.",
        True,
    )
    workers: Positive = _field(
        1,
        "How many processes `serve` starts on its ports; each has its own connections and caches.",
        4,
    )
    allow_plaintext: bool = _field(
        False,
        "Allows to serve without TLS on an address that is not loopback; only where something "
        "else encrypts, a mesh for instance.",
        True,
    )
    tls_cert_file: File | None = _field(
        None, "The certificate chain in PEM; read again when it changes.", "/etc/auth/tls.crt"
    )
    tls_key_file: File | None = _field(
        None, "The certificate's private key in PEM; not readable by others.", "/etc/auth/tls.key"
    )
    tls_client_ca_file: File | None = _field(
        None,
        "The authorities of client certificates in PEM (mTLS): clients must present one.",
        "/etc/auth/clients.crt",
    )
    max_message_bytes: Annotated[int, Field(ge=4096, le=2**31 - 1)] = _field(
        4 * 1024 * 1024, "The largest message taken.", 4 * 1024 * 1024
    )
    max_metadata_bytes: Annotated[int, Field(ge=1024, le=2**31 - 1)] = _field(
        16 * 1024, "The largest metadata taken.", 16 * 1024
    )
    max_concurrent_streams: Positive = _field(
        100, "Calls in flight on one connection at most.", 100
    )
    max_connection_age: Duration = _field(
        timedelta(hours=1),
        "After how long a client is asked to connect anew, which spreads load over replicas; 1m if "
        "unset with several workers.",
        "1h",
    )
    drain_timeout: DurationOrZero = _field(
        timedelta(seconds=10), "How long calls in flight get to finish at a stop.", "10s"
    )
    reflection: bool = _field(True, "Whether gRPC reflection is served.", False)
    ext_authz: bool = _field(
        True, "Whether Envoy's ext_authz (`envoy.service.auth.v3.Authorization`) is served.", False
    )
    log_level: Literal["debug", "info", "warning", "error"] = _field(
        "info", "The least severe entries that are logged.", "debug"
    )
    log_format: Literal["console", "json"] = _field(
        "console", "How log entries are written.", "json"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("master_key", "shared_key"):
            if getattr(self, name) is not None and getattr(self, f"{name}_file") is not None:
                raise _wrong(
                    f"{variable_of(name)} and {variable_of(name)}_FILE are both set; keep one"
                )
        if self.database_pool_min > self.database_pool_max:
            raise _wrong("AUTH_DATABASE_POOL_MIN is more than AUTH_DATABASE_POOL_MAX; lower it")
        if self.refresh_token_idle_ttl > self.refresh_token_absolute_ttl:
            raise _wrong(
                "AUTH_REFRESH_TOKEN_IDLE_TTL is more than AUTH_REFRESH_TOKEN_ABSOLUTE_TTL; lower it"
            )
        if self.feed_poll_interval >= self.freshness_limit:
            raise _wrong(
                "AUTH_FEED_POLL_INTERVAL is not below AUTH_FRESHNESS_LIMIT, so that Validate would "
                "fail between two polls; lower it (example: 1s)"
            )
        if timedelta(0) < self.key_rotation_interval <= self.key_publish_lead:
            raise _wrong(
                "AUTH_KEY_ROTATION_INTERVAL is not above AUTH_KEY_PUBLISH_LEAD, so that keys would "
                "be replaced before they sign; raise it (example: 30d)"
            )
        for name in ("grpc_address", "http_address"):
            address = getattr(self, name)
            if self.workers > 1 and (address.startswith("unix:") or address.endswith(":0")):
                raise _wrong(
                    f"AUTH_WORKERS={self.workers} cannot share {variable_of(name)}={address}; name "
                    f"a port (example: {type(self).model_fields[name].default}), or keep one worker"
                )
        self._check_tls()
        return self

    def _check_tls(self) -> None:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise _wrong("AUTH_TLS_CERT_FILE and AUTH_TLS_KEY_FILE go together; set both")
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            raise _wrong("AUTH_TLS_CLIENT_CA_FILE needs AUTH_TLS_CERT_FILE and AUTH_TLS_KEY_FILE")
        if self.tls_cert_file is not None or self.allow_plaintext:
            return
        for name in ("grpc_address", "http_address"):
            if not _is_loopback(address := getattr(self, name)):
                raise _wrong(
                    f"{variable_of(name)} {address} is not loopback, and passwords and tokens "
                    "would travel in the clear; set AUTH_TLS_CERT_FILE and AUTH_TLS_KEY_FILE, "
                    f"serve {type(self).model_fields[name].default}, or set "
                    "AUTH_ALLOW_PLAINTEXT=true where a mesh encrypts"
                )

    def shared_key_bytes(self) -> bytes | None:
        """Return the configured shared key; None where the server makes its own."""
        if self.shared_key_file is not None:
            return read_key(self.shared_key_file, "AUTH_SHARED_KEY_FILE")
        return None if self.shared_key is None else decode_key(self.shared_key.get_secret_value())

    def master_key_bytes(self, embedded_directory: Path | None = None) -> bytes:
        """Return the master key; with the embedded PostgreSQL made at first use, mode 0600.

        `embedded_directory` stands in for an `embedded_dir` that is unset.
        """
        if self.master_key_file is not None:
            return read_key(self.master_key_file, "AUTH_MASTER_KEY_FILE")
        if self.master_key is not None:
            return decode_key(self.master_key.get_secret_value())
        directory = self.embedded_dir or embedded_directory
        if self.database_url is not None or directory is None:
            raise ConfigError(
                "AUTH_MASTER_KEY is missing: a database of your own needs a master key that "
                f"outlives it; make one with {MAKE_A_KEY} and set AUTH_MASTER_KEY, or put it in a "
                "file of mode 0600 and set AUTH_MASTER_KEY_FILE"
            )
        return generated_key(directory / GENERATED_KEY)

    def check_files(self) -> None:
        """Refuse key files that cannot be read or that others can read. Raises ConfigError."""
        self.shared_key_bytes()
        if self.master_key_file is not None:
            read_key(self.master_key_file, "AUTH_MASTER_KEY_FILE")
        for name in ("tls_cert_file", "tls_key_file", "tls_client_ca_file"):
            if (path := getattr(self, name)) is not None:
                refuse_open_file(path, variable_of(name), stat.S_IRWXO if "key" in name else 0)


def load_settings(config_file: Path | None = None, **overrides: Any) -> Settings:
    """Read overrides, then AUTH_* variables, then the TOML file. Raises ConfigError.

    The file is `config_file`, else the one that AUTH_CONFIG_FILE names, else none.
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
    """Return a warning for each AUTH_* variable that is no setting.

    A warning and no error: Kubernetes makes AUTH_PORT and the like for a Service named "auth".
    """
    known = [*map(variable_of, Settings.model_fields), *OTHER_VARIABLES]
    strangers = sorted(n for n in environ if n.startswith(PREFIX) and n not in known)
    return [
        f"{name} is not a setting and has no effect{_nearest(name, known)}" for name in strangers
    ]


def value_text(value: object) -> str:
    """Return a setting's value as one writes it in a variable."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list) else str(value)


def variable_of(name: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + name.upper()


def example_of(info: FieldInfo) -> object:
    """Return the example that a setting's errors and its row in the table give."""
    return info.examples[0] if info.examples else ""


def _is_loopback(address: str) -> bool:
    """Tell whether only this machine can reach an address."""
    if address == "off" or address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""


def _explain(error: ValidationError, from_file: Mapping[str, object], path: Path | None) -> str:
    """Tell each wrong value: the variable, the problem, an example; never a secret's value."""
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
        refuse_open_file(path, "the configuration file with a key in it", 0o077)
    return values
