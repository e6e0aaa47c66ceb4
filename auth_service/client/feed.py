"""Watch events into the KeyRing and the RevocationList of this process; no I/O.

Owns what an event means, which events make no sense, and where a broken stream resumes. Whatever
is in doubt is read so that nothing is trusted that should not be: revocations are only ever added,
and what the service adds in later versions is never mistaken for a sign of freshness.
"""

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from authn.v1 import verifier_service_pb2 as pb

from auth_service.base64url import check_secret
from auth_service.client.jwk import public_key
from auth_service.models import Revocation, RevocationKind
from auth_service.tokens.keys import ALGORITHMS, KeyRing, SigningKey
from auth_service.tokens.revocation import RevocationList

__all__ = ["BadEvent", "Feed"]

log = logging.getLogger("auth_service.client")


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
        self._cursor = ""
        self._complete = False  # whether this stream has brought all that came before it
        self.as_of: datetime | None = None
        self.as_of_seconds: float | None = None
        """The same in seconds since the epoch."""
        """Every revocation made before this moment is known; it never goes back."""

    def begin(self) -> str:
        """Expect a new stream; return the cursor to resume it by, empty for a fresh one."""
        self._complete = bool(self._cursor)
        return self._cursor

    def forget_cursor(self) -> None:
        """Let the next stream be a fresh one."""
        self._cursor = ""

    @property
    def missing(self) -> str:
        """What must still arrive before tokens can be verified; empty if nothing must."""
        if self._streamed_keys is None:
            return "nothing has been received"
        if not len(self._key_ring):
            return "no keys; shared keys are sent only to callers with the verifier role"
        return "the keys are known, the revocations are not" if self.as_of is None else ""

    def apply(self, event: pb.WatchResponse) -> None:
        """Take in one event; raises BadEvent."""
        try:
            self._apply(event)
        except (ValueError, OverflowError) as error:  # OverflowError: a time beyond the year 9999
            raise BadEvent(str(error)) from error

    def _apply(self, event: pb.WatchResponse) -> None:
        as_of = _moment(event, "as_of") if event.HasField("as_of") else None
        match event.WhichOneof("event"):
            case "key_set":
                # At the head of a stream its as_of and cursor run ahead of the revocations
                # that are to follow, so they count for nothing.
                self._take_keys(_keys(event.key_set))
            case "revocation_snapshot":
                self._take_snapshot(event.revocation_snapshot)
                self._advance(as_of)
                # Its cursor is left alone: more parts may follow, and a stream that broke among
                # them and resumed would never bring the rest.
            case "revocation":
                self._revocations.add(_revocation(event.revocation))
                self._advance(as_of, event.cursor)
            case "heartbeat":
                self._revocations.prune()
                self._advance(as_of, event.cursor)
            case _:
                raise ValueError("an event of no known kind")

    def _take_keys(self, keys: dict[str, SigningKey]) -> None:
        if keys != self._streamed_keys:  # every stream begins with them, changed or not
            self._streamed_keys = keys
            self._key_ring.replace((keys | self._static_keys).values())

    def _take_snapshot(self, snapshot: pb.RevocationSnapshot) -> None:
        for revocation in [_revocation(message) for message in snapshot.revocations]:
            self._revocations.add(revocation)
        self._complete = True

    def _advance(self, as_of: datetime | None, cursor: str = "") -> None:
        if not self._complete:
            return
        if as_of is not None:
            # A replica whose clock is ahead does not make us fresher than this very moment.
            as_of = min(as_of, self._clock())
            self.as_of = as_of if self.as_of is None else max(self.as_of, as_of)
            self.as_of_seconds = self.as_of.timestamp()
        self._cursor = cursor or self._cursor


def _keys(key_set: pb.KeySet) -> dict[str, SigningKey]:
    keys: dict[str, SigningKey] = {}
    for message in key_set.keys:
        if message.kid in keys:
            raise ValueError(f"the kid {message.kid!r} stands twice in a key set")
        if (key := _key(message)) is not None:
            keys[key.kid] = key
    return keys


def _key(message: pb.VerificationKey) -> SigningKey | None:
    """Return the key, or None for one that is not meant for this caller or this version."""
    if message.algorithm not in ALGORITHMS:
        log.warning("key %r is for %r: update this library", message.kid, message.algorithm)
        return None
    material = message.WhichOneof("material")
    if material is None:
        return None
    if material == "public_jwk":
        return public_key(message.kid, message.algorithm, message.public_jwk)
    check_secret(message.secret)
    if message.algorithm != "HS256" or not message.kid:
        raise ValueError(f"the secret of key {message.kid!r} is not one of HS256")
    return SigningKey(message.kid, message.algorithm, secret=message.secret)


def _revocation(message: pb.Revocation) -> Revocation:
    expires_at = _moment(message, "expires_at")
    kind, target, issued_before = RevocationKind.ALL, "", None
    match message.WhichOneof("target"):
        case "token_id":
            kind, target = RevocationKind.TOKEN, message.token_id
        case "session_id":
            kind, target = RevocationKind.SESSION, message.session_id
        case "subject":
            kind, target = RevocationKind.USER, message.subject
            issued_before = _moment(message, "issued_before")
        case "all_tokens":
            return Revocation(kind, target, expires_at, _moment(message, "issued_before"))
        case _:
            raise ValueError("a revocation of no known kind")
    if not target:
        raise ValueError("a revocation that names nothing")
    return Revocation(kind, target, expires_at, issued_before)


def _moment(message: Any, field: str) -> datetime:
    if not message.HasField(field):
        raise ValueError(f"a {message.DESCRIPTOR.name} without {field}")
    moment: datetime = getattr(message, field).ToDatetime(tzinfo=UTC)
    return moment
