"""AuthService: takes a request, calls the core, fills the response."""

import asyncio

from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc

from auth_service.core import fields
from auth_service.core.exchange import TokenExchange
from auth_service.core.migration import Migration
from auth_service.core.revocation import Revoker
from auth_service.core.second_factors import SecondFactorRequired
from auth_service.core.sessions import Sessions
from auth_service.core.shielded import Shielded
from auth_service.core.validation import Validation
from auth_service.errors import InvalidArgument
from auth_service.models import TokenPair
from auth_service.rpc.callers import Callers
from auth_service.rpc.dispatcher import Context, in_bytes, parse
from auth_service.rpc.durations import span
from auth_service.rpc.exchange import Exchanges
from auth_service.rpc.factors import challenge_of, proof_of
from auth_service.rpc.timestamps import timestamp
from auth_service.rpc.verdicts import Batch, Verdicts

__all__ = ["AuthServicer"]

MAX_BATCH = 1000
_BATCH_SLICE = 50  # tokens that are verified before other calls may run


class AuthServicer(auth_service_pb2_grpc.AuthServiceServicer):
    """Login, Refresh, Revoke, Validate, BatchValidate, Exchange, BatchExchange."""

    def __init__(
        self,
        sessions: Sessions,
        migration: Migration,
        revoker: Revoker,
        validation: Validation,
        exchange: TokenExchange,
        callers: Callers,
        shielded: Shielded,
    ) -> None:
        self._sessions = sessions
        self._migration = migration
        self._revoker = revoker
        self._validation = validation
        self._callers = callers
        self._shielded = shielded
        self._verdicts = Verdicts(validation)
        self._exchanges = Exchanges(exchange, callers)

    async def Login(self, request: pb.LoginRequest, context: Context) -> pb.LoginResponse:
        """Trade credentials for tokens, or for the challenge of a second factor."""
        try:
            pair = await self._login(request, context)
            return pb.LoginResponse(tokens=_tokens(pair), device_token=pair.device_token)
        except SecondFactorRequired as required:
            return pb.LoginResponse(challenge=challenge_of(required.challenge))

    async def _login(self, request: pb.LoginRequest, context: Context) -> TokenPair:
        kind = request.WhichOneof("credentials")
        if request.session_refresh_token:
            return await self._step_up(request, kind, context)
        match kind:
            case "password":
                return await self._sessions.login_password(
                    _required(request.password.identifier, "password.identifier"),
                    _required(request.password.password, "password.password"),
                    audience=request.audience,
                    scope=request.scope,
                    client_id=request.client_id,
                    device_label=request.device_label,
                    request_id=request.request_id,
                    new_password=request.password.new_password,
                    origin=self._callers.origin(context, request.device_token),
                )
            case "factor":
                return await self._sessions.login_factor(
                    _required(request.factor.challenge_token, "factor.challenge_token"),
                    proof_of(request.factor),
                    new_password=request.factor.new_password,
                    certificate=self._callers.certificate(context),
                )
            case "client":
                return await self._sessions.login_client(
                    _required(request.client.client_id, "client.client_id"),
                    _required(request.client.client_secret, "client.client_secret"),
                    audience=request.audience,
                    scope=request.scope,
                    certificate=self._callers.certificate(context),
                )
            case "workload":
                return await self._sessions.login_workload(
                    request.workload.token,
                    uris=self._callers.uris(context),
                    client_id=request.workload.client_id,
                    audience=request.audience,
                    scope=request.scope,
                    certificate=self._callers.certificate(context),
                )
            case "migrate":
                return await self._migration.trade(
                    _required(request.migrate.token, "migrate.token"),
                    audience=request.audience,
                    scope=request.scope,
                    client_id=request.client_id,
                    device_label=request.device_label,
                    request_id=request.request_id,
                    certificate=self._callers.certificate(context),
                )
            case _:
                raise InvalidArgument(
                    "credentials", "is required: set password, client, workload, factor or migrate"
                )

    async def _step_up(
        self, request: pb.LoginRequest, kind: str | None, context: Context
    ) -> TokenPair:
        for name, given in (("audience", request.audience), ("scope", request.scope)):
            if given:
                raise InvalidArgument(name, "must be empty: the session keeps its own")
        identifier = password = ""
        if kind == "password":
            if request.password.new_password:
                raise InvalidArgument("password.new_password", "must be empty for a step-up")
            identifier = _required(request.password.identifier, "password.identifier")
            password = _required(request.password.password, "password.password")
        elif kind is not None:
            raise InvalidArgument("session_refresh_token", "needs a password, or no credentials")
        return await self._sessions.step_up(
            request.session_refresh_token,
            identifier,
            password,
            certificate=self._callers.certificate(context),
        )

    async def Refresh(self, request: pb.RefreshRequest, context: Context) -> pb.RefreshResponse:
        """Trade a refresh token for its successor."""
        token = _required(request.refresh_token, "refresh_token")
        pair = await self._sessions.refresh(
            token,
            request.scope,
            audience=request.audience,
            request_id=request.request_id,
            certificate=self._callers.certificate(context),
        )
        return pb.RefreshResponse(tokens=_tokens(pair))

    async def Revoke(self, request: pb.RevokeRequest, context: Context) -> pb.RevokeResponse:
        """End a session, all sessions of a user, or one access token."""
        await self._shielded.run(self._revoke(request, context))
        return pb.RevokeResponse()

    @in_bytes
    def Validate(self, request: bytes, context: Context) -> bytes:
        """Return the verdict on an access token. A coroutine would cost more than the verdict."""
        return self._verdicts.again(request) or self._validate(request)

    @in_bytes
    async def BatchValidate(self, data: bytes, context: Context) -> bytes:
        """Return the verdicts on up to MAX_BATCH access tokens, in order."""
        requests = parse(Batch, data).members
        if not 1 <= len(requests) <= MAX_BATCH:
            raise InvalidArgument("requests", f"must have 1 to {MAX_BATCH} items")
        responses = []
        for index, request in enumerate(requests):
            if index % _BATCH_SLICE == _BATCH_SLICE - 1:
                await asyncio.sleep(0)
            answer = self._verdicts.again(request)
            responses.append(answer or self._validate(request, f"requests[{index}]."))
        encoded: bytes = Batch(members=responses).SerializeToString()
        return encoded

    @in_bytes
    def Exchange(self, request: bytes, context: Context) -> bytes:
        """Trade a token that the caller received for one for the next service."""
        return self._exchanges.one(request, context)

    @in_bytes
    async def BatchExchange(self, request: bytes, context: Context) -> bytes:
        """Do so with up to MAX_BATCH tokens, in order."""
        return await self._exchanges.many(request, context)

    async def _revoke(self, request: pb.RevokeRequest, context: Context) -> None:
        match request.WhichOneof("target"):
            case "refresh_token":
                token = _required(request.refresh_token, "refresh_token")
                await self._revoker.revoke_refresh_token(token)
            case "access_token":
                token = _required(request.access_token, "access_token")
                await self._revoker.revoke_access_token(token)
            case "session_id":
                caller = self._callers.require(context)
                await self._revoker.revoke_session(request.session_id, caller)
            case "all_sessions":
                caller = self._callers.require(context)
                await self._revoker.revoke_all(request.all_sessions.user_id, caller)
            case _:
                raise InvalidArgument(
                    "target",
                    "is required: set refresh_token, access_token, session_id or all_sessions",
                )

    def _validate(self, data: bytes, path: str = "") -> bytes:
        request = parse(pb.ValidateRequest, data, path.removesuffix(".") or "request")
        token = request.access_token
        if not token:
            raise InvalidArgument(f"{path}access_token", "is required")
        max_staleness, max_age = (
            span(request, "max_staleness", path),
            span(request, "max_age", path),
        )
        bound_to = fields.thumbprint(
            request.certificate_thumbprint, f"{path}certificate_thumbprint"
        )
        verdict = self._validation.validate(
            token,
            audience=request.audience,
            required_scope=request.required_scope,
            required_roles=request.required_roles,
            certificate_thumbprint=bound_to,
            max_staleness=max_staleness,
            max_age=max_age,
            acr_values=fields.acr_values(request.acr_values, f"{path}acr_values"),
        )
        # The answer to a request with a bound of its own depends on the time at which it is asked.
        repeatable = data if max_staleness is None else b""
        return self._verdicts.response(verdict, token, repeatable, bound_to, max_age)


def _required(value: str, field: str) -> str:
    if not value:
        raise InvalidArgument(field, "is required")
    return value


def _tokens(pair: TokenPair) -> pb.TokenPair:
    expires_at = pair.refresh_expires_at
    return pb.TokenPair(
        access_token=pair.access_token,
        token_type="Bearer",  # noqa: S106 - RFC 6750
        access_expires_at=timestamp(pair.access_expires_at),
        refresh_token=pair.refresh_token,
        refresh_expires_at=None if expires_at is None else timestamp(expires_at),
        scope=pair.scope,
        session_id=pair.session_id,
    )
