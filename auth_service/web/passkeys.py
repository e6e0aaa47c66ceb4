"""Passkeys of browser sessions: made with the access token of a login, and logged in with alone.

POST /v1/passkeys/begin and /v1/passkeys add one, POST /v1/passkeys/login begins a login by one. As
second factor a passkey answers the challenge of /v1/login.
"""

import json
from abc import ABC, abstractmethod

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from auth_service.clock import Clock
from auth_service.core.own_factors import OwnFactors
from auth_service.core.sessions import Sessions
from auth_service.core.shielded import Shielded
from auth_service.errors import InvalidArgument
from auth_service.tokens.access import AccessClaims
from auth_service.web.bodies import read_json
from auth_service.web.responses import no_store
from auth_service.web.second_factor import challenge_content

__all__ = ["PasskeyEndpoints"]

_CONFIRM = {"enrollment_token": str, "passkey_response": str, "name": str}
_LOGIN = {"audience": list, "scope": list, "device_label": str}


class PasskeyEndpoints(ABC):
    """The three endpoints, for a class that knows whose pages may call."""

    _factors: OwnFactors
    _sessions: Sessions
    _shielded: Shielded
    _clock: Clock

    @abstractmethod
    def _require_own_page(self, request: Request) -> None: ...

    @abstractmethod
    def _own_claims(self, request: Request) -> AccessClaims: ...

    @abstractmethod
    def _client(self, request: Request) -> dict[str, str]:
        """Return the arguments of a login that tell of the client."""

    async def begin_passkey(self, request: Request) -> Response:
        """Return what navigator.credentials.create takes, and the token of the enrollment."""
        self._require_own_page(request)
        options, token, expires_at = await self._factors.begin_passkey(self._own_claims(request))
        left = int((expires_at - self._clock()).total_seconds())
        content = {"enrollment_token": token, "passkey_options": json.loads(options)}
        return no_store(content | {"expires_in": max(0, left)})

    async def confirm_passkey(self, request: Request) -> Response:
        """Add the passkey that the browser made."""
        self._require_own_page(request)
        given = await read_json(request, _CONFIRM)
        for name in ("enrollment_token", "passkey_response"):
            if not given.get(name):
                raise InvalidArgument(name, "is required")
        factor, codes = await self._shielded.run(
            self._factors.confirm_passkey(
                self._own_claims(request),
                given["enrollment_token"],
                given["passkey_response"],
                given.get("name", ""),
            )
        )
        return no_store({"factor_id": str(factor.id), "recovery_codes": codes})

    async def passkey_login(self, request: Request) -> Response:
        """Return the challenge that a passkey answers without a password."""
        self._require_own_page(request)
        given = await read_json(request, _LOGIN)
        issued = self._sessions.begin_passkey_login(**self._client(request) | given)
        return no_store(challenge_content(issued, self._clock()))

    def passkey_routes(self) -> list[Route]:
        """Return the routes, below /v1."""
        return [
            Route("/passkeys/begin", self.begin_passkey, methods=["POST"]),
            Route("/passkeys/login", self.passkey_login, methods=["POST"]),
            Route("/passkeys", self.confirm_passkey, methods=["POST"]),
        ]
