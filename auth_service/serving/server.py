"""The serving process: the order in which its parts start, drain and stop."""

import asyncio
import gc
import signal
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import structlog

from auth_service.config.loading import Settings
from auth_service.core.audience_registry import AudienceRegistry
from auth_service.core.audiences import Audiences
from auth_service.core.core import Core
from auth_service.core.shielded import Shielded
from auth_service.core.signing_keys import SigningKeys
from auth_service.db.database_clock import adjust_clock
from auth_service.db.feed import RevocationFeed
from auth_service.db.restore import Restorer
from auth_service.errors import Unavailable
from auth_service.models import StoredKey
from auth_service.rpc.grpc_server import GrpcServer, services
from auth_service.rpc.health import HealthServicer
from auth_service.rpc.watch import WatchHub
from auth_service.serving.maintenance import Job, Maintenance, jobs
from auth_service.serving.migration import old_issuers
from auth_service.serving.readiness import Readiness
from auth_service.serving.wiring import (
    Database,
    Issuers,
    open_core,
    open_database,
    session_policy,
    signing_keys,
)
from auth_service.serving.workloads import workload_issuers
from auth_service.telemetry.logs import configure_logging
from auth_service.tokens.revocation import RevocationList
from auth_service.trust.refresh import KeyRefreshes
from auth_service.web.routes import HttpServers, http_servers

if TYPE_CHECKING:
    from auth_service.db.pool import Connection

__all__ = ["Server"]

log = structlog.get_logger(__name__)

_KEYS_AGE_INTERVAL = 5.0  # seconds


class Server:
    """One serving process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self._health = HealthServicer(services(settings))
        self._stopping = asyncio.Event()
        self.port = 0
        """The gRPC port, once `start` has returned; 0 for a Unix socket."""
        self.http_port = 0
        """The HTTP port; 0 if HTTP is off."""
        self.probe_port = 0
        """The port of the probes; 0 if they have none of their own."""

    def handle_signals(self) -> None:
        """Let SIGTERM and SIGINT end `run`, also if they arrive before it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)

    async def start(self) -> None:
        """Start all parts; if one fails, stop those that have started.

        Raises ConfigError for what an operator has to fix, Unavailable if the database is down.
        """
        configure_logging(self._settings.log_level, self._settings.log_format)
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def run(self) -> None:
        """Serve until a signal of `handle_signals`, then stop."""
        # The objects made so far stay: a full collection of them would stop all calls for 100 ms.
        gc.collect()
        gc.freeze()
        await self._stopping.wait()
        await self.stop()

    async def stop(self) -> None:
        """Report NOT_SERVING, let calls in flight finish, stop all parts; safe to call twice."""
        await self._stack.aclose()

    async def _start(self) -> None:
        settings, enter = self._settings, self._stack.enter_async_context
        database = await enter(open_database(settings))
        # Before the first row of a month, which would begin it in the default partition.
        await database.store.extend_audit_log(database.clock())
        keys = await signing_keys(settings, database)
        revocations = RevocationList(database.clock)
        registry = AudienceRegistry(database.store, database.clock)
        await registry.create_defaults(settings.default_audience)
        audiences = Audiences(database.store, settings.own_audience(), database.clock)
        hub = WatchHub(keys.ring, lambda: (feed.as_of, feed.epoch, feed.cursor), database.clock)
        feed = self._feed(database, keys, audiences, revocations, hub)
        await feed.start()
        self._stack.push_async_callback(feed.stop)

        def announce_keys() -> None:
            """Tell this process's streams, and the other replicas, of a key made here."""
            hub.keys_changed()
            feed.wake()

        workload, workload_keys = workload_issuers(settings, database.clock)
        old, old_keys = old_issuers(settings, database.clock)
        issuers = Issuers(workload, old)
        refreshes = KeyRefreshes([*workload_keys, *old_keys])
        await refreshes.start()
        self._stack.push_async_callback(refreshes.stop)
        core = await enter(
            open_core(
                settings, database, keys, audiences, revocations, feed, announce_keys, issuers
            )
        )
        readiness = Readiness(
            settings, self._health, database, lambda: feed.as_of, refreshes.warnings
        )
        self._stack.push_async_callback(self._flush_audit, database)
        await self._serve(core, hub, readiness)
        self._maintain(database, core, readiness, refreshes)

    def _maintain(
        self, database: Database, core: Core, readiness: Readiness, refreshes: KeyRefreshes
    ) -> None:
        periodic = jobs(
            database,
            core.keys,
            core.announce_keys,
            lambda: core.validation.signatures_verified,
            audit_retention=self._settings.audit_retention,
        )
        observe = Job("observe_workload_keys", _KEYS_AGE_INTERVAL, refreshes.observe)
        maintenance = Maintenance([*readiness.jobs(), *periodic, observe])
        maintenance.start()
        self._stack.push_async_callback(maintenance.stop)

    def _feed(
        self,
        database: Database,
        keys: SigningKeys,
        audiences: Audiences,
        revocations: RevocationList,
        hub: WatchHub,
    ) -> RevocationFeed:
        """Return the feed, which also keeps keys, audiences and the clock right."""

        async def on_poll(connection: "Connection") -> None:
            await adjust_clock(database.clock, connection)
            await audiences.follow(connection)

        def update_keys(changed: list[StoredKey]) -> None:
            if keys.update(changed):
                hub.keys_changed()

        now = database.clock()
        life = session_policy(self._settings).revocation_expiry(now) - now
        restorer = Restorer(revocations, database.key_store, keys.worth_restoring, life=life)
        return RevocationFeed(
            database.store,
            database.url,
            revocations,
            restorer=restorer,
            keys=database.key_store,
            on_keys=update_keys,
            on_revocations=hub.revoked,
            poll_interval=self._settings.feed_poll_interval,
            transaction_pooling=self._settings.database_transaction_pooling,
            on_poll=on_poll,
        )

    async def _serve(self, core: Core, hub: WatchHub, readiness: Readiness) -> None:
        settings = self._settings
        # HTTP binds first: a gRPC server that never started does not release its port.
        http = http_servers(settings, core, readiness.is_ready, readiness.warnings)
        self._stack.push_async_callback(http.stop)
        self.http_port = http.public.port if http.public else 0
        self.probe_port = http.probes.port if http.probes else 0
        server = GrpcServer(settings, core, hub, self._health)
        self.port = server.port
        http.start()
        await server.start()
        self._stack.push_async_callback(self._drain, server, http, core.shielded)
        await readiness.check_health()
        log.info(
            "serving",
            address=settings.grpc_address,
            port=self.port,
            http=settings.http_address,
            http_port=self.http_port,
            probe_port=self.probe_port,
        )

    async def _flush_audit(self, database: Database) -> None:
        """Write what waits once no call is in progress; a database that is down cannot hold us."""
        try:
            await database.store.flush_audit()
        except Unavailable as error:
            log.warning("audit_rows_lost", error=repr(error))

    async def _drain(self, server: GrpcServer, http: HttpServers, shielded: Shielded) -> None:
        log.info("draining")
        await asyncio.gather(server.stop(), http.stop())
        await shielded.drain()
        log.info("stopped")
