"""The stream of keys and revocations, followed for as long as the verifier lives.

Owns the connection: which address, with which token, how long it may be silent, when to try again.
Knows nothing of what the events mean.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from random import Random, SystemRandom
from typing import Any

import grpc
from authn.v1 import verifier_service_pb2 as pb
from authn.v1 import verifier_service_pb2_grpc

from auth_service.addresses import is_loopback
from auth_service.client.feed import BadEvent, Feed
from auth_service.errors import PermissionDenied, Unavailable

__all__ = ["Watch"]

log = logging.getLogger("auth_service.client")

FIRST_BACKOFF = 0.5  # seconds, over which the clients of a lost replica spread their first attempt
MAX_BACKOFF = 3.0
IDLE_TIMEOUT = timedelta(seconds=5)

_OPTIONS = [
    # Each attempt is a connection of its own: no waiting time left over from the last one.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
]


class Watch:
    """Feeds a Feed from any of several addresses until it is closed.

    `access_token` is called for a token at every connection, and must renew one that has expired.
    If a stream brings nothing for `idle_timeout`, the next address is tried.
    """

    def __init__(
        self,
        feed: Feed,
        addresses: Sequence[str],
        *,
        channel_credentials: grpc.ChannelCredentials | None = None,
        access_token: Callable[[], Awaitable[str]] | None = None,
        idle_timeout: timedelta = IDLE_TIMEOUT,
        random: Random | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._feed = feed
        self._addresses = tuple(addresses)
        self._channel_credentials = channel_credentials
        self._access_token = access_token
        self._idle_timeout = idle_timeout.total_seconds()
        self._random = random or SystemRandom()
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._following = False  # whether this stream has brought an event
        self._failures = 0  # since a stream that brought news of a later moment
        self._problem = "no connection yet"

    def begin(self) -> None:
        """Begin to follow; keys and revocations arrive later."""
        if self._task is not None:
            raise RuntimeError("started already")
        self._ready = asyncio.Event()
        self._task = asyncio.create_task(self._follow(), name="auth-service watch")

    async def start(self, timeout: timedelta) -> None:
        """Begin to follow; return once keys and revocations are known.

        Raises Unavailable if that takes longer than `timeout`, and PermissionDenied if the service
        has no keys for this login. It then follows no more.
        """
        self.begin()
        ready = self._ready
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                await ready.wait()
            if self._task is None:
                raise Unavailable("the verifier was closed before it had started")
            if self._feed.lacks_keys:
                raise PermissionDenied(self._why_no_keys())
        except BaseException as error:
            await self.close()
            if isinstance(error, TimeoutError):
                raise self._late(timeout) from None
            raise

    async def close(self) -> None:
        """Stop following: what is known stays known, and grows stale."""
        task, self._task = self._task, None
        if task is not None:
            self._ready.set()  # `start` may be waiting
            task.cancel()
            await asyncio.wait([task])

    def _late(self, timeout: timedelta) -> Unavailable:
        return Unavailable(
            f"keys and revocations did not arrive from {', '.join(self._addresses)} within "
            f"{timeout.total_seconds():g} s: {self._feed.missing}; {self._problem}"
        )

    def _why_no_keys(self) -> str:
        if self._access_token is None:
            return (
                "connected, but no keys: shared keys are sent only to a login with the verifier "
                "role, and there is no access_token"
            )
        return "connected, but no keys: this login lacks the verifier role"

    async def _follow(self) -> None:
        turn = self._random.randrange(len(self._addresses))
        while True:
            await self._attempt(self._addresses[turn % len(self._addresses)])
            turn += 1
            # Full jitter: the clients of a replica that died do not come back all at once.
            ceiling = min(MAX_BACKOFF, FIRST_BACKOFF * 2 ** min(self._failures, 10))
            self._failures += 1
            await self._sleep(self._random.uniform(0, ceiling))

    async def _attempt(self, address: str) -> None:
        """Follow one stream to its end, whatever ends it but `close`."""
        failures, self._following = self._failures, False
        try:
            await self._stream(address)
            self._problem = f"{address}: the service ended the stream"
        except asyncio.CancelledError:
            if self._task is None or self._task.cancelling():
                raise
            self._problem = f"{address}: cancelled"  # by something inside, such as access_token
        except BadEvent as error:
            self._feed.forget_cursor()
            self._failures = failures  # it may send the same again: no reason to hurry
            self._problem = f"{address}: {error}"
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:  # the only argument is the cursor
                self._feed.forget_cursor()
            self._problem = f"{address}: {error.code().name}: {error.details()}"
        except TimeoutError:
            self._problem = f"{address}: silent for {self._idle_timeout:g} s"
        except Exception as error:  # noqa: BLE001 - access_token may raise anything
            self._problem = f"{address}: {type(error).__name__}: {error}"
        # One warning for each loss; the attempts after that are logged for debugging only.
        level = logging.WARNING if self._following or failures == 0 else logging.DEBUG
        log.log(level, "lost the stream of revocations: %s", self._problem)

    async def _stream(self, address: str) -> None:
        async with self._channel(address) as channel:
            async with asyncio.timeout(self._idle_timeout):
                metadata = await self._metadata()
            stub: Any = verifier_service_pb2_grpc.VerifierServiceStub(channel)
            request = pb.WatchRequest(cursor=self._feed.begin(), accept_segments=True)
            before = self._feed.as_of
            call = stub.Watch(request, metadata=metadata)
            while True:
                async with asyncio.timeout(self._idle_timeout):
                    event = await call.read()
                if event is grpc.aio.EOF:
                    return
                await self._take(event, address)
                if self._feed.as_of != before:  # useful: from now on a failure is a new one
                    self._failures = 0
                if self._feed.is_current and not self._feed.missing:
                    self._ready.set()

    async def _take(self, event: pb.WatchResponse | None, address: str) -> None:
        if event is None:  # gRPC returns None for bytes that it cannot parse
            raise BadEvent("an event that is not protobuf")
        for _ in self._feed.steps(event):
            await asyncio.sleep(0)
        if not self._following:
            self._following = True
            log.info("following the revocations of %s", address)
        if event.HasField("key_set") and self._feed.lacks_keys:
            log.error("%s", self._why_no_keys())
            self._ready.set()

    async def _metadata(self) -> tuple[tuple[str, str], ...]:
        if self._access_token is None:
            return ()
        return (("authorization", f"Bearer {await self._access_token()}"),)

    def _channel(self, address: str) -> grpc.aio.Channel:
        options: list[tuple[str, Any]] = list(_OPTIONS)
        if is_loopback(address):  # which a proxy of the environment cannot reach
            options.append(("grpc.enable_http_proxy", 0))
        if self._channel_credentials is None:
            return grpc.aio.insecure_channel(address, options)
        return grpc.aio.secure_channel(address, self._channel_credentials, options)
