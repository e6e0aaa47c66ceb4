"""The rules of users' accounts: create, disable, change the password, end the sessions.

Also owns who may do what: a caller is a user, for its own account, or holds the admin role.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID, uuid4

from auth_service.clock import Clock
from auth_service.core import fields
from auth_service.core.credentials import Credentials
from auth_service.core.identifiers import new_identifiers
from auth_service.core.password_policy import PasswordPolicy, normalise_password
from auth_service.core.passwords import PasswordHasher
from auth_service.core.revocation import ADMIN_ROLE, Announce, Revocations
from auth_service.core.service_accounts import ServiceAccounts
from auth_service.core.session_policy import SessionPolicy
from auth_service.core.throttle import LoginOrigin
from auth_service.core.user_import import UserImport
from auth_service.core.user_registry import UserRegistry
from auth_service.core.workload_registry import WorkloadRegistry
from auth_service.db.store import Store
from auth_service.errors import AlreadyExists, InvalidArgument, NotFound, PermissionDenied
from auth_service.models import Session, User
from auth_service.tokens.access import AccessClaims

MAX_LISTED_SESSIONS = 1000
"""The newest of a caller's own. With the longest labels they still fit into a message of 4 MiB."""


class Accounts:
    """Changes accounts; `services` are those of services, and `workloads` what opens them.

    `imports` brings users of another system in.
    `users` changes and lists those of people for an administrator.

    `announce` is called with each revocation once it is committed.
    """

    def __init__(
        self,
        store: Store,
        hasher: PasswordHasher,
        policy: SessionPolicy,
        announce: Announce,
        clock: Clock,
        *,
        passwords: PasswordPolicy,
        credentials: Credentials | None = None,
    ) -> None:
        """Without `credentials`, as in a command, nobody can change a password of their own."""
        self._store = store
        self._hasher = hasher
        self._policy = policy
        self._announce = announce
        self._clock = clock
        self._passwords = passwords
        self._credentials = credentials
        self._revocations = Revocations(store, policy, announce, clock)
        self.services = ServiceAccounts(store, self._revocations, clock)
        self.workloads = WorkloadRegistry(store, clock)
        self.imports = UserImport(store, clock)
        self.users = UserRegistry(store, self._revocations, policy, announce, clock)

    async def create_user(
        self,
        identifiers: Sequence[str],
        password: str,
        *,
        roles: Sequence[str] = (),
        scope: Sequence[str] = (),
        password_change_required: bool = False,
        request_id: str = "",
    ) -> User:
        """Make an account, or return the one that the same request made before.

        Raises AlreadyExists if an identifier is taken.
        """
        normal = new_identifiers(identifiers)
        user = User(
            id=uuid4(),
            identifiers=normal,
            password_hash="",
            roles=fields.labels(roles, "roles"),
            scope=fields.scope(scope),
            disabled=False,
            created_at=self._clock(),
            password_change_required=password_change_required,
        )
        request = fields.request_id(request_id)
        if request is not None and (made := await self._made_by(request, user)) is not None:
            return made
        await self._check_password(password, normal)
        user = replace(user, password_hash=await self._hasher.hash(password))
        try:
            await self._store.create_user(user, request, _digest(user))
        except AlreadyExists:
            if request is not None and (made := await self._made_by(request, user)) is not None:
                return made
            raise
        return user

    async def _made_by(self, request_id: str, asked: User) -> User | None:
        found = await self._store.find_requested_user(request_id)
        if found is None:
            return None
        made, digest = found
        if digest != _digest(asked):
            raise InvalidArgument(
                "request_id", "belongs to another creation; make up a new one for each user"
            )
        return made

    async def get_user(self, user: str) -> User:
        """Return the user with this id or identifier. Raises NotFound."""
        try:
            found = await self._store.get_user(UUID(user))
        except ValueError:
            found = await self._store.find_user(fields.identifier(user))
        if found is None:
            raise NotFound("no such user")
        return found

    async def set_disabled(self, user_id: UUID, disabled: bool) -> None:
        """Disable a user and end the user's sessions, or enable the user."""
        now = self._clock()
        revocation = self._policy.user_revocation(str(user_id), now) if disabled else None
        recorded = await self._store.set_user_disabled(user_id, disabled, revocation, now)
        if recorded is not None:
            self._announce(recorded)

    async def set_password(
        self, user_id: UUID, password: str, *, change_required: bool = False
    ) -> None:
        """Replace a user's password and end its sessions.

        With `change_required` the next login has to replace it again.
        """
        of = await self._store.get_user(user_id)
        if of is None:  # the password is checked all the same
            await self._check_password(password, ())
            raise NotFound("no such user")
        await self._check_password(password, of.identifiers, second_factor=of.second_factor)
        hashed = await self._hasher.hash(password)
        now = self._clock()
        revocation = self._policy.user_revocation(str(user_id), now)
        recorded = await self._store.change_password(
            user_id, hashed, revocation, now, change_required=change_required
        )
        self._announce(recorded)

    async def _check_password(
        self,
        password: str,
        identifiers: Sequence[str],
        field: str = "password",
        *,
        second_factor: bool = False,
    ) -> None:
        """Raise WeakPassword. It runs in a thread, for the first call reads the blocklist."""
        await asyncio.to_thread(
            self._passwords.check,
            password,
            identifiers,
            field=field,
            second_factor=second_factor,
        )

    # By the user of the account

    async def own_account(self, caller: AccessClaims) -> User:
        """Return the caller's account. Raises PermissionDenied for a service account."""
        user_id, _ = own_ids(caller)
        return await self.get_user(str(user_id))

    async def own_sessions(self, caller: AccessClaims) -> list[Session]:
        """Return the caller's live sessions, newest first, at most MAX_LISTED_SESSIONS."""
        user_id, _ = own_ids(caller)
        return await self._store.list_sessions(user_id, self._clock(), MAX_LISTED_SESSIONS)

    async def change_password(self, caller: AccessClaims, current: str, new: str) -> None:
        """Replace the caller's password and end all of its sessions except the present one.

        Each try counts as a login attempt of the session, so a stolen access token does not help
        to guess the password, and nobody else can keep the caller from it. Raises
        InvalidCredentials, RateLimited, WeakPassword, and PermissionDenied for a service account.
        """
        user_id, session_id = own_ids(caller)
        if not current:
            raise InvalidArgument("current_password", "is required")
        normalise_password(current, "current_password")
        own = await self.get_user(str(user_id))
        await self._check_password(
            new, own.identifiers, "new_password", second_factor=own.second_factor
        )
        if self._credentials is None:
            raise AssertionError("these accounts were made without credentials")
        origin = LoginOrigin(session=(user_id, session_id))
        user, taken = await self._credentials.check_password(own.identifiers[0], current, origin)
        await self._credentials.give_back(taken)
        hashed = await self._hasher.hash(new)
        now = self._clock()
        revocation = self._policy.user_revocation(str(user_id), now)
        for recorded in await self._store.change_own_password(
            user, session_id, hashed, revocation, now
        ):
            self._announce(recorded)

    async def reset_factors(self, user_id: UUID) -> None:
        """Remove all second factors and recovery codes of a user. Raises NotFound."""
        await self._store.reset_factors(user_id, self._clock())

    # Sessions

    async def list_sessions(self, user_id: UUID) -> list[Session]:
        """Return a user's live sessions, newest first."""
        return await self._store.list_sessions(user_id, self._clock())

    async def end_session(self, session_id: UUID) -> None:
        """End a session; one that has ended before stays as it is. Raises NotFound."""
        session = await self._store.find_session(session_id)
        if session is None:
            raise NotFound("no such session")
        await self._revocations.end_session(session.user_id, session_id, "session.revoked")

    async def end_sessions(self, user_id: UUID) -> None:
        """End every session of a user. Raises NotFound."""
        await self._revocations.end_sessions(user_id)


def _digest(user: User) -> bytes:
    """Return what tells whether two requests ask for the same user; the password is not in it."""
    asked = (user.identifiers, user.roles, user.scope, user.password_change_required)
    return hashlib.sha256(repr(asked).encode()).digest()


def require_admin(caller: AccessClaims) -> None:
    """Raise PermissionDenied unless the caller, a user or a service account, is an admin."""
    if ADMIN_ROLE not in caller.roles:
        raise PermissionDenied(f"this needs an access token with the role {ADMIN_ROLE}")


def own_ids(caller: AccessClaims) -> tuple[UUID, UUID]:
    """Return the ids of the calling user and session."""
    try:
        return UUID(caller.subject), UUID(caller.session_id)
    except ValueError as error:  # a service account, or a token made by a holder of the shared key
        raise PermissionDenied(
            "a service account has no account of this kind: call with a user's access token"
        ) from error
