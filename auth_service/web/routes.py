"""The HTTP edge as the settings ask for it: its routes, and the server that serves them."""

from collections.abc import Callable
from datetime import timedelta

from auth_service.config.loading import Settings
from auth_service.core.core import Core
from auth_service.web.app import create_app
from auth_service.web.browser import BrowserPolicy, browser_routes
from auth_service.web.discovery import discovery_routes
from auth_service.web.forward_auth import forward_auth_route
from auth_service.web.http_server import HttpServer
from auth_service.web.oauth import oauth_routes
from auth_service.web.probes import probe_routes

__all__ = ["http_server"]

LONGEST_JWKS_AGE = timedelta(minutes=5)
"""How long caches keep the public keys at most."""


def http_server(settings: Settings, core: Core, ready: Callable[[], bool]) -> HttpServer | None:
    """Return a server that has bound, None where HTTP is off; raises ConfigError.

    `ready` tells whether calls are answered.
    """
    if settings.http_address == "off":
        return None
    policy = BrowserPolicy(settings.public_url, settings.browser_origins, settings.access_cookie)
    # Half the lead: whoever fetched the keys a moment too early still knows the next in time.
    jwks_age = min(LONGEST_JWKS_AGE, settings.key_publish_lead / 2)
    app = create_app(
        [
            *discovery_routes(core.keys.ring, settings.issuer, settings.public_url, jwks_age),
            *oauth_routes(
                core.credentials,
                core.sessions,
                core.revoker,
                core.validation,
                core.shielded,
                core.clock,
            ),
            browser_routes(core, policy),
            forward_auth_route(core.validation, settings.access_cookie),
            *probe_routes(ready),
        ]
    )
    chain, key = settings.tls_cert_file, settings.tls_key_file
    return HttpServer(
        app,
        settings.http_address,
        reuse_port=settings.grpc_reuse_port,
        certificate=None if chain is None or key is None else (chain, key),
        drain_timeout=settings.drain_timeout,
    )
