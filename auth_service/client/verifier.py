"""Verification without a call, by a service that still hears of revocations within milliseconds.

Owns the bound on staleness: no verdict is given on revocations older than that. TokenVerifier says
whether a token is valid; keys and revocations arrive by a Follower.
"""

import math
import os
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime, timedelta
from enum import Enum
from inspect import isawaitable
from typing import Final, Literal, Self

import grpc

from auth_service.client.feed import Feed
from auth_service.client.follower import Follower
from auth_service.client.loop_thread import LoopThread, in_thread
from auth_service.client.verifier_settings import (
    check_settings,
    idle_timeout,
    kept_state,
    static_keys,
)
from auth_service.client.watch import Watch
from auth_service.clock import Clock, seconds, utc_now
from auth_service.errors import RevocationsStale
from auth_service.tokens.access import AccessClaims, TokenVerifier
from auth_service.tokens.keys import KeyRing
from auth_service.tokens.revocation import RevocationList

__all__ = ["LocalVerifier", "SyncLocalVerifier"]

OnStale = Literal["deny", "allow"]
AccessToken = Callable[[], str | Awaitable[str]]

START_TIMEOUT = timedelta(seconds=10)


class _Setting(Enum):
    OWN = "the verifier's own"


_OWN: Final = _Setting.OWN


class _Verdicts:
    """What both verifiers have in common: the settings, and the verdict itself."""

    def __init__(  # noqa: PLR0913 - settings, each with a default
        self,
        *,
        issuer: str,
        addresses: Sequence[str] = (),
        shared_key: str = "",
        jwks: str = "",
        channel_credentials: grpc.ChannelCredentials | None = None,
        access_token: AccessToken | None = None,
        max_staleness: timedelta | None = timedelta(seconds=5),
        on_stale: OnStale = "deny",
        clock: Clock = utc_now,
        clock_skew: timedelta = timedelta(seconds=10),
        cache_size: int = 10_000,
        state_file: str | os.PathLike[str] | None = None,
        state_key: str = "",
    ) -> None:
        given_keys = static_keys(shared_key, jwks)
        check_settings(issuer, addresses, given_keys, max_staleness, on_stale)
        state = kept_state(state_file, state_key, shared_key, issuer)
        ring, revocations = KeyRing(given_keys), RevocationList(clock)
        self._feed = Feed(ring, revocations, given_keys, clock)
        self._now = seconds(clock)
        self._tokens = TokenVerifier(
            ring,
            revocations,
            issuer=issuer,
            clock=clock,
            clock_skew=clock_skew,
            cache_size=cache_size,
        )
        self._max_staleness = max_staleness
        self._on_stale: OnStale = on_stale
        self._follower: Follower | None = None
        if addresses:
            watch = Watch(
                self._feed,
                addresses,
                channel_credentials=channel_credentials,
                access_token=None if access_token is None else self._token_source(access_token),
                idle_timeout=idle_timeout(max_staleness),
            )
            self._follower = Follower(self._feed, watch, state, may_be_stale=on_stale == "allow")
        self._limit = self._limit_of(max_staleness, on_stale)

    def verify(  # noqa: PLR0913 - demands, each with a default
        self,
        token: str,
        *,
        audience: str = "",
        required_scope: Collection[str] = (),
        required_roles: Collection[str] = (),
        certificate_thumbprint: str = "",
        max_age: timedelta | None = None,
        acr_values: Collection[str] = (),
        max_staleness: timedelta | Literal[_Setting.OWN] | None = _OWN,
        on_stale: OnStale | None = None,
    ) -> AccessClaims:
        """Return the claims of a valid token, from memory; from any thread.

        An empty `audience` accepts any; every required scope and role must be there. A token that
        is bound to a client certificate is valid only with `certificate_thumbprint`, the SHA-256
        of the presenter's certificate in DER, in base64url (RFC 8705). The user must not have
        logged in longer ago than `max_age`, and its `acr` must be one of `acr_values`, or else
        InsufficientUserAuthentication is raised, which is an InvalidToken (RFC 9470). Without
        `max_staleness` and `on_stale` the verifier's own hold. Raises InvalidToken with the first
        reason against the token, and RevocationsStale, before it looks at the token, if the
        revocations are not known up to `max_staleness` ago.
        """
        limit = self._limit
        if max_staleness is not _OWN or on_stale is not None:
            limit = self._limit_of(
                self._max_staleness if max_staleness is _OWN else max_staleness,
                on_stale or self._on_stale,
            )
        if limit is not None:
            as_of = self._feed.as_of_seconds
            if as_of is None or self._now() - as_of > limit:
                raise RevocationsStale("revocations are not known up to a recent enough moment")
        return self._tokens.verify(
            token,
            audience=audience,
            required_scope=required_scope,
            required_roles=required_roles,
            certificate_thumbprint=certificate_thumbprint,
            max_age=max_age,
            acr_values=acr_values,
        )

    @property
    def revocations_as_of(self) -> datetime | None:
        """Every revocation made before this moment is known; None if nothing is known of any."""
        return self._feed.as_of

    def _limit_of(self, max_staleness: timedelta | None, on_stale: OnStale) -> float | None:
        """Return how many seconds are too stale; None if that is not asked."""
        if self._follower is None or on_stale == "allow":
            return None
        # Without a bound any age is allowed, but something must be known.
        return math.inf if max_staleness is None else max_staleness.total_seconds()

    def _token_source(self, access_token: AccessToken) -> Callable[[], Awaitable[str]]:
        async def call() -> str:
            token = access_token()
            return await token if isawaitable(token) else token

        return call


