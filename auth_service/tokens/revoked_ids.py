"""Ids of revoked tokens and sessions, packed: about 38 bytes an id, with no object for each.

Owns how an id becomes 16 bytes, and how it is found again. Knows nothing of revocations. One thread
writes; any number of threads may look up meanwhile.

A record is 21 bytes: the id, then its expiry and kind. The hash of an id selects one of 65,536
buckets, and each bucket is one immutable `bytes` of records. Most look-ups end before that: a byte
array has a slot for each value of 23 bits of the hash. The slot holds 0 if no record has that
value, a fingerprint of the id if one has, and `SEVERAL` if more have.
"""

import heapq
import re
import secrets
from array import array
from base64 import urlsafe_b64encode
from binascii import a2b_base64
from collections.abc import Iterator
from hashlib import blake2b

__all__ = [
    "ID_BYTES",
    "SEVERAL",
    "SLICES",
    "Key",
    "RevokedIds",
    "is_packable",
    "key_of",
    "mark",
    "session_id",
    "token_id",
]

ID_BYTES = 16
SEVERAL = 0xFF
SLICES = 256
"""How many slices `RevokedIds.slice` is asked for."""

_BUCKETS = 1 << 16
_SLOTS = 1 << 23  # the low bits of a slot's number are those of its bucket's
_RECORD = ID_BYTES + 5
_EXPIRY = slice(ID_BYTES, _RECORD)
_SALT = secrets.token_bytes(16)
_TOKEN_ID = re.compile(r"[A-Za-z0-9_-]{21}[AQgw]").fullmatch  # 128 bits in canonical base64url
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch

_TOKEN, _TOKEN_TEXT, _SESSION, _SESSION_TEXT = range(4)  # the kinds of an id
Key = tuple[bytes, int]
"""The 16 bytes of an id, and its kind."""


def key_of(text: str, *, session: bool) -> Key:
    """Return by what an id is looked up; an id that is not packable is a keyed hash here."""
    if session:
        if _UUID(text):
            return bytes.fromhex(text.replace("-", "")), _SESSION
    elif _TOKEN_ID(text):
        return a2b_base64(text.replace("-", "+").replace("_", "/") + "=="), _TOKEN
    raw = blake2b(
        text.encode(errors="surrogatepass"),
        digest_size=ID_BYTES,
        key=_SALT,
        person=b"session" if session else b"token",
    ).digest()
    return raw, _SESSION_TEXT if session else _TOKEN_TEXT


def is_packable(key: Key) -> bool:
    """Tell whether the 16 bytes give the id back: a token's 128-bit base64url, a session's UUID."""
    return key[1] in (_TOKEN, _SESSION)


def token_id(raw: bytes) -> str:
    """Return the `jti` that these 16 bytes stand for."""
    return urlsafe_b64encode(raw)[:22].decode()


def session_id(raw: bytes) -> str:
    """Return the `sid` that these 16 bytes stand for: a UUID."""
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def mark(key: Key) -> tuple[int, int]:
    """Return the slot of an id, and its fingerprint; of this process alone, as `hash` is."""
    hashed = hash(key[0])
    return hashed & (_SLOTS - 1), (hashed >> 40 & 0x7F) + 1


