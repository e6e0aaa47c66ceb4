"""Tokens for calls to another service for the caller at hand (RFC 8693).

    interceptors = bearer_interceptors(own_tokens, exchange_for="billing", channel=auth_channel)

Owns what is kept: an exchanged token for each received one, as long as it is valid. Calls that need
the same one at the same time make one exchange.
"""

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import grpc
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc as rpc

from auth_service.client.call_credentials import bearer
from auth_service.client.principal import received_token
from auth_service.client.token_life import reason_of
from auth_service.client.token_sources import SyncTokenSource, TokenSource
from auth_service.errors import Retryable, Unauthenticated, Unavailable

__all__ = ["ExchangedTokens", "SyncExchangedTokens"]

_MAX_KEPT = 10_000
_SPARE = 2.0  # seconds that a kept token must have left
_TIMEOUT = 3.0  # seconds of an exchange
_FORCED_APART = 10.0  # seconds; a service that refuses every token causes no exchange for each call

Work = TypeVar("Work")
Received = tuple[str, str]  # a token, and the thumbprint of the certificate of its presenter


@dataclass(slots=True)
class _Entry:
    token: str = field(repr=False)
    until: float
    forced_at: float


class _Kept(Generic[Work]):
    """Exchanged tokens by received token, and the exchanges that are running."""

    def __init__(self, audience: str, scope: Sequence[str]) -> None:
        if not audience:
            raise ValueError("exchange_for must name an audience")
        self._audience = audience
        self._scope = tuple(scope)
        self._entries: OrderedDict[Received, _Entry] = OrderedDict()
        self._received: dict[str, Received] = {}
        self.running: dict[Received, Work] = {}

    def __repr__(self) -> str:
        return f"<exchanged tokens for {self._audience}>"

    def request(self, received: Received) -> pb.ExchangeRequest:
        subject_token, certificate = received
        return pb.ExchangeRequest(
            subject_token=subject_token,
            audience=self._audience,
            scope=self._scope,
            certificate_thumbprint=certificate,
        )

    def find(self, received: Received) -> str | None:
        entry = self._entries.get(received)
        return entry.token if entry is not None and time.time() < entry.until else None

    def keep(self, received: Received, answer: pb.ExchangeResponse) -> str:
        before = self._forget(received)
        forced_at = before.forced_at if before is not None else 0.0
        until = answer.expires_at.seconds - _SPARE
        self._entries[received] = _Entry(answer.access_token, until, forced_at)
        self._received[answer.access_token] = received
        if len(self._entries) > _MAX_KEPT:
            self._forget(next(iter(self._entries)))
        return answer.access_token

    def invalidate(self, token: str) -> None:
        """Let a token that a service has refused be exchanged again, once in a while."""
        entry = self._entries.get(self._received.get(token, ("", "")))
        now = time.monotonic()
        if entry is not None and now >= entry.forced_at + _FORCED_APART:
            entry.until, entry.forced_at = 0.0, now

    def _forget(self, received: Received) -> _Entry | None:
        entry = self._entries.pop(received, None)
        if entry is not None:
            self._received.pop(entry.token, None)
        return entry


def _ended(running: dict[Received, "asyncio.Task[str]"], received: Received, task: Any) -> None:
    running.pop(received, None)
    if not task.cancelled():
        task.exception()  # so that it is not logged where nobody waits any more


def _received() -> Received:
    received = received_token()
    if not received[0]:
        raise Unauthenticated(
            "there is no token to exchange: this code runs outside of a call that the auth "
            "interceptor or middleware guards, or in a public call without a valid token"
        )
    return received


