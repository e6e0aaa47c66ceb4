"""The composition root: what is built, in which order it starts, how it drains and stops."""

import asyncio
import contextlib
import gc
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import structlog

from auth_service.clock import utc_now
from auth_service.config.loading import Settings
from auth_service.core.accounts import Accounts
from auth_service.core.core import Core
from auth_service.core.passwords import Argon2Profile, PasswordHasher
from auth_service.core.session_policy import SessionPolicy
from auth_service.core.sessions import Sessions
from auth_service.core.shielded import Shielded
from auth_service.core.signing_keys import SigningKeys, root_key
from auth_service.core.validation import Validation
from auth_service.db import migrate
from auth_service.db import pool as pools
from auth_service.db.embedded import EmbeddedPostgres, EmbeddedPostgresError, default_directory
from auth_service.db.feed import RevocationFeed
from auth_service.db.key_store import KeyStore
from auth_service.db.store import Store
from auth_service.errors import ConfigError
from auth_service.models import StoredKey
from auth_service.rpc.grpc_server import GrpcServer, services
from auth_service.rpc.health import HealthServicer
from auth_service.rpc.watch import WatchHub
from auth_service.serving.key_policy import key_policy
from auth_service.telemetry import Successes, configure_logging
from auth_service.tokens.access import TokenSigner, TokenVerifier
from auth_service.tokens.keys import MasterKey
from auth_service.tokens.refresh import RefreshTokens
from auth_service.tokens.revocation import RevocationList
from auth_service.web.http_server import HttpServer
from auth_service.web.routes import http_server

__all__ = ["Server"]

log = structlog.get_logger(__name__)

_HEALTH_INTERVAL = 0.25  # seconds between two looks at the freshness of revocations
_ROTATION_INTERVAL = 10.0  # seconds between two looks at whether keys are due


