"""The revocations that Watch streams send, in the order in which this process learned of them.

Owns how they are packed for the wire, and which of them a cursor does not cover. The latest are
kept one by one, the others in chunks. A chunk is encoded once, and all streams send the same bytes.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from authn.v1 import verifier_service_pb2 as pb

from auth_service.db.cursor import Cursor
from auth_service.models import Revocation, RevocationKind
from auth_service.rpc.timestamps import timestamp
from auth_service.tokens.revoked_ids import ID_BYTES, is_packable, key_of

__all__ = ["Chunk", "Entry", "RevocationLog", "message_of"]

CHUNK = 8192
"""Revocations in a full chunk: 128 KiB, which is what a stream that is not read holds in gRPC."""
GROUPS = 2048
"""Seconds of expiry in a full chunk, which bounds the time to encode it."""
LATEST = 512
"""Revocations that are kept one by one; up to as many more before they go to a chunk."""

_FIELDS = {
    RevocationKind.TOKEN: "token_id",
    RevocationKind.SESSION: "session_id",
    RevocationKind.USER: "subject",
}


@dataclass(slots=True)
class Entry:
    """One revocation. `xid` is 0 until the feed has read it; `event` is its message, if made."""

    revocation: Revocation
    xid: int
    event: bytes = b""
    chunk: "Chunk | None" = None


class Chunk:
    """Many revocations that are sent together, as a RevocationSegment."""

    def __init__(self) -> None:
        self.end = 0  # how many revocations the log had when this one got its last
        self.first_xid: float = inf
        self.last_xid: float = 0
        self.unread = 0  # how many of its revocations the feed has still to read
        self.plain: list[bytes] | None = None
        """The same as messages of the older form, where a stream has needed them."""
        self._half_expires = 0
        self._last_expires = 0
        self._packed: dict[int, tuple[bytearray, bytearray]] = {}
        self._others: list[pb.Revocation] = []
        self._count = 0
        self._event: bytes | None = None

    @property
    def is_empty(self) -> bool:
        """Tell whether it has no revocation."""
        return not self._count

    @property
    def is_full(self) -> bool:
        """Tell whether another chunk must take in what comes next."""
        return self._count >= CHUNK or len(self._packed) >= GROUPS

    def add(self, entry: Entry) -> None:
        """Take in one more."""
        revocation, expires_at = entry.revocation, _expires_at(entry.revocation)
        session = revocation.kind is RevocationKind.SESSION
        key = None
        if session or revocation.kind is RevocationKind.TOKEN:
            key = key_of(revocation.target, session=session)
        if key is not None and is_packable(key):
            if (group := self._packed.get(expires_at)) is None:
                group = self._packed[expires_at] = bytearray(), bytearray()
            group[session].extend(key[0])
        else:
            self._others.append(message_of(revocation))
        entry.chunk = self
        self._count += 1
        self._event = self.plain = None
        if entry.xid:
            self._number(entry.xid)
        else:
            self.unread += 1

    def read(self, xid: int) -> None:
        """Note that the feed has read one that was still unread."""
        self.unread -= 1
        self._number(xid)

    def _number(self, xid: float) -> None:
        self.first_xid, self.last_xid = min(self.first_xid, xid), max(self.last_xid, xid)

    def forget_transactions(self) -> None:
        """Let no cursor cover this chunk: its transactions are of another epoch."""
        self.last_xid = inf

    def is_covered_by(self, cursor: Cursor) -> bool:
        """Tell whether a reader at this cursor surely knows all of it."""
        if self.unread or self.last_xid >= cursor.end:
            return False
        return not any(self.first_xid <= xid <= self.last_xid for xid in cursor.running)

    def segment(self) -> pb.RevocationSegment:
        """Return its revocations."""
        if self._event is not None:
            return pb.WatchResponse.FromString(self._event).revocation_segment
        return pb.RevocationSegment(
            packed=[
                pb.PackedRevocations(
                    expires_at=expires_at, token_ids=bytes(tokens), session_ids=bytes(sessions)
                )
                for expires_at, (tokens, sessions) in self._packed.items()
            ],
            others=self._others,
        )

    def event(self) -> bytes:
        """Return its message, made once."""
        if self._event is None:
            self._event = pb.WatchResponse(revocation_segment=self.segment()).SerializeToString()
        return self._event

    def close(self) -> None:
        """Keep nothing but the message; nothing may be added any more."""
        self.event()
        packed = [
            (expires_at, (len(tokens) + len(sessions)) // ID_BYTES)
            for expires_at, (tokens, sessions) in self._packed.items()
        ]
        self._note_expiries(packed, self._others)
        self._packed, self._others = {}, []

    def is_over(self, now: float) -> bool:
        """Tell whether all of it has expired."""
        return self._last_expires <= now

    def is_half_over(self, now: float) -> bool:
        """Tell whether half of it has expired."""
        return self._half_expires <= now

    def drop_expired(self, now: float) -> None:
        """Leave out what has expired: a few milliseconds of work."""
        segment = self.segment()
        packed = [group for group in segment.packed if group.expires_at > now]
        others = [other for other in segment.others if other.expires_at.seconds + 1 > now]
        living = pb.RevocationSegment(packed=packed, others=others)
        self._event = pb.WatchResponse(revocation_segment=living).SerializeToString()
        self.plain = None
        counts = [
            (group.expires_at, (len(group.token_ids) + len(group.session_ids)) // ID_BYTES)
            for group in packed
        ]
        self._note_expiries(counts, others)

    def _note_expiries(
        self, packed: Iterable[tuple[int, int]], others: Iterable[pb.Revocation]
    ) -> None:
        """Note when half of it has expired, and when all; it has at least one revocation."""
        expiries = sorted([*packed, *((other.expires_at.seconds + 1, 1) for other in others)])
        self._last_expires, _ = expiries[-1]
        left = sum(count for _, count in expiries) / 2
        for expires_at, count in expiries:
            left -= count
            if left <= 0:
                self._half_expires = expires_at
                return


class RevocationLog:
    """All that still matters, the oldest first."""

    def __init__(self) -> None:
        self.end = 0
        """How many revocations it has ever had."""
        self._chunks: list[Chunk] = []  # the last is open
        self._latest: deque[Entry] = deque()
        self._latest_packed: dict[tuple[int, Cursor | None], Chunk] = {}  # as streams needed them
        self._unread: dict[tuple[RevocationKind, str], list[Entry]] = {}
        self._epoch: str | None = None
        self._tidied_at = 0.0

    def append(self, revocation: Revocation, event: bytes) -> None:
        """Take in one that says something new."""
        entry = Entry(revocation, revocation.xid, event)
        if not entry.xid:
            self._unread.setdefault((revocation.kind, revocation.target), []).append(entry)
        self._latest.append(entry)
        self._latest_packed.clear()
        self.end += 1
        if len(self._latest) >= 2 * LATEST:
            self._pack(LATEST)

    def read(self, revocation: Revocation) -> None:
        """Note the transaction of one that was announced here before the feed has read it."""
        name = revocation.kind, revocation.target
        if (unread := self._unread.get(name)) is None:
            return
        self._latest_packed.clear()
        for entry in [entry for entry in unread if _covers(revocation, entry.revocation)]:
            unread.remove(entry)
            entry.xid = revocation.xid
            if entry.chunk is not None:
                entry.chunk.read(revocation.xid)
        if not unread:
            del self._unread[name]

    def enter(self, epoch: str) -> None:
        """Note within which epoch cursors are compared: no cursor of another covers anything."""
        before, self._epoch = self._epoch, epoch
        if before is None or before == epoch:
            return
        self._pack(len(self._latest))
        for chunk in self._chunks:
            chunk.forget_transactions()
        self._unread.clear()
        if self._chunks:
            self._open_another()

    def events_since(self, offset: int) -> list[bytes] | None:
        """Return the messages of those after the first `offset`; None where not all have one."""
        behind = self.end - offset
        if behind > len(self._latest):
            return None
        events = [self._latest[index].event for index in range(-behind, 0)]
        return events if all(events) else None

    def since(self, offset: int, cursor: Cursor | None = None) -> list[Chunk]:
        """Return those after the first `offset`, without what a reader at the cursor knows."""
        found = [
            chunk
            for chunk in self._chunks
            if chunk.end > offset and not (cursor and chunk.is_covered_by(cursor))
        ]
        behind = min(self.end - offset, len(self._latest))
        if (rest := self._latest_packed.get((behind, cursor))) is None:
            rest = self._latest_packed[behind, cursor] = Chunk()
            for index in range(-behind, 0):
                entry = self._latest[index]
                if not entry.xid or cursor is None or not cursor.covers(entry.xid):
                    rest.add(Entry(entry.revocation, entry.xid))
        return found if rest.is_empty else [*found, rest]

    def tidy(self, now: float) -> None:
        """Drop what has expired; does nothing if it has done so within this second."""
        if now - self._tidied_at < 1:
            return
        self._tidied_at = now
        closed, still_open = self._chunks[:-1], self._chunks[-1:]
        closed = [chunk for chunk in closed if not chunk.is_over(now)]
        # One at a time, so that the event loop is not held up.
        for chunk in [chunk for chunk in closed if chunk.is_half_over(now)][:1]:
            chunk.drop_expired(now)
        self._chunks = closed + still_open
        for name, unread in list(self._unread.items()):
            if all(_expires_at(entry.revocation) <= now for entry in unread):
                del self._unread[name]

    def _pack(self, count: int) -> None:
        """Move the oldest of the latest into chunks."""
        for _ in range(count):
            if not self._chunks or self._chunks[-1].is_full:
                self._open_another()
            self._chunks[-1].add(self._latest.popleft())
            self._chunks[-1].end = self.end - len(self._latest)

    def _open_another(self) -> None:
        if self._chunks:
            self._chunks[-1].close()
        self._chunks.append(Chunk())


def message_of(revocation: Revocation) -> pb.Revocation:
    """Return a revocation as a message of its own."""
    message = pb.Revocation(expires_at=timestamp(revocation.expires_at))
    if (field := _FIELDS.get(revocation.kind)) is not None:
        setattr(message, field, revocation.target)
    else:
        message.all_tokens.SetInParent()
    if revocation.issued_before is not None:
        message.issued_before.CopyFrom(timestamp(revocation.issued_before))
    return message


def _expires_at(revocation: Revocation) -> int:
    """Return the first second at which it no longer matters."""
    return int(revocation.expires_at.timestamp()) + 1


def _covers(one: Revocation, other: Revocation) -> bool:
    """Tell whether one says no less than the other of the same target."""
    bounds = one.issued_before, other.issued_before
    return one.expires_at >= other.expires_at and (
        bounds[0] is None or bounds[1] is None or bounds[0] >= bounds[1]
    )