class ExchangedTokens:
    """A source of tokens for one audience, each in the name of the caller of the call at hand.

    `channel` leads to the authentication service, and `own` is the source of this service's own
    token there. `scope` narrows the tokens.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        own: TokenSource,
        audience: str,
        *,
        scope: Sequence[str] = (),
    ) -> None:
        self._exchange: Any = rpc.AuthServiceStub(channel).Exchange
        self._own = own
        self._kept: _Kept[asyncio.Task[str]] = _Kept(audience, scope)

    async def access_token(self, timeout: float | None = None) -> str:
        """Return a token for the caller at hand; `timeout` in seconds bounds the wait for it.

        Raises Unauthenticated if there is no caller, or if its token is no longer valid. Raises
        Unavailable if the service does not answer in time, and AuthError if it refuses.
        """
        received = _received()
        if (token := self._kept.find(received)) is not None:
            return token
        running = self._kept.running
        task = running.get(received)
        if task is None:
            task = running[received] = asyncio.create_task(self._ask(received))
            task.add_done_callback(partial(_ended, running, received))
        try:
            return await asyncio.wait_for(asyncio.shield(task), timeout)
        except TimeoutError as error:
            raise Unavailable("the authentication service did not answer in time") from error

    def invalidate(self, token: str) -> None:
        """Exchange again at the next call, because a service has refused this token."""
        self._kept.invalidate(token)

    async def _ask(self, received: Received) -> str:
        own = await self._own.access_token(_TIMEOUT)
        try:
            try:
                answer = await self._call(received, own)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                    raise
                self._own.invalidate(own)
                answer = await self._call(received, await self._own.access_token(_TIMEOUT))
        except grpc.aio.AioRpcError as error:
            raise reason_of(error) from error
        return self._kept.keep(received, answer)

    async def _call(self, received: Received, own: str) -> pb.ExchangeResponse:
        answer: pb.ExchangeResponse = await self._exchange(
            self._kept.request(received), metadata=(bearer(own),), timeout=_TIMEOUT
        )
        return answer


class SyncExchangedTokens:
    """ExchangedTokens for threads."""

    def __init__(
        self,
        channel: grpc.Channel,
        own: SyncTokenSource,
        audience: str,
        *,
        scope: Sequence[str] = (),
    ) -> None:
        self._exchange: Any = rpc.AuthServiceStub(channel).Exchange
        self._own = own
        self._lock = threading.Lock()
        self._kept: _Kept[Future[str]] = _Kept(audience, scope)

    def access_token(self, timeout: float | None = None) -> str:
        """Do as `ExchangedTokens.access_token` does, for threads."""
        received = _received()
        budget = _TIMEOUT if timeout is None else timeout
        end = time.monotonic() + budget
        while True:
            with self._lock:
                if (token := self._kept.find(received)) is not None:
                    return token
                running = self._kept.running.get(received)
                if running is None:
                    mine: Future[str] = Future()
                    self._kept.running[received] = mine
            left = max(0.0, end - time.monotonic())
            if running is None:
                return self._lead(received, mine, left)
            try:
                return running.result(left)
            except FutureTimeoutError as error:
                raise Unavailable("the authentication service did not answer in time") from error
            except Retryable:  # who asked may have had less time than this thread
                if time.monotonic() >= end:
                    raise

    def _lead(self, received: Received, mine: "Future[str]", timeout: float) -> str:
        try:
            token = self._ask(received, timeout)
            mine.set_result(token)
        except BaseException as error:
            mine.set_exception(
                error if isinstance(error, Exception) else Unavailable("the exchange was ended")
            )
            raise
        finally:
            with self._lock:
                del self._kept.running[received]
        return token

    def invalidate(self, token: str) -> None:
        """Exchange again at the next call, because a service has refused this token."""
        with self._lock:
            self._kept.invalidate(token)

    def _ask(self, received: Received, timeout: float) -> str:
        own = self._own.access_token(timeout)
        try:
            try:
                answer = self._call(received, own, timeout)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAUTHENTICATED:
                    raise
                self._own.invalidate(own)
                answer = self._call(received, self._own.access_token(timeout), timeout)
        except grpc.RpcError as error:
            raise reason_of(error) from error
        with self._lock:
            return self._kept.keep(received, answer)

    def _call(self, received: Received, own: str, timeout: float) -> pb.ExchangeResponse:
        answer: pb.ExchangeResponse = self._exchange(
            self._kept.request(received), metadata=(bearer(own),), timeout=timeout
        )
        return answer
