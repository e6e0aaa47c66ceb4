"""When an access token is renewed, how long to wait after a failure, and what an error means.

Owns the rules that all token sources share. Knows no channel, thread or event loop: a source asks
what to do, does it, and reports the outcome, one call at a time.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import grpc

from auth_service.authz.status import read_details
from auth_service.errors import (
    AuthError,
    InvalidCredentials,
    InvalidGrant,
    InvalidSubjectToken,
    RateLimited,
    Retryable,
    Unauthenticated,
    Unavailable,
)

__all__ = ["AHEAD", "TokenLife", "reason_of"]

AHEAD = 0.2
"""The share of its lifetime that a token still has when it is renewed."""

_MIN_LIFE = timedelta(seconds=1)  # assumed; otherwise a fast clock would renew in every call
_FORCED_APART = timedelta(seconds=10)
_FIRST_DELAY = 0.1  # seconds; doubles with each failure
_LONGEST_DELAY = 15.0
_LONGEST_WAIT = 2.0  # a longer delay ends the renewal; a later caller begins the next one
_DOUBLINGS = 10
_NEVER = datetime.max.replace(tzinfo=UTC)
_AT_ONCE = datetime.min.replace(tzinfo=UTC)
_RETRYABLE: dict[grpc.StatusCode, type[Retryable]] = {
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: RateLimited,
}

log = logging.getLogger("auth_service.client")


@dataclass(frozen=True, slots=True)
class _Held:
    token: str = field(repr=False)
    due: datetime
    expires_at: datetime


class TokenLife:
    """The current access token and its successors. Not thread-safe: the caller holds a lock.

    `ahead` is the share of the lifetime, above 0 and below 0.8, that is left when a token is
    renewed. `jitter` draws from [0, 1) and changes that share by up to a quarter either way, so
    that clients which started together do not renew together.
    """

    def __init__(
        self, *, clock: Callable[[], datetime], ahead: float, jitter: Callable[[], float]
    ) -> None:
        if not 0 < ahead < 0.8:
            raise ValueError("ahead must be above 0 and below 0.8")
        self._clock = clock
        self._ahead = ahead
        self._jitter = jitter
        self._held: _Held | None = None
        self._failures = 0
        self._retry_at = _AT_ONCE
        self._forced_until = _AT_ONCE
        self._error: Exception = _no_answer()

    @property
    def healthy(self) -> bool:
        """Whether the latest attempt succeeded; true before the first."""
        return self._failures == 0

    def current(self) -> str | None:
        """Return the token to use now, or None if it is time to ask for another.

        Between two attempts this is the old token; if it has expired, raises the error of the last
        attempt.
        """
        now = self._clock()
        if self._held and now < self._held.due:
            return self._held.token
        return self.outcome() if now < self._retry_at else None

    def usable(self) -> str | None:
        """Return the token if it has not expired, even if its renewal is due."""
        held = self._held
        return held.token if held and self._clock() < held.expires_at else None

    def outcome(self) -> str:
        """Return the usable token; raises the reason if there is none."""
        token = self.usable()
        if token is None:
            raise self._error.with_traceback(None)  # its traceback would grow each time
        return token

    def accept(self, token: str, expires_at: datetime) -> None:
        """Hold a new token."""
        now = self._clock()
        life = max(expires_at - now, _MIN_LIFE)
        left = self._ahead * (0.75 + self._jitter() / 2)
        self._held = _Held(token, now + life * (1 - left), now + life)
        self._failures, self._retry_at, self._error = 0, _AT_ONCE, _no_answer()

    def invalidate(self, token: str) -> None:
        """Make the renewal of a refused token due; does nothing if the token was already replaced.

        The token stays usable while there is no other, because the service that refused it may be
        wrong. For the same reason, forced renewals are at least ten seconds apart.
        """
        now = self._clock()
        if self._held and self._held.token == token and now >= self._forced_until:
            self._held = replace(self._held, due=now)
            self._forced_until = now + _FORCED_APART

    def failed(self, error: Exception) -> float | None:
        """Note a failure; return the seconds until the next attempt, or None to give up for now.

        InvalidGrant is final: the token is dropped, and there is no next attempt.
        """
        self._error = reason_of(error) if isinstance(error, grpc.RpcError) else error
        if isinstance(self._error, InvalidGrant):
            self._held, self._retry_at = None, _NEVER
            log.warning("the session has ended: %s", self._error)
            return None
        delay = self._delay(self._error)
        self._failures += 1
        if isinstance(self._error, Retryable) and delay <= _LONGEST_WAIT:
            return delay
        self._retry_at = self._clock() + timedelta(seconds=delay)
        log.warning("no new access token, next attempt in %.1f s: %r", delay, self._error)
        return None

    def _delay(self, error: Exception) -> float:
        """Return the seconds to wait: those that the service asked for, plus a random part."""
        doubled: float = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(self._failures, _DOUBLINGS))
        backoff = doubled * (0.5 + self._jitter() / 2)
        if not isinstance(error, Retryable):
            return max(backoff, 1.0)
        delay = backoff + error.retry_after.total_seconds()
        error.retry_after = timedelta(seconds=delay)
        return delay


def reason_of(error: grpc.RpcError) -> AuthError:
    """Return the error that a refusal of the service means, with the refusal as its cause.

    A Retryable has the `retry_after` of google.rpc.RetryInfo, or zero without one.
    """
    details = read_details(error)
    code = error.code()
    text = f"the authentication service answered {code.name}: {error.details()}"
    meaning: AuthError
    if details.reason == InvalidGrant.reason:
        meaning = InvalidGrant()
    elif details.reason == InvalidCredentials.reason:
        meaning = InvalidCredentials()
    elif details.reason == InvalidSubjectToken.reason:  # only the caller can log in again
        meaning = Unauthenticated(error.details() or text)
    elif code in _RETRYABLE:
        meaning = _RETRYABLE[code](text, details.retry_after or timedelta(0))
    else:
        meaning = AuthError(text)
    meaning.__cause__ = error
    return meaning


def _no_answer() -> Unavailable:
    return Unavailable("no access token yet: the authentication service has not answered")