class LocalVerifier(_Verdicts):
    """Verifies access tokens in memory, in an asyncio program.

        async with LocalVerifier(issuer="https://auth.internal", addresses=["auth:50051"],
                                 access_token=service_account.token) as verifier:
            claims = verifier.verify(token, audience="orders")  # raises InvalidToken

    `addresses` are gRPC targets of the service, and any one of them is enough; plaintext unless
    `channel_credentials` are given. `access_token` is called at each connection and returns a token
    for the stream itself; a token with the role `verifier` is sent shared keys too. `shared_key`
    (base64url, 256 bits or more) and `jwks` (a JWK Set in JSON, RFC 7517) are always trusted,
    beside the keys of the stream. Without addresses there are no other keys, and no revocation
    arrives.

    If the revocations are not known up to `max_staleness` ago (None: no bound), `on_stale` decides:
    "deny" refuses every token, "allow" judges by what is known. `clock_skew` is how far in the
    future a token may be issued. `state_file` keeps keys and revocations over a restart, so that
    the verifier starts while the service is away. The file is encrypted with a key derived from
    `state_key` (base64url, 256 bits or more) or else from `shared_key`. Raises ConfigError for
    settings that make no sense.
    """

    async def start(self, timeout: timedelta = START_TIMEOUT) -> None:
        """Return when keys and revocations are known; at once without addresses.

        With on_stale="allow" and a key, given or kept, it returns at once too, and catches up
        meanwhile. Raises Unavailable if `timeout` is too short, and PermissionDenied at once if the
        service sends no keys to this login; it may then be started again.
        """
        if self._follower is not None:
            await self._follower.start(timeout)

    async def close(self) -> None:
        """Stop following revocations: what is known stays known, and grows stale."""
        if self._follower is not None:
            await self._follower.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class SyncLocalVerifier(_Verdicts):
    """`LocalVerifier` for programs without an event loop; the settings are the same.

    A daemon thread follows the stream, so start it after a fork, in each worker. `access_token`
    may block: it is called in a thread of its own.
    """

    _thread: LoopThread | None = None

    def start(self, timeout: timedelta = START_TIMEOUT) -> None:
        """Do the same as `LocalVerifier.start`."""
        if self._follower is None:
            return
        if self._thread is not None:
            raise RuntimeError("started already")
        self._thread = LoopThread("auth-service watch")
        try:
            self._thread.call(self._follower.start(timeout))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop following revocations: what is known stays known, and grows stale."""
        thread, self._thread = self._thread, None
        if thread is not None and self._follower is not None:
            thread.call(self._follower.close())
            thread.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _token_source(self, access_token: AccessToken) -> Callable[[], Awaitable[str]]:
        return in_thread(access_token)
