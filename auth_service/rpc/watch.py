"""Watch streams: from the feed of this process to the services that verify tokens themselves.

Owns that a stream misses no revocation, and what a stream is sent when. All streams read one log,
each from a position of its own, so a slow reader costs no memory but that position.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from datetime import datetime, timedelta
from random import SystemRandom
from typing import Any

from authn.v1 import verifier_service_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from auth_service.clock import Clock, seconds
from auth_service.db.cursor import Cursor
from auth_service.models import Revocation
from auth_service.rpc.revocation_log import Chunk, RevocationLog, message_of
from auth_service.rpc.timestamps import timestamp
from auth_service.rpc.turns import OPENING, Turns
from auth_service.tokens.keys import KeyRing, SigningKey
from auth_service.tokens.revoked_ids import ID_BYTES, session_id, token_id

__all__ = ["WatchHub"]

MAX_EVENTS = 16
"""A stream that is further behind gets one message with all of them."""
A_TURN = 8
"""Chunks that a stream sends in one turn, as each turn has a cost of its own: 6 ms, in which calls
come between the chunks."""
PLAIN_PART = 500
"""Revocations in one message of the older form."""
WOKEN = 32
"""Streams that are woken in one turn of the event loop: a few milliseconds of work."""

Position = Callable[[], tuple[datetime, str, Cursor]]


class WatchHub:
    """Sends what the feed learns to all streams of this process."""

    def __init__(
        self,
        ring: KeyRing,
        position: Position,
        clock: Clock,
        heartbeat: timedelta = timedelta(seconds=1),
    ) -> None:
        """`position` gives up to when revocations are known, and the epoch and cursor of that."""
        self._ring = ring
        self._position = position
        self._now = seconds(clock)
        self._heartbeat = heartbeat.total_seconds()
        self._streams: set[_Stream] = set()
        self._log = RevocationLog()
        self._turns = Turns()
        self._random = SystemRandom()
        self._converting = asyncio.Lock()
        self._asleep: list[_Stream] = []
        self._waking: asyncio.TimerHandle | None = None
        self._closed = False

    def revoked(self, found: Iterable[Revocation], new: Collection[Revocation]) -> None:
        """Take in revocations that were read or made here, and send the new ones on."""
        self._log.tidy(self._now())
        says_more = {id(revocation) for revocation in new}
        for revocation in found:
            if revocation.xid:
                self._log.read(revocation)
            if id(revocation) in says_more:
                event = b""
                if self._streams:
                    event = _encode(self._event(revocation=message_of(revocation)))
                self._log.append(revocation, event)
        self._wake_all()

    def keys_changed(self) -> None:
        """Let every stream send the ring as it is now."""
        for stream in self._streams:
            stream.needs_keys = True
        self._wake_all()

    def close(self) -> None:
        """Let every stream end, and each new one at once."""
        self._closed = True
        self._wake_all()

    def _wake_all(self) -> None:
        """Wake the streams, some in each turn of the event loop, so that calls come in between."""
        self._asleep = [stream for stream in self._streams if not stream.is_awake]
        if self._waking is None:
            self._wake_some()

    def _wake_some(self) -> None:
        self._waking = None
        for stream in self._asleep[:WOKEN]:
            stream.wake()
        del self._asleep[:WOKEN]
        if self._asleep:
            self._waking = asyncio.get_running_loop().call_later(0, self._wake_some)

    async def watch(
        self, cursor: str, may_have_secrets: Callable[[], bool], *, segments: bool = False
    ) -> AsyncIterator[bytes]:
        """Yield the messages of one stream, resumed after `cursor` where that is possible.

        Each is an encoded WatchResponse. `may_have_secrets` is asked before each set of keys that
        has any, and what it raises ends the stream. Without `segments` the stream has the form that
        clients of the release before understand.
        """
        stream = _Stream(self._turns.number(), may_have_secrets, segments)
        self._streams.add(stream)
        try:
            async for message in self._until_turn(stream, OPENING):
                yield message
            after = self._resumes(cursor)
            async for message in self._catch_up(stream, 0, after, fresh=after is None):
                yield message
            while not self._closed:
                async for message in self._follow(stream):
                    yield message
        finally:
            self._streams.discard(stream)

    def _resumes(self, cursor: str) -> Cursor | None:
        """Return the position of a cursor; None if it means nothing here."""
        epoch, _, text = cursor.rpartition(":")
        _, own_epoch, _ = self._position()
        self._log.enter(own_epoch)
        self._log.tidy(self._now())
        return Cursor.parse(text) if epoch and epoch == own_epoch else None

    async def _catch_up(
        self, stream: "_Stream", offset: int, after: Cursor | None = None, *, fresh: bool = False
    ) -> AsyncIterator[bytes]:
        """Yield what is not known yet, then a message that says up to when that is complete."""
        chunks, stream.offset = self._log.since(offset, after), self._log.end
        ends = self._ends(fresh)
        size = A_TURN if stream.segments else 1
        for at in range(0, len(chunks), size):
            async for message in self._in_turn(stream, chunks[at : at + size]):
                yield message
        for message in self._keys(stream):
            yield message
        # If revocations arrived while the chunks were sent, the end states the time before them.
        for message in ends if stream.offset < self._log.end else self._ends(fresh):
            if not self._closed:
                yield message

    def _ends(self, fresh: bool) -> list[bytes]:
        ends = [self._event(heartbeat=pb.Heartbeat())]
        if fresh:
            ends.insert(0, self._event(revocation_snapshot=pb.RevocationSnapshot()))
        return [_encode(event) for event in ends]

    async def _follow(self, stream: "_Stream") -> AsyncIterator[bytes]:
        """Yield what has happened, or a heartbeat if nothing does for a while."""
        for message in self._keys(stream):
            yield message
        offset, end = stream.offset, self._log.end
        events = self._log.events_since(offset) if end - offset <= MAX_EVENTS else None
        if events is None:
            async for message in self._catch_up(stream, offset):
                yield message
            return
        stream.offset = end
        for event in events:
            if not self._closed:
                yield event
        if stream.offset < self._log.end or stream.needs_keys:
            return
        # Not all streams at once, although all were woken at once.
        happened = await stream.wait(self._heartbeat * self._random.uniform(0.7, 1))
        if not happened and not self._closed:
            yield _encode(self._event(heartbeat=pb.Heartbeat()))

    async def _in_turn(self, stream: "_Stream", chunks: Iterable[Chunk]) -> AsyncIterator[bytes]:
        """Yield the messages of some chunks in one turn, and signs of life until then."""
        messages: list[bytes] = []
        for chunk in chunks:
            messages += [chunk.event()] if stream.segments else await self._plain(chunk)
        async for sign in self._until_turn(stream, sum(map(len, messages))):
            yield sign
        for message in messages:
            for keys in self._keys(stream):
                yield keys
            if not self._closed:
                yield message

    async def _until_turn(self, stream: "_Stream", size: int) -> AsyncIterator[bytes]:
        """Return when it is this stream's turn; yield signs of life until then."""
        turn = self._turns.ask(stream.number, size)
        try:
            while not self._closed:
                done, _ = await asyncio.wait([turn], timeout=self._heartbeat)
                if done:
                    return
                for keys in self._keys(stream):
                    yield keys
                yield _ALIVE
        finally:
            turn.cancel()

    def _keys(self, stream: "_Stream") -> list[bytes]:
        """Return the set of keys if the stream does not have the present one yet."""
        if self._closed or not stream.needs_keys:
            return []
        stream.needs_keys = False
        secret = any(key.is_secret for key in self._ring) and stream.may_have_secrets()
        keys = [_key(key) for key in self._ring if secret or not key.is_secret]
        return [_encode(pb.WatchResponse(key_set=pb.KeySet(keys=keys)))]

    async def _plain(self, chunk: Chunk) -> list[bytes]:
        """Return a chunk in the older form, made once for all streams, in slices."""
        async with self._converting:
            if chunk.plain is None:
                parts = []
                revocations = _unpacked(chunk.segment())
                while part := [
                    each for _, each in zip(range(PLAIN_PART), revocations, strict=False)
                ]:
                    message = pb.RevocationSnapshot(revocations=part)
                    parts.append(_encode(pb.WatchResponse(revocation_snapshot=message)))
                    await asyncio.sleep(0)
                chunk.plain = parts
            return chunk.plain

    def _event(self, **event: Any) -> pb.WatchResponse:
        as_of, epoch, cursor = self._position()
        cursor_text = f"{epoch}:{cursor}" if epoch else ""
        return pb.WatchResponse(cursor=cursor_text, as_of=timestamp(as_of), **event)


