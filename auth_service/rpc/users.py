"""AdminService's methods for users: take a request, call the core, fill the response.

Owns what an update mask means.
"""

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from authn.v1 import admin_service_pb2 as pb

from auth_service.core import fields
from auth_service.core.accounts import Accounts
from auth_service.core.shielded import Shielded
from auth_service.errors import InvalidArgument
from auth_service.models import User
from auth_service.rpc.account import session_message
from auth_service.rpc.admin_callers import AdminCallers, log_change
from auth_service.rpc.dispatcher import Context
from auth_service.rpc.paging import page_size, page_start, page_token
from auth_service.rpc.timestamps import moment, timestamp

__all__ = ["UserMethods", "user_id_of"]

_UPDATABLE = ("roles", "scope")
_DISABLED = {
    pb.USER_STATE_UNSPECIFIED: None,
    pb.USER_STATE_ENABLED: False,
    pb.USER_STATE_DISABLED: True,
}
_END_TOKENS = {
    pb.ISSUED_TOKENS_UNSPECIFIED: True,
    pb.ISSUED_TOKENS_END: True,
    pb.ISSUED_TOKENS_KEEP: False,
}


class UserMethods:
    """Manages users, for callers with the admin role."""

    _admins: AdminCallers
    _accounts: Accounts
    _shielded: Shielded

    async def CreateUser(
        self, request: pb.CreateUserRequest, context: Context
    ) -> pb.CreateUserResponse:
        """Make an account for a person."""
        caller = self._admins.require(context)
        user = await self._accounts.create_user(
            request.identifiers,
            request.password,
            roles=request.roles,
            scope=request.scope,
            password_change_required=request.password_change_required,
            request_id=request.request_id,
        )
        log_change("CreateUser", caller, user_id=str(user.id))
        return pb.CreateUserResponse(user=_user(user))

    async def GetUser(self, request: pb.GetUserRequest, context: Context) -> pb.GetUserResponse:
        """Return one user."""
        self._admins.require(context)
        user = await self._accounts.get_user(str(user_id_of(request.user_id)))
        return pb.GetUserResponse(user=_user(user))

    async def ListUsers(
        self, request: pb.ListUsersRequest, context: Context
    ) -> pb.ListUsersResponse:
        """Return a page of users, ordered by id."""
        self._admins.require(context)
        size = page_size(request.page_size)
        found = await self._accounts.users.list(
            size + 1,
            page_start(request.page_token, lambda key: UUID(bytes=key)),
            identifier_prefix=request.identifier_prefix,
            role=request.role,
            disabled=_one_of(_DISABLED, request.state, "state"),
        )
        page = found[:size]
        following = page_token(page[-1].id.bytes) if len(found) > size else ""
        return pb.ListUsersResponse(users=map(_user, page), next_page_token=following)

    async def UpdateUser(
        self, request: pb.UpdateUserRequest, context: Context
    ) -> pb.UpdateUserResponse:
        """Replace roles or scopes of a user."""
        caller, given = self._admins.require(context), request.user
        user_id = fields.uuid(given.user_id, "user.user_id")
        mask = _masked(request.update_mask.paths, given)
        user = await self._shielded.run(
            self._accounts.users.update(
                user_id,
                roles=fields.labels(given.roles, "user.roles") if "roles" in mask else None,
                scope=fields.scope(given.scope, "user.scope") if "scope" in mask else None,
                end_tokens=bool(_one_of(_END_TOKENS, request.issued_tokens, "issued_tokens")),
            )
        )
        log_change("UpdateUser", caller, user_id=str(user_id), fields=mask)
        return pb.UpdateUserResponse(user=_user(user))

    async def AddUserIdentifier(
        self, request: pb.AddUserIdentifierRequest, context: Context
    ) -> pb.AddUserIdentifierResponse:
        """Let a user log in with a further identifier."""
        caller, user_id = self._admins.require(context), user_id_of(request.user_id)
        user = await self._shielded.run(
            self._accounts.users.add_identifier(user_id, request.identifier)
        )
        log_change("AddUserIdentifier", caller, user_id=str(user_id))
        return pb.AddUserIdentifierResponse(user=_user(user))

    async def RemoveUserIdentifier(
        self, request: pb.RemoveUserIdentifierRequest, context: Context
    ) -> pb.RemoveUserIdentifierResponse:
        """Take an identifier from a user."""
        caller, user_id = self._admins.require(context), user_id_of(request.user_id)
        user = await self._shielded.run(
            self._accounts.users.remove_identifier(user_id, request.identifier)
        )
        log_change("RemoveUserIdentifier", caller, user_id=str(user_id))
        return pb.RemoveUserIdentifierResponse(user=_user(user))

    async def DeleteUser(
        self, request: pb.DeleteUserRequest, context: Context
    ) -> pb.DeleteUserResponse:
        """Delete a user and end its sessions."""
        caller, user_id = self._admins.require(context), user_id_of(request.user_id)
        await self._shielded.run(self._accounts.users.delete(user_id))
        log_change("DeleteUser", caller, user_id=str(user_id))
        return pb.DeleteUserResponse()

    async def SetUserDisabled(
        self, request: pb.SetUserDisabledRequest, context: Context
    ) -> pb.SetUserDisabledResponse:
        """Disable a user and end its sessions, or enable the user."""
        caller, user_id = self._admins.require(context), user_id_of(request.user_id)
        await self._shielded.run(self._accounts.set_disabled(user_id, request.disabled))
        log_change("SetUserDisabled", caller, user_id=str(user_id), disabled=request.disabled)
        return pb.SetUserDisabledResponse()

    async def SetUserPassword(
        self, request: pb.SetUserPasswordRequest, context: Context
    ) -> pb.SetUserPasswordResponse:
        """Replace a user's password and end its sessions."""
        caller, user_id = self._admins.require(context), user_id_of(request.user_id)
        await self._shielded.run(
            self._accounts.set_password(
                user_id, request.password, change_required=request.change_required
            )
        )
        log_change("SetUserPassword", caller, user_id=str(user_id))
        return pb.SetUserPasswordResponse()

    async def SetUserPasswordChangeRequired(
        self, request: pb.SetUserPasswordChangeRequiredRequest, context: Context
    ) -> pb.SetUserPasswordChangeRequiredResponse:
        """Make the next login of a user replace the password, or take that back."""
        caller, user_id = self._admins.require(context), user_id_of(request.user_id)
        await self._shielded.run(
            self._accounts.users.require_password_change(user_id, request.required)
        )
        log_change(
            "SetUserPasswordChangeRequired", caller, user_id=str(user_id), required=request.required
        )
        return pb.SetUserPasswordChangeRequiredResponse()

    async def ListUserSessions(
        self, request: pb.ListUserSessionsRequest, context: Context
    ) -> pb.ListUserSessionsResponse:
        """Return a page of the live sessions of a user, ordered by id."""
        self._admins.require(context)
        user_id, size = user_id_of(request.user_id), page_size(request.page_size)
        after = page_start(request.page_token, lambda key: UUID(bytes=key))
        found = await self._accounts.users.sessions(user_id, size + 1, after)
        page = found[:size]
        following = page_token(page[-1].id.bytes) if len(found) > size else ""
        return pb.ListUserSessionsResponse(
            sessions=map(session_message, page), next_page_token=following
        )

    async def RevokeUserSession(
        self, request: pb.RevokeUserSessionRequest, context: Context
    ) -> pb.RevokeUserSessionResponse:
        """End a session of a user."""
        caller, user_id = self._admins.require(context), user_id_of(request.user_id)
        session_id = fields.uuid(request.session_id, "session_id")
        await self._shielded.run(self._accounts.users.end_session(user_id, session_id))
        log_change("RevokeUserSession", caller, user_id=str(user_id), ended_session=str(session_id))
        return pb.RevokeUserSessionResponse()

    async def RevokeUserSessions(
        self, request: pb.RevokeUserSessionsRequest, context: Context
    ) -> pb.RevokeUserSessionsResponse:
        """End the sessions of a user, or those that were begun before a moment."""
        caller, user_id = self._admins.require(context), user_id_of(request.user_id)
        given = request.HasField("begun_before")
        before = moment(request.begun_before, "begun_before") if given else None
        await self._shielded.run(self._accounts.users.end_sessions(user_id, before))
        log_change("RevokeUserSessions", caller, user_id=str(user_id))
        return pb.RevokeUserSessionsResponse()


def user_id_of(text: str) -> UUID:
    """Return the id in the field `user_id`. Raises InvalidArgument."""
    return fields.uuid(text, "user_id")


def _one_of(meanings: Mapping[Any, bool | None], value: int, field: str) -> bool | None:
    if value not in meanings:
        raise InvalidArgument(field, "is not known; this server may be older than the caller")
    return meanings[value]


def _masked(paths: Sequence[str], given: pb.User) -> list[str]:
    """Return the fields that an update replaces (AIP-134)."""
    if not paths:
        paths = [name for name in _UPDATABLE if getattr(given, name)]
    elif list(paths) == ["*"]:
        paths = _UPDATABLE
    if not paths or not set(paths) <= set(_UPDATABLE):
        raise InvalidArgument("update_mask", "must name roles, scope or both")
    return [name for name in _UPDATABLE if name in paths]


def _user(user: User) -> pb.User:
    return pb.User(
        user_id=str(user.id),
        identifiers=user.identifiers,
        roles=user.roles,
        scope=user.scope,
        disabled=user.disabled,
        created_at=timestamp(user.created_at),
        password_change_required=user.password_change_required,
    )
