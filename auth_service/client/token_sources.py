"""Access tokens for outgoing calls: of a user's session, or of a service account.

Owns which call to the service yields them. How a renewal runs is in `renewal`, and how a token is
put into a call is in `bearer`.
"""

import asyncio
import pathlib
import time
from collections.abc import Awaitable, Callable, Sequence
from os import PathLike
from typing import Any, Protocol, Unpack

import grpc
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc as rpc

from auth_service.client.renewal import EventLoop, Grant, Renewals, Threads, Timing, finish

__all__ = [
    "ServiceAccountTokens",
    "SessionTokens",
    "SyncServiceAccountTokens",
    "SyncSessionTokens",
    "SyncTokenSource",
    "SyncWorkloadTokens",
    "Timing",
    "TokenSource",
    "WorkloadTokens",
]

Ask = Callable[[Grant, float], Any]  # within seconds
Secret = str | Callable[[], str]
Path = str | PathLike[str]
Proof = Callable[[], dict[str, Any]]  # the credentials of a LoginRequest
Persist = Callable[[str, str], object]  # a refresh token, and the request id of its refresh


class TokenSource(Protocol):
    """A source of access tokens for asyncio programs."""

    async def access_token(self, timeout: float | None = None) -> str:
        """Return a valid access token; `timeout` in seconds bounds the wait for it."""
        ...

    def invalidate(self, token: str) -> None:
        """Renew a token that a service has refused."""
        ...


class SyncTokenSource(Protocol):
    """A source of access tokens for programs with threads."""

    def access_token(self, timeout: float | None = None) -> str:
        """Return a valid access token; `timeout` in seconds bounds the wait for it."""
        ...

    def invalidate(self, token: str) -> None:
        """Renew a token that a service has refused."""
        ...


class _Tokens:
    def __init__(self, renewals: Renewals) -> None:
        self._renewals = renewals

    def invalidate(self, token: str) -> None:
        """Renew a token that a service has refused as UNAUTHENTICATED; once per token."""
        self._renewals.invalidate(token)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class _LoopTokens(_Tokens):
    def __init__(self, ask: Ask, grant: Grant, persist: Persist, timing: Timing) -> None:
        timing = {"sleep": asyncio.sleep, **timing}
        super().__init__(Renewals(EventLoop(), ask, grant, persist, timing))

    async def access_token(self, timeout: float | None = None) -> str:
        """Return a valid access token, almost always from memory.

        Raises InvalidGrant once the session has ended, and InvalidCredentials if a service account
        is refused. Raises Unavailable or RateLimited if the token at hand has expired and the
        service gives no other within `timeout` seconds. Raises what `on_refresh_token` raised.
        """
        return await self._renewals.obtain(timeout)

    async def aclose(self) -> None:
        """Wait for a renewal that is running, so that its refresh token is not lost."""
        await self._renewals.settle()


class _ThreadTokens(_Tokens):
    def __init__(self, ask: Ask, grant: Grant, persist: Persist, timing: Timing) -> None:
        timing = {"sleep": time.sleep, **timing}
        super().__init__(Renewals(Threads(), ask, grant, persist, timing))

    def access_token(self, timeout: float | None = None) -> str:
        """Do as `SessionTokens.access_token` does, for threads."""
        return finish(self._renewals.obtain(timeout))


class SessionTokens(_LoopTokens):
    """Keeps a user's session alive with its refresh token (RFC 6749 section 6); for one event loop.

    `on_refresh_token(refresh_token, request_id)` stores each new refresh token, which replaces the
    one before it, before the access token that came with it is returned. If it raises, it is called
    again with the same arguments at a later call. It must not ask this source for a token.

    `request_id` names the next refresh. The service gives the same successor to a retry with the
    same token and request id after any delay, and ends the session if a used refresh token comes
    with another one. So store the two together, and pass both after a restart. Without `request_id`
    the source makes one up, which a restart before the first refresh is stored would lose: with the
    refresh token of a login, store a random string of 8 to 128 characters (token_urlsafe(16)).

    `scope` narrows the scope of the access tokens.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        refresh_token: str,
        *,
        on_refresh_token: Callable[[str, str], Awaitable[None] | None],
        request_id: str = "",
        scope: Sequence[str] = (),
        **timing: Unpack[Timing],
    ) -> None:
        grant = Grant.of(refresh_token, request_id)
        super().__init__(_refresh(channel, scope), grant, on_refresh_token, timing)


class ServiceAccountTokens(_LoopTokens):
    """Logs a service account in, and again before its token expires; for one event loop.

    A `client_secret` that is a function is called at each login, without waiting: it can read a
    file whose secret is rotated. RFC 6749 section 4.4.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        client_id: str,
        client_secret: Secret,
        *,
        audience: Sequence[str] = (),
        scope: Sequence[str] = (),
        **timing: Unpack[Timing],
    ) -> None:
        ask = _login(channel, _secret(client_id, client_secret), audience, scope)
        super().__init__(ask, Grant.of(""), _nothing_to_persist, timing)


