"""The OAuth endpoints: token (RFC 6749), introspection (RFC 7662) and revocation (RFC 7009).

Clients are service accounts, by their secret or an assertion (RFC 7523 section 2.2), and
applications without a secret by their `client_id`. The password grant is not among the grants: RFC
9700 section 2.4 forbids it.
"""

import base64
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import unquote_plus

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from auth_service.authz.admission import Rule, claims_of
from auth_service.core import fields
from auth_service.core.core import Core
from auth_service.core.exchange import Actor
from auth_service.errors import (
    InvalidArgument,
    InvalidCredentials,
    InvalidGrant,
    InvalidToken,
    PermissionDenied,
)
from auth_service.models import ServiceAccount, TokenPair
from auth_service.web.bodies import read_form, words
from auth_service.web.certificates import CertificateOf
from auth_service.web.idempotency import request_id
from auth_service.web.responses import Problem, no_store

__all__ = ["oauth_routes", "token_response"]

Form = dict[str, str]
_TARGETS = ("audience", "resource")
"""Both name audiences, and may be repeated (RFC 8693 section 2.1, RFC 8707 section 2)."""


_ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - RFC 8693 section 3
_JWT = "urn:ietf:params:oauth:token-type:jwt"
_PROOFS = frozenset({"client_secret", "client_assertion", "client_assertion_type"})
_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class OAuth:
    """The three endpoints."""

    def __init__(self, core: Core, certificate_of: CertificateOf) -> None:
        self._credentials = core.credentials
        self._sessions = core.sessions
        self._revoker = core.revoker
        self._validation = core.validation
        self._exchange = core.exchange
        self._audiences = core.audiences
        self._shielded = core.shielded
        self._auditor = core.auditor
        self._clock = core.clock
        self._certificate_of = certificate_of

    async def token(self, request: Request) -> Response:
        """Exchange a refresh token, or what proves a service account, for tokens."""
        form = await read_form(request, frozenset(_TARGETS))
        match form.get("grant_type"):
            case "refresh_token":
                pair = await self._refresh(request, form)
            case "client_credentials":
                pair = await self._log_in(request, form)
            case "urn:ietf:params:oauth:grant-type:token-exchange":
                return no_store(await self._exchanged(request, form))
            case None:
                raise InvalidArgument("grant_type", "is required")
            case _:
                raise Problem(
                    400,
                    "unsupported_grant_type",
                    "grant_type must be refresh_token, client_credentials or "
                    "urn:ietf:params:oauth:grant-type:token-exchange",
                )
        return no_store(token_response(pair, self._clock()))

    async def introspect(self, request: Request) -> Response:
        """Tell a service account whether an access token is active, and return its claims.

        Anything else is inactive, including a refresh token (RFC 7662 section 2.2). A bound token
        is answered with `cnf`, which the caller compares (RFC 8705 section 3.2); if it sends
        `certificate_thumbprint` in the form, the token is active only with the right one.
        """
        form = await read_form(request)
        await self._authenticate(request, form)
        token = _required(form, "token")
        presenter = fields.thumbprint(
            form.get("certificate_thumbprint", ""), "certificate_thumbprint"
        )
        try:
            claims = self._validation.introspect(token, presenter)
        except InvalidToken:
            return no_store({"active": False})
        return no_store({"active": True, "token_type": "Bearer"} | claims.as_jwt())

    async def revoke(self, request: Request) -> Response:
        """End a token of the calling service account; does nothing if the token is invalid."""
        form = await read_form(request)
        client_id = (await self._authenticate(request, form)).client_id
        token = _required(form, "token")
        try:
            await self._shielded.run(self._revoker.revoke_token(token, client_id))
        except PermissionDenied as error:
            raise Problem(400, "unauthorized_client", error.text, error.reason) from error
        return Response(status_code=200, headers={"cache-control": "no-store"})

    async def _log_in(self, request: Request, form: Form) -> TokenPair:
        audience, scope = _audience(form), words(form.get("scope", ""))
        certificate = self._certificate_of(request)
        if (assertion := _assertion(request, form)) is not None:
            return await self._sessions.login_workload(
                assertion,
                client_id=form.get("client_id", ""),
                audience=audience,
                scope=scope,
                certificate=certificate,
            )
        client_id, secret = _credentials(request, form)
        return await self._sessions.login_client(
            client_id, secret or "", audience=audience, scope=scope, certificate=certificate
        )

    async def _refresh(self, request: Request, form: Form) -> TokenPair:
        token = _required(form, "refresh_token")
        proof = _assertion(request, form) or _credentials(request, form)[1]
        if not proof:  # RFC 6749 section 2.3.1: an empty secret is none
            client_id = _credentials(request, form)[0]
            await self._credentials.require_public_client(client_id)
        else:
            client_id = (await self._authenticate(request, form)).client_id
        scope = words(form.get("scope", ""))
        return await self._sessions.refresh(
            token,
            scope,
            audience=_audience(form),
            client_id=client_id,
            request_id=request_id(request),
            certificate=self._certificate_of(request),
        )

    async def _exchanged(self, request: Request, form: Form) -> dict[str, Any]:
        """Exchange the token of another for one for the next service (RFC 8693 section 2)."""
        subject_token = _required(form, "subject_token")
        for name in ("subject_token_type", "actor_token_type", "requested_token_type"):
            if form.get(name, _ACCESS_TOKEN) not in (_ACCESS_TOKEN, _JWT):
                raise InvalidArgument(name, f"must be {_ACCESS_TOKEN}")
        target = _audience(form)
        if len(target) != 1:
            raise InvalidArgument("audience", "must name one audience")
        actor = await self._actor(request, form)
        token, claims = self._exchange.exchange(
            actor,
            subject_token,
            target[0],
            words(form.get("scope", "")),
            presenter=fields.thumbprint(
                form.get("certificate_thumbprint", ""), "certificate_thumbprint"
            ),
        )
        return {
            "access_token": token,
            "issued_token_type": _ACCESS_TOKEN,
            "token_type": "Bearer",
            "expires_in": max(0, claims.expires_at - int(self._clock().timestamp())),
            "scope": " ".join(claims.scope),
        }

    async def _actor(self, request: Request, form: Form) -> Actor:
        """Return who exchanges: by its access token, without a query, or as at a login."""
        certificate = partial(self._certificate_of, request)
        if "actor_token" in form:
            if "authorization" in request.headers or not form.keys().isdisjoint(_PROOFS):
                raise InvalidArgument("actor_token", "authenticates the client twice; use one way")
            rule, token = Rule(self._audiences.own), f"Bearer {form['actor_token']}"
            return Actor.of(claims_of(self._validation, rule, [token], certificate), certificate)
        now = self._clock()  # before the account is read, as at a login
        account = await self._authenticate(request, form)
        # No earlier revocation of the account covers what it exchanges from now on.
        issued_at = max(now, account.revoked_before or now)
        may_have = self._audiences.open_to(account.audiences)
        return Actor(
            account.client_id, int(issued_at.timestamp()), may_have, certificate, account.bound
        )

    async def _authenticate(self, request: Request, form: Form) -> ServiceAccount:
        """Return the calling service account: by its secret, or by an assertion."""
        if (assertion := _assertion(request, form)) is not None:
            with self._auditor.attempt("workload"):
                return await self._credentials.authenticate_workload(
                    assertion, form.get("client_id", "")
                )
        client_id, secret = _credentials(request, form)
        with self._auditor.attempt("client_secret"):
            return await self._credentials.authenticate_client(client_id, secret or "")


