"""Builds policies, the password hasher, the database and the core from the settings.

The server, its workers and the commands all build from here. This module holds no rule and knows
no transport, so that the supervisor needs no gRPC.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from auth_service.clock import DatabaseClock
from auth_service.config.loading import Settings
from auth_service.core.accounts import Accounts
from auth_service.core.audience_registry import AudienceRegistry
from auth_service.core.audiences import Audiences
from auth_service.core.auditing import Auditor
from auth_service.core.blocklist import Blocklist
from auth_service.core.core import Core
from auth_service.core.credentials import Credentials
from auth_service.core.exchange import GatewayExchange, TokenExchange
from auth_service.core.explanations import Explanations
from auth_service.core.key_policy import KeyPolicy
from auth_service.core.migration import Migration
from auth_service.core.old_issuers import OldIssuer
from auth_service.core.own_factors import OwnFactors
from auth_service.core.passkeys import Passkeys
from auth_service.core.password_change import PasswordChange
from auth_service.core.password_policy import PasswordPolicy
from auth_service.core.passwords import PROFILES, Argon2Profile, PasswordHasher
from auth_service.core.revocation import Revocations, Revoker
from auth_service.core.root_key import root_key
from auth_service.core.second_factors import FactorPolicy, SecondFactors
from auth_service.core.session_policy import SessionPolicy
from auth_service.core.sessions import Sessions
from auth_service.core.shielded import Shielded
from auth_service.core.signing_keys import SigningKeys
from auth_service.core.throttle import Rate, Throttle, ThrottlePolicy
from auth_service.core.token_issuer import TokenIssuer
from auth_service.core.validation import Validation
from auth_service.core.workloads import Issuer, Workloads, assertion_rules
from auth_service.db import migrate
from auth_service.db import pool as pools
from auth_service.db.database_clock import read_clock
from auth_service.db.embedded import EmbeddedPostgres, default_directory, running_dsn
from auth_service.db.feed import RevocationFeed
from auth_service.db.key_store import KeyStore
from auth_service.db.store import Store
from auth_service.models import Revocation
from auth_service.tokens.access import TokenSigner, TokenVerifier
from auth_service.tokens.challenge import Challenges
from auth_service.tokens.device import DeviceTokens
from auth_service.tokens.keys import MasterKey, shared_key
from auth_service.tokens.refresh import RefreshTokens
from auth_service.tokens.revocation import RevocationList

__all__ = [
    "Database",
    "Issuers",
    "accounts",
    "database_url",
    "embedded_directory",
    "explanations",
    "key_policy",
    "master_key",
    "open_core",
    "open_database",
    "password_hasher",
    "password_policy",
    "session_policy",
    "signing_keys",
    "throttle_policy",
]

KEY_MARGIN = timedelta(minutes=1)
"""How much longer a key is trusted than the last token that it signed."""


@dataclass(frozen=True, slots=True)
class Database:
    """An open database, the two stores on it, and its clock, which is that of all replicas."""

    url: str
    store: Store
    key_store: KeyStore
    clock: DatabaseClock


class Issuers(NamedTuple):
    """Whose tokens let somebody in, besides our own."""

    workload: Sequence[Issuer]
    """Of the tokens of workloads."""
    old: Sequence[OldIssuer]
    """Of the tokens of users who come from another system."""


def session_policy(settings: Settings) -> SessionPolicy:
    """Return the rules of sessions."""
    return SessionPolicy(
        issuer=settings.issuer,
        default_audience=tuple(
            dict.fromkeys((*settings.default_audience, settings.own_audience()))
        ),
        access_ttl=settings.access_token_ttl,
        refresh_idle_ttl=settings.refresh_token_idle_ttl,
        refresh_absolute_ttl=settings.refresh_token_absolute_ttl,
        refresh_grace=settings.refresh_grace,
        clock_skew=settings.clock_skew,
    )


def throttle_policy(settings: Settings) -> ThrottlePolicy:
    """Return how many failed logins there may be."""
    burst = settings.login_source_burst
    return ThrottlePolicy(
        network=Rate(settings.login_burst, settings.login_refill),
        networks=settings.login_networks,
        source=Rate(burst, settings.login_source_refill) if burst else None,
    )


def factor_policy(settings: Settings) -> FactorPolicy:
    """Return the rules of second factors."""
    return FactorPolicy(
        service_name=settings.own_name(),
        roles=frozenset(settings.second_factor_roles),
        burst=settings.factor_burst,
        refill=settings.factor_refill,
        recent_login=settings.recent_login,
    )


def passkeys(settings: Settings) -> Passkeys | None:
    """Return the relying party of passkeys; None if the settings do not tell its domain."""
    rp_id, origins = settings.passkey_party()
    return Passkeys(rp_id, settings.own_name(), origins) if rp_id and origins else None


def key_policy(settings: Settings) -> KeyPolicy:
    """Return the rules of signing keys."""
    shared = settings.shared_key_bytes()
    return KeyPolicy(
        algorithm=settings.signing_algorithm,
        configured=None if shared is None else shared_key(shared),
        publish_lead=settings.key_publish_lead,
        rotation_interval=settings.key_rotation_interval,
        keep=settings.access_token_ttl + settings.clock_skew + KEY_MARGIN,
    )


def password_hasher(settings: Settings) -> PasswordHasher:
    """Return a hasher, which the caller closes."""
    named = PROFILES[settings.password_profile]
    profile = Argon2Profile(
        settings.argon2_memory_kib or named.memory_kib,
        settings.argon2_time_cost or named.time_cost,
        settings.argon2_parallelism or named.parallelism,
    )
    return PasswordHasher(profile, workers=settings.hash_workers, queue=settings.hash_queue)


def password_policy(settings: Settings) -> PasswordPolicy:
    """Return the rules of new passwords."""
    return PasswordPolicy(
        settings.password_min_length,
        settings.password_min_length_with_factor,
        Blocklist(settings.password_blocklist_file),
        (settings.issuer, *([settings.public_url] if settings.public_url else [])),
    )


def embedded_directory(settings: Settings) -> Path:
    """Return the directory of the embedded PostgreSQL. Raises ConfigError if it is unusable."""
    return settings.embedded_dir or default_directory(Path.cwd())


def master_key(settings: Settings) -> MasterKey:
    """Return the master key. Raises ConfigError if it is missing or unreadable."""
    own = settings.database_url is not None
    return MasterKey(settings.master_key_bytes(None if own else embedded_directory(settings)))


@asynccontextmanager
async def database_url(settings: Settings, *, join: bool = False) -> AsyncIterator[str]:
    """Yield the URL of the database; without one in the settings, start the embedded PostgreSQL.

    The embedded PostgreSQL is migrated, and stops at the end. `join` uses the one that already
    runs in the directory, if any. Raises ConfigError if the embedded PostgreSQL cannot run.
    """
    if settings.database_url is not None:
        yield settings.database_url.get_secret_value()
        return
    directory = embedded_directory(settings)
    if join and (running := running_dsn(directory)) is not None:
        yield running
        return
    async with EmbeddedPostgres(directory) as postgres:
        await migrate.migrate(postgres.dsn)
        yield postgres.dsn


@asynccontextmanager
async def open_database(settings: Settings, *, join: bool = False) -> AsyncIterator[Database]:
    """Connect to the database of `database_url` and check its schema.

    Raises ConfigError for what an operator has to fix, Unavailable if the database is down.
    """
    async with database_url(settings, join=join) as url:
        pool = await pools.connect(
            url,
            min_size=settings.database_pool_min,
            max_size=settings.database_pool_max,
            statement_timeout=settings.database_statement_timeout,
            connect_timeout=settings.database_connect_timeout,
            transaction_pooling=settings.database_transaction_pooling,
            replicated=settings.durability == "replicated",
        )
        try:
            await migrate.schema_version_ok(pool)
            async with pool.acquire() as connection:
                clock = await read_clock(connection)
            yield Database(url, Store(pool), KeyStore(pool), clock)
        finally:
            await pool.close()


async def signing_keys(settings: Settings, database: Database) -> SigningKeys:
    """Return the signing keys, loaded. Raises ConfigError for a wrong master key."""
    keys = SigningKeys(
        database.key_store, master_key(settings), key_policy(settings), database.clock
    )
    await keys.start()
    return keys


def accounts(
    settings: Settings,
    database: Database,
    hasher: PasswordHasher,
    announce: Callable[[Revocation], object],
    credentials: Credentials | None = None,
) -> Accounts:
    """Return the rules of accounts; `announce` is called with each committed revocation.

    Commands have no `credentials`: they change no password of the caller's own.
    """
    return Accounts(
        database.store,
        hasher,
        session_policy(settings),
        announce,
        database.clock,
        passwords=password_policy(settings),
        credentials=credentials,
    )


def explanations(
    settings: Settings,
    database: Database,
    keys: SigningKeys,
    revocations: RevocationList | None,
    revocations_as_of: Callable[[], datetime],
) -> Explanations:
    """Return what explains tokens; without `revocations`, by what the database has."""
    return Explanations(
        database.store,
        keys,
        revocations,
        revocations_as_of,
        issuer=settings.issuer,
        clock_skew=settings.clock_skew,
        freshness_limit=settings.freshness_limit,
        clock=database.clock,
    )


@asynccontextmanager
async def open_core(
    settings: Settings,
    database: Database,
    keys: SigningKeys,
    audiences: Audiences,
    revocations: RevocationList,
    feed: RevocationFeed,
    announce_keys: Callable[[], object],
    issuers: Issuers,
) -> AsyncIterator[Core]:
    """Yield the core of a serving process; its hasher closes at the end."""
    root = await root_key(database.key_store, master_key(settings))
    hasher, shielded = password_hasher(settings), Shielded()
    verifier = TokenVerifier(
        keys.ring,
        revocations,
        issuer=settings.issuer,
        clock=database.clock,
        clock_skew=settings.clock_skew,
        cache_size=settings.verified_cache_size,
    )
    store, clock, policy = database.store, database.clock, session_policy(settings)
    signer = TokenSigner(keys.ring)
    refresh_tokens = RefreshTokens(root, settings.issuer)
    device_tokens = DeviceTokens(root, settings.issuer, settings.device_token_ttl)
    tokens = TokenIssuer(signer, refresh_tokens, device_tokens, policy)
    throttle = Throttle(
        store, throttle_policy(settings), root.throttle_key(), refresh_tokens, device_tokens, clock
    )
    validation = Validation(verifier, lambda: feed.as_of, settings.freshness_limit, clock)
    exchange = TokenExchange(
        validation, signer, revocations, audiences.find, audiences.own, policy.access_ttl, clock
    )
    assertions = assertion_rules(_assertion_audiences(settings))
    workloads = Workloads(store, issuers.workload, assertions, policy.clock_skew, clock)
    challenges, factors = Challenges(root, settings.issuer), factor_policy(settings)
    keys_of_users = passkeys(settings)
    second_factors = SecondFactors(store, hasher, challenges, root, keys_of_users, factors, clock)
    passwords = password_policy(settings)
    change = PasswordChange(store, hasher, passwords, policy, feed.announce, clock)
    credentials = Credentials(
        store, hasher, throttle, shielded, clock, workloads, second_factors, change
    )
    ended = Revocations(store, policy, feed.announce, clock)
    try:
        yield Core(
            credentials,
            Sessions(store, credentials, audiences, tokens, ended, policy, shielded, clock),
            Migration(store, credentials, issuers.old, audiences, tokens, policy, clock),
            Revoker(store, ended, tokens, verifier),
            accounts(settings, database, hasher, feed.announce, credentials),
            explanations(settings, database, keys, revocations, lambda: feed.as_of),
            validation,
            exchange,
            GatewayExchange(exchange, lambda: audiences.read_at, settings.gateway_account),
            keys,
            announce_keys,
            shielded,
            clock,
            audiences,
            AudienceRegistry(store, clock),
            OwnFactors(store, challenges, root, keys_of_users, factors, clock),
            Auditor(store, clock),
            store,
            audiences.own,
        )
    finally:
        hasher.close()


def _assertion_audiences(settings: Settings) -> tuple[str, str]:
    """Return what a client's own assertion may be for (RFC 7523 section 3)."""
    base = (settings.public_url or settings.issuer).rstrip("/")
    return settings.issuer, f"{base}/oauth2/token"
