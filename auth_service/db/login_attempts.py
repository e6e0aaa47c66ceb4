"""Login attempts: what each takes from the buckets of the throttle, and gives back.

Owns the two statements. Which buckets there are, and for whom, the caller decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from auth_service.db import rows
from auth_service.db.executor import Executor
from auth_service.models import Taken, User

__all__ = ["SHORTEST_WAIT", "Bucket", "LoginAttemptStore", "Reserved", "Shown"]

SHORTEST_WAIT = timedelta(milliseconds=1)


class Bucket(NamedTuple):
    """A bucket of `burst` attempts; one of them is regained each `refill`."""

    slot: int
    """Its row. Attempts take from buckets in the order of their slots, or two could deadlock."""
    burst: int
    refill: timedelta


class Shown(NamedTuple):
    """What the caller shows of an earlier login to the account, already verified."""

    slot: int
    """The bucket that it opens."""
    user_id: UUID
    session_id: UUID
    """A session that is live; for a device token the session that it was made with."""
    generation: int | None = None
    """Of a refresh token, which must be the current one or the one before."""
    issued_at: datetime | None = None
    """Of a device token, which ends when all sessions of the user are ended."""


@dataclass(frozen=True, slots=True)
class Reserved:
    """The outcome of a reservation."""

    user: User | None
    """The user with the identifier; None as well if nothing was reserved."""
    wait: timedelta | None
    """None if an attempt was reserved, else the time until the next one."""
    bucket: int
    """The slot that has the fewest attempts left: what refused, if something did."""
    own: int | None
    """The slot of the bucket that belongs to the caller; None for a stranger."""
    decoy: str | None = field(default=None, repr=False)
    """The password hash of another user, to spend time on, if nobody has the identifier."""


class LoginAttemptStore(Executor):
    """The buckets of login attempts."""

    async def reserve_login_attempt(
        self,
        identifier: str,
        now: datetime,
        strangers: Sequence[Bucket | None],
        shown: Sequence[Shown] = (),
        own_burst: int = 1,
        own_refill: timedelta = SHORTEST_WAIT,
    ) -> Reserved:
        """Take an attempt from each of the three buckets of a stranger, or from none of them.

        If something that is shown belongs to the account with the identifier, the attempt is taken
        from the bucket that it opens instead, which has `own_burst` and `own_refill`.
        """
        slots, bursts, refills = zip(
            *((each or (None, None, None)) for each in strangers), strict=True
        )
        columns = tuple(zip(*shown, strict=True)) or ((), (), (), (), ())
        row = await self._row(
            "reserve_login_attempt", identifier, now, slots, bursts, refills, *columns,
            own_burst, own_refill,
        )  # fmt: skip
        if row is None:
            raise AssertionError("reserve_login_attempt returns one row")
        user = rows.user(row) if row["id"] else None
        wait: timedelta | None = None if row["reserved"] else max(row["wait"], SHORTEST_WAIT)
        return Reserved(user, wait, row["bucket"], row["own"], row["decoy"])

    async def give_login_attempts_back(self, taken: Sequence[Taken]) -> None:
        """Give back what an attempt took."""
        slots, amounts = [each.slot for each in taken], [each.amount for each in taken]
        await self._execute("give_login_attempts_back", slots, amounts)
