"""Browser sessions: the refresh token is only in a cookie that no script can read.

POST /v1/login, /v1/step-up, /v1/refresh, /v1/logout and GET /v1/session. The access token is in the
body, for the page to keep in memory. A POST must come from a page of this origin or of a configured
one, and have a header that a form cannot send. Each of the two prevents CSRF, and so does SameSite.
"""

from collections.abc import Awaitable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from auth_service.addresses import is_loopback_host
from auth_service.authz.admission import Refused, Rule, claims_of
from auth_service.authz.sources import Sources
from auth_service.core import fields
from auth_service.core.auditing import identify_caller
from auth_service.core.core import Core
from auth_service.core.second_factors import SecondFactorRequired
from auth_service.core.throttle import LoginOrigin
from auth_service.errors import InvalidArgument, InvalidGrant, NotFound, PermissionDenied
from auth_service.models import TokenPair
from auth_service.tokens.access import AccessClaims
from auth_service.web.app import answering
from auth_service.web.bodies import read_json
from auth_service.web.certificates import CertificateOf
from auth_service.web.cookies import (
    ACCESS_COOKIE,
    DEVICE_COOKIE,
    REFRESH_COOKIE,
    clear_cookies,
    set_cookies,
)
from auth_service.web.idempotency import IDEMPOTENCY_HEADER, request_id
from auth_service.web.oauth import token_response
from auth_service.web.passkeys import PasskeyEndpoints
from auth_service.web.responses import no_store
from auth_service.web.second_factor import ANSWER, challenge_content, proof_in

__all__ = ["BrowserPolicy", "browser_routes"]

CSRF_HEADER = "x-requested-with"
CLIENT_ID = "browser"
_LOGIN: Mapping[str, type] = {
    "identifier": str,
    "password": str,
    "new_password": str,
    "migrate_token": str,
    "audience": list,
    "scope": list,
    "device_label": str,
    "request_id": str,
}
_ANY_VALID_TOKEN = Rule()


@dataclass(frozen=True, slots=True)
class BrowserPolicy:
    """Which pages may call. Without `public_url` the Host header tells the service's own origin."""

    public_url: str | None = None
    origins: Collection[str] = ()
    """Origins of other pages, for which CORS is enabled (https://app.example.com).

    Origins and URL are written as browsers do: in lower case, without the default port.
    """
    access_cookie: bool = False
    """Whether the access token is also set as a cookie, which forward-auth reads."""

    def is_own(self, origin: str, host: str) -> bool:
        """Tell whether a page of this origin may call."""
        if origin in self.origins:
            return True
        if self.public_url is not None:
            own = urlsplit(self.public_url)
            return origin == f"{own.scheme}://{own.netloc}"
        host = host.lower()
        if origin.startswith("http://"):
            # Browsers send Secure cookies over plain HTTP to loopback only.
            return _is_loopback(host) and origin == f"http://{host.removesuffix(':80')}"
        return bool(host) and origin == f"https://{host.removesuffix(':443')}"