class _Stream:
    """What one stream has been sent."""

    def __init__(self, number: int, may_have_secrets: Callable[[], bool], segments: bool) -> None:
        self.number = number
        self.may_have_secrets = may_have_secrets
        self.segments = segments
        self.offset = 0
        self.needs_keys = True
        self._woken = asyncio.Event()

    @property
    def is_awake(self) -> bool:
        """Tell whether it will look again for what there is to send."""
        return self._woken.is_set()

    def wake(self) -> None:
        """End a wait."""
        self._woken.set()

    async def wait(self, seconds: float) -> bool:
        """Return whether something has happened before the time was up."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True


def _unpacked(segment: pb.RevocationSegment) -> Iterable[pb.Revocation]:
    yield from segment.others
    for group in segment.packed:
        # One second earlier: clients of the release before add it again.
        expires_at = group.expires_at - 1
        for field, ids, text in (
            ("token_id", group.token_ids, token_id),
            ("session_id", group.session_ids, session_id),
        ):
            for at in range(0, len(ids), ID_BYTES):
                message = pb.Revocation(expires_at=Timestamp(seconds=expires_at))
                setattr(message, field, text(ids[at : at + ID_BYTES]))
                yield message


def _key(key: SigningKey) -> pb.VerificationKey:
    message = pb.VerificationKey(kid=key.kid, algorithm=key.algorithm)
    if key.is_secret:
        message.secret = key.secret
    else:
        message.public_jwk = key.public_jwk_json()
    return message


def _encode(message: pb.WatchResponse) -> bytes:
    return message.SerializeToString()


_ALIVE = _encode(pb.WatchResponse(heartbeat=pb.Heartbeat()))
"""Says nothing but that the stream lives."""
