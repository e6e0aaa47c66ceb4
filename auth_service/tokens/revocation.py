"""The revocations that still matter, in memory.

Owns the rule of what a revocation covers. Knows nothing of where revocations come from: the
service feeds it from PostgreSQL, the client library from a stream.
"""

import heapq
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from auth_service.clock import Clock
from auth_service.errors import InactiveReason
from auth_service.models import Revocation, RevocationKind


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
        # What expires in which second: of a million revocations, far fewer entries than one each.
        self._expiring: dict[tuple[int, RevocationKind], list[str]] = {}
        self._expiries: list[tuple[int, RevocationKind]] = []  # a heap of the keys of _expiring

    def __len__(self) -> int:
        return len(self._tokens) + len(self._sessions) + len(self._users) + bool(self._all_before)

    def snapshot(self) -> list[Revocation]:
        """Return all that still matters; times are whole seconds."""
        self.prune()
        found = [_token(jti, until) for jti, until in self._tokens.items()]
        found += [_session(sid, until) for sid, until in self._sessions.items()]
        found += [_user(sub, *bounds) for sub, bounds in self._users.items()]
        if self._all_before:
            found.append(Revocation(RevocationKind.ALL, "", _FAR_AWAY, _moment(self._all_before)))
        return found

    def add(self, revocation: Revocation) -> bool:
        """Take in one revocation; return whether it says more than what was known."""
        return bool(self.add_all((revocation,)))

    def add_all(self, revocations: Iterable[Revocation]) -> list[Revocation]:
        """Take in revocations; return those that say more than what was known."""
        self.prune()
        now = self._clock().timestamp()
        return [revocation for revocation in revocations if self._add(revocation, now)]

    def _add(self, revocation: Revocation, now: float) -> bool:
        expires_at = int(revocation.expires_at.timestamp()) + 1
        if expires_at <= now:
            return False
        match revocation.kind:
            case RevocationKind.TOKEN:
                new = self._remember(self._tokens, revocation.target, expires_at)
            case RevocationKind.SESSION:
                new = self._remember(self._sessions, revocation.target, expires_at)
            case RevocationKind.USER:
                new = self._remember_user(revocation, expires_at)
            case RevocationKind.ALL:
                # Not pruned: it is one number, and a token that it covers has expired by then.
                before, self._all_before = self._all_before, _issued_before(revocation)
                self._all_before = max(before, self._all_before)
                return self._all_before > before
        if new:
            expiry = expires_at, revocation.kind
            if (targets := self._expiring.get(expiry)) is None:
                targets = self._expiring[expiry] = []
                heapq.heappush(self._expiries, expiry)
            targets.append(revocation.target)
        return new

    def replace(self, revocations: Iterable[Revocation]) -> None:
        """Forget everything, then take in `revocations`."""
        self._clear()
        self.add_all(revocations)

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
            expires_at, kind = expiry = heapq.heappop(self._expiries)
            for target in self._expiring.pop(expiry):
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
            return False
        known[target] = expires_at
        return True

    def _remember_user(self, revocation: Revocation, expires_at: int) -> bool:
        known = self._users.get(revocation.target, (0, 0))
        latest = max(known[0], _issued_before(revocation)), max(known[1], expires_at)
        self._users[revocation.target] = latest
        return latest != known


_FAR_AWAY = datetime(9999, 1, 1, tzinfo=UTC)


def _token(jti: str, expires_at: int) -> Revocation:
    return Revocation(RevocationKind.TOKEN, jti, _moment(expires_at))


def _session(sid: str, expires_at: int) -> Revocation:
    return Revocation(RevocationKind.SESSION, sid, _moment(expires_at))


def _user(sub: str, before: int, expires_at: int) -> Revocation:
    return Revocation(RevocationKind.USER, sub, _moment(expires_at), _moment(before))


def _moment(epoch_seconds: int) -> datetime:
    return datetime.fromtimestamp(epoch_seconds, UTC)


def _issued_before(revocation: Revocation) -> int:
    if revocation.issued_before is None:
        msg = f"a revocation of kind {revocation.kind} needs issued_before"
        raise ValueError(msg)
    return int(revocation.issued_before.timestamp())