class Server:
    """One serving process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self._health = HealthServicer(services(settings))
        self.port = 0
        """The port that is served, once `start` has returned; 0 for a Unix socket."""
        self.http_port = 0
        """The port of HTTP; 0 where it is off."""

    async def start(self) -> None:
        """Start in the order of dependence; what has started stops again where a later step fails.

        Raises ConfigError for what an operator has to mend, Unavailable where the database is down.
        """
        configure_logging(self._settings.log_level, self._settings.log_format)
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then stop."""
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        # What has started stays: to look through it for garbage stops all calls for 100 ms.
        gc.collect()
        gc.freeze()
        await stopped.wait()
        await self.stop()

    async def stop(self) -> None:
        """Say NOT_SERVING, let calls in flight finish, then stop the rest; safe to call twice."""
        await self._stack.aclose()

    async def _start(self) -> None:
        settings = self._settings
        url = await self._database()
        pool = await pools.connect(
            url,
            min_size=settings.database_pool_min,
            max_size=settings.database_pool_max,
            statement_timeout=settings.database_statement_timeout,
            connect_timeout=settings.database_connect_timeout,
        )
        self._stack.push_async_callback(_close_pool, pool)
        await migrate.schema_version_ok(pool)
        store, key_store = Store(pool), KeyStore(pool)
        master_key = MasterKey(settings.master_key_bytes())
        root = await root_key(key_store, master_key)
        keys = SigningKeys(key_store, master_key, key_policy(settings), utc_now)
        await keys.start()

        revocations = RevocationList(utc_now)
        hub = WatchHub(revocations, keys.ring, lambda: (feed.as_of, feed.epoch, feed.cursor))

        def keys_read(changed: list[StoredKey]) -> None:
            if keys.update(changed):
                hub.keys_changed()

        feed = RevocationFeed(
            store,
            url,
            revocations,
            utc_now,
            keys=key_store,
            on_keys=keys_read,
            on_revocations=hub.revoked,
            poll_interval=settings.feed_poll_interval,
        )
        await feed.start()
        self._stack.push_async_callback(feed.stop)
        hasher = _hasher(settings)
        self._stack.callback(hasher.close)

        verifier = TokenVerifier(
            keys.ring,
            revocations,
            issuer=settings.issuer,
            clock=utc_now,
            clock_skew=settings.clock_skew,
            cache_size=settings.verified_cache_size,
        )
        shielded = Shielded()
        sessions = Sessions(
            store,
            hasher,
            TokenSigner(keys.ring),
            verifier,
            RefreshTokens(root, settings.issuer),
            session_policy(settings),
            feed.announce,
            shielded,
            utc_now,
        )
        validation = Validation(verifier, lambda: feed.as_of, settings.freshness_limit, utc_now)
        accounts = Accounts(
            store,
            hasher,
            session_policy(settings),
            feed.announce,
            utc_now,
            password_min_length=settings.password_min_length,
        )

        def keys_made() -> None:
            """Tell of keys that were made here: this process's streams, and other replicas."""
            hub.keys_changed()
            feed.wake()

        core = Core(sessions, accounts, validation, keys, keys_made, shielded, utc_now)
        await self._serve(core, hub)
        for work in (self._watch_freshness(feed), _rotate_keys(keys, key_store, keys_made)):
            self._stack.push_async_callback(_cancel, asyncio.create_task(work))

    async def _database(self) -> str:
        settings = self._settings
        if settings.database_url is not None:
            return settings.database_url.get_secret_value()
        directory = settings.embedded_dir or default_directory(Path.cwd())
        self._settings = settings.model_copy(update={"embedded_dir": directory})
        try:
            postgres = await self._stack.enter_async_context(EmbeddedPostgres(directory))
        except EmbeddedPostgresError as error:
            raise ConfigError(str(error)) from error
        await migrate.migrate(postgres.dsn)
        return postgres.dsn

    async def _serve(self, core: Core, hub: WatchHub) -> None:
        settings = self._settings
        # HTTP binds first: gRPC never lets go of the port of a server that did not start.
        http = http_server(settings, core, lambda: self._health.serving)
        if http is not None:
            self._stack.push_async_callback(http.stop)
            self.http_port = http.port
        server = GrpcServer(settings, core, hub, self._health)
        self.port = server.port
        if http is not None:
            http.start()
        await server.start()
        self._stack.push_async_callback(self._drain, server, http, core.shielded)
        self._health.set_serving(True)
        log.info(
            "serving",
            address=settings.grpc_address,
            port=self.port,
            http=settings.http_address,
            http_port=self.http_port,
        )

    async def _drain(self, server: GrpcServer, http: HttpServer | None, shielded: Shielded) -> None:
        log.info("draining")
        await asyncio.gather(server.stop(), *([http.stop()] if http else []))
        await shielded.drain()
        log.info("stopped")

    async def _watch_freshness(self, feed: RevocationFeed) -> None:
        """Keep health at what Validate would answer, and the counts of calls up to date."""
        while True:
            age = utc_now() - feed.as_of
            self._health.set_serving(age <= self._settings.freshness_limit)
            Successes.count_all()
            await asyncio.sleep(_HEALTH_INTERVAL)


def session_policy(settings: Settings) -> SessionPolicy:
    """Return the rules of sessions that the settings ask for."""
    return SessionPolicy(
        issuer=settings.issuer,
        default_audience=settings.default_audience,
        access_ttl=settings.access_token_ttl,
        refresh_idle_ttl=settings.refresh_token_idle_ttl,
        refresh_absolute_ttl=settings.refresh_token_absolute_ttl,
        refresh_grace=settings.refresh_grace,
        login_burst=settings.login_burst,
        login_refill=settings.login_refill,
    )


async def _rotate_keys(keys: SigningKeys, store: KeyStore, keys_made: Callable[[], object]) -> None:
    """Publish the next key when it is time; what the database does not allow now, it does later."""
    while True:
        try:
            if await keys.rotate_if_due():
                keys_made()
            await store.prune(utc_now())
        except Exception as error:  # noqa: BLE001 - whatever it is, keys go on to rotate
            log.warning("key_rotation_failed", error=repr(error))
        await asyncio.sleep(_ROTATION_INTERVAL)


def _hasher(settings: Settings) -> PasswordHasher:
    profile = Argon2Profile(
        settings.argon2_memory_kib, settings.argon2_time_cost, settings.argon2_parallelism
    )
    return PasswordHasher(profile, workers=settings.hash_workers, queue=settings.hash_queue)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _close_pool(pool: Any) -> None:
    try:
        await asyncio.wait_for(pool.close(), timeout=5)
    except TimeoutError:  # a query that hangs; the connections go with the process
        pool.terminate()