class WorkloadTokens(_LoopTokens):
    """Logs a service in by what its platform vouches for, without a secret; for one event loop.

    `path` is a file with the platform's token, as Kubernetes projects it, which is read at each
    login, because it is replaced. `token` is a function that returns one instead, as a JWT-SVID or
    an assertion that the service signs (RFC 7523). With neither, the client certificate of the
    channel has to be an X.509-SVID. `client_id` may name the account that it has to be.

    `access_token` also raises the OSError of a file that cannot be read.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        path: Path | None = None,
        *,
        token: Callable[[], str] | None = None,
        client_id: str = "",
        audience: Sequence[str] = (),
        scope: Sequence[str] = (),
        **timing: Unpack[Timing],
    ) -> None:
        proof = _workload(path, token, client_id)
        ask = _login(channel, proof, audience, scope)
        super().__init__(ask, Grant.of(""), _nothing_to_persist, timing)


class SyncSessionTokens(_ThreadTokens):
    """SessionTokens for threads. `on_refresh_token` is called in a thread of the source."""

    def __init__(
        self,
        channel: grpc.Channel,
        refresh_token: str,
        *,
        on_refresh_token: Callable[[str, str], None],
        request_id: str = "",
        scope: Sequence[str] = (),
        **timing: Unpack[Timing],
    ) -> None:
        grant = Grant.of(refresh_token, request_id)
        super().__init__(_refresh(channel, scope), grant, on_refresh_token, timing)


class SyncServiceAccountTokens(_ThreadTokens):
    """ServiceAccountTokens for threads."""

    def __init__(
        self,
        channel: grpc.Channel,
        client_id: str,
        client_secret: Secret,
        *,
        audience: Sequence[str] = (),
        scope: Sequence[str] = (),
        **timing: Unpack[Timing],
    ) -> None:
        ask = _login(channel, _secret(client_id, client_secret), audience, scope)
        super().__init__(ask, Grant.of(""), _nothing_to_persist, timing)


class SyncWorkloadTokens(_ThreadTokens):
    """WorkloadTokens for threads."""

    def __init__(
        self,
        channel: grpc.Channel,
        path: Path | None = None,
        *,
        token: Callable[[], str] | None = None,
        client_id: str = "",
        audience: Sequence[str] = (),
        scope: Sequence[str] = (),
        **timing: Unpack[Timing],
    ) -> None:
        proof = _workload(path, token, client_id)
        ask = _login(channel, proof, audience, scope)
        super().__init__(ask, Grant.of(""), _nothing_to_persist, timing)


def _refresh(channel: Any, scope: Sequence[str]) -> Ask:
    stub = rpc.AuthServiceStub(channel)

    def ask(grant: Grant, timeout: float) -> Any:
        request = pb.RefreshRequest(
            refresh_token=grant.refresh_token, scope=scope, request_id=grant.request_id
        )
        return stub.Refresh(request, timeout=timeout)

    return ask


def _login(channel: Any, proof: Proof, audience: Sequence[str], scope: Sequence[str]) -> Ask:
    stub = rpc.AuthServiceStub(channel)

    def ask(_: Grant, timeout: float) -> Any:
        request = pb.LoginRequest(**proof(), audience=audience, scope=scope)
        return stub.Login(request, timeout=timeout)

    return ask


def _secret(client_id: str, client_secret: Secret) -> Proof:
    def proof() -> dict[str, Any]:
        secret = client_secret() if callable(client_secret) else client_secret
        return {"client": pb.ClientCredentials(client_id=client_id, client_secret=secret)}

    return proof


def _workload(path: Path | None, token: Callable[[], str] | None, client_id: str) -> Proof:
    if path is not None and token is not None:
        raise ValueError("give either path or token")

    def read() -> str:
        if token is not None:
            return token()
        return "" if path is None else pathlib.Path(path).read_text(encoding="ascii").strip()

    def proof() -> dict[str, Any]:
        return {"workload": pb.WorkloadCredentials(token=read(), client_id=client_id)}

    return proof


def _nothing_to_persist(_token: str, _request_id: str) -> None: ...
