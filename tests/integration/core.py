"""The core, wired as in serving, on a real store and a clock that tests move."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from auth_service.clock import Clock
from auth_service.core.accounts import Accounts
from auth_service.core.audiences import Audiences
from auth_service.core.credentials import Credentials
from auth_service.core.migration import Migration
from auth_service.core.old_issuers import OldIssuer
from auth_service.core.own_factors import OwnFactors
from auth_service.core.passkeys import Passkeys
from auth_service.core.password_change import PasswordChange
from auth_service.core.password_policy import PasswordPolicy
from auth_service.core.passwords import Argon2Profile, PasswordHasher
from auth_service.core.revocation import Revocations, Revoker
from auth_service.core.second_factors import FactorPolicy, SecondFactors
from auth_service.core.session_policy import SessionPolicy
from auth_service.core.sessions import Sessions
from auth_service.core.shielded import Shielded
from auth_service.core.throttle import SLOTS, Rate, Throttle, ThrottlePolicy
from auth_service.core.token_issuer import TokenIssuer
from auth_service.core.validation import Validation, Verdict
from auth_service.core.workloads import Issuer, Workloads, assertion_rules
from auth_service.db.store import Store
from auth_service.models import TokenPair, User
from auth_service.tokens import jws
from auth_service.tokens.access import AccessClaims, TokenSigner, TokenVerifier
from auth_service.tokens.challenge import Challenges
from auth_service.tokens.device import DeviceTokens
from auth_service.tokens.keys import KeyRing, MasterKey, SigningKey, shared_key
from auth_service.tokens.refresh import REFRESH_TOKEN_TYPE, RefreshTokens
from auth_service.tokens.revocation import RevocationList

ISSUER = "https://auth.test"
SECOND = timedelta(seconds=1)
PASSWORD = "correct horse battery staple"
CHEAP = Argon2Profile(memory_kib=8, time_cost=1)
MASTER_KEY = MasterKey(bytes(range(32)))
SHARED_KEY = shared_key(bytes(range(32, 64)))
FACTORS = FactorPolicy(service_name="Test")
PASSKEYS = Passkeys("auth.test", "Test", ["https://auth.test"])
POLICY = SessionPolicy(issuer=ISSUER, default_audience=("internal",))


@dataclass(frozen=True, slots=True)
class Core:
    """The rules, and what tests inspect."""

    store: Store
    hasher: PasswordHasher
    credentials: Credentials
    throttle: Throttle
    workloads: Workloads
    audiences: Audiences
    sessions: Sessions
    revoker: Revoker
    migration: Migration
    shielded: Shielded
    accounts: Accounts
    validation: Validation
    verifier: TokenVerifier
    signer: TokenSigner
    factors: OwnFactors

    async def user(
        self,
        identifier: str = "ada@example.com",
        *,
        roles: tuple[str, ...] = (),
        scope: tuple[str, ...] = ("read", "write"),
    ) -> User:
        """Make a user with PASSWORD."""
        return await self.accounts.create_user([identifier], PASSWORD, roles=roles, scope=scope)

    async def login(self, identifier: str = "ada@example.com") -> TokenPair:
        """Begin a session."""
        return await self.sessions.login_password(identifier, PASSWORD)

    def verdict(self, access_token: str) -> Verdict:
        """Validate a token."""
        return self.validation.validate(access_token)

    def active(self, access_token: str) -> bool:
        """Return whether a token is active."""
        return self.verdict(access_token).claims is not None

    def claims(self, access_token: str) -> AccessClaims:
        """Return the claims of an active token."""
        return self.verifier.verify(access_token)


def make_core(
    store: Store,
    clock: Clock,
    *,
    profile: Argon2Profile = CHEAP,
    queue: int = 1000,
    issuers: Sequence[Issuer] = (),
    factors: FactorPolicy = FACTORS,
    old_issuers: Sequence[OldIssuer] = (),
    networks: int = 5,
    source: Rate | None = None,
    slots: int = SLOTS,
    **policy: Any,
) -> Core:
    """Wire the core; `policy` overrides fields of SessionPolicy, and of a network's rate."""
    network = Rate(policy.pop("login_burst", 10), policy.pop("login_refill", 10 * SECOND))
    throttled = ThrottlePolicy(network, networks=networks, source=source)
    rules = replace(POLICY, **policy)
    ring = KeyRing([SHARED_KEY], SHARED_KEY.kid)
    revocations = RevocationList(clock)
    verifier = TokenVerifier(ring, revocations, issuer=ISSUER, clock=clock)
    signer = TokenSigner(ring)
    hasher = PasswordHasher(profile, queue=queue)
    refresh_tokens = RefreshTokens(MASTER_KEY, ISSUER)
    device_tokens = DeviceTokens(MASTER_KEY, ISSUER, timedelta(days=180))
    tokens = TokenIssuer(signer, refresh_tokens, device_tokens, rules)
    key = MASTER_KEY.throttle_key()
    throttle = Throttle(store, throttled, key, refresh_tokens, device_tokens, clock, slots)
    ended = Revocations(store, rules, revocations.add, clock)
    shielded = Shielded()
    workloads = Workloads(store, issuers, assertion_rules([ISSUER]), rules.clock_skew, clock)
    challenges = Challenges(MASTER_KEY, ISSUER)
    second = SecondFactors(store, hasher, challenges, MASTER_KEY, PASSKEYS, factors, clock)
    change = PasswordChange(store, hasher, PasswordPolicy(), rules, revocations.add, clock)
    credentials = Credentials(store, hasher, throttle, shielded, clock, workloads, second, change)
    audiences = Audiences(store, ISSUER, clock)
    sessions = Sessions(store, credentials, audiences, tokens, ended, rules, shielded, clock)
    migration = Migration(store, credentials, old_issuers, audiences, tokens, rules, clock)
    revoker = Revoker(store, ended, tokens, verifier)
    accounts = Accounts(
        store,
        hasher,
        rules,
        revocations.add,
        clock,
        passwords=PasswordPolicy(),
        credentials=credentials,
    )
    validation = Validation(verifier, clock, timedelta(seconds=5), clock)
    return Core(
        store,
        hasher,
        credentials,
        throttle,
        workloads,
        audiences,
        sessions,
        revoker,
        migration,
        shielded,
        accounts,
        validation,
        verifier,
        signer,
        OwnFactors(store, challenges, MASTER_KEY, PASSKEYS, factors, clock),
    )


def payload(token: str) -> dict[str, Any]:
    """Return the claims of a token, unverified."""
    segment = token.split(".")[1]
    claims: dict[str, Any] = json.loads(
        base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    )
    return claims


def refresh_token(token: str, **changes: Any) -> str:
    """Sign the claims of a refresh token with the genuine key, with some of them changed."""
    secret = MASTER_KEY.refresh_token_key()
    key = SigningKey(kid="refresh", algorithm="HS256", secret=secret)
    return jws.sign(payload(token) | changes, key, REFRESH_TOKEN_TYPE)


def session_key(pair: TokenPair) -> tuple[UUID, UUID]:
    """Return the key of a session's row."""
    claims = payload(pair.refresh_token)
    return UUID(claims["sub"]), UUID(claims["sid"])
