"""The settings: every name, default and rule of the configuration.

Knows nothing of what the settings are for: no socket, database or token is touched here.
"""

import os
import stat
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from auth_service.addresses import is_loopback
from auth_service.base64url import MAKE_A_SECRET, decode_secret
from auth_service.config.key_files import (
    generated_key,
    read_key,
    refuse_open_file,
)
from auth_service.config.types import (
    Address,
    DatabaseUrl,
    Duration,
    DurationOrZero,
    File,
    HttpAddress,
    Key,
    Names,
    OptionalNames,
    Origins,
    Positive,
    PublicUrl,
    wrong,
)
from auth_service.errors import ConfigError

__all__ = ["GENERATED_KEY", "PREFIX", "Settings", "variable_of"]

PREFIX = "AUTH_"
GENERATED_KEY = "master.key"
"""The file with the generated master key, in the directory of the embedded PostgreSQL."""


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
        f"$({MAKE_A_SECRET})",
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
        f"$({MAKE_A_SECRET})",
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
        default_factory=lambda: max(1, (os.cpu_count() or 1) - 1),
        description="How many passwords are hashed at the same time; if unset all CPUs "
        "but one, shared among workers.",
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
                raise wrong(
                    f"{variable_of(name)} and {variable_of(name)}_FILE are both set; keep one"
                )
        if self.database_pool_min > self.database_pool_max:
            raise wrong("AUTH_DATABASE_POOL_MIN is more than AUTH_DATABASE_POOL_MAX; lower it")
        if self.refresh_token_idle_ttl > self.refresh_token_absolute_ttl:
            raise wrong(
                "AUTH_REFRESH_TOKEN_IDLE_TTL is more than AUTH_REFRESH_TOKEN_ABSOLUTE_TTL; lower it"
            )
        if self.feed_poll_interval >= self.freshness_limit:
            raise wrong(
                "AUTH_FEED_POLL_INTERVAL is not below AUTH_FRESHNESS_LIMIT, so that Validate would "
                "fail between two polls; lower it (example: 1s)"
            )
        if timedelta(0) < self.key_rotation_interval <= self.key_publish_lead:
            raise wrong(
                "AUTH_KEY_ROTATION_INTERVAL is not above AUTH_KEY_PUBLISH_LEAD, so that keys would "
                "be replaced before they sign; raise it (example: 30d)"
            )
        for name in ("grpc_address", "http_address"):
            address = getattr(self, name)
            if self.workers > 1 and (address.startswith("unix:") or address.endswith(":0")):
                raise wrong(
                    f"AUTH_WORKERS={self.workers} cannot share {variable_of(name)}={address}; name "
                    f"a port (example: {type(self).model_fields[name].default}), or keep one worker"
                )
        self._check_tls()
        return self

    def _check_tls(self) -> None:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise wrong("AUTH_TLS_CERT_FILE and AUTH_TLS_KEY_FILE go together; set both")
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            raise wrong("AUTH_TLS_CLIENT_CA_FILE needs AUTH_TLS_CERT_FILE and AUTH_TLS_KEY_FILE")
        if self.tls_cert_file is not None or self.allow_plaintext:
            return
        for name in ("grpc_address", "http_address"):
            address = getattr(self, name)
            if address != "off" and not is_loopback(address):
                raise wrong(
                    f"{variable_of(name)} {address} is not loopback, and passwords and tokens "
                    "would travel in the clear; set AUTH_TLS_CERT_FILE and AUTH_TLS_KEY_FILE, "
                    f"serve {type(self).model_fields[name].default}, or set "
                    "AUTH_ALLOW_PLAINTEXT=true where a mesh encrypts"
                )

    def shared_key_bytes(self) -> bytes | None:
        """Return the configured shared key; None where the server makes its own."""
        if self.shared_key_file is not None:
            return read_key(self.shared_key_file, "AUTH_SHARED_KEY_FILE")
        return (
            None if self.shared_key is None else decode_secret(self.shared_key.get_secret_value())
        )

    def master_key_bytes(self, embedded_directory: Path | None = None) -> bytes:
        """Return the master key; with the embedded PostgreSQL made at first use, mode 0600.

        `embedded_directory` stands in for an `embedded_dir` that is unset.
        """
        if self.master_key_file is not None:
            return read_key(self.master_key_file, "AUTH_MASTER_KEY_FILE")
        if self.master_key is not None:
            return decode_secret(self.master_key.get_secret_value())
        directory = self.embedded_dir or embedded_directory
        if self.database_url is not None or directory is None:
            raise ConfigError(
                "AUTH_MASTER_KEY is missing: a database of your own needs a master key that "
                f"outlives it; make one with {MAKE_A_SECRET} and set AUTH_MASTER_KEY, or put it in "
                "a file of mode 0600 and set AUTH_MASTER_KEY_FILE"
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


def variable_of(name: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + name.upper()
