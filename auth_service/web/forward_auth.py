"""Forward-auth: nginx's auth_request and Traefik's ForwardAuth ask whether a request may pass.

The rule is in the query, which the gateway's configuration sets. The headers of the answer identify
the caller. The certificate for a bound token (RFC 8705) is the one that the gateway names in
x-forwarded-client-cert, if it is a proxy of AUTH_TRUSTED_PROXIES.
"""

from functools import partial

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from auth_service.authz.admission import Refused, Rule, admit
from auth_service.authz.certificates import TrustedProxies
from auth_service.authz.gateway import Exchange, exchanged
from auth_service.authz.identity_headers import identity_headers
from auth_service.authz.rules import EXCHANGE, NAMES, parse_audience, parse_rule
from auth_service.core.validation import Validation
from auth_service.web.certificates import certificate_of
from auth_service.web.cookies import ACCESS_COOKIE
from auth_service.web.responses import refusal

__all__ = ["forward_auth_route"]

log = structlog.get_logger(__name__)

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def forward_auth_route(
    validation: Validation, gateway: Exchange, access_cookie: bool, proxies: TrustedProxies
) -> Route:
    """Return the route /auth; with `access_cookie` it reads the cookie if there is no header."""

    of_client = certificate_of(proxies)

    async def auth(request: Request) -> Response:
        """Return 200 with the identity headers, or the refusal."""
        try:
            rule, exchange_audience = _rule(request)
        except ValueError as error:
            log.error("forward_auth_misconfigured", problem=f"query of /auth: {error}")  # noqa: TRY400
            raise Refused(500, "INTERNAL", "server_error", "the gateway is misconfigured") from None
        authorization = request.headers.getlist("authorization")
        if access_cookie and not authorization and ACCESS_COOKIE in request.cookies:
            authorization = [f"Bearer {request.cookies[ACCESS_COOKIE]}"]
        try:
            certificate = partial(of_client, request)
            claims = admit(validation, rule, authorization, certificate).claims
            headers = identity_headers(claims)
            if exchange_audience and claims is not None:
                trusted = proxies.knows(request.client.host if request.client else None)
                token = exchanged(gateway, claims, exchange_audience, trusted=trusted)
                headers["authorization"] = f"Bearer {token}"
        except Refused as refused:
            return refusal(refused)
        headers = {name: value for name, value in headers.items() if value}
        return Response(status_code=200, headers={"cache-control": "no-store"} | headers)

    return Route("/auth", auth, methods=_METHODS)


def _rule(request: Request) -> tuple[Rule, str]:
    """Return the rule of the query, and the audience to exchange for; raises ValueError."""
    given = request.query_params.multi_items()
    known = (*NAMES, EXCHANGE)
    if not {name for name, _ in given} <= set(known):
        # Not quoted, because a gateway may pass on the parameters of its clients.
        raise ValueError(f"one parameter is unknown; known are {', '.join(known)}")
    return parse_rule(given, beside=(EXCHANGE,)), parse_audience(dict(given), EXCHANGE)
