"""The gRPC server: its services, its channel options and its address."""

from typing import Any

import grpc
from authn.v1 import (
    account_service_pb2_grpc,
    admin_service_pb2_grpc,
    auth_service_pb2_grpc,
    verifier_service_pb2_grpc,
)
from grpc_health.v1 import health_pb2_grpc

from auth_service.authz.certificates import TrustedProxies
from auth_service.authz.sources import Sources
from auth_service.config.loading import Settings
from auth_service.core.core import Core
from auth_service.errors import ConfigError
from auth_service.rpc import ext_authz
from auth_service.rpc.account import AccountServicer
from auth_service.rpc.admin import AdminServicer
from auth_service.rpc.audits import Audits
from auth_service.rpc.auth import AuthServicer
from auth_service.rpc.callers import Callers
from auth_service.rpc.dispatcher import Dispatcher
from auth_service.rpc.health import HealthServicer
from auth_service.rpc.reflection import enable_reflection
from auth_service.rpc.tls import server_credentials
from auth_service.rpc.verifier import VerifierServicer
from auth_service.rpc.watch import WatchHub

__all__ = ["GrpcServer", "services"]

_SERVICES = (
    "authn.v1.AuthService",
    "authn.v1.VerifierService",
    "authn.v1.AccountService",
    "authn.v1.AdminService",
)
_HEALTH = "grpc.health.v1.Health"
_MAX_PENDING = 1_000_000
_HANDSHAKE_TIMEOUT_MS = 10_000


def services(settings: Settings) -> tuple[str, ...]:
    """Return the names of the services that health and reflection list."""
    return (*_SERVICES, ext_authz.SERVICE) if settings.ext_authz else _SERVICES


class GrpcServer:
    """One listening gRPC server. `health` is served by it and closed with it."""

    def __init__(
        self, settings: Settings, core: Core, hub: WatchHub, health: HealthServicer
    ) -> None:
        """Bind; raises ConfigError if the address or the TLS files cannot be used."""
        self._drain_timeout = settings.drain_timeout
        self._hub = hub
        self._health = health
        self._server = grpc.aio.server(options=_channel_options(settings))
        self._add_services(settings, core)
        self.port = self._bind(settings)
        """The TCP port; 0 for a Unix socket."""

    async def start(self) -> None:
        """Start serving."""
        await self._server.start()

    async def stop(self) -> None:
        """Stop; calls in flight have the drain timeout to finish."""
        self._health.close()  # ends its Watch streams, for which stop() would wait
        self._hub.close()
        self._admin.close()
        await self._server.stop(self._drain_timeout.total_seconds())

    def _add_services(self, settings: Settings, core: Core) -> None:
        validation, shielded = core.validation, core.shielded
        proxies = TrustedProxies(settings.trusted_proxies)
        sources = Sources(proxies, settings.forwarded_header)
        server = Dispatcher(self._server, Audits(core.auditor, shielded, sources))
        callers = Callers(validation, core.api_audience, proxies, sources)
        self._admin = AdminServicer(core, callers)
        auth_service_pb2_grpc.add_AuthServiceServicer_to_server(
            AuthServicer(
                core.sessions,
                core.migration,
                core.revoker,
                validation,
                core.exchange,
                callers,
                shielded,
            ),
            server,
        )
        verifier_service_pb2_grpc.add_VerifierServiceServicer_to_server(
            VerifierServicer(core.keys.ring, self._hub, callers, settings.verifier_certificates),
            server,
        )
        account_service_pb2_grpc.add_AccountServiceServicer_to_server(
            AccountServicer(core.accounts, core.factors, callers, shielded), server
        )
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(self._admin, server)
        if settings.ext_authz:
            ext_authz.add_ext_authz(server, validation, core.gateway, proxies)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if settings.reflection:
            enable_reflection(server, (*services(settings), _HEALTH))

    def _bind(self, settings: Settings) -> int:
        address = settings.grpc_address
        try:
            if settings.tls_cert_file is None or settings.tls_key_file is None:
                return self._server.add_insecure_port(address)
            credentials = server_credentials(
                settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file
            )
            return self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise ConfigError(
                f"AUTH_GRPC_ADDRESS: cannot serve {address}: it is in use, or not an address of "
                "this machine; stop the other server, or choose another address"
            ) from error


def _channel_options(settings: Settings) -> list[tuple[str, Any]]:
    return [
        ("grpc.so_reuseport", int(settings.grpc_reuse_port)),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_metadata_size", settings.max_metadata_bytes),
        # Bounds the memory of half-open or reset streams on one connection.
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams),
        ("grpc.max_connection_age_ms", int(settings.max_connection_age.total_seconds() * 1000)),
        ("grpc.max_connection_age_grace_ms", int(settings.drain_timeout.total_seconds() * 1000)),
        # gRPC answers CANCELLED to a random part of all calls, beyond 1,000 that wait to be begun,
        # so that a flood would fail the calls of others. Streams and connections bound them here.
        ("grpc.server.max_pending_requests", _MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING),
        # A connection that does not speak HTTP/2, or does not end its TLS handshake, is closed.
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_TIMEOUT_MS),
        # Proxies ping idle connections; some do so every few seconds.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
