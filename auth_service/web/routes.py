"""Builds the HTTP servers from the settings, each with its routes."""

from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

from starlette.routing import BaseRoute, Route

from auth_service.authz.certificates import TrustedProxies
from auth_service.authz.sources import Sources
from auth_service.config.loading import Settings
from auth_service.core.core import Core
from auth_service.web.app import create_app
from auth_service.web.browser import BrowserPolicy, browser_routes
from auth_service.web.certificates import certificate_of
from auth_service.web.connections import Limits
from auth_service.web.discovery import discovery_routes
from auth_service.web.forward_auth import forward_auth_route
from auth_service.web.http_server import HttpServer
from auth_service.web.oauth import oauth_routes
from auth_service.web.probes import HEALTH_PATHS, probe_routes

__all__ = ["HttpServers", "http_servers"]

LONGEST_JWKS_AGE = timedelta(minutes=5)
"""The longest time for which caches keep the public keys."""


class HttpServers(NamedTuple):
    """The HTTP servers of a process; None if the settings do not ask for one."""

    public: HttpServer | None
    probes: HttpServer | None
    """Serves the probes if they have an address of their own."""

    def start(self) -> None:
        """Start serving."""
        for server in filter(None, self):
            server.start()

    async def stop(self) -> None:
        """Stop; the probes are answered until the end. Safe to call twice."""
        for server in filter(None, self):
            await server.stop()


def http_servers(
    settings: Settings,
    core: Core,
    ready: Callable[[], bool],
    warnings: Callable[[], list[str]] = list,
) -> HttpServers:
    """Return the servers, bound; raises ConfigError. `ready` tells whether calls are answered.

    `warnings` returns what an operator should look at.
    """
    health = probe_routes(ready, warnings)
    probes = None
    if settings.probe_address is not None:
        probes = HttpServer(
            create_app(health, exempt=HEALTH_PATHS),
            settings.probe_address,
            variable="AUTH_PROBE_ADDRESS",
            reuse_port=settings.grpc_reuse_port,
            drain_timeout=settings.drain_timeout,
        )
    return HttpServers(_public(settings, core, health), probes)


def _public(settings: Settings, core: Core, health: list[Route]) -> HttpServer | None:
    if settings.http_address == "off":
        return None
    limits = Limits(
        settings.http_max_connections,
        settings.http_max_connections_per_source,
        settings.http_client_timeout,
    )
    chain, key = settings.tls_cert_file, settings.tls_key_file
    return HttpServer(
        create_app(
            _routes(settings, core, health),
            limits,
            HEALTH_PATHS,
            Sources(TrustedProxies(settings.trusted_proxies), settings.forwarded_header),
        ),
        settings.http_address,
        reuse_port=settings.grpc_reuse_port,
        certificate=None if chain is None or key is None else (chain, key),
        client_authorities=(
            settings.tls_client_ca_file if settings.http_client_certificates else None
        ),
        drain_timeout=settings.drain_timeout,
        limits=limits,
    )


def _routes(settings: Settings, core: Core, health: list[Route]) -> list[BaseRoute]:
    policy = BrowserPolicy(settings.public_url, settings.browser_origins, settings.access_cookie)
    proxies = TrustedProxies(settings.trusted_proxies)
    certificates = certificate_of(proxies)
    # Half the lead, so that a cache that just missed a new key fetches it before it signs.
    jwks_age = min(LONGEST_JWKS_AGE, settings.key_publish_lead / 2)
    return [
        *discovery_routes(core.keys.ring, settings.issuer, settings.public_url, jwks_age),
        *oauth_routes(core, certificates),
        browser_routes(core, policy, certificates, Sources(proxies, settings.forwarded_header)),
        forward_auth_route(core.validation, core.gateway, settings.access_cookie, proxies),
        *(health if settings.probe_address is None else ()),
    ]
