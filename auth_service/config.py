"""Settings: AUTH_* variables and an optional TOML file, read once, checked, frozen.

Owns every name, default and rule of the configuration, and the table of them in the docs. Knows
nothing of what the settings are for: no socket, database or token is touched here.
"""

import base64
import binascii
import difflib
import ipaddress
import os
import re
import secrets
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

from auth_service.errors import ConfigError

__all__ = ["Settings", "duration_text", "load_settings", "parse_duration", "unknown_variables"]

PREFIX = "AUTH_"
CONFIG_FILE_VARIABLE = "AUTH_CONFIG_FILE"
OTHER_VARIABLES = (CONFIG_FILE_VARIABLE, "AUTH_ADDRESS", "AUTH_CA_FILE")
"""AUTH_* variables that are not settings of the server: the file's name, and the client's."""

KEY_BYTES = 32
"""256 bits: RFC 7518 section 3.2 asks no less of an HS256 key."""
MAKE_A_KEY = "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)?", re.ASCII)


def _wrong(text: str) -> PydanticCustomError:
    return PydanticCustomError("setting", "{text}", {"text": text})


def parse_duration(value: object) -> timedelta:
    """Read `15m`, `7d`, `500ms` or a number of seconds. Raises ValueError on anything else."""
    if isinstance(value, timedelta):
        return value
    match = None if isinstance(value, bool) else _DURATION.fullmatch(str(value).strip())
    if match is None:
        raise ValueError("is not a duration: a number with ms, s, m, h or d")
    try:
        return timedelta(seconds=float(match[1]) * _UNITS[match[2] or "s"])
    except OverflowError:
        raise ValueError("is too long a duration") from None


def duration_text(value: timedelta) -> str:
    """Write a duration the way `parse_duration` reads it, in the largest whole unit."""
    milliseconds = value // timedelta(milliseconds=1)
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds % size == 0 and milliseconds:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


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


