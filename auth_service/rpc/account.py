"""AccountService: takes a request, calls the core, fills the response."""

from authn.v1 import account_service_pb2 as pb
from authn.v1 import account_service_pb2_grpc

from auth_service.core.accounts import Accounts
from auth_service.core.own_factors import OwnFactors
from auth_service.core.shielded import Shielded
from auth_service.models import Session, User
from auth_service.rpc.callers import Callers
from auth_service.rpc.dispatcher import Context
from auth_service.rpc.factors import FactorMethods
from auth_service.rpc.timestamps import timestamp

__all__ = ["AccountServicer", "session_message"]


class AccountServicer(FactorMethods, account_service_pb2_grpc.AccountServiceServicer):
    """GetAccount, ListSessions, ChangePassword, and the methods for second factors."""

    def __init__(
        self, accounts: Accounts, factors: OwnFactors, callers: Callers, shielded: Shielded
    ) -> None:
        self._accounts = accounts
        self._factors = factors
        self._callers = callers
        self._shielded = shielded

    async def GetAccount(
        self, request: pb.GetAccountRequest, context: Context
    ) -> pb.GetAccountResponse:
        """Return the caller's account."""
        user = await self._accounts.own_account(self._callers.require(context))
        return pb.GetAccountResponse(account=_account(user))

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: Context
    ) -> pb.ListSessionsResponse:
        """Return the caller's live sessions."""
        caller = self._callers.require(context)
        found = await self._accounts.own_sessions(caller)
        return pb.ListSessionsResponse(
            sessions=[session_message(session, caller.session_id) for session in found]
        )

    async def ChangePassword(
        self, request: pb.ChangePasswordRequest, context: Context
    ) -> pb.ChangePasswordResponse:
        """Replace the caller's password and end its other sessions."""
        caller = self._callers.require(context)
        await self._shielded.run(
            self._accounts.change_password(caller, request.current_password, request.new_password)
        )
        return pb.ChangePasswordResponse()


def _account(user: User) -> pb.Account:
    return pb.Account(
        user_id=str(user.id),
        identifiers=user.identifiers,
        roles=user.roles,
        scope=user.scope,
        created_at=timestamp(user.created_at),
    )


def session_message(session: Session, current: str = "") -> pb.Session:
    """Return what a client is told of a session; `current` is the id of its own one."""
    return pb.Session(
        session_id=str(session.id),
        client_id=session.client_id,
        device_label=session.device_label,
        created_at=timestamp(session.created_at),
        refreshed_at=timestamp(session.refreshed_at),
        expires_at=timestamp(session.refresh_expires_at),
        current=str(session.id) == current,
    )
