"""Second factors of users: one method for each statement or transaction.

Owns that a code is accepted once, however many replicas are shown it, and that
`users.second_factor` says whether there is a factor. Knows no rules: the caller decides.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from auth_service import audit
from auth_service.db import rows
from auth_service.db.audit import write_audit
from auth_service.db.executor import Executor
from auth_service.db.login_attempts import SHORTEST_WAIT
from auth_service.db.sessions import require_user
from auth_service.errors import AlreadyExists, NotFound, TooManyFactors
from auth_service.models import Factor, User

if TYPE_CHECKING:
    from auth_service.db.pool import Connection

__all__ = ["MAX_FACTORS", "FactorStore"]

MAX_FACTORS = 10


class FactorStore(Executor):
    """The second factors and recovery codes of users."""

    async def reserve_factor_attempt(
        self, user_id: UUID, now: datetime, burst: int, refill: timedelta
    ) -> tuple[User | None, list[Factor], timedelta | None]:
        """Use one of `burst` attempts of a user, as `reserve_login_attempt` does.

        Also returns the factors of the user.
        """
        row = await self._row("reserve_factor_attempt", user_id, now, burst, refill)
        user = rows.user(row) if row and row["id"] else None
        factors = rows.factors_of(row) if row and user else []
        wait: timedelta | None = row["wait"] if row else None
        return user, factors, None if wait is None else max(wait, SHORTEST_WAIT)

    async def list_factors(self, user_id: UUID) -> list[Factor]:
        """Return the factors of a user, oldest first."""
        return [rows.factor(row) for row in await self._rows("list_factors", user_id)]

    async def count_recovery_codes(self, user_id: UUID) -> int:
        """Return how many recovery codes a user has left."""
        row = await self._row("count_recovery_codes", user_id)
        return row[0] if row else 0

    async def use_totp_step(self, factor: Factor, step: int, now: datetime) -> bool:
        """Accept the code of a time step; False if it, or a later one, was accepted before."""
        row = await self._durable_row("use_totp_step", factor.user_id, factor.id, step, now)
        return row is not None

    async def use_recovery_code(self, user_id: UUID, code_hash: bytes, now: datetime) -> bool:
        """Accept a recovery code, which ends with it; False if the user has no such code."""
        written = audit.row("recovery_code.used", now, user_id=user_id)
        return await self._durable_row("use_recovery_code", user_id, code_hash, written) is not None

    async def find_passkey(self, credential_id: bytes) -> Factor | None:
        """Return a passkey by what browsers call it."""
        row = await self._row("find_passkey", credential_id)
        return rows.factor(row) if row else None

    async def use_passkey(
        self, factor: Factor, counter: int, challenge_id: UUID, expires_at: datetime, now: datetime
    ) -> bool:
        """Accept the answer of a passkey to a challenge, until that expires.

        False if the challenge was answered before, or if the counter did not increase.
        """
        row = await self._durable_row(
            "use_passkey", factor.user_id, factor.id, counter, now, str(factor.user_id),
            challenge_id.bytes, expires_at,
        )  # fmt: skip
        return row is not None

    async def add_factor(
        self, factor: Factor, recovery_codes: Sequence[bytes] = (), *, first: bool = False
    ) -> bool:
        """Add a factor, and the hashes of recovery codes if the user has none.

        Returns whether the codes were added. With `first` nothing is added to a user who has a
        factor: raises TooManyFactors. Raises NotFound, TooManyFactors beyond MAX_FACTORS, and
        AlreadyExists for a factor, or a passkey, that was added before.
        """
        user_id = factor.user_id
        async with self._transaction() as connection:
            await require_user(connection, "lock_user", user_id)
            if await connection.fetchrow(self._sql["note_second_factor"], user_id, first) is None:
                raise TooManyFactors("the user has a second factor already")
            if await connection.fetchval(self._sql["count_factors"], user_id) >= MAX_FACTORS:
                raise TooManyFactors(f"the user has {MAX_FACTORS} second factors; delete one first")
            try:
                await connection.execute(self._sql["add_factor"], *rows.factor_arguments(factor))
            except asyncpg.UniqueViolationError as error:
                raise AlreadyExists("this factor was added before") from error
            await self._audit(connection, "factor.added", user_id, factor.created_at)
            left = await connection.fetchval(self._sql["count_recovery_codes"], user_id)
            if left or not recovery_codes:
                return False
            await connection.execute(self._sql["add_recovery_codes"], user_id, recovery_codes)
            return True

    async def delete_factor(self, user_id: UUID, factor_id: UUID, now: datetime) -> None:
        """Delete a factor, and the recovery codes with the last one. Raises NotFound."""
        async with self._transaction() as connection:
            await require_user(connection, "lock_user", user_id)
            if await connection.fetchrow(self._sql["delete_factor"], user_id, factor_id) is None:
                raise NotFound("no such factor")
            if await connection.fetchrow(self._sql["note_no_second_factor"], user_id) is not None:
                await connection.execute(self._sql["delete_recovery_codes"], user_id)
            await self._audit(connection, "factor.deleted", user_id, now)

    async def reset_factors(self, user_id: UUID, now: datetime) -> None:
        """Delete all factors and recovery codes of a user. Raises NotFound."""
        async with self._transaction() as connection:
            await require_user(connection, "lock_user", user_id)
            for name in ("delete_factors", "delete_recovery_codes", "note_no_second_factor"):
                await connection.execute(self._sql[name], user_id)
            await self._audit(connection, "factors.reset", user_id, now)

    async def replace_recovery_codes(
        self, user_id: UUID, code_hashes: Sequence[bytes], now: datetime
    ) -> None:
        """Replace the recovery codes of a user. Raises NotFound."""
        async with self._transaction() as connection:
            await require_user(connection, "lock_user", user_id)
            await connection.execute(self._sql["delete_recovery_codes"], user_id)
            await connection.execute(self._sql["add_recovery_codes"], user_id, code_hashes)
            await self._audit(connection, "recovery_codes.generated", user_id, now)

    async def _audit(
        self, connection: "Connection", event: str, user_id: UUID, now: datetime
    ) -> None:
        await write_audit(connection, event, now, user_id=user_id)
