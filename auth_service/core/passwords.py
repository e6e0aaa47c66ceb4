"""Passwords: policy, and argon2id off the event loop.

Hashing runs in a bounded pool of threads (argon2 releases the GIL). What exceeds the pool and its
queue is refused at once, so a flood of logins never slows other calls.
"""

import asyncio
import os
import sys
import threading
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from argon2 import PasswordHasher as Argon2
from argon2.exceptions import InvalidHashError, VerificationError

from auth_service.errors import InvalidArgument, RateLimited, WeakPassword

MAX_PASSWORD_BYTES = 1024

_NICENESS = 10  # of 0 to 19: a tenth of the event loop's weight when both compete for one core

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Argon2Profile:
    """Cost of one hash; the default is the OWASP minimum for argon2id (19 MiB, t=2, p=1)."""

    memory_kib: int = 19_456
    time_cost: int = 2
    parallelism: int = 1


def check_policy(password: str, minimum_length: int, field: str = "password") -> None:
    """Raise WeakPassword for a password that is too short (NIST SP 800-63B-4 section 3.1.1.2)."""
    normalised = normalise_password(password, field)
    if len(normalised) < minimum_length:
        raise WeakPassword(field, f"must have {minimum_length} characters or more")


def normalise_password(password: str, field: str = "password") -> str:
    """Return the NFC form, so that a password typed on two keyboards is the same password."""
    try:
        too_long = len(password.encode()) > MAX_PASSWORD_BYTES
    except UnicodeEncodeError as error:
        raise InvalidArgument(field, "must be valid Unicode text") from error
    if too_long:
        raise InvalidArgument(field, f"must have at most {MAX_PASSWORD_BYTES} bytes in UTF-8")
    return unicodedata.normalize("NFC", password)


def _let_others_go_first() -> None:
    """Lower the priority of this thread (Linux only): a hash can wait, a Validate should not."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


class PasswordHasher:
    """Hashes and verifies passwords with argon2id (RFC 9106) in a bounded pool."""

    def __init__(
        self, profile: Argon2Profile | None = None, *, workers: int = 0, queue: int = 64
    ) -> None:
        profile = profile or Argon2Profile()
        self._argon2 = Argon2(
            time_cost=profile.time_cost,
            memory_cost=profile.memory_kib,
            parallelism=profile.parallelism,
        )
        workers = workers or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(
            workers, thread_name_prefix="argon2", initializer=_let_others_go_first
        )
        self._free = workers + queue
        # Verified if there is no account, so that the response time does not reveal its absence.
        self._dummy_hash = self._argon2.hash("no account has this password")

    async def hash(self, password: str) -> str:
        """Return the PHC string of a password. Raises RateLimited if the queue is full."""
        return await self._run(lambda: self._argon2.hash(normalise_password(password)))

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Return whether the password matches. A hash of None (no account) takes as long."""
        return await self._run(lambda: self._verify(password_hash, password))

    def require_room(self) -> None:
        """Raise RateLimited if the queue is full. Called first, it saves other work."""
        if self._free <= 0:
            raise RateLimited("too many logins at once; try again", timedelta(seconds=1))

    def needs_rehash(self, password_hash: str) -> bool:
        """Return whether the hash was made with another profile than the present one."""
        return self._argon2.check_needs_rehash(password_hash)

    def close(self) -> None:
        """Wait for running hashes and accept no more."""
        self._pool.shutdown(cancel_futures=True)

    def _verify(self, password_hash: str | None, password: str) -> bool:
        try:
            self._argon2.verify(password_hash or self._dummy_hash, normalise_password(password))
        except (VerificationError, InvalidHashError):
            return False
        return password_hash is not None

    async def _run(self, work: Callable[[], T]) -> T:
        self.require_room()
        self._free -= 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        # The place is free once the work has ended, not when its caller is cancelled.
        future.add_done_callback(self._release)
        return await asyncio.shield(future)

    def _release(self, future: asyncio.Future[Any]) -> None:
        self._free += 1
        if not future.cancelled():
            future.exception()  # retrieved, in case the caller has gone
