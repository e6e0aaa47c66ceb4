"""Access tokens for outgoing calls: of a user's session, or of a service account.

Owns what is asked of the service for each. How a renewal runs is in `renewal`, and how a token gets
into a call in `bearer`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, Unpack

import grpc
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc as rpc

from auth_service.client.renewal import EventLoop, Renewals, Threads, Timing, finish

__all__ = [
    "ServiceAccountTokens",
    "SessionTokens",
    "SyncServiceAccountTokens",
    "SyncSessionTokens",
    "SyncTokenSource",
    "Timing",
    "TokenSource",
]

Ask = Callable[[str, float], Any]  # with the refresh token, within seconds


class TokenSource(Protocol):
    """Where asyncio programs get access tokens from."""

    async def access_token(self, timeout: float | None = None) -> str:
        """Return a good access token; `timeout` in seconds bounds the wait for it."""
        ...

    def invalidate(self, token: str) -> None:
        """Have a token renewed that a service has refused."""
        ...


class SyncTokenSource(Protocol):
    """Where programs with threads get access tokens from."""

    def access_token(self, timeout: float | None = None) -> str:
        """Return a good access token; `timeout` in seconds bounds the wait for it."""
        ...

    def invalidate(self, token: str) -> None:
        """Have a token renewed that a service has refused."""
        ...


class _Tokens:
    def __init__(self, renewals: Renewals) -> None:
        self._renewals = renewals

    def invalidate(self, token: str) -> None:
        """Have a token renewed that a service has refused as UNAUTHENTICATED; once per token."""
        self._renewals.invalidate(token)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class _LoopTokens(_Tokens):
    def __init__(
        self, ask: Ask, refresh_token: str, persist: Callable[[str], object], timing: Timing
    ) -> None:
        timing = {"sleep": asyncio.sleep, **timing}
        super().__init__(Renewals(EventLoop(), ask, refresh_token, persist, timing))

    async def access_token(self, timeout: float | None = None) -> str:
        """Return a good access token, from memory nearly always.

        Raises InvalidGrant once the session has ended, InvalidCredentials where a service account
        is refused, Unavailable or RateLimited where there is no token that is good any more and
        the service gives none (or not within `timeout` seconds), and what `on_refresh_token` did.
        """
        return await self._renewals.obtain(timeout)

    async def aclose(self) -> None:
        """Wait for a renewal that is under way, so that its refresh token is not lost."""
        await self._renewals.settle()


class _ThreadTokens(_Tokens):
    def __init__(
        self, ask: Ask, refresh_token: str, persist: Callable[[str], object], timing: Timing
    ) -> None:
        timing = {"sleep": time.sleep, **timing}
        super().__init__(Renewals(Threads(), ask, refresh_token, persist, timing))

    def access_token(self, timeout: float | None = None) -> str:
        """Return a good access token, from memory nearly always; raises what its twin raises."""
        return finish(self._renewals.obtain(timeout))


class SessionTokens(_LoopTokens):
    """Keeps a user's session alive with its refresh token (RFC 6749 section 6); for one event loop.

    `on_refresh_token` is given each new refresh token, to persist it, before the access token that
    came with it is handed out: the former one is good no more. Where it raises, it is called again
    with the same token at a later call. It must not itself ask this source for a token.
    `scope` narrows that of the access tokens.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        refresh_token: str,
        *,
        on_refresh_token: Callable[[str], Awaitable[None] | None],
        scope: Sequence[str] = (),
        **timing: Unpack[Timing],
    ) -> None:
        super().__init__(_refresh(channel, scope), refresh_token, on_refresh_token, timing)


class ServiceAccountTokens(_LoopTokens):
    """Logs a service account in and in again (RFC 6749 section 4.4); for one event loop."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        client_id: str,
        client_secret: str,
        *,
        audience: Sequence[str] = (),
        scope: Sequence[str] = (),
        **timing: Unpack[Timing],
    ) -> None:
        ask = _login(channel, client_id, client_secret, audience, scope)
        super().__init__(ask, "", _nothing_to_persist, timing)


class SyncSessionTokens(_ThreadTokens):
    """SessionTokens for threads. `on_refresh_token` is called in a thread of the source's own."""

    def __init__(
        self,
        channel: grpc.Channel,
        refresh_token: str,
        *,
        on_refresh_token: Callable[[str], None],
        scope: Sequence[str] = (),
        **timing: Unpack[Timing],
    ) -> None:
        super().__init__(_refresh(channel, scope), refresh_token, on_refresh_token, timing)


class SyncServiceAccountTokens(_ThreadTokens):
    """ServiceAccountTokens for threads."""

    def __init__(
        self,
        channel: grpc.Channel,
        client_id: str,
        client_secret: str,
        *,
        audience: Sequence[str] = (),
        scope: Sequence[str] = (),
        **timing: Unpack[Timing],
    ) -> None:
        ask = _login(channel, client_id, client_secret, audience, scope)
        super().__init__(ask, "", _nothing_to_persist, timing)


def _refresh(channel: Any, scope: Sequence[str]) -> Ask:
    stub = rpc.AuthServiceStub(channel)

    def ask(refresh_token: str, timeout: float) -> Any:
        request = pb.RefreshRequest(refresh_token=refresh_token, scope=scope)
        return stub.Refresh(request, timeout=timeout)

    return ask


def _login(
    channel: Any, client_id: str, client_secret: str, audience: Sequence[str], scope: Sequence[str]
) -> Ask:
    stub = rpc.AuthServiceStub(channel)
    client = pb.ClientCredentials(client_id=client_id, client_secret=client_secret)
    request = pb.LoginRequest(client=client, audience=audience, scope=scope)

    def ask(_: str, timeout: float) -> Any:
        return stub.Login(request, timeout=timeout)

    return ask


def _nothing_to_persist(_: str) -> None: ...
