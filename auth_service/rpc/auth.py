"""AuthService: takes a request, calls the core, fills the response."""

import asyncio
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc
from google.protobuf.timestamp_pb2 import Timestamp

from auth_service.errors import InactiveReason, InvalidArgument
from auth_service.models import TokenPair
from auth_service.rpc.callers import caller_of
from auth_service.sessions import Sessions
from auth_service.shielded import Shielded
from auth_service.tokens import AccessClaims
from auth_service.validation import Validation, Verdict

__all__ = ["AuthServicer"]

MAX_BATCH = 1000
_BATCH_SLICE = 50  # tokens verified before other calls get their turn
_REASONS = {
    reason: pb.InactiveReason.Value(f"INACTIVE_REASON_{reason.name}") for reason in InactiveReason
}
_MAX_DURATION_SECONDS = 315_576_000_000  # google.protobuf.Duration: about 10,000 years


class AuthServicer(auth_service_pb2_grpc.AuthServiceServicer):
    """Login, Refresh, Revoke, Validate, BatchValidate."""

    def __init__(self, sessions: Sessions, validation: Validation, shielded: Shielded) -> None:
        self._sessions = sessions
        self._validation = validation
        self._shielded = shielded

    async def Login(self, request: Any, context: Any) -> Any:
        """Trade credentials for tokens."""
        match request.WhichOneof("credentials"):
            case "password":
                pair = await self._sessions.login_password(
                    _required(request.password.identifier, "password.identifier"),
                    _required(request.password.password, "password.password"),
                    audience=request.audience,
                    scope=request.scope,
                    client_id=request.client_id,
                    device_label=request.device_label,
                    request_id=request.request_id,
                )
            case "client":
                pair = await self._sessions.login_client(
                    _required(request.client.client_id, "client.client_id"),
                    _required(request.client.client_secret, "client.client_secret"),
                    audience=request.audience,
                    scope=request.scope,
                )
            case _:
                raise InvalidArgument("credentials", "is required: set password or client")
        return pb.LoginResponse(tokens=_tokens(pair))

    async def Refresh(self, request: Any, context: Any) -> Any:
        """Trade a refresh token for its successor."""
        token = _required(request.refresh_token, "refresh_token")
        pair = await self._shielded.run(self._sessions.refresh(token, request.scope))
        return pb.RefreshResponse(tokens=_tokens(pair))

    async def Revoke(self, request: Any, context: Any) -> Any:
        """End a session, all sessions of a user, or one access token."""
        await self._shielded.run(self._revoke(request, context))
        return pb.RevokeResponse()

    async def Validate(self, request: Any, context: Any) -> Any:
        """Tell whether an access token is good."""
        response = pb.ValidateResponse()
        _fill(response, self._validate(request, ""))
        return response

    async def BatchValidate(self, request: Any, context: Any) -> Any:
        """Tell it of many tokens."""
        if not 1 <= len(request.requests) <= MAX_BATCH:
            raise InvalidArgument("requests", f"must have 1 to {MAX_BATCH} items")
        response = pb.BatchValidateResponse()
        for index, item in enumerate(request.requests):
            if index % _BATCH_SLICE == _BATCH_SLICE - 1:
                await asyncio.sleep(0)
            verdict = self._validate(item, f"requests[{index}].")
            _fill(response.responses.add(), verdict)
        return response

    async def _revoke(self, request: Any, context: Any) -> None:
        match request.WhichOneof("target"):
            case "refresh_token":
                token = _required(request.refresh_token, "refresh_token")
                await self._sessions.revoke_refresh_token(token)
            case "access_token":
                token = _required(request.access_token, "access_token")
                await self._sessions.revoke_access_token(token)
            case "session_id":
                caller = caller_of(context, self._validation)
                await self._sessions.revoke_session(request.session_id, caller)
            case "all_sessions":
                caller = caller_of(context, self._validation)
                await self._sessions.revoke_all(request.all_sessions.user_id, caller)
            case _:
                raise InvalidArgument(
                    "target",
                    "is required: set refresh_token, access_token, session_id or all_sessions",
                )

    def _validate(self, request: Any, path: str) -> Verdict:
        return self._validation.validate(
            _required(request.access_token, f"{path}access_token"),
            audience=request.audience,
            required_scope=request.required_scope,
            required_roles=request.required_roles,
            max_staleness=_max_staleness(request, path),
        )


def _required(value: str, field: str) -> str:
    if not value:
        raise InvalidArgument(field, "is required")
    return value


def _max_staleness(request: Any, path: str) -> timedelta | None:
    if not request.HasField("max_staleness"):
        return None
    given = request.max_staleness
    in_range = 0 <= given.seconds <= _MAX_DURATION_SECONDS and 0 <= given.nanos < 1_000_000_000
    if not in_range:
        raise InvalidArgument(f"{path}max_staleness", "must be a duration of zero or more")
    return timedelta(seconds=given.seconds, microseconds=given.nanos / 1000)


def _tokens(pair: TokenPair) -> Any:
    tokens = pb.TokenPair(
        access_token=pair.access_token,
        token_type="Bearer",  # noqa: S106 - RFC 6750
        refresh_token=pair.refresh_token,
        scope=pair.scope,
        session_id=pair.session_id,
    )
    tokens.access_expires_at.FromDatetime(pair.access_expires_at)
    if pair.refresh_expires_at is not None:
        tokens.refresh_expires_at.FromDatetime(pair.refresh_expires_at)
    return tokens


def _fill(response: Any, verdict: Verdict) -> None:
    """Write a verdict into a response, in place: to build messages and copy them costs double."""
    response.revocations_as_of.CopyFrom(_timestamp(verdict.revocations_as_of))
    if verdict.inactive_reason is not None:
        response.inactive_reason = _REASONS[verdict.inactive_reason]
    if verdict.claims is not None:
        response.active = True
        _fill_claims(response.claims, verdict.claims)


def _fill_claims(message: Any, claims: AccessClaims) -> None:
    message.issuer = claims.issuer
    message.subject = claims.subject
    message.audience.extend(claims.audience)
    message.expires_at.seconds = claims.expires_at
    message.issued_at.seconds = claims.issued_at
    message.token_id = claims.token_id
    message.session_id = claims.session_id
    message.client_id = claims.client_id
    message.scope.extend(claims.scope)
    message.roles.extend(claims.roles)
    message.auth_time.seconds = claims.auth_time
    message.authentication_methods.extend(claims.amr)


@lru_cache(maxsize=1)  # it is the same for all calls until the feed's next poll
def _timestamp(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
