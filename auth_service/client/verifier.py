"""Verification without a call, by a service that still hears of revocations within milliseconds.

Owns the bound on staleness: no verdict is given on revocations older than that. What makes a token
good is `TokenVerifier`'s to say, how keys and revocations arrive `Watch`'s.
"""

import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime, timedelta
from enum import Enum
from inspect import isawaitable
from typing import Final, Literal, Self

import grpc

from auth_service import base64url
from auth_service.client.feed import Feed
from auth_service.client.jwk import key_set
from auth_service.client.loop_thread import LoopThread, in_thread
from auth_service.client.watch import IDLE_TIMEOUT, Watch
from auth_service.clock import Clock, seconds, utc_now
from auth_service.errors import ConfigError, RevocationsStale
from auth_service.tokens import keys
from auth_service.tokens.access import AccessClaims, TokenVerifier
from auth_service.tokens.keys import KeyRing, SigningKey
from auth_service.tokens.revocation import RevocationList

__all__ = ["LocalVerifier", "SyncLocalVerifier"]

OnStale = Literal["deny", "allow"]
AccessToken = Callable[[], str | Awaitable[str]]

START_TIMEOUT = timedelta(seconds=10)
_MIN_IDLE_TIMEOUT = timedelta(seconds=2)  # two heartbeats


class _Setting(Enum):
    OWN = "the verifier's own"


_OWN: Final = _Setting.OWN


class _Verdicts:
    """What both verifiers are: the settings, and the verdict itself."""

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
    ) -> None:
        static_keys = _static_keys(shared_key, jwks)
        _check_settings(issuer, addresses, static_keys, max_staleness, on_stale)
        ring, revocations = KeyRing(static_keys), RevocationList(clock)
        self._feed = Feed(ring, revocations, static_keys, clock)
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
        self._watch: Watch | None = None
        if addresses:
            self._watch = Watch(
                self._feed,
                addresses,
                channel_credentials=channel_credentials,
                access_token=None if access_token is None else self._token_source(access_token),
                idle_timeout=_idle_timeout(max_staleness),
            )
        self._limit = self._limit_of(max_staleness, on_stale)

    def verify(
        self,
        token: str,
        *,
        audience: str = "",
        required_scope: Collection[str] = (),
        required_roles: Collection[str] = (),
        max_staleness: timedelta | Literal[_Setting.OWN] | None = _OWN,
        on_stale: OnStale | None = None,
    ) -> AccessClaims:
        """Return the claims of a good token, from memory; from any thread.

        An empty `audience` accepts any; every required scope and role must be there. Without
        `max_staleness` and `on_stale` the verifier's own hold. Raises InvalidToken with the first
        reason against the token, and RevocationsStale, before it looks at the token, where the
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
        )

    @property
    def revocations_as_of(self) -> datetime | None:
        """Every revocation made before this moment is known; None if nothing is known of any."""
        return self._feed.as_of

    def _limit_of(self, max_staleness: timedelta | None, on_stale: OnStale) -> float | None:
        """Return how many seconds are too stale; None if that is not asked."""
        if self._watch is None or on_stale == "allow":
            return None
        # Without a bound: any age will do, but not to know of any.
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

    `addresses` are gRPC targets of the service, any of which will do; plaintext unless
    `channel_credentials` are given. `access_token` returns a token for the stream itself, anew for
    each connection; one with the role `verifier` is sent shared keys too. `shared_key` (base64url,
    256 bits or more) and `jwks` (a JWK Set in JSON, RFC 7517) are trusted for good, next to the
    keys of the stream; without addresses they are all there is, and no revocation is heard of.

    Where the revocations are not known up to `max_staleness` ago (None: no bound), `on_stale`
    decides: "deny" refuses every token, "allow" judges by what is known. `clock_skew` is how far
    in the future a token may be issued. Raises ConfigError for settings that make no sense.
    """

    async def start(self, timeout: timedelta = START_TIMEOUT) -> None:
        """Return when keys and revocations are known; at once without addresses.

        Raises Unavailable if they are not after `timeout`; it may then be started again.
        """
        if self._watch is not None:
            await self._watch.start(timeout)

    async def close(self) -> None:
        """Hear of no more revocations: what is known grows stale."""
        if self._watch is not None:
            await self._watch.close()

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
        """Return when keys and revocations are known; at once without addresses.

        Raises Unavailable if they are not after `timeout`; it may then be started again.
        """
        if self._watch is None:
            return
        if self._thread is not None:
            raise RuntimeError("started already")
        self._thread = LoopThread("auth-service watch")
        try:
            self._thread.call(self._watch.start(timeout))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hear of no more revocations: what is known grows stale."""
        thread, self._thread = self._thread, None
        if thread is not None and self._watch is not None:
            thread.call(self._watch.close())
            thread.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _token_source(self, access_token: AccessToken) -> Callable[[], Awaitable[str]]:
        return in_thread(access_token)


def _static_keys(shared_key: str, jwks: str) -> list[SigningKey]:
    static_keys: list[SigningKey] = []
    if shared_key:
        try:
            secret = base64url.decode_secret(shared_key)
        except ValueError as error:
            raise ConfigError(f"shared_key {error}") from None
        static_keys.append(keys.shared_key(secret))
    if jwks:
        try:
            static_keys += key_set(jwks)
        except ValueError as error:
            raise ConfigError(f"jwks: {error}") from None
    return static_keys


def _check_settings(
    issuer: str,
    addresses: Sequence[str],
    static_keys: Sequence[SigningKey],
    max_staleness: timedelta | None,
    on_stale: str,
) -> None:
    if not issuer:
        raise ConfigError("issuer must be the `iss` of the service's tokens")
    if isinstance(addresses, str) or not all(addresses):
        raise ConfigError('addresses must be a list of gRPC targets, like ["auth:50051"]')
    if not addresses and not static_keys:
        raise ConfigError("either addresses or a key (shared_key, jwks) must be given")
    if max_staleness is not None and max_staleness < timedelta(0):
        raise ConfigError("max_staleness must not be negative")
    if on_stale not in ("deny", "allow"):
        raise ConfigError('on_stale must be "deny" or "allow"')


def _idle_timeout(max_staleness: timedelta | None) -> timedelta:
    """Return how long a silent stream is borne: so that another is found before it is too stale."""
    if max_staleness is None:
        return IDLE_TIMEOUT
    return min(IDLE_TIMEOUT, max(_MIN_IDLE_TIMEOUT, max_staleness / 2))
