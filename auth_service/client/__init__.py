"""What other services install to verify access tokens and to present their own.

Here are verifiers, interceptors, middleware and token sources, with the few dependencies of the
base install. Nothing here imports the server: what a token is stands in `tokens`, and how a caller
is admitted in `authz`.

    from auth_service.client import AuthInterceptor, LocalVerifier, Rule, Rules

    async with LocalVerifier(issuer="https://auth.internal", addresses=["auth:50051"]) as verifier:
        server = grpc.aio.server(interceptors=[AuthInterceptor(verifier, Rules({...}))])

A verifier with `addresses` learns of revocations and new keys within milliseconds. A verifier with
a shared key alone does not: it accepts a revoked token until the token expires. More is in
docs/verify-tokens.md; `auth_service.client.testing` is for the tests of services.
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
from auth_service.client.renewal import Timing
from auth_service.client.rules import INFRASTRUCTURE, PUBLIC, Rules
from auth_service.client.step_up import step_up_demand
from auth_service.client.token_sources import (
    ServiceAccountTokens,
    SessionTokens,
    SyncServiceAccountTokens,
    SyncSessionTokens,
    SyncTokenSource,
    SyncWorkloadTokens,
    TokenSource,
    WorkloadTokens,
)
from auth_service.client.verifier import AccessToken, LocalVerifier, OnStale, SyncLocalVerifier
from auth_service.errors import (
    AuthError,
    ConfigError,
    InactiveReason,
    InsufficientUserAuthentication,
    InvalidCredentials,
    InvalidGrant,
    InvalidToken,
    PermissionDenied,
    RateLimited,
    Retryable,
    RevocationsStale,
    Unauthenticated,
    Unavailable,
)
from auth_service.tokens.access import AccessClaims
from auth_service.tokens.assurance import (
    MULTI_FACTOR,
    ONE_FACTOR,
    PHISHING_RESISTANT,
    TWO_FACTORS,
)

__all__ = [
    "INFRASTRUCTURE",
    "MULTI_FACTOR",
    "ONE_FACTOR",
    "PHISHING_RESISTANT",
    "PUBLIC",
    "TWO_FACTORS",
    "AccessClaims",
    "AccessToken",
    "AuthError",
    "AuthInterceptor",
    "BearerMiddleware",
    "ConfigError",
    "InactiveReason",
    "InsufficientUserAuthentication",
    "InvalidCredentials",
    "InvalidGrant",
    "InvalidToken",
    "LocalVerifier",
    "NoAccessToken",
    "OnStale",
    "PermissionDenied",
    "RateLimited",
    "Retryable",
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
    "SyncTokenSource",
    "SyncWorkloadTokens",
    "Timing",
    "TokenSource",
    "Unauthenticated",
    "Unavailable",
    "Verifier",
    "WorkloadTokens",
    "bearer_interceptors",
    "call_credentials",
    "current_principal",
    "principal",
    "require",
    "step_up_demand",
]
