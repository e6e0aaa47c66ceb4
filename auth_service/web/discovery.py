"""Discovery: the public keys, and the metadata with the endpoints."""

import hashlib
import json
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from auth_service.errors import NotFound
from auth_service.tokens import assurance
from auth_service.tokens.foreign_keys import ALGORITHMS
from auth_service.tokens.keys import KeyRing
from auth_service.web.responses import Problem

__all__ = ["discovery_routes"]

JWKS_PATH = "/.well-known/jwks.json"
METADATA_PATH = "/.well-known/oauth-authorization-server"
_METADATA_AGE = timedelta(hours=1)


def discovery_routes(
    ring: KeyRing, issuer: str, public_url: str | None, jwks_age: timedelta
) -> list[Route]:
    """Return the routes of the JWK Set (RFC 7517) and of the metadata (RFC 8414).

    `jwks_age` is how long caches may keep the keys: less than the time for which a key is published
    before it signs.
    """

    async def jwks(request: Request) -> Response:
        """Return the public keys; shared secrets are never among them."""
        return _cached(request, ring.jwks(), "application/jwk-set+json", jwks_age)

    async def metadata(request: Request) -> Response:
        """Return the endpoints and what they support."""
        if path is None:
            text = "the issuer is not a URL, so there is no metadata; set AUTH_ISSUER to a URL"
            raise Problem(404, "not_found", text, NotFound.reason)
        content = json.dumps(_metadata(issuer, (public_url or issuer).rstrip("/")))
        return _cached(request, content, "application/json", _METADATA_AGE)

    path = _issuer_path(issuer)
    routes = [Route(JWKS_PATH, jwks), Route(METADATA_PATH, metadata)]
    if path:  # RFC 8414 section 3.1: the path follows the well-known part
        routes.append(Route(METADATA_PATH + path, metadata))
    return routes


def _issuer_path(issuer: str) -> str | None:
    """Return the path of an issuer's URL; None if the issuer is not a URL (RFC 8414 section 2)."""
    try:
        parts = urlsplit(issuer)
    except ValueError:
        return None
    good = parts.scheme in ("http", "https") and parts.netloc and not (parts.query + parts.fragment)
    return parts.path.rstrip("/") if good else None


def _metadata(issuer: str, base: str) -> dict[str, Any]:
    """Return authorization server metadata (RFC 8414 section 2)."""
    methods = ["client_secret_basic", "client_secret_post", "private_key_jwt"]
    algorithms = list(ALGORITHMS)
    return {
        "issuer": issuer,
        "jwks_uri": base + JWKS_PATH,
        "token_endpoint": f"{base}/oauth2/token",
        "token_endpoint_auth_methods_supported": [*methods, "none"],
        "token_endpoint_auth_signing_alg_values_supported": algorithms,
        "introspection_endpoint": f"{base}/oauth2/introspect",
        "introspection_endpoint_auth_methods_supported": methods,
        "introspection_endpoint_auth_signing_alg_values_supported": algorithms,
        "revocation_endpoint": f"{base}/oauth2/revoke",
        "revocation_endpoint_auth_methods_supported": methods,
        "revocation_endpoint_auth_signing_alg_values_supported": algorithms,
        "grant_types_supported": ["refresh_token", "client_credentials"],
        "acr_values_supported": list(assurance.SUPPORTED),  # RFC 9470 section 7
        "response_types_supported": [],  # there is no authorization endpoint
    }


def _cached(request: Request, content: str, media_type: str, age: timedelta) -> Response:
    """Return a cacheable response, or 304 if the client has it (RFC 9110 section 13.1.2)."""
    tag = f'"{hashlib.sha256(content.encode()).hexdigest()[:32]}"'
    headers = {"cache-control": f"public, max-age={int(age.total_seconds())}", "etag": tag}
    known = [each.strip().removeprefix("W/") for each in _if_none_match(request).split(",")]
    if tag in known or known == ["*"]:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)


def _if_none_match(request: Request) -> str:
    return ",".join(request.headers.getlist("if-none-match"))
