"""AdminService: takes a request, calls the core, fills the response.

Owns the paging of ListUsers and the log entry of each change, which names the admin.
"""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

import structlog
from authn.v1 import admin_service_pb2 as pb
from authn.v1 import admin_service_pb2_grpc

from auth_service import base64url
from auth_service.clock import Clock
from auth_service.core import fields
from auth_service.core.accounts import Accounts, require_admin
from auth_service.core.shielded import Shielded
from auth_service.core.signing_keys import SigningKeys
from auth_service.errors import ConfigError, InvalidArgument
from auth_service.models import StoredKey, User
from auth_service.rpc.callers import Callers
from auth_service.rpc.dispatcher import Context
from auth_service.rpc.timestamps import timestamp
from auth_service.tokens.access import AccessClaims
from auth_service.tokens.keys import ALGORITHMS

__all__ = ["AdminServicer"]

log = structlog.get_logger(__name__)

PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000


class AdminServicer(admin_service_pb2_grpc.AdminServiceServicer):
    """Manages users, service accounts and keys, for callers with the admin role."""

    def __init__(
        self,
        accounts: Accounts,
        keys: SigningKeys,
        announce_keys: Callable[[], object],
        callers: Callers,
        shielded: Shielded,
        clock: Clock,
    ) -> None:
        """`announce_keys` is called after a new key has been committed."""
        self._accounts = accounts
        self._keys = keys
        self._announce_keys = announce_keys
        self._callers = callers
        self._shielded = shielded
        self._clock = clock

    async def CreateUser(
        self, request: pb.CreateUserRequest, context: Context
    ) -> pb.CreateUserResponse:
        """Make an account for a person."""
        caller = self._admin(context)
        user = await self._accounts.create_user(
            request.identifiers, request.password, roles=request.roles, scope=request.scope
        )
        _log("CreateUser", caller, user_id=str(user.id))
        return pb.CreateUserResponse(user=_user(user))

    async def GetUser(self, request: pb.GetUserRequest, context: Context) -> pb.GetUserResponse:
        """Return one user."""
        self._admin(context)
        user = await self._accounts.get_user(str(_user_id(request.user_id)))
        return pb.GetUserResponse(user=_user(user))

    async def ListUsers(
        self, request: pb.ListUsersRequest, context: Context
    ) -> pb.ListUsersResponse:
        """Return a page of users, ordered by id."""
        self._admin(context)
        size = _page_size(request)
        found = await self._accounts.list_users(size + 1, _page_start(request))
        page = found[:size]
        following = base64url.encode(page[-1].id.bytes) if len(found) > size else ""
        return pb.ListUsersResponse(users=map(_user, page), next_page_token=following)

    async def SetUserDisabled(
        self, request: pb.SetUserDisabledRequest, context: Context
    ) -> pb.SetUserDisabledResponse:
        """Disable a user and end its sessions, or enable the user."""
        caller, user_id = self._admin(context), _user_id(request.user_id)
        await self._shielded.run(self._accounts.set_disabled(user_id, request.disabled))
        _log("SetUserDisabled", caller, user_id=str(user_id), disabled=request.disabled)
        return pb.SetUserDisabledResponse()

    async def SetUserPassword(
        self, request: pb.SetUserPasswordRequest, context: Context
    ) -> pb.SetUserPasswordResponse:
        """Replace a user's password and end its sessions."""
        caller, user_id = self._admin(context), _user_id(request.user_id)
        await self._shielded.run(self._accounts.set_password(user_id, request.password))
        _log("SetUserPassword", caller, user_id=str(user_id))
        return pb.SetUserPasswordResponse()

    async def CreateServiceAccount(
        self, request: pb.CreateServiceAccountRequest, context: Context
    ) -> pb.CreateServiceAccountResponse:
        """Make an account for a service."""
        caller = self._admin(context)
        client_id = fields.identifier(request.client_id, "client_id")
        secret = await self._accounts.create_service_account(
            client_id, roles=request.roles, scope=request.scope
        )
        _log("CreateServiceAccount", caller, client_id=client_id)
        return pb.CreateServiceAccountResponse(client_id=client_id, client_secret=secret)

    async def ListKeys(self, request: pb.ListKeysRequest, context: Context) -> pb.ListKeysResponse:
        """Return the signing keys without their private parts."""
        self._admin(context)
        now = self._clock()
        stored = [_key(key, now) for key in await self._keys.stored()]
        if (given := self._keys.configured) is not None:
            first = pb.SigningKey(kid=given.kid, algorithm=given.algorithm, state="configured")
            stored.insert(0, first)
        return pb.ListKeysResponse(keys=stored)

    async def RotateKeys(
        self, request: pb.RotateKeysRequest, context: Context
    ) -> pb.RotateKeysResponse:
        """Make a new signing key."""
        caller = self._admin(context)
        key = await self._shielded.run(self._rotate(self._algorithm(request)))
        _log("RotateKeys", caller, kid=key.kid, algorithm=key.algorithm)
        return pb.RotateKeysResponse(key=_key(key, key.created_at))

    async def _rotate(self, algorithm: str) -> StoredKey:
        key = await self._keys.rotate(algorithm)
        self._announce_keys()
        return key

    def _admin(self, context: Context) -> AccessClaims:
        caller = self._callers.require(context)
        require_admin(caller)
        return caller

    def _algorithm(self, request: pb.RotateKeysRequest) -> str:
        if request.algorithm not in ("", *ALGORITHMS):
            raise InvalidArgument(
                "algorithm",
                f"must be one of {', '.join(ALGORITHMS)}, or empty for the active key's algorithm",
            )
        try:
            return self._keys.next_algorithm(request.algorithm)
        except ConfigError as error:  # its text is for operators; an admin is one
            raise InvalidArgument("algorithm", error.text) from error


def _log(call: str, caller: AccessClaims, **what: object) -> None:
    log.info("admin", call=call, by=caller.subject, by_session=caller.session_id or None, **what)


def _user_id(text: str) -> UUID:
    return fields.uuid(text, "user_id")


def _page_size(request: pb.ListUsersRequest) -> int:
    if request.page_size < 0:
        raise InvalidArgument("page_size", f"must be 0 (= {PAGE_SIZE}) or more")
    return min(request.page_size or PAGE_SIZE, MAX_PAGE_SIZE)


def _page_start(request: pb.ListUsersRequest) -> UUID | None:
    """Return the last user of the previous page, None for the first page."""
    if not request.page_token:
        return None
    try:
        return UUID(bytes=base64url.decode(request.page_token))
    except ValueError as error:
        raise InvalidArgument(
            "page_token", "must be the next_page_token of the previous page, or empty"
        ) from error


def _user(user: User) -> pb.User:
    return pb.User(
        user_id=str(user.id),
        identifiers=user.identifiers,
        roles=user.roles,
        scope=user.scope,
        disabled=user.disabled,
        created_at=timestamp(user.created_at),
    )


def _key(key: StoredKey, now: datetime) -> pb.SigningKey:
    return pb.SigningKey(
        kid=key.kid,
        algorithm=key.algorithm,
        state=key.state(now).value,
        created_at=timestamp(key.created_at),
    )
