"""What other services install: access tokens checked without a call, and attached to calls.

    from auth_service.client import AuthInterceptor, LocalVerifier, Rule, Rules

    async with LocalVerifier(issuer="https://auth.internal", addresses=["auth:50051"]) as verifier:
        server = grpc.aio.server(interceptors=[AuthInterceptor(verifier, Rules({...}))])

A verifier with `addresses` hears of revocations and new keys within milliseconds; one that has a
shared key alone does not, and a revoked token stays good for it until it expires.
docs/verify-tokens.md tells more; `auth_service.client.testing` is for the tests of services.
"""

from auth_service.authz.admission import Rule, Verifier
from auth_service.client.asgi import BearerMiddleware, require
from auth_service.client.bearer import (
    NoAccessToken,
    SyncBearerInterceptor,
    bearer_interceptors,
    call_credentials,
)
from auth_service.client.interceptors import AuthInterceptor, SyncAuthInterceptor
from auth_service.client.principal import current_principal, principal
from auth_service.client.rules import INFRASTRUCTURE, PUBLIC, Rules
from auth_service.client.token_sources import (
    ServiceAccountTokens,
    SessionTokens,
    SyncServiceAccountTokens,
    SyncSessionTokens,
)
from auth_service.client.verifier import LocalVerifier, SyncLocalVerifier
from auth_service.errors import (
    InactiveReason,
    InvalidCredentials,
    InvalidGrant,
    InvalidToken,
    RateLimited,
    RevocationsStale,
    Unavailable,
)
from auth_service.tokens.access import AccessClaims

__all__ = [
    "INFRASTRUCTURE",
    "PUBLIC",
    "AccessClaims",
    "AuthInterceptor",
    "BearerMiddleware",
    "InactiveReason",
    "InvalidCredentials",
    "InvalidGrant",
    "InvalidToken",
    "LocalVerifier",
    "NoAccessToken",
    "RateLimited",
    "RevocationsStale",
    "Rule",
    "Rules",
    "ServiceAccountTokens",
    "SessionTokens",
    "SyncAuthInterceptor",
    "SyncBearerInterceptor",
    "SyncLocalVerifier",
    "SyncServiceAccountTokens",
    "SyncSessionTokens",
    "Unavailable",
    "Verifier",
    "bearer_interceptors",
    "call_credentials",
    "current_principal",
    "principal",
    "require",
]
