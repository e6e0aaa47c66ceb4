"""Watch events into the KeyRing and the RevocationList of this process; no I/O.

Owns what an event means, which events make no sense, and where a broken stream resumes. A doubtful
event never makes a token trusted: revocations are only ever added, and an event of a kind that this
version does not know is not taken as a sign of freshness.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from authn.v1 import verifier_service_pb2 as pb

from auth_service.client.messages import keys_of, message_of
from auth_service.models import Revocation, RevocationKind
from auth_service.tokens.keys import KeyRing, SigningKey
from auth_service.tokens.revocation import LAST_SECOND, RevocationList, whole_second_after
from auth_service.tokens.revoked_ids import ID_BYTES

__all__ = ["BadEvent", "Feed"]

log = logging.getLogger("auth_service.client")

SLICE = 500
"""Revocations that are taken in before the event loop has its turn: about a millisecond of work."""
_END = datetime.fromtimestamp(LAST_SECOND, UTC)
_MOST_LOGGED = 1000


class BadEvent(ValueError):
    """An event that makes no sense; it has changed nothing."""


class Feed:
    """Applies the events of one stream after the other."""

    def __init__(
        self,
        key_ring: KeyRing,
        revocations: RevocationList,
        static_keys: Iterable[SigningKey],
        clock: Callable[[], datetime],
    ) -> None:
        self._key_ring = key_ring
        self._revocations = revocations
        self._static_keys = {key.kid: key for key in static_keys}
        self._clock = clock
        self._streamed_keys: dict[str, SigningKey] | None = None
        self._key_set = pb.KeySet()
        self._cursor = ""
        self._logged: set[str] = set()
        self.is_complete = False
        """Whether the present stream has brought all that came before it."""
        self.is_current = False
        """Whether it has also told up to which moment that is."""
        self.as_of: datetime | None = None
        """Every revocation made before this moment is known; it never goes back."""
        self.as_of_seconds: float | None = None
        """The same in seconds since the epoch."""

    def begin(self) -> str:
        """Expect a new stream; return the cursor to resume it by, empty for a fresh one."""
        self.is_complete, self.is_current = bool(self._cursor), False
        return self._cursor

    def forget_cursor(self) -> None:
        """Let the next stream be a fresh one."""
        self._cursor = ""

    @property
    def has_keys(self) -> bool:
        """Tell whether there is a key to verify with."""
        return len(self._key_ring) > 0

    @property
    def lacks_keys(self) -> bool:
        """Tell whether a stream has brought its keys, and there is none to verify with."""
        return self._streamed_keys is not None and not self.has_keys

    @property
    def missing(self) -> str:
        """What must still arrive before tokens can be verified; empty if nothing must."""
        if self._streamed_keys is None:
            return "nothing has been received"
        if self.lacks_keys:
            return "connected, but no keys"
        return "the keys are known, the revocations are not" if self.as_of is None else ""

    def apply(self, event: pb.WatchResponse) -> None:
        """Take in one event; raises BadEvent."""
        for _ in self.steps(event):
            pass

    def steps(self, event: pb.WatchResponse) -> Iterator[None]:
        """Take in one event in steps of a few milliseconds each; raises BadEvent."""
        try:
            yield from self._steps(event)
        except (ValueError, OverflowError) as error:  # OverflowError: a time beyond the year 9999
            raise BadEvent(str(error)) from error

    def record(self) -> Iterator[bytes]:
        """Yield encoded events that teach another Feed all that this one knows, in short steps."""
        # The cursor of now: the steps may miss what is revoked while they run.
        end = pb.WatchResponse(heartbeat=pb.Heartbeat(), cursor=self._cursor)
        if self.as_of is not None:
            end.as_of.FromDatetime(self.as_of)
        yield pb.WatchResponse(key_set=self._key_set).SerializeToString()
        for packed, others in self._revocations.packed_parts():
            segment = pb.RevocationSegment(
                packed=[
                    pb.PackedRevocations(
                        expires_at=expires_at, token_ids=bytes(tokens), session_ids=bytes(sessions)
                    )
                    for expires_at, (tokens, sessions) in packed.items()
                ],
                others=[message_of(revocation) for revocation in others],
            )
            yield pb.WatchResponse(revocation_segment=segment).SerializeToString()
        whole = pb.WatchResponse(revocation_snapshot=pb.RevocationSnapshot())
        if end.HasField("as_of"):
            whole.as_of.CopyFrom(end.as_of)
        yield whole.SerializeToString()
        yield end.SerializeToString()

    def _steps(self, event: pb.WatchResponse) -> Iterator[None]:
        as_of = _moment(event, "as_of") if event.HasField("as_of") else None
        match event.WhichOneof("event"):
            case "key_set":
                # At the head of a stream its as_of and cursor are ahead of the revocations
                # that follow, so they are ignored.
                self._take_keys(keys_of(event.key_set))
                self._key_set = event.key_set
            case "revocation_segment":
                yield from self._take_segment(event.revocation_segment)
            case "revocation_snapshot":
                yield from self._take_all(event.revocation_snapshot.revocations)
                self.is_complete = self.is_complete or as_of is not None
                self._advance(as_of)
                # Its cursor is not taken: a heartbeat follows that has the same.
            case "revocation":
                yield from self._take_all([event.revocation])
                self._advance(as_of, event.cursor)
            case "heartbeat":
                while self._revocations.prune():
                    yield
                self._advance(as_of, event.cursor)
            case _:
                raise ValueError("an event of no known kind")

    def _take_keys(self, keys: dict[str, SigningKey]) -> None:
        if keys != self._streamed_keys:  # every stream begins with them, changed or not
            self._streamed_keys = keys
            self._key_ring.replace((keys | self._static_keys).values())

    def _take_segment(self, segment: pb.RevocationSegment) -> Iterator[None]:
        for group in segment.packed:
            if len(group.token_ids) % ID_BYTES or len(group.session_ids) % ID_BYTES:
                raise ValueError("packed ids that are cut off")
        taken = 0
        for group in segment.packed:
            for ids, session in ((group.token_ids, False), (group.session_ids, True)):
                for start in range(0, len(ids), SLICE * ID_BYTES):
                    part = ids[start : start + SLICE * ID_BYTES]
                    self._revocations.add_packed(part, group.expires_at, session=session)
                    if (taken := taken + len(part) // ID_BYTES) >= SLICE:
                        taken = 0
                        yield
        yield from self._take_all(segment.others)

    def _take_all(self, messages: Iterable[pb.Revocation]) -> Iterator[None]:
        revocations = []
        for message in messages:
            if message.WhichOneof("target") is None:
                # A kind of a later version: what it covers is not known, so nothing is fresh.
                raise ValueError("a revocation of no known kind")
            if (revocation := self._revocation(message)) is not None:
                revocations.append(revocation)
        for start in range(0, len(revocations), SLICE):
            self._revocations.add_all(revocations[start : start + SLICE])
            if start + SLICE < len(revocations):
                yield

    def _revocation(self, message: pb.Revocation) -> Revocation | None:
        """Return what a message revokes; one that is faulty covers no less than it could mean."""
        kind, target, bounded = RevocationKind.ALL, "", True
        match message.WhichOneof("target"):
            case "token_id":
                kind, target, bounded = RevocationKind.TOKEN, message.token_id, False
            case "session_id":
                kind, target, bounded = RevocationKind.SESSION, message.session_id, False
            case "subject":
                kind, target = RevocationKind.USER, message.subject
        if not target and kind is not RevocationKind.ALL:
            self._log_once(kind, target, "it names nothing, so it covers no token")
            return None
        expires_at = _moment_or_none(message, "expires_at")
        if expires_at is None:
            self._log_once(kind, target, "it has no usable expiry, so it is kept")
        issued_before = _moment_or_none(message, "issued_before") if bounded else None
        if bounded and issued_before is None:
            self._log_once(kind, target, "it has no bound, so it covers all issued until now")
            issued_before = whole_second_after(self._clock())
        return Revocation(kind, target, expires_at or _END, issued_before)

    def _log_once(self, kind: RevocationKind, target: str, text: str) -> None:
        name = f"{kind} {target[:100]!r}: {text}"
        if name not in self._logged and len(self._logged) < _MOST_LOGGED:
            self._logged.add(name)
            log.error("a revocation cannot be used as it is: %s", name)

    def _advance(self, as_of: datetime | None, cursor: str = "") -> None:
        if not self.is_complete:
            return
        if as_of is not None:
            # A replica whose clock is ahead does not make us fresher than this very moment.
            as_of = min(as_of, self._clock())
            self.as_of = as_of if self.as_of is None else max(self.as_of, as_of)
            self.as_of_seconds = self.as_of.timestamp()
            self.is_current = True
        self._cursor = cursor or self._cursor


def _moment(message: Any, field: str) -> datetime:
    if not message.HasField(field):
        raise ValueError(f"a {message.DESCRIPTOR.name} without {field}")
    moment: datetime = getattr(message, field).ToDatetime(tzinfo=UTC)
    return moment


def _moment_or_none(message: pb.Revocation, field: str) -> datetime | None:
    try:
        return _moment(message, field)
    except (ValueError, OverflowError):
        return None
