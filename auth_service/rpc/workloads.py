"""AdminService's methods for mappings of workloads and keys of service accounts.

Each takes a request, calls the core, fills the response.
"""

from authn.v1 import admin_service_pb2 as pb

from auth_service.core.shielded import Shielded
from auth_service.core.workload_registry import WorkloadRegistry
from auth_service.models import ClientKey, WorkloadMapping
from auth_service.rpc.admin_callers import AdminCallers, log_change
from auth_service.rpc.dispatcher import Context
from auth_service.rpc.paging import page_size, page_start, page_token
from auth_service.rpc.timestamps import moment, timestamp

__all__ = ["WorkloadMethods"]

MAX_MAPPINGS = 200
"""Mappings of a page. With the longest claims they still fit into a message of 4 MiB."""
_SEPARATOR = "\n"  # printable names have none


class WorkloadMethods:
    """Manages what service accounts log in with instead of a secret, for admins."""

    _admins: AdminCallers
    _workloads: WorkloadRegistry
    _shielded: Shielded

    async def AddServiceAccountKey(
        self, request: pb.AddServiceAccountKeyRequest, context: Context
    ) -> pb.AddServiceAccountKeyResponse:
        """Register a public key of a service account."""
        caller = self._admins.require(context)
        given = request.HasField("expires_at")
        expires_at = moment(request.expires_at, "expires_at") if given else None
        key = await self._shielded.run(
            self._workloads.add_key(request.client_id, request.public_key, expires_at)
        )
        log_change("AddServiceAccountKey", caller, client_id=key.client_id, kid=key.kid)
        return pb.AddServiceAccountKeyResponse(key=_key(key))

    async def ListServiceAccountKeys(
        self, request: pb.ListServiceAccountKeysRequest, context: Context
    ) -> pb.ListServiceAccountKeysResponse:
        """Return the public keys of a service account."""
        self._admins.require(context)
        keys = await self._workloads.keys(request.client_id)
        return pb.ListServiceAccountKeysResponse(keys=map(_key, keys))

    async def DeleteServiceAccountKey(
        self, request: pb.DeleteServiceAccountKeyRequest, context: Context
    ) -> pb.DeleteServiceAccountKeyResponse:
        """Delete a public key of a service account."""
        caller = self._admins.require(context)
        await self._shielded.run(self._workloads.delete_key(request.client_id, request.kid))
        log_change("DeleteServiceAccountKey", caller, client_id=request.client_id, kid=request.kid)
        return pb.DeleteServiceAccountKeyResponse()

    async def CreateWorkloadMapping(
        self, request: pb.CreateWorkloadMappingRequest, context: Context
    ) -> pb.CreateWorkloadMappingResponse:
        """Let a workload log in as a service account."""
        caller, given = self._admins.require(context), request.mapping
        made = await self._shielded.run(
            self._workloads.map(
                given.issuer,
                given.subject,
                given.client_id,
                claims=dict(given.claims),
                allow_default_account=request.allow_default_account,
            )
        )
        log_change(
            "CreateWorkloadMapping",
            caller,
            client_id=made.client_id,
            issuer=made.issuer,
            subject=made.subject,
        )
        return pb.CreateWorkloadMappingResponse(mapping=_mapping(made))

    async def ListWorkloadMappings(
        self, request: pb.ListWorkloadMappingsRequest, context: Context
    ) -> pb.ListWorkloadMappingsResponse:
        """Return a page of mappings, ordered by issuer and subject."""
        self._admins.require(context)
        size = min(page_size(request.page_size), MAX_MAPPINGS)
        after = page_start(request.page_token, _names)
        found = await self._workloads.mappings(size + 1, after)
        page = found[:size]
        last = _SEPARATOR.join((page[-1].issuer, page[-1].subject)) if page else ""
        following = page_token(last.encode()) if len(found) > size else ""
        return pb.ListWorkloadMappingsResponse(
            mappings=map(_mapping, page), next_page_token=following
        )

    async def DeleteWorkloadMapping(
        self, request: pb.DeleteWorkloadMappingRequest, context: Context
    ) -> pb.DeleteWorkloadMappingResponse:
        """Delete a mapping."""
        caller = self._admins.require(context)
        await self._shielded.run(self._workloads.unmap(request.issuer, request.subject))
        log_change("DeleteWorkloadMapping", caller, issuer=request.issuer, subject=request.subject)
        return pb.DeleteWorkloadMappingResponse()


def _names(key: bytes) -> tuple[str, str]:
    issuer, separator, subject = key.decode().partition(_SEPARATOR)
    if not separator or not (issuer + subject).isprintable():
        raise ValueError("is no key of a mapping")
    return issuer, subject


def _key(key: ClientKey) -> pb.ServiceAccountKey:
    expires_at = key.expires_at
    return pb.ServiceAccountKey(
        kid=key.kid,
        public_jwk=key.jwk,
        created_at=timestamp(key.created_at),
        expires_at=None if expires_at is None else timestamp(expires_at),
    )


def _mapping(mapping: WorkloadMapping) -> pb.WorkloadMapping:
    created_at = mapping.created_at
    return pb.WorkloadMapping(
        issuer=mapping.issuer,
        subject=mapping.subject,
        client_id=mapping.client_id,
        claims=mapping.claims,
        created_at=None if created_at is None else timestamp(created_at),
    )
