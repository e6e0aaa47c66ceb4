"""AdminService's methods for audiences: take a request, call the core, fill the response.

This replica knows each change before it answers.
"""

from collections.abc import Awaitable, Sequence
from typing import TypeVar

from authn.v1 import admin_service_pb2 as pb

from auth_service.core import fields
from auth_service.core.audience_registry import AudienceRegistry
from auth_service.core.audiences import Audiences
from auth_service.core.shielded import Shielded
from auth_service.db.audiences import Account
from auth_service.errors import InvalidArgument
from auth_service.models import Audience
from auth_service.rpc.admin_callers import AdminCallers, log_change
from auth_service.rpc.dispatcher import Context
from auth_service.rpc.paging import page_size, page_start, page_token
from auth_service.rpc.timestamps import timestamp

__all__ = ["AudienceMethods"]

Result = TypeVar("Result")

_GIVEN = "audience"
_UPDATABLE = ("scope", "open", "bound")


class AudienceMethods:
    """Manages audiences, for callers with the admin role."""

    _admins: AdminCallers
    _registry: AudienceRegistry
    _audiences: Audiences
    _shielded: Shielded

    async def CreateAudience(
        self, request: pb.CreateAudienceRequest, context: Context
    ) -> pb.CreateAudienceResponse:
        """Register an audience."""
        caller = self._admins.require(context)
        audience = await self._change(
            self._registry.create(
                request.name, scope=request.scope, open_=request.open, bound=request.bound
            )
        )
        log_change("CreateAudience", caller, audience=audience.name)
        return pb.CreateAudienceResponse(audience=_audience(audience))

    async def GetAudience(
        self, request: pb.GetAudienceRequest, context: Context
    ) -> pb.GetAudienceResponse:
        """Return one audience."""
        self._admins.require(context)
        audience = await self._registry.get(_name(request.name))
        return pb.GetAudienceResponse(audience=_audience(audience))

    async def ListAudiences(
        self, request: pb.ListAudiencesRequest, context: Context
    ) -> pb.ListAudiencesResponse:
        """Return a page of audiences, ordered by name."""
        self._admins.require(context)
        size = page_size(request.page_size)
        after = page_start(request.page_token, lambda key: _name(key.decode(), "page_token"))
        found = await self._registry.list(size + 1, after)
        page = found[:size]
        following = page_token(page[-1].name.encode()) if len(found) > size else ""
        return pb.ListAudiencesResponse(audiences=map(_audience, page), next_page_token=following)

    async def UpdateAudience(
        self, request: pb.UpdateAudienceRequest, context: Context
    ) -> pb.UpdateAudienceResponse:
        """Replace the scopes of an audience, and whether it is open or bound."""
        caller, given = self._admins.require(context), request.audience
        name = _name(given.name, f"{_GIVEN}.name")
        mask = _masked(request.update_mask.paths, given)
        audience = await self._change(
            self._registry.update(
                name,
                scope=fields.scope(given.scope, f"{_GIVEN}.scope") if "scope" in mask else None,
                open_=given.open if "open" in mask else None,
                bound=given.bound if "bound" in mask else None,
            )
        )
        log_change("UpdateAudience", caller, audience=name, fields=mask)
        return pb.UpdateAudienceResponse(audience=_audience(audience))

    async def DeleteAudience(
        self, request: pb.DeleteAudienceRequest, context: Context
    ) -> pb.DeleteAudienceResponse:
        """Delete an audience with its grants and its actors."""
        caller, name = self._admins.require(context), _name(request.name)
        await self._change(self._registry.delete(name))
        log_change("DeleteAudience", caller, audience=name)
        return pb.DeleteAudienceResponse()

    async def GrantAudience(
        self, request: pb.GrantAudienceRequest, context: Context
    ) -> pb.GrantAudienceResponse:
        """Let an account have tokens for an audience."""
        caller, name = self._admins.require(context), _name(request.name)
        account = _account(request)
        await self._change(self._registry.grant(name, account))
        log_change("GrantAudience", caller, audience=name, account=str(account))
        return pb.GrantAudienceResponse()

    async def WithdrawAudience(
        self, request: pb.WithdrawAudienceRequest, context: Context
    ) -> pb.WithdrawAudienceResponse:
        """Take a grant back."""
        caller, name = self._admins.require(context), _name(request.name)
        account = _account(request)
        await self._change(self._registry.withdraw(name, account))
        log_change("WithdrawAudience", caller, audience=name, account=str(account))
        return pb.WithdrawAudienceResponse()

    async def SetAudienceActor(
        self, request: pb.SetAudienceActorRequest, context: Context
    ) -> pb.SetAudienceActorResponse:
        """Let a service account exchange tokens for an audience."""
        caller, name, actor = self._admins.require(context), _name(request.name), request.actor
        client_id = fields.identifier(actor.client_id, "actor.client_id")
        roles = fields.labels(actor.subject_roles, "actor.subject_roles")
        audience = await self._change(self._registry.set_actor(name, client_id, roles))
        log_change("SetAudienceActor", caller, audience=name, client_id=client_id)
        return pb.SetAudienceActorResponse(audience=_audience(audience))

    async def RemoveAudienceActor(
        self, request: pb.RemoveAudienceActorRequest, context: Context
    ) -> pb.RemoveAudienceActorResponse:
        """Take that back."""
        caller, name = self._admins.require(context), _name(request.name)
        client_id = fields.identifier(request.client_id, "client_id")
        audience = await self._change(self._registry.remove_actor(name, client_id))
        log_change("RemoveAudienceActor", caller, audience=name, client_id=client_id)
        return pb.RemoveAudienceActorResponse(audience=_audience(audience))

    async def _change(self, work: Awaitable[Result]) -> Result:
        """Make a change and let this replica know it, even if the caller hangs up."""

        async def complete() -> Result:
            result = await work
            await self._audiences.follow()
            return result

        return await self._shielded.run(complete())


def _name(text: str, field: str = "name") -> str:
    if not fields.label(text, field):
        raise InvalidArgument(field, "is required")
    return text


def _account(request: pb.GrantAudienceRequest | pb.WithdrawAudienceRequest) -> Account:
    match request.WhichOneof("account"):
        case "user_id":
            return fields.uuid(request.user_id, "user_id")
        case "client_id":
            return fields.identifier(request.client_id, "client_id")
    raise InvalidArgument("account", "is required: set user_id or client_id")


def _masked(paths: Sequence[str], given: pb.Audience) -> list[str]:
    """Return the fields that an update replaces (AIP-134)."""
    if not paths:
        paths = [name for name in _UPDATABLE if getattr(given, name)]
    elif list(paths) == ["*"]:
        paths = _UPDATABLE
    if not paths or not set(paths) <= set(_UPDATABLE):
        raise InvalidArgument("update_mask", "must name some of scope, open and bound")
    return [name for name in _UPDATABLE if name in paths]


def _audience(audience: Audience) -> pb.Audience:
    return pb.Audience(
        name=audience.name,
        scope=audience.scope,
        open=audience.open,
        bound=audience.bound,
        actors=[
            pb.AudienceActor(client_id=actor.client_id, subject_roles=actor.subject_roles)
            for actor in audience.actors
        ],
        created_at=timestamp(audience.created_at),
    )
