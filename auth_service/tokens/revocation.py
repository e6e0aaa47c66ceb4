"""The revocations that still matter, in memory.

Owns the rule of what a revocation covers. Knows nothing of where revocations come from: the
service feeds it from PostgreSQL, the client library from a stream. One thread feeds it; any number
of threads may check meanwhile.
"""

import heapq
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Protocol

from auth_service.clock import Clock
from auth_service.errors import InactiveReason
from auth_service.models import Revocation, RevocationKind
from auth_service.tokens import revoked_ids
from auth_service.tokens.delegation import Chain
from auth_service.tokens.revoked_ids import SEVERAL, SLICES, Key, RevokedIds

LAST_SECOND = 253_402_300_799
"""The end of the year 9999, the latest time of datetime and of a protobuf Timestamp."""
_NEVER = (0, 0)
MOST_PRUNED = 500
"""How many revocations one call of `prune` drops: about two milliseconds of work."""

Mark = tuple[int, int, Key]
"""Slot and fingerprint of an id, and its key."""
Marks = tuple[int, int, int, int, Key, Key, tuple[Mark, ...]]
"""Slot and fingerprint of a token's `jti` and of its `sid`, both keys, and its parents' marks."""


class RevocableClaims(Protocol):
    """What a revocation can name of a token; times are seconds since the epoch."""

    @property
    def token_id(self) -> str: ...
    @property
    def session_id(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def issued_at(self) -> int: ...
    @property
    def chain(self) -> Chain: ...


def marks(claims: RevocableClaims) -> Marks:
    """Return what `RevocationList.check` looks up first; only this process can use it."""
    token = revoked_ids.key_of(claims.token_id, session=False)
    session = revoked_ids.key_of(claims.session_id, session=True)
    parents = [revoked_ids.key_of(link.parent_id, session=False) for link in claims.chain]
    return (
        *revoked_ids.mark(token),
        *revoked_ids.mark(session),
        token,
        session,
        tuple((*revoked_ids.mark(parent), parent) for parent in parents),
    )


def whole_second_after(moment: datetime) -> datetime:
    """Return the first whole second after `moment`.

    `iat` counts whole seconds, so "issued before T" is exact only where T is one.
    """
    return moment.replace(microsecond=0) + timedelta(seconds=1)


class RevocationList:
    """An expiring set of revocations; the check of a token that is not revoked is two look-ups."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ids = RevokedIds()
        self._slots = self._ids.slots
        self._users: dict[str, tuple[int, int]] = {}  # sub → (issued before, expires at)
        self._users_due: list[tuple[int, str]] = []  # a heap: when to look at which user
        self._all_before = 0

    def __len__(self) -> int:
        return len(self._ids) + len(self._users) + bool(self._all_before)

    def add(self, revocation: Revocation) -> bool:
        """Take in one revocation; return whether it says more than what was known."""
        return bool(self.add_all((revocation,)))

    def add_all(self, revocations: Iterable[Revocation]) -> list[Revocation]:
        """Take in revocations; return those that say more than what was known."""
        self.prune()
        now = self._clock().timestamp()
        return [revocation for revocation in revocations if self._add(revocation, now)]

    def add_packed(self, ids: bytes, expires_at: int, *, session: bool) -> None:
        """Take in ids of 16 bytes each, of tokens or of sessions.

        `expires_at` is the first second at which they no longer matter, as seconds since the epoch.
        It is the caller's to pass few enough ids that its event loop is not held up.
        """
        expires_at = min(expires_at, LAST_SECOND)
        if expires_at > self._clock().timestamp():
            self._ids.add_packed(ids, expires_at, session=session)

    def check(self, claims: RevocableClaims, known: Marks | None = None) -> InactiveReason | None:
        """Return why the token of these claims is revoked, or None if it is not.

        `known` are the marks of the claims, for those who check the same claims often.
        """
        if claims.chain and (reason := self._by_chain(claims, known or marks(claims))) is not None:
            return reason
        if not self._ids:
            return self._by_bound(claims)
        token, token_print, session, session_print, token_key, session_key, _ = known or marks(
            claims
        )
        slots = self._slots
        if (
            (found := slots[token])
            and (found == token_print or found == SEVERAL)  # noqa: PLR1714, SIM109 - the fastest
            and token_key in self._ids
        ):
            return InactiveReason.TOKEN_REVOKED
        if (
            (found := slots[session])
            and (found == session_print or found == SEVERAL)  # noqa: PLR1714, SIM109
            and session_key in self._ids
        ):
            return InactiveReason.SESSION_REVOKED
        if claims.subject in self._users or claims.issued_at < self._all_before:
            return self._by_bound(claims)
        return None

    def prune(self) -> bool:
        """Drop what can no longer matter; return whether some of it is left for the next call."""
        now = int(self._clock().timestamp())
        most = MOST_PRUNED
        while self._users_due and self._users_due[0][0] <= now and most:
            _, subject = heapq.heappop(self._users_due)
            if self._users.get(subject, (0, LAST_SECOND + 1))[1] <= now:
                del self._users[subject]
            most -= 1
        return self._ids.prune(now, most) or not most

    def parts(self) -> Iterator[list[Revocation]]:
        """Yield all that still matters, in parts, between which other work may have its turn.

        What is added meanwhile may be among it or not. Times are whole seconds.
        """
        yield self._bounds()
        now = self._clock().timestamp()
        for number in range(SLICES):
            yield [
                _revocation(
                    text or (revoked_ids.session_id if session else revoked_ids.token_id)(raw),
                    session,
                    expires_at,
                )
                for raw, text, session, expires_at in self._ids.slice(number)
                if expires_at > now
            ]

    def _bounds(self) -> list[Revocation]:
        found = [
            Revocation(RevocationKind.USER, subject, _moment(expires_at), _moment(before))
            for subject, (before, expires_at) in list(self._users.items())
        ]
        if self._all_before:
            before = _moment(self._all_before)
            found.append(Revocation(RevocationKind.ALL, "", _moment(LAST_SECOND), before))
        return found

    def packed_parts(
        self,
    ) -> Iterator[tuple[dict[int, tuple[bytearray, bytearray]], list[Revocation]]]:
        """Yield the same with ids packed: by expiry those of tokens and those of sessions.

        What cannot be packed follows them, as revocations.
        """
        yield {}, self._bounds()
        for number in range(SLICES):
            packed: dict[int, tuple[bytearray, bytearray]] = {}
            others = []
            for raw, text, session, expires_at in self._ids.slice(number):
                if raw:
                    if (group := packed.get(expires_at)) is None:
                        group = packed[expires_at] = bytearray(), bytearray()
                    group[session].extend(raw)
                else:
                    others.append(_revocation(text, session, expires_at))
            yield packed, others

    def snapshot(self) -> list[Revocation]:
        """Return all that still matters at once; of a million revocations that takes seconds."""
        return [revocation for part in self.parts() for revocation in part]

    def _by_chain(self, claims: RevocableClaims, known: Marks) -> InactiveReason | None:
        """Return why a token that was exchanged is revoked with what it came from.

        "Issued before T" means the token of the login for the subject, and the actor's own token
        for an actor. The `iat` of the exchange itself may be later than T: another replica may not
        have heard of the revocation yet when it exchanged.
        """
        for slot, fingerprint, key in known[-1]:
            if self._slots[slot] in (fingerprint, SEVERAL) and key in self._ids:
                return InactiveReason.TOKEN_REVOKED
        chain, users = claims.chain, self._users
        oldest = chain[-1].parent_issued_at
        if oldest < users.get(claims.subject, _NEVER)[0]:
            return InactiveReason.USER_REVOKED
        for link in chain:
            if link.actor_issued_at < users.get(link.actor, _NEVER)[0]:
                return InactiveReason.USER_REVOKED
            oldest = min(oldest, link.actor_issued_at)
        return InactiveReason.USER_REVOKED if oldest < self._all_before else None

    def _by_bound(self, claims: RevocableClaims) -> InactiveReason | None:
        before = max(self._all_before, self._users.get(claims.subject, _NEVER)[0])
        return InactiveReason.USER_REVOKED if claims.issued_at < before else None

    def _add(self, revocation: Revocation, now: float) -> bool:
        expires_at = min(int(revocation.expires_at.timestamp()) + 1, LAST_SECOND)
        if expires_at <= now:
            return False
        if not revocation.target and revocation.kind is not RevocationKind.ALL:
            return False  # No token has an empty `jti` or `sub`; an empty `sid` means no session.
        match revocation.kind:
            case RevocationKind.TOKEN:
                return self._ids.add(revocation.target, expires_at, session=False)
            case RevocationKind.SESSION:
                return self._ids.add(revocation.target, expires_at, session=True)
            case RevocationKind.USER:
                return self._add_user(revocation, expires_at)
            case RevocationKind.ALL:
                # Not pruned: it is one number, and a token that it covers has expired by then.
                before, self._all_before = self._all_before, _issued_before(revocation)
                self._all_before = max(before, self._all_before)
                return self._all_before > before

    def _add_user(self, revocation: Revocation, expires_at: int) -> bool:
        subject = revocation.target
        known = self._users.get(subject, _NEVER)
        latest = max(known[0], _issued_before(revocation)), max(known[1], expires_at)
        self._users[subject] = latest
        if latest[1] > known[1]:
            heapq.heappush(self._users_due, (latest[1], subject))
        return latest != known


def _revocation(target: str, session: bool, expires_at: int) -> Revocation:
    kind = RevocationKind.SESSION if session else RevocationKind.TOKEN
    return Revocation(kind, target, _moment(expires_at))


def _moment(epoch_seconds: int) -> datetime:
    return datetime.fromtimestamp(epoch_seconds, UTC)


def _issued_before(revocation: Revocation) -> int:
    if revocation.issued_before is None:
        msg = f"a revocation of kind {revocation.kind} needs issued_before"
        raise ValueError(msg)
    return int(revocation.issued_before.timestamp())
