"""AdminService's method for the import of users.

Takes a stream, calls the core for each message, fills the one response.
"""

from collections.abc import AsyncIterator
from itertools import islice

from authn.v1 import admin_service_pb2 as pb

from auth_service.core.shielded import Shielded
from auth_service.core.user_import import MAX_BATCH, ImportedUser, ImportResult, UserImport
from auth_service.errors import InvalidArgument
from auth_service.rpc.admin_callers import AdminCallers, log_change
from auth_service.rpc.dispatcher import Context
from auth_service.rpc.timestamps import moment

__all__ = ["UserImportMethods"]

MAX_REFUSALS = 1000  # in a response, which then fits into a message of 4 MiB


class UserImportMethods:
    """Imports users, for admins."""

    _admins: AdminCallers
    _imports: UserImport
    _shielded: Shielded

    async def ImportUsers(
        self, requests: AsyncIterator[pb.ImportUsersRequest], context: Context
    ) -> pb.ImportUsersResponse:
        """Make accounts of users of another system."""
        caller = self._admins.require(context)
        response, given = pb.ImportUsersResponse(), 0
        async for request in requests:
            batch = _batch(request, given)
            given += len(batch)
            result = await self._shielded.run(self._imports.add(batch, dry_run=request.dry_run))
            _add(response, result)
        log_change("ImportUsers", caller, created=response.created, refused=response.refused)
        return response


def _batch(request: pb.ImportUsersRequest, start: int) -> list[ImportedUser]:
    if len(request.users) > MAX_BATCH:
        raise InvalidArgument("users", f"must have at most {MAX_BATCH} items in one message")
    return [
        ImportedUser(
            position=start + index,
            identifiers=user.identifiers,
            password_hash=user.password_hash,
            user_id=user.user_id,
            roles=user.roles,
            scope=user.scope,
            disabled=user.disabled,
            created_at=(
                moment(user.created_at, f"users[{index}].created_at")
                if user.HasField("created_at")
                else None
            ),
        )
        for index, user in enumerate(request.users)
    ]


def _add(response: pb.ImportUsersResponse, result: ImportResult) -> None:
    response.created += result.created
    response.existing += result.existing
    response.refused += len(result.refusals)
    room = MAX_REFUSALS - len(response.refusals)
    for each in islice(result.refusals, room):
        response.refusals.add(position=each.position, field=each.field, problem=each.problem)