def oauth_routes(core: Core, certificate_of: CertificateOf) -> list[Route]:
    """Return the routes of the three endpoints."""
    oauth = OAuth(core, certificate_of)
    endpoints = {"token": oauth.token, "introspect": oauth.introspect, "revoke": oauth.revoke}
    return [
        Route(f"/oauth2/{name}", _answering(endpoint), methods=["POST"])
        for name, endpoint in endpoints.items()
    ]


def token_response(pair: TokenPair, now: datetime) -> dict[str, Any]:
    """Return tokens as in RFC 6749 section 5.1; `expires_in` is in seconds."""
    content: dict[str, Any] = {
        "access_token": pair.access_token,
        "token_type": "Bearer",
        "expires_in": max(0, int((pair.access_expires_at - now).total_seconds())),
        "scope": " ".join(pair.scope),
    }
    if pair.refresh_token:
        content["refresh_token"] = pair.refresh_token
    if pair.session_id:
        content["session_id"] = pair.session_id
    return content


def _answering(
    endpoint: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint with OAuth's codes for two of its errors (RFC 6749 section 5.2)."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except InvalidCredentials as error:
            raise Problem(
                401,
                "invalid_client",
                "client authentication failed",
                error.reason,
                www_authenticate='Basic realm="oauth2"',
            ) from error
        except InvalidGrant as error:
            raise Problem(400, "invalid_grant", error.text, error.reason) from error

    return answer


def _required(form: Form, name: str) -> str:
    if name not in form:
        raise InvalidArgument(name, "is required")
    return form[name]


def _audience(form: Form) -> list[str]:
    return [name for target in _TARGETS for name in words(form.get(target, ""))]


def _assertion(request: Request, form: Form) -> str | None:
    """Return the client's assertion, if it authenticates by one (RFC 7521 section 4.2)."""
    kind, assertion = form.get("client_assertion_type"), form.get("client_assertion")
    if kind is None and assertion is None:
        return None
    if kind != _ASSERTION_TYPE:
        raise InvalidArgument("client_assertion_type", f"must be {_ASSERTION_TYPE}")
    if request.headers.getlist("authorization") or "client_secret" in form:
        raise InvalidArgument("client_assertion", "authenticates the client twice; use one method")
    if assertion is None:
        raise InvalidCredentials
    return assertion


def _credentials(request: Request, form: Form) -> tuple[str, str | None]:
    """Return the client's id and its secret, if any (RFC 6749 section 2.3.1).

    Raises InvalidCredentials without a client, InvalidArgument for two methods at once.
    """
    given = request.headers.getlist("authorization")
    if not given:
        if "client_id" not in form:
            raise InvalidCredentials
        return form["client_id"], form.get("client_secret")
    if len(given) > 1 or "client_secret" in form:
        raise InvalidArgument("authorization", "authenticates the client twice; use one method")
    client_id, secret = _basic(given[0])
    if form.get("client_id", client_id) != client_id:
        raise InvalidArgument("client_id", "differs from the one in the authorization header")
    return client_id, secret


def _basic(authorization: str) -> tuple[str, str]:
    """Return the id and the secret of HTTP Basic, both form-encoded (RFC 6749 section 2.3.1)."""
    scheme, _, encoded = authorization.strip().partition(" ")
    try:
        client_id, colon, secret = (
            base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        )
        if scheme.lower() != "basic" or not colon:
            raise InvalidCredentials
        return unquote_plus(client_id, errors="strict"), unquote_plus(secret, errors="strict")
    except ValueError as error:  # not base64, or not ASCII or UTF-8 in it
        raise InvalidCredentials from error