def _database_url(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith(("postgresql://", "postgres://")):
        raise _wrong("is not a URL that begins with postgresql://")
    return value


def _decode_key(text: str) -> bytes:
    """Decode base64url (padding optional). Raises ValueError with the value's problem."""
    if not re.fullmatch(r"[A-Za-z0-9_-]*={0,2}", text := text.strip(), re.ASCII):
        raise ValueError("is not base64url (A-Z a-z 0-9 - _)")
    bare = text.rstrip("=")
    try:
        key = base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
    except binascii.Error:
        raise ValueError("is cut off: not a whole base64url value") from None
    if len(key) < KEY_BYTES:
        raise ValueError(f"has {len(key) * 8} bits and needs 256 or more; make one: {MAKE_A_KEY}")
    return key


def _key(value: SecretStr) -> SecretStr:
    try:
        _decode_key(value.get_secret_value())
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
File = Annotated[Path, BeforeValidator(_named_path)]
Key = Annotated[SecretStr, AfterValidator(_key)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_database_url)]
Address = Annotated[str, AfterValidator(_address)]
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
    signing_algorithm: Literal["HS256", "EdDSA", "ES256", "RS256"] = _field(
        "HS256", "What access tokens are signed with.", "EdDSA"
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
    password_max_bytes: Annotated[int, Field(ge=64, le=1024)] = _field(
        1024, "The most bytes of a password in UTF-8.", 1024
    )
    argon2_memory_kib: Annotated[int, Field(ge=7168)] = _field(
        19_456, "Memory of one argon2id hash in KiB (OWASP: 19456 with time 2).", 19_456
    )
    argon2_time_cost: Positive = _field(2, "Passes of one argon2id hash.", 2)
    argon2_parallelism: Positive = _field(1, "Lanes of one argon2id hash.", 1)
    hash_workers: Positive = Field(
        default_factory=lambda: os.cpu_count() or 1,
        description="How many passwords are hashed at the same time; the number of CPUs if unset.",
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
    grpc_reuse_port: bool = _field(
        False, "Whether several processes may serve the same port (SO_REUSEPORT).", True
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
        None, "The authorities of client certificates in PEM (mTLS).", "/etc/auth/clients.crt"
    )
    tls_require_client_cert: bool = _field(
        False, "Whether a client has to present a certificate.", True
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
        "After how long a client is asked to connect anew, which spreads load over replicas.",
        "1h",
    )
    drain_timeout: DurationOrZero = _field(
        timedelta(seconds=10), "How long calls in flight get to finish at a stop.", "10s"
    )
    reflection: bool = _field(True, "Whether gRPC reflection is served.", False)
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
                raise _wrong(f"{_variable(name)} and {_variable(name)}_FILE are both set; keep one")
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
        self._check_tls()
        return self

    def _check_tls(self) -> None:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise _wrong("AUTH_TLS_CERT_FILE and AUTH_TLS_KEY_FILE go together; set both")
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            raise _wrong("AUTH_TLS_CLIENT_CA_FILE needs AUTH_TLS_CERT_FILE and AUTH_TLS_KEY_FILE")
        if self.tls_require_client_cert and self.tls_client_ca_file is None:
            raise _wrong("AUTH_TLS_REQUIRE_CLIENT_CERT needs AUTH_TLS_CLIENT_CA_FILE")
        if self.tls_cert_file is None and not self.allow_plaintext and not self.is_loopback:
            raise _wrong(
                f"AUTH_GRPC_ADDRESS {self.grpc_address} is not loopback, and passwords and tokens "
                "would travel in the clear; set AUTH_TLS_CERT_FILE and AUTH_TLS_KEY_FILE, serve "
                "127.0.0.1:50051, or set AUTH_ALLOW_PLAINTEXT=true where a mesh encrypts"
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach `grpc_address`."""
        if self.grpc_address.startswith("unix:"):
            return True
        host = self.grpc_address.rpartition(":")[0].strip("[]")
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def shared_key_bytes(self) -> bytes | None:
        """Return the configured shared key; None where the server makes its own."""
        if self.shared_key_file is not None:
            return _read_key(self.shared_key_file, "AUTH_SHARED_KEY_FILE")
        return None if self.shared_key is None else _decode_key(self.shared_key.get_secret_value())

    def master_key_bytes(self, embedded_directory: Path | None = None) -> bytes:
        """Return the master key; with the embedded PostgreSQL made at first use, mode 0600.

        `embedded_directory` stands in for an `embedded_dir` that is unset.
        """
        if self.master_key_file is not None:
            return _read_key(self.master_key_file, "AUTH_MASTER_KEY_FILE")
        if self.master_key is not None:
            return _decode_key(self.master_key.get_secret_value())
        directory = self.embedded_dir or embedded_directory
        if self.database_url is not None or directory is None:
            raise ConfigError(
                "AUTH_MASTER_KEY is missing: a database of your own needs a master key that "
                f"outlives it; make one with {MAKE_A_KEY} and set AUTH_MASTER_KEY, or put it in a "
                "file of mode 0600 and set AUTH_MASTER_KEY_FILE"
            )
        return _generated_key(directory / "master.key")

    def check_files(self) -> None:
        """Refuse key files that cannot be read or that others can read. Raises ConfigError."""
        self.shared_key_bytes()
        if self.master_key_file is not None:
            _read_key(self.master_key_file, "AUTH_MASTER_KEY_FILE")
        for name in ("tls_cert_file", "tls_key_file", "tls_client_ca_file"):
            if (path := getattr(self, name)) is not None:
                _refuse_open_file(path, _variable(name), stat.S_IRWXO if "key" in name else 0)


def load_settings(config_file: Path | None = None, **overrides: Any) -> Settings:
    """Read overrides, then AUTH_* variables, then the TOML file. Raises ConfigError.

    The file is `config_file`, else the one that AUTH_CONFIG_FILE names, else none.
    """
    named = config_file or os.environ.get(CONFIG_FILE_VARIABLE)
    path = Path(named) if named else None
    values = {} if path is None else _read_toml(path)
    present = {name.upper() for name in os.environ}
    from_file = {name: v for name, v in values.items() if _variable(name) not in present}
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
    known = [*map(_variable, Settings.model_fields), *OTHER_VARIABLES]
    strangers = sorted(n for n in environ if n.startswith(PREFIX) and n not in known)
    return [
        f"{name} is not a setting and has no effect{_nearest(name, known)}" for name in strangers
    ]


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

Refused at start: a key below 256 bits; a key file that others can read (`chmod 600`); no TLS on an
address that is not loopback, unless `AUTH_ALLOW_PLAINTEXT=true`; a database of your own without a
master key; a key given both as a variable and as a file; an unknown key in the TOML file. An
unknown `AUTH_*` variable gets a warning.

Make a key: `{MAKE_A_KEY}`

The commands exit with 0 (done, or the token is active), 1 (refused, or not active), 2 (wrong
usage), 3 (wrong configuration) or 4 (a server or database is not available; try again). The client
commands (`login`, `refresh`, `validate`, `revoke`) read `AUTH_ADDRESS` and `AUTH_CA_FILE`.

| Variable | Default | Meaning | Example |
|---|---|---|---|"""


def _row(name: str, info: FieldInfo) -> str:
    default = "number of CPUs" if info.default_factory else _plain(info.default)
    shown = "" if default is None else f"`{_text(default)}`"
    example = _text(_example(info)).replace("|", "\\|")
    return f"| `{_variable(name)}` | {shown} | {info.description} | `{example}` |"


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


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(value) if isinstance(value, list) else str(value)


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _example(info: FieldInfo) -> object:
    return info.examples[0] if info.examples else ""


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
            f"{_variable(name)}{where}:{value} {message}; example: "
            f"{_variable(name)}={_text(_example(info))}"
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
        _refuse_open_file(path, "the configuration file with a key in it", 0o077)
    return values


def _refuse_open_file(path: Path, what: str, forbidden: int) -> None:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
    except OSError as error:
        raise ConfigError(
            f"{what}: {path} cannot be read: {error.strerror}; name a file that this user may read"
        ) from error
    if mode & forbidden:
        raise ConfigError(
            f"{what}: {path} has mode {stat.S_IMODE(mode):04o}, and others than its owner may read "
            f"it; chmod 600 '{path}'"
        )


def _read_key(path: Path, variable: str) -> bytes:
    _refuse_open_file(path, variable, 0o077)
    try:
        return _decode_key(path.read_text(encoding="ascii"))
    except UnicodeDecodeError:
        raise ConfigError(f"{variable}: {path} is not text; make one: {MAKE_A_KEY}") from None
    except ValueError as error:
        raise ConfigError(f"{variable}: the key in {path} {error}") from None


def _generated_key(path: Path) -> bytes:
    """Read the key, made and fsynced on first use; two processes at once agree on one."""
    if not path.exists():
        # As EmbeddedPostgres makes it: ours alone, but its account has to pass through for root.
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
            path.parent.chmod(0o711 if os.geteuid() == 0 else 0o700)
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # fails where another process was first, and then theirs counts
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return _read_key(path, "the generated master key")
