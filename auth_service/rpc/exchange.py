"""Exchange and BatchExchange: takes the caller's own token, calls the core, fills the response."""

import asyncio
from datetime import timedelta
from functools import partial
from typing import Any

from authn.v1 import auth_service_pb2 as pb
from authn.v1 import error_reason_pb2

from auth_service.core import fields
from auth_service.core.exchange import Actor, TokenExchange
from auth_service.errors import AuthError, InvalidArgument, Retryable
from auth_service.rpc.callers import Callers
from auth_service.rpc.dispatcher import Context, parse

__all__ = ["Exchanges"]

MAX_BATCH = 1000
_BATCH_SLICE = 50  # tokens that are exchanged before other calls may run
_LONGEST = 315_576_000_000  # seconds of a google.protobuf.Duration: about 10,000 years


class Exchanges:
    """The two methods, in bytes."""

    def __init__(self, exchange: TokenExchange, callers: Callers) -> None:
        self._exchange = exchange
        self._callers = callers

    def one(self, data: bytes, context: Context) -> bytes:
        """Exchange one token."""
        actor = self._actor(context)
        response: Any = pb.ExchangeResponse()
        self._fill(response, actor, parse(pb.ExchangeRequest, data))
        encoded: bytes = response.SerializeToString()
        return encoded

    async def many(self, data: bytes, context: Context) -> bytes:
        """Exchange up to MAX_BATCH tokens, each with a result of its own."""
        actor = self._actor(context)
        requests = parse(pb.BatchExchangeRequest, data).requests
        if not 1 <= len(requests) <= MAX_BATCH:
            raise InvalidArgument("requests", f"must have 1 to {MAX_BATCH} items")
        response: Any = pb.BatchExchangeResponse()
        for index, request in enumerate(requests):
            if index % _BATCH_SLICE == _BATCH_SLICE - 1:
                await asyncio.sleep(0)
            result = response.results.add()
            try:
                self._fill(result.token, actor, request)
            except Retryable:  # it would be the same for each
                raise
            except AuthError as error:
                result.error.reason = error_reason_pb2.ErrorReason.Value(
                    f"ERROR_REASON_{error.reason}"
                )
                result.error.message = error.text
        encoded: bytes = response.SerializeToString()
        return encoded

    def _actor(self, context: Context) -> Actor:
        return Actor.of(self._callers.require(context), partial(self._callers.certificate, context))

    def _fill(self, response: Any, actor: Actor, request: Any) -> None:
        for field in ("subject_token", "audience"):
            if not getattr(request, field):
                raise InvalidArgument(field, "is required")
        token, claims = self._exchange.exchange(
            actor,
            request.subject_token,
            request.audience,
            request.scope,
            _lifetime(request),
            fields.thumbprint(request.certificate_thumbprint, "certificate_thumbprint"),
        )
        response.access_token = token
        response.token_type = "Bearer"  # noqa: S105 - RFC 6750
        response.expires_at.seconds = claims.expires_at
        if claims.scope:
            response.scope.extend(claims.scope)


def _lifetime(request: Any) -> timedelta | None:
    if not request.HasField("lifetime"):
        return None
    given = request.lifetime
    if not (1 <= given.seconds <= _LONGEST and 0 <= given.nanos < 1_000_000_000):
        raise InvalidArgument("lifetime", "must be a duration of a second or more")
    return timedelta(seconds=given.seconds)
