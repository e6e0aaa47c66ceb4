"""The revocations that still matter, in memory.

Owns the rule of what a revocation covers. Knows nothing of where revocations come from: the
service feeds it from PostgreSQL, the client library from a stream.
"""

import heapq
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import Protocol

from auth_service.errors import InactiveReason
from auth_service.models import Revocation, RevocationKind

Clock = Callable[[], datetime]


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


def whole_second_after(moment: datetime) -> datetime:
    """Return the first whole second after `moment`.

    `iat` counts whole seconds, so "issued before T" is exact only where T is one.
    """
    return moment.replace(microsecond=0) + timedelta(seconds=1)


class RevocationList:
    """An expiring set of revocations; a check is a few dictionary look-ups."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._clear()

    def _clear(self) -> None:
        self._tokens: dict[str, int] = {}
        self._sessions: dict[str, int] = {}
        self._users: dict[str, tuple[int, int]] = {}  # sub → (issued before, expires at)
        self._all_before = 0
        self._expiries: list[tuple[int, RevocationKind, str]] = []

    def __len__(self) -> int:
        return len(self._tokens) + len(self._sessions) + len(self._users) + bool(self._all_before)

    def add(self, revocation: Revocation) -> None:
        """Take in one revocation; taking in the same one again changes nothing."""
        expires_at = int(revocation.expires_at.timestamp()) + 1
        if expires_at <= self._clock().timestamp():
            return
        match revocation.kind:
            case RevocationKind.TOKEN:
                known = self._remember(self._tokens, revocation.target, expires_at)
            case RevocationKind.SESSION:
                known = self._remember(self._sessions, revocation.target, expires_at)
            case RevocationKind.USER:
                known = self._remember_user(revocation, expires_at)
            case RevocationKind.ALL:
                # Not pruned: it is one number, and a token that it covers has expired by then.
                self._all_before = max(self._all_before, _issued_before(revocation))
                return
        if not known:
            heapq.heappush(self._expiries, (expires_at, revocation.kind, revocation.target))
        self.prune()

    def replace(self, revocations: Iterable[Revocation]) -> None:
        """Forget everything, then take in `revocations`."""
        self._clear()
        for revocation in revocations:
            self.add(revocation)

    def check(self, claims: RevocableClaims) -> InactiveReason | None:
        """Return why the token of these claims is revoked, or None if it is not."""
        if claims.token_id in self._tokens:
            return InactiveReason.TOKEN_REVOKED
        if claims.session_id in self._sessions:
            return InactiveReason.SESSION_REVOKED
        user = self._users.get(claims.subject)
        if user is not None and claims.issued_at < user[0]:
            return InactiveReason.USER_REVOKED
        if claims.issued_at < self._all_before:
            return InactiveReason.USER_REVOKED
        return None

    def prune(self) -> None:
        """Drop what can no longer matter."""
        now = self._clock().timestamp()
        while self._expiries and self._expiries[0][0] <= now:
            expires_at, kind, target = heapq.heappop(self._expiries)
            if kind is RevocationKind.USER:
                if self._users.get(target, (0, 0))[1] == expires_at:
                    del self._users[target]
                continue
            known = self._tokens if kind is RevocationKind.TOKEN else self._sessions
            if known.get(target) == expires_at:
                del known[target]

    @staticmethod
    def _remember(known: dict[str, int], target: str, expires_at: int) -> bool:
        if known.get(target, 0) >= expires_at:
            return True
        known[target] = expires_at
        return False

    def _remember_user(self, revocation: Revocation, expires_at: int) -> bool:
        before, known_expiry = self._users.get(revocation.target, (0, 0))
        latest = max(known_expiry, expires_at)
        self._users[revocation.target] = (max(before, _issued_before(revocation)), latest)
        return latest == known_expiry


def _issued_before(revocation: Revocation) -> int:
    if revocation.issued_before is None:
        msg = f"a revocation of kind {revocation.kind} needs issued_before"
        raise ValueError(msg)
    return int(revocation.issued_before.timestamp())
