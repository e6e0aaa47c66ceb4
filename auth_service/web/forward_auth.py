"""Forward-auth: nginx's auth_request and Traefik's ForwardAuth ask whether a request may pass.

The rule is in the query, which only the gateway's configuration writes; the answer's headers tell
the gateway who calls.
"""

from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from auth_service.admission import Refused, Rule, admit
from auth_service.identity_headers import identity_headers
from auth_service.validation import Validation
from auth_service.web.cookies import ACCESS_COOKIE
from auth_service.web.responses import refusal

__all__ = ["forward_auth_route"]

log = structlog.get_logger(__name__)

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_PARAMETERS = ("audience", "scope", "roles", "public")


def forward_auth_route(validation: Validation, access_cookie: bool) -> Route:
    """Return the route /auth; with `access_cookie` a request without bearer may have the cookie."""

    async def auth(request: Request) -> Response:
        """Answer 200 with the identity, or how the caller is refused."""
        try:
            rule = _rule(request)
        except ValueError as error:
            log.error("forward_auth_misconfigured", problem=str(error))  # noqa: TRY400
            raise Refused(500, "INTERNAL", "server_error", "the gateway is misconfigured") from None
        authorization = request.headers.getlist("authorization")
        if access_cookie and not authorization and ACCESS_COOKIE in request.cookies:
            authorization = [f"Bearer {request.cookies[ACCESS_COOKIE]}"]
        try:
            claims = admit(validation, rule, authorization).claims
        except Refused as refused:
            return refusal(refused)
        headers = {name: value for name, value in identity_headers(claims).items() if value}
        return Response(status_code=200, headers={"cache-control": "no-store"} | headers)

    return Route("/auth", auth, methods=_METHODS)


def _rule(request: Request) -> Rule:
    """Return the rule of the query; raises ValueError rather than guess what was meant.

    The texts quote nothing of the query: a gateway may be set up to pass on its clients'.
    """
    given = request.query_params.multi_items()
    query: dict[str, Any] = dict(given)
    if len(query) < len(given):
        raise ValueError("a parameter of /auth is there twice")
    if query.keys() - set(_PARAMETERS):
        raise ValueError(f"/auth takes {', '.join(_PARAMETERS)} and nothing else")
    if not all(value.strip(" ,") for value in query.values()):  # a variable that is not set, say
        raise ValueError("a parameter of /auth is empty; leave it out")
    if query.get("public", "false") not in ("true", "false"):
        raise ValueError("public is true or false")
    try:
        return Rule(
            query.get("audience", ""),
            tuple(query.get("scope", "").split()),
            tuple(each for each in query.get("roles", "").split(",") if each),
            query.get("public") == "true",
        )
    except ValueError:
        raise ValueError(
            "scope is not one of RFC 6749 section 3.3, or public goes with scope or roles"
        ) from None
