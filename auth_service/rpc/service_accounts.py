"""AdminService's methods for service accounts: take a request, call the core, fill the response.

Owns what an update mask means.
"""

from collections.abc import Sequence

from authn.v1 import admin_service_pb2 as pb

from auth_service.core import fields
from auth_service.core.service_accounts import ServiceAccounts
from auth_service.core.shielded import Shielded
from auth_service.errors import InvalidArgument
from auth_service.models import ClientSecret, ServiceAccount
from auth_service.rpc.admin_callers import AdminCallers, log_change
from auth_service.rpc.dispatcher import Context
from auth_service.rpc.paging import page_size, page_start, page_token
from auth_service.rpc.timestamps import moment, timestamp

__all__ = ["ServiceAccountMethods"]

_GIVEN = "service_account"
_UPDATABLE = ("roles", "scope", "bound")


class ServiceAccountMethods:
    """Manages service accounts, for callers with the admin role."""

    _admins: AdminCallers
    _services: ServiceAccounts
    _shielded: Shielded

    async def CreateServiceAccount(
        self, request: pb.CreateServiceAccountRequest, context: Context
    ) -> pb.CreateServiceAccountResponse:
        """Make an account for a service."""
        caller, client_id = self._admins.require(context), _client_id(request.client_id)
        secret = await self._services.create(
            client_id,
            roles=request.roles,
            scope=request.scope,
            secret=not request.without_secret,
            bound=request.bound,
        )
        log_change("CreateServiceAccount", caller, client_id=client_id)
        return pb.CreateServiceAccountResponse(client_id=client_id, client_secret=secret)

    async def GetServiceAccount(
        self, request: pb.GetServiceAccountRequest, context: Context
    ) -> pb.GetServiceAccountResponse:
        """Return one service account."""
        self._admins.require(context)
        account = await self._services.get(request.client_id)
        return pb.GetServiceAccountResponse(service_account=_account(account))

    async def ListServiceAccounts(
        self, request: pb.ListServiceAccountsRequest, context: Context
    ) -> pb.ListServiceAccountsResponse:
        """Return a page of service accounts, ordered by id."""
        self._admins.require(context)
        size = page_size(request.page_size)
        after = page_start(request.page_token, lambda key: _client_id(key.decode()))
        found = await self._services.list(size + 1, after)
        page = found[:size]
        following = page_token(page[-1].client_id.encode()) if len(found) > size else ""
        return pb.ListServiceAccountsResponse(
            service_accounts=map(_account, page), next_page_token=following
        )

    async def UpdateServiceAccount(
        self, request: pb.UpdateServiceAccountRequest, context: Context
    ) -> pb.UpdateServiceAccountResponse:
        """Replace roles or scopes of a service account, or whether it is bound."""
        caller, given = self._admins.require(context), request.service_account
        client_id = fields.identifier(given.client_id, f"{_GIVEN}.client_id")
        mask = _masked(request.update_mask.paths, given)
        account = await self._shielded.run(
            self._services.update(
                client_id,
                roles=fields.labels(given.roles, f"{_GIVEN}.roles") if "roles" in mask else None,
                scope=fields.scope(given.scope, f"{_GIVEN}.scope") if "scope" in mask else None,
                bound=given.bound if "bound" in mask else None,
            )
        )
        log_change("UpdateServiceAccount", caller, client_id=client_id, fields=mask)
        return pb.UpdateServiceAccountResponse(service_account=_account(account))

    async def SetServiceAccountDisabled(
        self, request: pb.SetServiceAccountDisabledRequest, context: Context
    ) -> pb.SetServiceAccountDisabledResponse:
        """Disable a service account and end its tokens, or enable it."""
        caller, client_id = self._admins.require(context), _client_id(request.client_id)
        await self._shielded.run(self._services.set_disabled(client_id, request.disabled))
        log_change(
            "SetServiceAccountDisabled", caller, client_id=client_id, disabled=request.disabled
        )
        return pb.SetServiceAccountDisabledResponse()

    async def DeleteServiceAccount(
        self, request: pb.DeleteServiceAccountRequest, context: Context
    ) -> pb.DeleteServiceAccountResponse:
        """Delete a service account and end its tokens."""
        caller, client_id = self._admins.require(context), _client_id(request.client_id)
        await self._shielded.run(self._services.delete(client_id))
        log_change("DeleteServiceAccount", caller, client_id=client_id)
        return pb.DeleteServiceAccountResponse()

    async def CreateServiceAccountSecret(
        self, request: pb.CreateServiceAccountSecretRequest, context: Context
    ) -> pb.CreateServiceAccountSecretResponse:
        """Make a further secret of a service account."""
        caller, client_id = self._admins.require(context), _client_id(request.client_id)
        given = request.HasField("expires_at")
        expires_at = moment(request.expires_at, "expires_at") if given else None
        text, secret = await self._shielded.run(self._services.create_secret(client_id, expires_at))
        log_change(
            "CreateServiceAccountSecret", caller, client_id=client_id, secret_id=str(secret.id)
        )
        return pb.CreateServiceAccountSecretResponse(secret=_secret(secret), client_secret=text)

    async def DeleteServiceAccountSecret(
        self, request: pb.DeleteServiceAccountSecretRequest, context: Context
    ) -> pb.DeleteServiceAccountSecretResponse:
        """Delete a secret of a service account."""
        caller, client_id = self._admins.require(context), _client_id(request.client_id)
        secret_id = fields.uuid(request.secret_id, "secret_id")
        await self._shielded.run(self._services.delete_secret(client_id, secret_id))
        log_change(
            "DeleteServiceAccountSecret", caller, client_id=client_id, secret_id=str(secret_id)
        )
        return pb.DeleteServiceAccountSecretResponse()

    async def RevokeServiceAccountTokens(
        self, request: pb.RevokeServiceAccountTokensRequest, context: Context
    ) -> pb.RevokeServiceAccountTokensResponse:
        """End every access token of a service account."""
        caller, client_id = self._admins.require(context), _client_id(request.client_id)
        await self._shielded.run(self._services.revoke_tokens(client_id))
        log_change("RevokeServiceAccountTokens", caller, client_id=client_id)
        return pb.RevokeServiceAccountTokensResponse()


def _client_id(text: str) -> str:
    return fields.identifier(text, "client_id")


def _masked(paths: Sequence[str], given: pb.ServiceAccount) -> list[str]:
    """Return the fields that an update replaces (AIP-134)."""
    if not paths:
        paths = [name for name in _UPDATABLE if getattr(given, name)]
    elif list(paths) == ["*"]:
        paths = _UPDATABLE
    if not paths or not set(paths) <= set(_UPDATABLE):
        raise InvalidArgument("update_mask", "must name some of roles, scope and bound")
    return [name for name in _UPDATABLE if name in paths]


def _account(account: ServiceAccount) -> pb.ServiceAccount:
    return pb.ServiceAccount(
        client_id=account.client_id,
        roles=account.roles,
        scope=account.scope,
        disabled=account.disabled,
        created_at=timestamp(account.created_at),
        secrets=map(_secret, account.secrets),
        bound=account.bound,
    )


def _secret(secret: ClientSecret) -> pb.ServiceAccountSecret:
    expires_at, last_used_at = secret.expires_at, secret.last_used_at
    return pb.ServiceAccountSecret(
        secret_id=str(secret.id),
        created_at=timestamp(secret.created_at),
        expires_at=None if expires_at is None else timestamp(expires_at),
        last_used_at=None if last_used_at is None else timestamp(last_used_at),
    )
