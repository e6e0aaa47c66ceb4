"""Watch streams: from the feed of this process to the services that verify tokens themselves.

Owns that a stream misses no revocation, and that a slow reader costs no more than a bounded queue:
what overflows it is replaced by a fresh snapshot. Events are made once for all streams.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from datetime import datetime, timedelta
from typing import Any

from authn.v1 import verifier_service_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from auth_service.db.cursor import Cursor
from auth_service.errors import Unavailable
from auth_service.models import Revocation, RevocationKind
from auth_service.tokens.keys import KeyRing, SigningKey
from auth_service.tokens.revocation import RevocationList

__all__ = ["WatchHub"]

MAX_QUEUED = 1000  # events that wait for one slow reader
MAX_LOGGED = 10_000  # revocations to resume from
SNAPSHOT_PART = 5000  # revocations in one message: well below the usual limit of 4 MiB
_FIELDS = {
    RevocationKind.TOKEN: "token_id",
    RevocationKind.SESSION: "session_id",
    RevocationKind.USER: "subject",
}


class WatchHub:
    """Fans what the feed learns out to all streams of this process."""

    def __init__(
        self,
        revocations: RevocationList,
        ring: KeyRing,
        position: Callable[[], tuple[datetime, str, Cursor]],
        heartbeat: timedelta = timedelta(seconds=1),
    ) -> None:
        """`position` gives up to when revocations are known, and the epoch and cursor of that."""
        self._revocations = revocations
        self._ring = ring
        self._position = position
        self._heartbeat = heartbeat.total_seconds()
        self._streams: set[_Stream] = set()
        self._log: deque[Revocation] = deque(maxlen=MAX_LOGGED)
        # The log has every revocation of a transaction from this id on. It also has those of each
        # transaction that the feed still sees in progress, unless the id is among the dropped.
        self._log_floor = 0
        self._dropped: set[int] = set()
        self._unnumbered: dict[tuple[RevocationKind, str], Revocation] = {}
        self._closed = False

    def revoked(self, found: Iterable[Revocation], new: Collection[Revocation]) -> None:
        """Log revocations that were read or made here, and send the new ones on."""
        for revocation in found:
            name = revocation.kind, revocation.target
            if revocation.xid:
                self._append(revocation)
                if name in self._unnumbered and _covers(revocation, self._unnumbered[name]):
                    del self._unnumbered[name]
            elif revocation in new:  # the feed has still to read it
                self._unnumbered[name] = revocation
        for revocation in new if self._streams else ():
            event = self._event(revocation=_revocation(revocation))
            for stream in self._streams:
                stream.put(event)

    def keys_changed(self) -> None:
        """Let every stream send the ring as it is now."""
        for stream in self._streams:
            stream.send_keys()

    def close(self) -> None:
        """Let every stream end, and each new one at once."""
        self._closed = True
        for stream in self._streams:
            stream.wake()

    async def watch(
        self, cursor: str, may_have_secrets: Callable[[], bool]
    ) -> AsyncIterator[pb.WatchResponse]:
        """Yield the events of one stream, resumed after `cursor` where that is possible.

        `may_have_secrets` is asked before each set of keys that has any; what it raises ends the
        stream.
        """
        stream = _Stream()
        self._streams.add(stream)
        try:
            missed = self._missed(cursor)
            if missed is None:
                stream.needs_snapshot = True
            else:
                stream.events.extend(self._resumption(missed))
            while not self._closed:
                async for event in self._pending(stream, may_have_secrets):
                    yield event
                await stream.wait(self._heartbeat)
                if not stream.has_any and not self._closed:
                    yield self._event(heartbeat=pb.Heartbeat())
        finally:
            self._streams.discard(stream)

    async def _pending(
        self, stream: "_Stream", may_have_secrets: Callable[[], bool]
    ) -> AsyncIterator[pb.WatchResponse]:
        while stream.has_any and not self._closed:
            if stream.needs_keys:
                stream.needs_keys = False
                yield pb.WatchResponse(key_set=self._key_set(may_have_secrets))
            elif stream.needs_snapshot:
                stream.needs_snapshot = False
                # Of the moment of the snapshot: what is queued meanwhile comes after it.
                heartbeat = self._event(heartbeat=pb.Heartbeat())
                for part in self._snapshot():
                    yield part
                yield heartbeat
            else:
                yield stream.events.popleft()

    def _missed(self, cursor: str) -> list[Revocation] | None:
        """Return what was revoked after the cursor; None where only a snapshot has it all."""
        epoch, _, text = cursor.rpartition(":")
        _, own_epoch, own = self._position()
        after = Cursor.parse(text)
        if not epoch or epoch != own_epoch or after is None or after.end < self._log_floor:
            return None
        if any(xid < self._log_floor and self._may_lack(xid, own) for xid in after.running):
            return None
        logged = [revocation for revocation in self._log if not after.covers(revocation.xid)]
        return logged + list(self._unnumbered.values())

    def _may_lack(self, xid: int, own: Cursor) -> bool:
        return xid not in own.running or xid in self._dropped

    def _resumption(self, missed: Iterable[Revocation]) -> Iterable[pb.WatchResponse]:
        """Return what was missed, of which the end alone says that nothing else was."""
        for revocation in missed:
            yield pb.WatchResponse(revocation=_revocation(revocation))
        yield self._event(heartbeat=pb.Heartbeat())

    def _append(self, revocation: Revocation) -> None:
        if len(self._log) == MAX_LOGGED:
            self._drop(self._log[0].xid)
        self._log.append(revocation)

    def _drop(self, xid: int) -> None:
        self._log_floor = max(self._log_floor, xid + 1)
        with contextlib.suppress(Unavailable):  # the feed is reading everything for the first time
            if xid in self._position()[2].running:
                self._dropped.add(xid)

    def _snapshot(self) -> Iterable[pb.WatchResponse]:
        """Return all revocations in parts, of which the last alone says what is known with it."""
        found = self._revocations.snapshot()
        whole = self._event(revocation_snapshot=pb.RevocationSnapshot())
        for start in range(0, len(found), SNAPSHOT_PART):
            part = map(_revocation, found[start : start + SNAPSHOT_PART])
            message = pb.RevocationSnapshot(revocations=part)
            if start + SNAPSHOT_PART < len(found):
                yield pb.WatchResponse(revocation_snapshot=message)
            else:
                whole.revocation_snapshot.CopyFrom(message)
        yield whole

    def _key_set(self, may_have_secrets: Callable[[], bool]) -> pb.KeySet:
        secret = any(key.is_secret for key in self._ring) and may_have_secrets()
        return pb.KeySet(keys=[_key(key) for key in self._ring if secret or not key.is_secret])

    def _event(self, **event: Any) -> pb.WatchResponse:
        as_of, epoch, cursor = self._position()
        response = pb.WatchResponse(cursor=f"{epoch}:{cursor}" if epoch else "", **event)
        response.as_of.FromDatetime(as_of)
        return response


class _Stream:
    """What one stream still has to send."""

    def __init__(self) -> None:
        self.events: deque[pb.WatchResponse] = deque()
        self.needs_keys = True
        self.needs_snapshot = False
        self._woken = asyncio.Event()

    @property
    def has_any(self) -> bool:
        return bool(self.events) or self.needs_keys or self.needs_snapshot

    def put(self, event: pb.WatchResponse) -> None:
        if not self.needs_snapshot:  # which will have it
            self.events.append(event)
        if len(self.events) > MAX_QUEUED:
            self.events.clear()
            self.needs_snapshot = True
        self.wake()

    def send_keys(self) -> None:
        self.needs_keys = True
        self.wake()

    def wake(self) -> None:
        self._woken.set()

    async def wait(self, seconds: float) -> None:
        """Return when there is something to send, or the time is up."""
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            return
        self._woken.clear()


def _covers(one: Revocation, other: Revocation) -> bool:
    """Tell whether one says no less than the other of the same target."""
    bounds = one.issued_before, other.issued_before
    return one.expires_at >= other.expires_at and (
        bounds[0] is None or bounds[1] is None or bounds[0] >= bounds[1]
    )


def _revocation(revocation: Revocation) -> pb.Revocation:
    message = pb.Revocation(expires_at=_timestamp(revocation.expires_at))
    if (field := _FIELDS.get(revocation.kind)) is not None:
        setattr(message, field, revocation.target)
    else:
        message.all_tokens.SetInParent()
    if revocation.issued_before is not None:
        message.issued_before.CopyFrom(_timestamp(revocation.issued_before))
    return message


def _key(key: SigningKey) -> pb.VerificationKey:
    message = pb.VerificationKey(kid=key.kid, algorithm=key.algorithm)
    if key.is_secret:
        message.secret = key.secret
    else:
        message.public_jwk = key.public_jwk_json()
    return message


def _timestamp(moment: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
