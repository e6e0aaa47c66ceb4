"""The settings: every name, default and rule of the configuration.

Does not know what the settings are used for: touches no socket, database or token.
"""

import os
import stat
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from auth_service.addresses import is_loopback
from auth_service.base64url import MAKE_A_SECRET, decode_secret
from auth_service.config.issuers import IssuerSettings, read_issuers
from auth_service.config.key_files import (
    generated_key,
    read_key,
    refuse_open_file,
)
from auth_service.config.migrate_from import MigrateFromSettings, read_migrate_from
from auth_service.config.types import (
    Address,
    DatabaseUrl,
    Duration,
    DurationOrZero,
    File,
    HttpAddress,
    Key,
    Names,
    Networks,
    OptionalNames,
    Origins,
    Positive,
    ProbeAddress,
    PublicUrl,
    wrong,
)
from auth_service.errors import ConfigError

__all__ = ["GENERATED_KEY", "PREFIX", "Settings", "variable_of"]

PREFIX = "AUTH_"
GENERATED_KEY = "master.key"
"""The file of the generated master key, in the directory of the embedded PostgreSQL."""


def _field(default: Any, text: str, example: object) -> Any:
    return Field(default, description=text, examples=[example])


class Settings(BaseSettings):
    """All settings of the service. Durations are `timedelta`; secrets are masked when shown."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    database_url: DatabaseUrl | None = _field(
        None,
        "URL of the PostgreSQL database. It may name several hosts; `sslmode` and related "
        "parameters select TLS. If unset, an embedded PostgreSQL is started.",
        "postgresql://auth@db.internal/auth?sslmode=verify-full",
    )
    database_pool_min: Annotated[int, Field(ge=0)] = _field(
        2, "Minimum number of open connections of each process.", 2
    )
    database_pool_max: Positive = _field(
        10, "Maximum number of open connections of each process.", 10
    )
    database_statement_timeout: Duration = _field(
        timedelta(seconds=5), "Time limit of one SQL statement.", "5s"
    )
    database_connect_timeout: Duration = _field(
        timedelta(seconds=5),
        "Time limit of connecting to each host, and of waiting for a connection of the pool.",
        "5s",
    )
    database_transaction_pooling: bool = _field(
        False,
        "Whether the URL leads to a pooler in transaction mode, for example pgbouncer. The service "
        "then prepares no statement, polls instead of listening, and sets nothing for a session.",
        True,
    )
    durability: Literal["server", "replicated"] = _field(
        "server",
        "What Login, Revoke and changes of keys wait for. `server`: for what `synchronous_commit` "
        "of PostgreSQL says. `replicated`: for a synchronous standby as well; they are UNAVAILABLE "
        "while there is none.",
        "replicated",
    )
    embedded_dir: File | None = _field(
        None,
        "Directory of the embedded PostgreSQL's data and of the generated master key. If unset: "
        "`.data` in the current directory.",
        "/var/lib/auth-service",
    )
    master_key: Key | None = _field(
        None,
        "Key that encrypts the keys of access and refresh tokens at rest: at least 32 bytes, in "
        "base64url. It never leaves the server. Generated if unset, only with the embedded "
        "PostgreSQL.",
        f"$({MAKE_A_SECRET})",
    )
    master_key_file: File | None = _field(
        None,
        "File (mode 0600) with the master key, as an alternative to the variable.",
        "/run/secrets/auth-master-key",
    )
    shared_key: Key | None = _field(
        None,
        "HS256 key that signs access tokens and with which other services verify them: at least 32 "
        "bytes, in base64url. Generated and stored in the database if unset.",
        f"$({MAKE_A_SECRET})",
    )
    shared_key_file: File | None = _field(
        None,
        "File (mode 0600) with the shared key, as an alternative to the variable.",
        "/run/secrets/auth-shared-key",
    )
    issuer: Annotated[str, Field(min_length=1, max_length=256)] = _field(
        "https://auth.internal", "Claim `iss` of every token.", "https://auth.example.com"
    )
    default_audience: Names = _field(
        ("internal",),
        "Claim `aud`, next to AUTH_API_AUDIENCE, if Login names no audience; separate several by "
        "commas. The server registers those that are not registered.",
        "orders,billing",
    )
    api_audience: Annotated[str, Field(min_length=1, max_length=256)] | None = _field(
        None,
        "Audience of this service's own API: AdminService, AccountService, Revoke by id, Watch and "
        "GET /v1/session take only tokens for it. Default: the issuer.",
        "https://auth.example.com",
    )
    access_token_ttl: Duration = _field(
        timedelta(minutes=15), "Lifetime of an access token.", "15m"
    )
    refresh_token_idle_ttl: Duration = _field(
        timedelta(days=7), "Time after which a session ends if it is not refreshed.", "7d"
    )
    refresh_token_absolute_ttl: Duration = _field(
        timedelta(days=30), "Maximum lifetime of a session.", "30d"
    )
    refresh_grace: DurationOrZero = _field(
        timedelta(seconds=10),
        "Time in which a retried Refresh returns the same successor and does not count as reuse. A "
        "retry with the request_id of the first call does so after any delay.",
        "10s",
    )
    clock_skew: DurationOrZero = _field(
        timedelta(seconds=10),
        "How far in the future `iat` and `nbf` of an access token may be, how much longer ago than "
        "`max_age` a login may be, and how far the clock of this machine may differ from the "
        "database's. Beyond that the server is not ready.",
        "10s",
    )
    signing_algorithm: Literal["HS256", "EdDSA", "ES256", "RS256"] | None = _field(
        None,
        "Signature algorithm of access tokens. If unset: HS256, until `keys rotate` changes it.",
        "EdDSA",
    )
    key_rotation_interval: DurationOrZero = _field(
        timedelta(days=30), "Time for which a key signs; 0: until `keys rotate`.", "30d"
    )
    key_publish_lead: DurationOrZero = _field(
        timedelta(minutes=30),
        "Time between the publication of a key and its first signature. Must exceed the lifetime "
        "of all caches of keys (Istio: 20m).",
        "30m",
    )
    verifier_certificates: OptionalNames = _field(
        (),
        "Names in client certificates (mTLS) with the verifier role, which receives shared keys.",
        "orders.internal,spiffe://mesh/ns/shop/sa/billing",
    )
    workload_issuers_file: File | None = _field(
        None,
        "TOML file with the issuers whose tokens log services in without a secret; see "
        "docs/workloads.md.",
        "/etc/auth/issuers.toml",
    )
    migrate_from_file: File | None = _field(
        None,
        "TOML file with the issuers of the system that users come from, whose live tokens are "
        "traded for sessions; see docs/migrate.md.",
        "/etc/auth/migrate.toml",
    )
    freshness_limit: Duration = _field(
        timedelta(seconds=5),
        "Maximum age of the known revocations; beyond it Validate returns UNAVAILABLE.",
        "5s",
    )
    feed_poll_interval: Duration = _field(
        timedelta(seconds=1),
        "Maximum time between two polls of the database for revocations.",
        "1s",
    )
    audit_retention: DurationOrZero = _field(
        timedelta(days=400),
        "How long rows of the audit log are kept; 0 keeps all. At least 31 days. They are dropped "
        "by whole months, so some are kept for a month longer.",
        "400d",
    )
    verified_cache_size: Annotated[int, Field(ge=0)] = _field(
        10_000,
        "Number of verified access tokens to cache; 0 disables the cache.",
        10_000,
    )
    password_min_length: Annotated[int, Field(ge=8, le=128)] = _field(
        15,
        "Minimum length of a new password in characters (NIST SP 800-63B-4: 15; never below 8).",
        15,
    )
    password_min_length_with_factor: Annotated[int, Field(ge=8, le=128)] = _field(
        8, "The same for an account that also asks for a second factor (NIST: 8).", 8
    )
    password_blocklist_file: File | None = _field(
        None,
        "File with passwords that nobody may choose, one a line, in UTF-8; besides the common ones "
        "that the service knows. Read once by each process.",
        "/etc/auth/blocklist.txt",
    )
    password_profile: Literal[
        "rfc9106-first",
        "rfc9106-second",
        "owasp-46mib",
        "owasp-19mib",
        "owasp-12mib",
        "owasp-9mib",
        "owasp-7mib",
    ] = _field(
        "owasp-19mib",
        "Cost of a password's argon2id hash: the recommendations of RFC 9106 section 4, "
        "`rfc9106-first` (2 GiB) and `rfc9106-second` (64 MiB), or a minimum of OWASP's Password "
        "Storage Cheat Sheet, `owasp-46mib`, `-19mib`, `-12mib`, `-9mib` or `-7mib`. Hashes of "
        "another cost are replaced as their users log in.",
        "rfc9106-second",
    )
    argon2_memory_kib: Annotated[int, Field(ge=7168)] | None = _field(
        None, "Memory of one argon2id hash in KiB, if not that of the profile.", 19_456
    )
    argon2_time_cost: Positive | None = _field(
        None, "Number of passes of one argon2id hash, if not that of the profile.", 2
    )
    argon2_parallelism: Positive | None = _field(
        None, "Number of lanes of one argon2id hash, if not that of the profile.", 1
    )
    hash_workers: Positive = Field(
        default_factory=lambda: max(1, (os.cpu_count() or 1) - 1),
        description="Number of passwords hashed at the same time. If unset: all CPUs but one, "
        "divided among the workers.",
        examples=[4],
    )
    hash_queue: Positive = _field(
        64, "Number of passwords that wait to be hashed; further logins get RESOURCE_EXHAUSTED.", 64
    )
    login_burst: Positive = _field(
        10,
        "Number of failed logins with one identifier from one network (IPv4 /24, IPv6 /48), and of "
        "one that shows a session or a device token, before further ones are refused; see "
        "docs/throttling.md.",
        10,
    )
    login_refill: Duration = _field(timedelta(seconds=10), "Time to regain one of them.", "10s")
    login_networks: Positive = _field(
        5,
        "How many times the logins of one network all networks together have with one identifier.",
        5,
    )
    login_source_burst: Annotated[int, Field(ge=0)] = _field(
        100,
        "Number of failed logins from one IPv4 address or IPv6 /64 network, with any identifiers; "
        "0: no limit. Behind proxies, set AUTH_TRUSTED_PROXIES.",
        100,
    )
    login_source_refill: Duration = _field(
        timedelta(seconds=1), "Time to regain one of them.", "1s"
    )
    device_token_ttl: DurationOrZero = _field(
        timedelta(days=180),
        "Lifetime of the device token of a login, which tells later logins from guesses; 0: none "
        "is issued.",
        "180d",
    )
    second_factor_roles: OptionalNames = _field(
        (),
        "Roles whose holders must have a second factor, separated by commas; `*` for all users. "
        "Who has none enrolls one at the next login. Who has one always needs it.",
        "admin,staff",
    )
    factor_burst: Positive = _field(
        5, "Number of wrong codes of one user before further attempts are refused.", 5
    )
    factor_refill: Duration = _field(
        timedelta(minutes=5), "Time to regain one attempt at a code.", "5m"
    )
    recent_login: Duration = _field(
        timedelta(minutes=10), "Age of a login that may still change second factors.", "10m"
    )
    service_name: Annotated[str, Field(min_length=1, max_length=64, pattern="^[^:]+$")] | None = (
        _field(
            None,
            "Name of the service in authenticator apps and passkeys. If unset: the host of the "
            "issuer.",
            "Example Shop",
        )
    )
    passkey_rp_id: Annotated[str, Field(min_length=1, max_length=253)] | None = _field(
        None,
        "Domain of passkeys (relying party id of WebAuthn): the host of the pages that use them, "
        "or a domain above it. A change makes all passkeys useless. If unset: the host of "
        "AUTH_PUBLIC_URL, or else of the issuer.",
        "example.com",
    )
    passkey_origins: Origins = _field(
        (),
        "Origins of the pages that use passkeys, separated by commas. If unset: that of "
        "AUTH_PUBLIC_URL, or else of the issuer, and AUTH_BROWSER_ORIGINS.",
        "https://app.example.com",
    )
    grpc_address: Address = _field(
        "127.0.0.1:50051",
        "Address of the gRPC server: host:port, [IPv6]:port or unix:path.",
        "[::]:50051",
    )
    http_address: HttpAddress = _field(
        "127.0.0.1:8080",
        "Address of the HTTP server (keys, OAuth, forward-auth, browsers, probes, metrics): "
        "host:port or [IPv6]:port; `off` disables HTTP. TLS is that of gRPC; client certificates "
        "are asked for with AUTH_HTTP_CLIENT_CERTIFICATES.",
        "[::]:8080",
    )
    http_max_connections: Positive = _field(
        1000,
        "Maximum number of HTTP connections of each process. A new one beyond it replaces the one "
        "that has waited longest for its client; more requests at a time get 503.",
        1000,
    )
    http_max_connections_per_source: Positive = _field(
        500,
        "The same for the connections of one IPv4 address or IPv6 /64 network; more requests at a "
        "time get 429. Behind a proxy, set it to AUTH_HTTP_MAX_CONNECTIONS.",
        500,
    )
    http_client_timeout: Duration = _field(
        timedelta(seconds=10),
        "Time limit for an HTTP client to send the headers of a request, to send its body, and to "
        "read the response.",
        "10s",
    )
    probe_address: ProbeAddress | None = _field(
        None,
        "Address of a server for /healthz, /readyz and /metrics alone, without TLS: host:port or "
        "[IPv6]:port. If unset: they are served at AUTH_HTTP_ADDRESS.",
        "[::]:8081",
    )
    public_url: PublicUrl | None = _field(
        None,
        "URL at which clients reach HTTP, through proxies if any. If unset: the issuer.",
        "https://auth.example.com",
    )
    browser_origins: Origins = _field(
        (),
        "Other origins that may use browser sessions, also by CORS; separated by commas.",
        "https://app.example.com",
    )
    access_cookie: bool = _field(
        False,
        "Also put the access token of a browser session in a cookie, which forward-auth reads.",
        True,
    )
    grpc_reuse_port: bool = _field(
        False,
        "Share the ports with other processes that you start (SO_REUSEPORT). Workers share theirs "
        "without it.",
        True,
    )
    workers: Positive = _field(
        1,
        "Number of processes that `serve` starts on its ports; each has its own connections and "
        "caches.",
        4,
    )
    allow_plaintext: bool = _field(
        False,
        "Allow an address that is not loopback to be served without TLS. Only if something else "
        "encrypts the connections, such as a service mesh.",
        True,
    )
    tls_cert_file: File | None = _field(
        None, "Certificate chain in PEM; read again when it changes.", "/etc/auth/tls.crt"
    )
    tls_key_file: File | None = _field(
        None,
        "Private key of the certificate in PEM; must not be readable by others.",
        "/etc/auth/tls.key",
    )
    tls_client_ca_file: File | None = _field(
        None,
        "Authorities of client certificates in PEM; gRPC clients must present a certificate "
        "(mTLS).",
        "/etc/auth/clients.crt",
    )
    http_client_certificates: bool = _field(
        False,
        "Also ask HTTP clients for a certificate of AUTH_TLS_CLIENT_CA_FILE. They may go without; "
        "browsers that have one ask their user.",
        True,
    )
    trusted_proxies: Networks = _field(
        (),
        "Networks of proxies that may exchange tokens for their upstreams, that name the "
        "certificate of their client in x-forwarded-client-cert, for tokens that are bound to one, "
        "and the address of their client in AUTH_FORWARDED_HEADER. Such a proxy must replace the "
        "certificate that a client sends, and replace or add to the address.",
        "10.0.0.0/8,::1",
    )
    forwarded_header: Literal["x-forwarded-for", "forwarded"] = _field(
        "x-forwarded-for",
        "Header in which the proxies of AUTH_TRUSTED_PROXIES name the address of their client; "
        "`forwarded` is that of RFC 7239. The other one is ignored.",
        "forwarded",
    )
    max_message_bytes: Annotated[int, Field(ge=4096, le=2**31 - 1)] = _field(
        4 * 1024 * 1024, "Maximum size of a request message in bytes.", 4 * 1024 * 1024
    )
    max_metadata_bytes: Annotated[int, Field(ge=1024, le=2**31 - 1)] = _field(
        16 * 1024, "Maximum size of request metadata in bytes.", 16 * 1024
    )
    max_concurrent_streams: Positive = _field(
        100, "Maximum number of concurrent calls on one connection.", 100
    )
    max_connection_age: Duration = _field(
        timedelta(hours=1),
        "Age at which a connection is closed gracefully, so that clients spread over replicas. If "
        "unset with several workers: 1m.",
        "1h",
    )
    drain_timeout: DurationOrZero = _field(
        timedelta(seconds=10),
        "Time that calls in flight have to finish when the server stops.",
        "10s",
    )
    reflection: bool = _field(True, "Serve gRPC reflection.", False)
    gateway_account: Annotated[str, Field(max_length=256)] = _field(
        "",
        "Service account in whose name gateways exchange the tokens of requests "
        "(`exchange_audience` of a route).",
        "gateway",
    )
    ext_authz: bool = _field(
        True, "Serve Envoy's ext_authz (`envoy.service.auth.v3.Authorization`).", False
    )
    log_level: Literal["debug", "info", "warning", "error"] = _field(
        "info", "Minimum severity of log entries.", "debug"
    )
    log_format: Literal["console", "json"] = _field("console", "Format of log entries.", "json")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("master_key", "shared_key"):
            if getattr(self, name) is not None and getattr(self, f"{name}_file") is not None:
                raise wrong(
                    f"{variable_of(name)} and {variable_of(name)}_FILE are both set; unset one"
                )
        if self.database_pool_min > self.database_pool_max:
            raise wrong("AUTH_DATABASE_POOL_MIN exceeds AUTH_DATABASE_POOL_MAX; lower it")
        if self.refresh_token_idle_ttl > self.refresh_token_absolute_ttl:
            raise wrong(
                "AUTH_REFRESH_TOKEN_IDLE_TTL exceeds AUTH_REFRESH_TOKEN_ABSOLUTE_TTL; lower it"
            )
        if self.feed_poll_interval >= self.freshness_limit:
            raise wrong(
                "AUTH_FEED_POLL_INTERVAL must be less than AUTH_FRESHNESS_LIMIT, or Validate fails "
                "between two polls; lower it (example: 1s)"
            )
        if timedelta(0) < self.audit_retention < timedelta(days=31):
            raise wrong("AUTH_AUDIT_RETENTION must be 0 (keep all) or 31d and more (example: 400d)")
        if timedelta(0) < self.key_rotation_interval <= self.key_publish_lead:
            raise wrong(
                "AUTH_KEY_ROTATION_INTERVAL must exceed AUTH_KEY_PUBLISH_LEAD, or keys are "
                "replaced before they sign; raise it (example: 30d)"
            )
        for name in ("grpc_address", "http_address", "probe_address"):
            address, field = getattr(self, name) or "", type(self).model_fields[name]
            if self.workers > 1 and (address.startswith("unix:") or address.endswith(":0")):
                raise wrong(
                    f"AUTH_WORKERS={self.workers} cannot share {variable_of(name)}={address}; set "
                    f"a port (example: {(field.examples or [''])[0]}) or use one worker"
                )
        self._check_tls()
        return self

    def _check_tls(self) -> None:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise wrong("AUTH_TLS_CERT_FILE and AUTH_TLS_KEY_FILE are required together; set both")
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            raise wrong("AUTH_TLS_CLIENT_CA_FILE requires AUTH_TLS_CERT_FILE and AUTH_TLS_KEY_FILE")
        if self.http_client_certificates and self.tls_client_ca_file is None:
            raise wrong(
                "AUTH_HTTP_CLIENT_CERTIFICATES requires AUTH_TLS_CLIENT_CA_FILE, which says whose "
                "certificates are good; set it"
            )
        if self.tls_cert_file is not None or self.allow_plaintext:
            return
        for name in ("grpc_address", "http_address"):
            address = getattr(self, name)
            if address != "off" and not is_loopback(address):
                raise wrong(
                    f"{variable_of(name)} {address} is not loopback, and without TLS passwords and "
                    "tokens are not encrypted; set AUTH_TLS_CERT_FILE and AUTH_TLS_KEY_FILE, "
                    f"serve {type(self).model_fields[name].default}, or set "
                    "AUTH_ALLOW_PLAINTEXT=true if a service mesh encrypts"
                )

    def own_audience(self) -> str:
        """Return the audience of this service's own API."""
        return self.api_audience or self.issuer

    def own_name(self) -> str:
        """Return what authenticator apps and passkeys call the service."""
        host = urlsplit(self.issuer).hostname if "://" in self.issuer else None
        return self.service_name or host or self.issuer.replace(":", " ")

    def passkey_party(self) -> tuple[str, tuple[str, ...]]:
        """Return the domain and the origins of passkeys; empty if there is nothing to tell them."""
        own = urlsplit(self.public_url or self.issuer)
        if not own.hostname:
            return self.passkey_rp_id or "", self.passkey_origins
        origins = (f"{own.scheme}://{own.netloc}", *self.browser_origins)
        return self.passkey_rp_id or own.hostname, self.passkey_origins or origins

    def shared_key_bytes(self) -> bytes | None:
        """Return the configured shared key; None if the server generates its own."""
        if self.shared_key_file is not None:
            return read_key(self.shared_key_file, "AUTH_SHARED_KEY_FILE")
        return (
            None if self.shared_key is None else decode_secret(self.shared_key.get_secret_value())
        )

    def master_key_bytes(self, embedded_directory: Path | None = None) -> bytes:
        """Return the master key. With the embedded PostgreSQL it is generated at the first use.

        `embedded_directory` is used if `embedded_dir` is unset. Raises ConfigError.
        """
        if self.master_key_file is not None:
            return read_key(self.master_key_file, "AUTH_MASTER_KEY_FILE")
        if self.master_key is not None:
            return decode_secret(self.master_key.get_secret_value())
        directory = self.embedded_dir or embedded_directory
        if self.database_url is not None or directory is None:
            raise ConfigError(
                "AUTH_MASTER_KEY is missing: with AUTH_DATABASE_URL none is generated; make one "
                f"with {MAKE_A_SECRET} and set AUTH_MASTER_KEY, or put it in a file of mode 0600 "
                "and set AUTH_MASTER_KEY_FILE"
            )
        return generated_key(directory / GENERATED_KEY)

    def workload_issuers(self) -> list[IssuerSettings]:
        """Return the issuers of workload tokens. Raises ConfigError for a file that is wrong."""
        path = self.workload_issuers_file
        issuers = [] if path is None else read_issuers(path)
        if any(each.mtls for each in issuers) and self.tls_client_ca_file is None:
            raise ConfigError(
                f"AUTH_WORKLOAD_ISSUERS_FILE: {path} has mtls = true, which requires "
                "AUTH_TLS_CLIENT_CA_FILE: the authorities of the certificates"
            )
        return issuers

    def migrate_from(self) -> list[MigrateFromSettings]:
        """Return the issuers that users come from. Raises ConfigError for a file that is wrong."""
        path = self.migrate_from_file
        return [] if path is None else read_migrate_from(path)

    def check_files(self) -> None:
        """Raise ConfigError for a file that cannot be read, or for a key that others can read."""
        self.shared_key_bytes()
        if self.master_key_file is not None:
            read_key(self.master_key_file, "AUTH_MASTER_KEY_FILE")
        self.workload_issuers()
        self.migrate_from()
        for name in (
            "tls_cert_file", "tls_key_file", "tls_client_ca_file", "password_blocklist_file"
        ):  # fmt: skip
            if (path := getattr(self, name)) is not None:
                refuse_open_file(path, variable_of(name), stat.S_IRWXO if "key" in name else 0)


def variable_of(name: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + name.upper()
