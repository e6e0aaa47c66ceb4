"""Verification of access tokens in front of an ASGI application (Starlette, FastAPI and others).

    app = BearerMiddleware(app, verifier, audience="orders", public_paths=("/health", "/docs/*"))

    @router.delete("/orders/{id}")
    async def delete(id: str, claims: AccessClaims = Depends(require(verifier, roles=("admin",)))):

Owns the responses to HTTP and WebSocket callers. Imports no framework. The token is checked once,
when a request or a WebSocket begins. A CORS middleware belongs outside, because preflight requests
carry no token.
"""

import json
from collections.abc import Awaitable, Callable, Collection, Iterable, MutableMapping
from datetime import timedelta
from functools import partial
from typing import Any

from auth_service.authz.admission import Refused, Rule, Verifier, admit, claims_of
from auth_service.authz.certificates import (
    FORWARDED,
    TrustedProxies,
    presented_to_proxy,
    thumbprint_of_pem,
)
from auth_service.client.principal import acting_for
from auth_service.tokens.access import AccessClaims

__all__ = ["BearerMiddleware", "require"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_POLICY_VIOLATION = 1008  # RFC 6455 section 7.4.1


class BearerMiddleware:
    """Admits only requests whose access token satisfies the arguments.

    The claims are in `current_principal` and in `request.state.principal` (None for an anonymous
    caller on a public path). A refusal is 401, 403, 503 with Retry-After (the revocations are not
    known up to the allowed age), or 500 if the verifier fails. Its body is {"error": …,
    "error_description": …}, with www-authenticate (RFC 6750 section 3). If the user logged in
    longer ago than `max_age`, or reached none of `acr_values`, www-authenticate asks for another
    login (RFC 9470). A WebSocket is refused before it is accepted.

    `public_paths` are paths of the application, below its root path: "/health" is that one path,
    and "/docs/*" all paths below "/docs/". A path that another layer could read differently ("..",
    "//", "%2e", "\\", ";") is never public by a "/*". Raises ValueError for any other form of path.

    A token that is bound to a client certificate (RFC 8705) needs that certificate: of the
    connection, if the server has the TLS extension of ASGI, or, from a client in `trusted_proxies`
    (networks such as "10.0.0.0/8"), the one that x-forwarded-client-cert names.
    """

    def __init__(  # noqa: PLR0913 - settings, each with a default
        self,
        app: App,
        verifier: Verifier,
        *,
        audience: str = "",
        scope: Collection[str] = (),
        roles: Collection[str] = (),
        max_age: timedelta | None = None,
        acr_values: Collection[str] = (),
        public_paths: Iterable[str] = (),
        trusted_proxies: Collection[str] = (),
    ) -> None:
        self._app = app
        self._proxies = TrustedProxies(trusted_proxies)
        self._verifier = verifier
        self._rule = _rule(audience, scope, roles, max_age, acr_values)
        self._public = Rule(audience, public=True)
        self._is_public = _public_paths(public_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection (ASGI 3)."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] not in ("http", "websocket"):  # its headers, if any, are not known
            raise NotImplementedError(f"no access check for ASGI scope type {scope['type']!r}")
        rule = self._public if self._is_public(_route_path(scope)) else self._rule
        try:
            certificate = partial(_certificate, scope, self._proxies)
            admission = admit(self._verifier, rule, _authorization(scope), certificate)
        except Refused as refused:
            await _refuse(scope, send, refused)
            return
        scope.setdefault("state", {})["principal"] = admission.claims
        with acting_for(admission):
            await self._app(scope, receive, send)


def require(
    verifier: Verifier,
    *,
    audience: str = "",
    scope: Collection[str] = (),
    roles: Collection[str] = (),
    max_age: timedelta | None = None,
    acr_values: Collection[str] = (),
    trusted_proxies: Collection[str] = (),
) -> Callable[..., Awaitable[AccessClaims]]:
    """Return a dependency for FastAPI: `Depends(require(verifier, scope=("orders.read",)))`.

    It returns the claims, or raises HTTPException with the statuses and headers of the middleware
    and the two fields of the body in its `detail`. It serves HTTP and WebSocket routes.
    """
    # Only a caller of this function needs the framework.
    from starlette.exceptions import HTTPException  # noqa: PLC0415
    from starlette.requests import HTTPConnection  # noqa: PLC0415

    rule = _rule(audience, scope, roles, max_age, acr_values)
    proxies = TrustedProxies(trusted_proxies)

    async def caller(request: HTTPConnection) -> AccessClaims:
        try:
            certificate = partial(_certificate, request.scope, proxies)
            return claims_of(verifier, rule, _authorization(request.scope), certificate)
        except Refused as refused:
            detail: Any = refused.body()  # FastAPI's own HTTPException takes any JSON as well
            raise HTTPException(refused.status, detail, refused.headers()) from refused

    return caller


def _rule(
    audience: str,
    scope: Collection[str],
    roles: Collection[str],
    max_age: timedelta | None,
    acr_values: Collection[str],
) -> Rule:
    if str in (type(scope), type(roles), type(acr_values)):
        raise ValueError("scope, roles and acr_values are collections of strings, not a string")
    return Rule(audience, tuple(scope), tuple(roles), max_age=max_age, acr_values=tuple(acr_values))


def _authorization(scope: Scope) -> list[str]:
    return _header(scope, "authorization")


def _header(scope: Scope, wanted: str) -> list[str]:
    key = wanted.encode()
    return [value.decode("latin-1") for name, value in scope["headers"] if name.lower() == key]


def _certificate(scope: Scope, proxies: TrustedProxies) -> str:
    """Return the thumbprint of the client's certificate; empty if it presents none."""
    if proxies.knows((scope.get("client") or (None,))[0]):
        return presented_to_proxy(_header(scope, FORWARDED))
    tls = (scope.get("extensions") or {}).get("tls") or {}  # ASGI TLS extension
    chain = tls.get("client_cert_chain") or ("",)
    return thumbprint_of_pem(chain[0])


def _public_paths(patterns: Iterable[str]) -> Callable[[str], bool]:
    if isinstance(patterns, str):
        raise ValueError("public_paths is a collection of strings, not a string")  # noqa: TRY004
    exact, below = set(), []
    for pattern in patterns:
        path = pattern.removesuffix("*") if pattern.endswith("/*") else pattern
        if "*" in path or not _is_plain(path):
            raise ValueError(f'not a plain "/path" or "/path/*": {pattern!r}')
        if path is pattern:
            exact.add(path)
        else:
            below.append(path)
    prefixes = tuple(below)
    return lambda path: path in exact or (path.startswith(prefixes) and _is_plain(path))


def _is_plain(path: str) -> bool:
    """Whether every layer, from proxy to router, reads this decoded path in the same way."""
    first, *segments = path.split("/")
    if first or not segments or any(segment in ("", ".", "..") for segment in segments[:-1]):
        return False
    return segments[-1] not in (".", "..") and path.isprintable() and not set(path) & set("%\\;?#")


def _route_path(scope: Scope) -> str:
    """Return the path that the application routes by: the part after its root path (ASGI 3)."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if path == root or path.startswith(f"{root}/") else path


async def _refuse(scope: Scope, send: Send, refused: Refused) -> None:
    kind = "http"
    if scope["type"] == "websocket":
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            await send(
                {"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": refused.text}
            )
            return
        kind = "websocket.http"
    body = json.dumps(refused.body()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    headers |= refused.headers()
    await send(
        {
            "type": f"{kind}.response.start",
            "status": refused.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": f"{kind}.response.body", "body": body})
