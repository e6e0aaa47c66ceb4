"""A password that has to be replaced at the next login, and is replaced by that login.

Owns that the demand is told only to who knows the password, and that the new one is another one.
"""

import asyncio

from auth_service.clock import Clock
from auth_service.core.password_policy import PasswordPolicy
from auth_service.core.passwords import PasswordHasher
from auth_service.core.revocation import Announce
from auth_service.core.session_policy import SessionPolicy
from auth_service.db.store import Store
from auth_service.errors import (
    InvalidArgument,
    InvalidCredentials,
    NotFound,
    PasswordChangeRequired,
    WeakPassword,
)
from auth_service.models import User

__all__ = ["PasswordChange"]

_FIELD = "new_password"


class PasswordChange:
    """Checks and replaces the password of a user who has just proved it."""

    def __init__(
        self,
        store: Store,
        hasher: PasswordHasher,
        passwords: PasswordPolicy,
        policy: SessionPolicy,
        announce: Announce,
        clock: Clock,
    ) -> None:
        self._store = store
        self._hasher = hasher
        self._passwords = passwords
        self._policy = policy
        self._announce = announce
        self._clock = clock

    async def check(self, user: User, new_password: str) -> None:
        """Raise PasswordChangeRequired if a new password is missing, WeakPassword if it is weak.

        InvalidArgument for one that nobody asked for: whoever wants to change the password of a
        session that is live has AccountService.ChangePassword.
        """
        if not user.password_change_required:
            if new_password:
                raise InvalidArgument(_FIELD, "must be empty: the password need not be changed")
            return
        if not new_password:
            raise PasswordChangeRequired
        await asyncio.to_thread(
            self._passwords.check,
            new_password,
            user.identifiers,
            field=_FIELD,
            second_factor=user.second_factor,
        )
        if await self._hasher.verify(user.password_hash, new_password):
            raise WeakPassword(_FIELD, "is the present password; choose another one")

    async def replace(self, user: User, new_password: str) -> User:
        """Replace the password that was proved, end all sessions, and return the user as it is now.

        Raises InvalidCredentials if the user was signed out or got another password since.
        """
        hashed = await self._hasher.hash(new_password)
        present = await self._store.get_user(user.id)
        if present is None or present.revoked_before != user.revoked_before:
            raise InvalidCredentials
        now = self._clock()
        revocation = self._policy.user_revocation(str(user.id), now)
        try:
            recorded = await self._store.change_password(
                user.id, hashed, revocation, now, only_if=user.password_hash
            )
        except NotFound as error:
            raise InvalidCredentials from error
        self._announce(recorded)
        if (changed := await self._store.get_user(user.id)) is None:
            raise InvalidCredentials
        return changed
