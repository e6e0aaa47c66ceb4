"""Hashes of passwords: argon2id, off the event loop.

Hashing runs in a bounded pool of threads (argon2 releases the GIL). What exceeds the pool and its
queue is refused at once, so a flood of logins never slows other calls.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from argon2 import PasswordHasher as Argon2
from argon2.exceptions import InvalidHashError

from auth_service.core import foreign_hashes
from auth_service.core.password_policy import normalise_password
from auth_service.errors import RateLimited

_NICENESS = 10  # of 0 to 19: a tenth of the event loop's weight when both compete for one core

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Argon2Profile:
    """Cost of one hash: memory, passes and lanes."""

    memory_kib: int
    time_cost: int
    parallelism: int = 1


PROFILES = {
    # RFC 9106 section 4: the first recommendation, and the second for where memory is scarce.
    "rfc9106-first": Argon2Profile(2 * 1024 * 1024, 1, 4),
    "rfc9106-second": Argon2Profile(64 * 1024, 3, 4),
    # OWASP Password Storage Cheat Sheet, argon2id: five minima of like strength.
    "owasp-46mib": Argon2Profile(47_104, 1),
    "owasp-19mib": Argon2Profile(19_456, 2),
    "owasp-12mib": Argon2Profile(12_288, 3),
    "owasp-9mib": Argon2Profile(9_216, 4),
    "owasp-7mib": Argon2Profile(7_168, 5),
}
"""The profiles of AUTH_PASSWORD_PROFILE, by name."""
DEFAULT_PROFILE = "owasp-19mib"


def _let_others_go_first() -> None:
    """Lower the priority of this thread (Linux only): a hash can wait, a Validate should not."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


class PasswordHasher:
    """Hashes and verifies passwords with argon2id (RFC 9106) in a bounded pool."""

    def __init__(
        self, profile: Argon2Profile | None = None, *, workers: int = 0, queue: int = 64
    ) -> None:
        profile = profile or PROFILES[DEFAULT_PROFILE]
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

    async def verify(
        self, password_hash: str | None, password: str, decoy: str | None = None
    ) -> bool:
        """Return whether the password matches. No hash (no account, or no password) takes as long.

        The hash may be one of another system, as `foreign_hashes` accepts it. So that its time does
        not tell that there is an account, `decoy` is verified where there is none.
        """
        return await self._run(lambda: self._verify(password_hash, password, decoy))

    def require_room(self) -> None:
        """Raise RateLimited if the queue is full. Called first, it saves other work."""
        if self._free <= 0:
            raise RateLimited("too many logins at once; try again", timedelta(seconds=1))

    def needs_rehash(self, password_hash: str) -> bool:
        """Return whether the hash was made with another profile than the present one."""
        try:
            return self._argon2.check_needs_rehash(password_hash)
        except InvalidHashError:  # it is of another scheme
            return True

    def close(self) -> None:
        """Wait for running hashes and accept no more."""
        self._pool.shutdown(cancel_futures=True)

    def _verify(self, password_hash: str | None, password: str, decoy: str | None) -> bool:
        # Hashes of other systems may be of the password as it was typed, in whatever form.
        forms = dict.fromkeys((normalise_password(password), password))
        kept = password_hash or decoy or self._dummy_hash
        matches = any(foreign_hashes.verify(kept, form) for form in forms)
        return matches and bool(password_hash)

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