class BrowserSessions(PasskeyEndpoints):
    """The endpoints of sessions, and those of passkeys."""

    def __init__(
        self, core: Core, policy: BrowserPolicy, certificate_of: CertificateOf, sources: Sources
    ) -> None:
        self._sessions = core.sessions
        self._migration = core.migration
        self._factors = core.factors
        self._revoker = core.revoker
        self._validation = core.validation
        self._shielded = core.shielded
        self._clock = core.clock
        self._policy = policy
        self._certificate_of = certificate_of
        self._sources = sources
        self._rule = Rule(core.api_audience)

    async def login(self, request: Request) -> Response:
        """Trade a password for a session or a challenge, or the answer to one for a session.

        In place of the password there may be a live token of another system.
        """
        self._require_own_page(request)
        given = await read_json(request, {**_LOGIN, **ANSWER})
        if given.get("challenge_token"):
            new_password = given.pop("new_password", "")
            proof = proof_in(given)
            return await self._answer(
                self._sessions.login_factor(
                    given["challenge_token"],
                    proof,
                    certificate=self._certificate_of(request),
                    new_password=new_password,
                )
            )
        for name in given.keys() - _LOGIN.keys():
            raise InvalidArgument(name, "needs challenge_token")
        given.setdefault("device_label", _device(request))
        if "migrate_token" in given:
            return await self._answer(self._migrate(request, given))
        _require_both(given)
        return await self._answer(
            self._sessions.login_password(
                given.pop("identifier"),
                given.pop("password"),
                **{"client_id": CLIENT_ID, "device_label": _device(request)} | given,
                origin=self._origin(request),
            )
        )

    async def step_up(self, request: Request) -> Response:
        """Authenticate the user of the session in the cookie again; without a password, by the
        second factor alone.
        """
        self._require_own_page(request)
        given = await read_json(request, {"identifier": str, "password": str})
        if given:
            _require_both(given)
        return await self._answer(
            self._sessions.step_up(
                _refresh_cookie(request),
                **given,
                client_id=CLIENT_ID,
                certificate=self._certificate_of(request),
            )
        )

    async def _answer(self, login: Awaitable[TokenPair]) -> Response:
        try:
            return self._with_tokens(await login)
        except SecondFactorRequired as required:
            return no_store(challenge_content(required.challenge, self._clock()))

    async def _migrate(self, request: Request, given: dict[str, Any]) -> TokenPair:
        for name in ("identifier", "password", "new_password"):
            if name in given:
                raise InvalidArgument(name, "does not go with migrate_token; leave it out")
        token = given.pop("migrate_token")
        if not token:
            raise InvalidArgument("migrate_token", "is required")
        return await self._migration.trade(
            token,
            client_id=CLIENT_ID,
            certificate=self._certificate_of(request),
            **given,
        )

    async def refresh(self, request: Request) -> Response:
        """Trade the cookie for its successor and a new access token.

        An invalid cookie is not cleared: another tab may have logged in and replaced it.
        """
        self._require_own_page(request)
        given = await read_json(request, {"scope": list, "audience": list})
        pair = await self._sessions.refresh(
            _refresh_cookie(request),
            given.get("scope", ()),
            audience=given.get("audience", ()),
            client_id=CLIENT_ID,
            request_id=request_id(request),
            coalesce=True,
            certificate=self._certificate_of(request),
        )
        return self._with_tokens(pair)

    async def logout(self, request: Request) -> Response:
        """End the session and its access tokens, and clear the cookies."""
        self._require_own_page(request)
        await self._shielded.run(self._end(request))
        response = Response(status_code=204, headers={"cache-control": "no-store"})
        clear_cookies(response)
        return response

    async def session(self, request: Request) -> Response:
        """Return the claims of the access token in the header, or else in the cookie."""
        return no_store(self._own_claims(request).as_jwt())

    def _origin(self, request: Request) -> LoginOrigin:
        host = request.client.host if request.client else None
        address = self._sources.of_host(host, request.headers.getlist(self._sources.header))
        kept = (request.cookies.get(name) for name in (REFRESH_COOKIE, DEVICE_COOKIE))
        certificate = self._certificate_of(request)
        return LoginOrigin(address, tuple(filter(None, kept)), certificate=certificate)

    async def _end(self, request: Request) -> None:
        if token := request.cookies.get(REFRESH_COOKIE):
            await self._revoker.revoke_refresh_token(token)
        if self._bearer(request):
            try:
                claims = self._claims(request, _ANY_VALID_TOKEN)
            except Refused as refused:
                if refused.status == 401:  # already ended
                    return
                raise
            if not claims.session_id:
                raise InvalidArgument(
                    "authorization",
                    "is of a service account, which has no session; end it at /oauth2/revoke",
                )
            self._own_claims(request)  # it must be for this service
            with suppress(NotFound):  # a deleted session has ended too
                await self._revoker.revoke_session(claims.session_id, claims)

    def _own_claims(self, request: Request) -> AccessClaims:
        """Return the claims of the caller's access token, which must be for this service."""
        return self._claims(request, self._rule)

    def _client(self, request: Request) -> dict[str, str]:
        return {
            "client_id": CLIENT_ID,
            "device_label": _device(request),
            "certificate": self._certificate_of(request),
        }

    def _claims(self, request: Request, rule: Rule) -> AccessClaims:
        certificate = partial(self._certificate_of, request)
        claims = claims_of(self._validation, rule, self._bearer(request), certificate)
        identify_caller(claims)
        return claims

    def _bearer(self, request: Request) -> list[str]:
        given = request.headers.getlist("authorization")
        if not given and self._policy.access_cookie and ACCESS_COOKIE in request.cookies:
            return [f"Bearer {request.cookies[ACCESS_COOKIE]}"]
        return given

    def _with_tokens(self, pair: TokenPair) -> Response:
        now = self._clock()
        content = token_response(pair, now)
        del content["refresh_token"]
        response = no_store(content)
        set_cookies(response, pair, now, self._policy.access_cookie)
        return response

    def _require_own_page(self, request: Request) -> None:
        if CSRF_HEADER not in request.headers:
            raise PermissionDenied(f"send the header {CSRF_HEADER}, of any value")
        origins = request.headers.getlist("origin")
        if len(origins) != 1:
            raise PermissionDenied("send the header origin, once; browsers do")
        if not self._policy.is_own(origins[0], request.headers.get("host", "")):
            raise PermissionDenied(
                "pages of this origin may not call; AUTH_PUBLIC_URL and AUTH_BROWSER_ORIGINS name "
                "those that may"
            )


def browser_routes(
    core: Core, policy: BrowserPolicy, certificate_of: CertificateOf, sources: Sources
) -> Mount:
    """Return the routes below /v1, with CORS for the configured origins only."""
    browser = BrowserSessions(core, policy, certificate_of, sources)
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(policy.origins),
        allow_credentials=True,
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type", CSRF_HEADER, IDEMPOTENCY_HEADER],
        expose_headers=["retry-after"],
    )
    routes = [
        Route("/login", browser.login, methods=["POST"]),
        Route("/step-up", browser.step_up, methods=["POST"]),
        Route("/refresh", browser.refresh, methods=["POST"]),
        Route("/logout", browser.logout, methods=["POST"]),
        Route("/session", browser.session, methods=["GET"]),
        *browser.passkey_routes(),
    ]
    # A separate application, so that its errors have CORS headers and pages can read them.
    return Mount("/v1", app=answering(routes), middleware=[cors] if policy.origins else [])


def _require_both(given: Mapping[str, str]) -> None:
    for name in ("identifier", "password"):
        if not given.get(name):
            raise InvalidArgument(name, "is required")


def _refresh_cookie(request: Request) -> str:
    if token := request.cookies.get(REFRESH_COOKIE):
        return token
    raise InvalidGrant


def _device(request: Request) -> str:
    """Return the device label of a browser for the list of sessions."""
    agent = request.headers.get("user-agent", "")
    return "".join(filter(str.isprintable, agent))[: fields.MAX_LABEL_LENGTH]


def _is_loopback(host: str) -> bool:
    try:
        return is_loopback_host(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False
