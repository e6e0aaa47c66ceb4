"""AdminService: takes a request, calls the core, fills the response.

The methods for users, service accounts, audiences and workloads are in modules of their own.
"""

import asyncio
from datetime import datetime

from authn.v1 import admin_service_pb2 as pb
from authn.v1 import admin_service_pb2_grpc

from auth_service.core.core import Core
from auth_service.errors import ConfigError, InvalidArgument
from auth_service.models import StoredKey
from auth_service.rpc.admin_callers import AdminCallers, log_change
from auth_service.rpc.audiences import AudienceMethods
from auth_service.rpc.audit_log import AuditMethods
from auth_service.rpc.callers import Callers
from auth_service.rpc.dispatcher import Context
from auth_service.rpc.durations import span
from auth_service.rpc.explanations import explanation
from auth_service.rpc.service_accounts import ServiceAccountMethods
from auth_service.rpc.timestamps import timestamp
from auth_service.rpc.user_import import UserImportMethods
from auth_service.rpc.users import UserMethods, user_id_of
from auth_service.rpc.workloads import WorkloadMethods
from auth_service.tokens.keys import ALGORITHMS

__all__ = ["AdminServicer"]


class AdminServicer(
    AuditMethods,
    AudienceMethods,
    ServiceAccountMethods,
    UserImportMethods,
    UserMethods,
    WorkloadMethods,
    admin_service_pb2_grpc.AdminServiceServicer,
):
    """Manages users, service accounts, audiences and keys, for callers with the admin role."""

    def __init__(self, core: Core, callers: Callers) -> None:
        self._admins = AdminCallers(callers)
        self._store = core.audit_log
        self._closed = asyncio.Event()
        self._accounts = core.accounts
        self._imports = core.accounts.imports
        self._services = core.accounts.services
        self._workloads = core.accounts.workloads
        self._registry = core.registry
        self._audiences = core.audiences
        self._explanations = core.explanations
        self._keys = core.keys
        self._announce_keys = core.announce_keys
        self._shielded = core.shielded
        self._clock = core.clock

    async def ResetUserFactors(
        self, request: pb.ResetUserFactorsRequest, context: Context
    ) -> pb.ResetUserFactorsResponse:
        """Remove all second factors of a user."""
        caller, user_id = self._admins.require(context), user_id_of(request.user_id)
        await self._shielded.run(self._accounts.reset_factors(user_id))
        log_change("ResetUserFactors", caller, user_id=str(user_id))
        return pb.ResetUserFactorsResponse()

    async def ListKeys(self, request: pb.ListKeysRequest, context: Context) -> pb.ListKeysResponse:
        """Return the signing keys without their private parts."""
        self._admins.require(context)
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
        caller = self._admins.require(context)
        key = await self._shielded.run(self._rotate(self._algorithm(request)))
        log_change("RotateKeys", caller, kid=key.kid, algorithm=key.algorithm)
        return pb.RotateKeysResponse(key=_key(key, key.created_at))

    async def ExplainToken(
        self, request: pb.ExplainTokenRequest, context: Context
    ) -> pb.ExplainTokenResponse:
        """Tell why an access token is active or not."""
        caller = self._admins.require(context)
        explained = await self._explanations.explain(
            request.access_token,
            audience=request.audience,
            required_scope=request.required_scope,
            required_roles=request.required_roles,
            certificate_thumbprint=request.certificate_thumbprint,
            max_age=span(request, "max_age"),
            acr_values=request.acr_values,
        )
        claims = explained.claims if explained.genuine else None
        log_change("ExplainToken", caller, token_id=None if claims is None else claims.token_id)
        return explanation(explained)

    async def _rotate(self, algorithm: str) -> StoredKey:
        key = await self._keys.rotate(algorithm)
        self._announce_keys()
        return key

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


def _key(key: StoredKey, now: datetime) -> pb.SigningKey:
    return pb.SigningKey(
        kid=key.kid,
        algorithm=key.algorithm,
        state=key.state(now).value,
        created_at=timestamp(key.created_at),
    )