class RevokedIds:
    """Ids with an expiry each, in whole seconds since the epoch."""

    def __init__(self) -> None:
        self.slots = bytearray(_SLOTS)
        """What each slot holds; memory that no id has touched is not taken from the system."""
        self._buckets = [b""] * _BUCKETS
        self._texts: dict[bytes, str] = {}  # of ids that are not packable, by their hash
        self._due: dict[int, array[int]] = {}  # by second of expiry, the buckets to look through
        self._seconds: list[int] = []  # a heap of the keys of _due
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, text: str, expires_at: int, *, session: bool) -> bool:
        """Add an id, or extend it; return whether that says more than what was known."""
        key = raw, kind = key_of(text, session=session)
        if not is_packable(key):
            self._texts[raw] = text
        return self._add(raw, expires_at, kind) > 0

    def add_packed(self, ids: bytes, expires_at: int, *, session: bool) -> int:
        """Do the same with any number of packable ids, 16 bytes each; return how many said more."""
        return self._add(ids, expires_at, _SESSION if session else _TOKEN)

    def __contains__(self, key: Key) -> bool:
        """Tell whether an id is there."""
        raw, kind = key
        return _find(self._buckets[hash(raw) & (_BUCKETS - 1)], raw, kind) >= 0

    def prune(self, now: int, most: int) -> bool:
        """Drop ids that have expired; return whether any are left for the next call.

        `most` bounds the work of one call: how many records are looked for.
        """
        while self._seconds and self._seconds[0] <= now:
            due = self._due[self._seconds[0]]
            for _ in range(min(most, len(due))):
                self._clean(due.pop(), now)
                most -= 1
            if due:
                return True
            del self._due[heapq.heappop(self._seconds)]
        return False

    def slice(self, number: int) -> list[tuple[bytes, str, bool, int]]:
        """Return what one of `SLICES` holds: 16 bytes, text, whether of a session, and expiry.

        The 16 bytes are empty for an id that is not packable, and the text is for one that is.
        """
        size = _BUCKETS // SLICES
        found = []
        for bucket in self._buckets[number * size : (number + 1) * size]:
            for raw, expiry in _records(bucket):
                expires_at, kind = _read(expiry)
                session = kind in (_SESSION, _SESSION_TEXT)
                if kind in (_TOKEN_TEXT, _SESSION_TEXT):
                    found.append((b"", self._texts[raw], session, expires_at))
                else:
                    found.append((raw, "", session, expires_at))
        return found

    def _add(self, ids: bytes, expires_at: int, kind: int) -> int:
        buckets, slots, added = self._buckets, self.slots, 0  # a million ids pass through here
        expiry = (expires_at << 2 | kind).to_bytes(_RECORD - ID_BYTES)
        due = self._due.get(expires_at) or array("H")
        for start in range(0, len(ids), ID_BYTES):
            raw = ids[start : start + ID_BYTES]
            hashed = hash(raw)
            number = hashed & (_BUCKETS - 1)
            bucket = buckets[number]
            at = _find(bucket, raw, kind) if raw in bucket else -1
            if at < 0:
                # The record before the slot: a look-up between the two comes before the revocation.
                buckets[number] = bucket + raw + expiry
                slot = hashed & (_SLOTS - 1)
                slots[slot] = SEVERAL if slots[slot] else (hashed >> 40 & 0x7F) + 1
                self._length += 1
            elif bucket[at + ID_BYTES : at + _RECORD] < expiry:
                buckets[number] = bucket[: at + ID_BYTES] + expiry + bucket[at + _RECORD :]
            else:
                continue
            due.append(number)
            added += 1
        if added and expires_at not in self._due:
            self._due[expires_at] = due
            heapq.heappush(self._seconds, expires_at)
        return added

    def _clean(self, number: int, now: int) -> None:
        """Drop from a bucket what has expired."""
        bucket = self._buckets[number]
        living = ((now + 1) << 2).to_bytes(_RECORD - ID_BYTES)
        gone = [
            at
            for at in range(0, len(bucket), _RECORD)
            if bucket[at + ID_BYTES : at + _RECORD] < living
        ]
        for at in reversed(gone):
            raw, kind = bucket[at : at + ID_BYTES], bucket[at + _RECORD - 1] & 3
            bucket = self._buckets[number] = bucket[:at] + bucket[at + _RECORD :]
            slot = hash(raw) & (_SLOTS - 1)
            self.slots[slot] = 0 if self.slots[slot] != SEVERAL else _slot_of(bucket, slot)
            if kind in (_TOKEN_TEXT, _SESSION_TEXT):
                del self._texts[raw]
        self._length -= len(gone)


def _records(bucket: bytes) -> Iterator[tuple[bytes, bytes]]:
    for at in range(0, len(bucket), _RECORD):
        yield bucket[at : at + ID_BYTES], bucket[at + ID_BYTES : at + _RECORD]


def _slot_of(bucket: bytes, slot: int) -> int:
    """Return what a slot holds, by the bucket that all ids of the slot are in."""
    marks = [mark((raw, 0)) for raw, _ in _records(bucket)]
    left = [fingerprint for other, fingerprint in marks if other == slot]
    return SEVERAL if len(left) > 1 else sum(left)


def _read(expiry: bytes) -> tuple[int, int]:
    value = int.from_bytes(expiry)
    return value >> 2, value & 3


def _find(bucket: bytes, raw: bytes, kind: int) -> int:
    """Return where the record of an id begins, or -1."""
    at = bucket.find(raw)
    while at >= 0 and (at % _RECORD or bucket[at + _RECORD - 1] & 3 != kind):
        at = bucket.find(raw, at + 1)
    return at
