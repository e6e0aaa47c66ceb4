"""Systems that users come from, with tokens in the form that each documents, good and bad."""

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from auth_service.core.old_issuers import OldIssuer
from auth_service.tokens.foreign import RefusalReason, Rules
from auth_service.tokens.foreign_keys import TrustedKeys, foreign_keys, shared_foreign_key
from tests.workloads import Key, base64url, jwks

MAX_AGE = timedelta(days=30)
UNTIL = timedelta(days=60)
REALM = "https://keycloak.test/realms/shop"
PROJECT = "https://abcdefghijklmnopqrst.supabase.co/auth/v1"
DJANGO = "django"
_TYPES = frozenset({None, "JWT", "at+jwt"})

Claims = dict[str, Any]


def keycloak(user: UUID | str, now: int) -> Claims:
    """Return the claims of an access token of Keycloak 26."""
    return {
        "exp": now + 300,
        "iat": now,
        "auth_time": now - 1800,
        "jti": f"onrtac:{uuid4()}",
        "iss": REALM,
        "aud": ["account", "orders"],
        "sub": str(user),
        "typ": "Bearer",
        "azp": "shop-web",
        "sid": str(uuid4()),
        "acr": "1",
        "allowed-origins": ["https://shop.test"],
        "realm_access": {"roles": ["offline_access", "uma_authorization"]},
        "scope": "openid email profile",
        "email_verified": True,
        "preferred_username": "ada",
        "email": "ada@example.com",
    }


def supabase(user: UUID | str, now: int) -> Claims:
    """Return the claims of an access token of Supabase Auth."""
    return {
        "aal": "aal1",
        "amr": [{"method": "password", "timestamp": now - 600}],
        "app_metadata": {"provider": "email", "providers": ["email"]},
        "aud": "authenticated",
        "email": "ada@example.com",
        "exp": now + 3600,
        "iat": now,
        "is_anonymous": False,
        "iss": PROJECT,
        "phone": "",
        "role": "authenticated",
        "session_id": str(uuid4()),
        "sub": str(user),
        "user_metadata": {"email_verified": True},
    }


def simplejwt(user: UUID | str, now: int) -> Claims:
    """Return the claims of a refresh token of djangorestframework-simplejwt 5.5."""
    return {
        "token_type": "refresh",
        "exp": now + 86400,
        "iat": now,
        "jti": uuid4().hex,
        "user_id": str(user),
    }


@dataclass(frozen=True)
class OldSystem:
    """A system that users come from, with the keys that only it has."""

    key: Key
    claims: Callable[[UUID | str, int], Claims]
    name: str
    kind: dict[str, tuple[str | bool, ...]]
    audience: str | None = None
    user_claim: str = "sub"
    prefix: str | None = None
    """Put before the claim to name an identifier; None if the claim is the id of the user."""
    names_key: bool = True
    header: dict[str, Any] = field(default_factory=dict)

    @property
    def shares_key(self) -> bool:
        """Whether it signs with a key that it shares with this service."""
        return self.key.algorithm.startswith("HS")

    def issuer(self, now: datetime, **changes: Any) -> OldIssuer:
        """Return it as it is configured."""
        trusted = TrustedKeys({} if self.shares_key else None)
        if not self.shares_key:
            trusted.replace(foreign_keys(jwks(self.key.jwk(use="sig")))[0], now)
        audiences = None if self.audience is None else frozenset([self.audience])
        issuer = OldIssuer(
            name=self.name,
            rules=Rules(
                audiences,
                timedelta(days=36500),
                MAX_AGE,
                algorithms=frozenset([self.key.algorithm]),
                types=_TYPES,
                alone=False,
            ),
            until=now + UNTIL,
            claims=self.kind,
            user_claim=self.user_claim,
            user_by_id=self.prefix is None,
            prefix=self.prefix or "",
            names_itself=self.name != DJANGO,
            keys=trusted,
            shared_key=(
                shared_foreign_key(self.key.private, (self.key.algorithm,))
                if self.shares_key
                else None
            ),
        )
        return replace(issuer, **changes)

    def token(self, user: UUID | str, now: datetime, key: Key | None = None, **changes: Any) -> str:
        """Return a good token with some claims changed; None leaves a claim out."""
        claims = self.claims(user, int(now.timestamp())) | changes
        return self.sign({name: value for name, value in claims.items() if value is not None}, key)

    def sign(self, claims: Claims, key: Key | None = None, **header: Any) -> str:
        """Return a token; a header parameter that is None is left out."""
        named = {} if self.names_key else {"kid": None}
        return (key or self.key).sign(claims, **({"typ": "JWT"} | named | header))


KEYCLOAK = OldSystem(
    Key("realm-rsa", "RS256", rsa.generate_private_key(65537, 2048)),
    keycloak,
    REALM,
    {"typ": ("Bearer", "ID"), "azp": ("shop-web", "shop-app")},
    audience="account",
)
SUPABASE = OldSystem(
    Key("legacy", "HS256", b"super-secret-jwt-token-with-at-least-32-characters-long"),
    supabase,
    PROJECT,
    {"role": ("authenticated",), "is_anonymous": (False,)},
    audience="authenticated",
)
SIMPLEJWT = OldSystem(
    Key("", "HS256", b"django-insecure-3f0c9a-not-used-anywhere-else-0123456789"),
    simplejwt,
    DJANGO,
    {"token_type": ("refresh",)},
    user_claim="user_id",
    prefix="django:",
    names_key=False,
)
SYSTEMS = {"keycloak": KEYCLOAK, "supabase": SUPABASE, "simplejwt": SIMPLEJWT}


def faults(system: OldSystem, user: UUID | str, now: datetime) -> dict[str, tuple[str, Any]]:
    """Return tokens that are wrong in one respect, each with the reason for which it is refused."""
    reason, at = RefusalReason, int(now.timestamp())
    good = system.claims(user, at)
    kind = next(iter(system.kind))

    def one(name: str, value: Any) -> str:
        changes: Claims = {name: value}
        return system.token(user, now, **changes)

    def with_user(value: Any) -> str:
        return one(system.user_claim, value)

    made = {
        "issuer": (system.token(user, now, iss="https://other.test"), reason.UNKNOWN_ISSUER),
        "issuer_empty": (system.token(user, now, iss=""), reason.MALFORMED),
        "expired": (system.token(user, now, exp=at), reason.EXPIRED),
        "no_expiry": (system.token(user, now, exp=None), reason.MALFORMED),
        "issued_later": (system.token(user, now, iat=at + 11), reason.NOT_YET_VALID),
        "valid_later": (system.token(user, now, nbf=at + 11), reason.NOT_YET_VALID),
        "no_date": (system.token(user, now, iat=None), reason.MALFORMED),
        "too_old": (system.token(user, now, iat=at - 30 * 86400 - 1), reason.TOO_OLD),
        "kind": (one(kind, "access"), reason.WRONG_CLAIM),
        "kind_missing": (one(kind, None), reason.WRONG_CLAIM),
        "kind_listed": (one(kind, [good[kind]]), reason.WRONG_CLAIM),
        "header_typ": (system.sign(good, typ="logout+jwt"), reason.WRONG_TYPE),
        "header_jku": (system.sign(good, jku="https://other.test/jwks"), reason.MALFORMED),
        "key_id_number": (system.sign(good, kid=1), reason.MALFORMED),
        "algorithm_none": (system.sign(good, alg="none"), reason.WRONG_ALGORITHM),
        "no_user": (with_user(None), reason.WRONG_SUBJECT),
        "list_of_users": (with_user([str(user)]), reason.WRONG_SUBJECT),
        "unknown_user": (with_user(str(uuid4())), reason.NO_ACCOUNT),
        "signature": (_flipped(system.token(user, now)), reason.BAD_SIGNATURE),
        "cut": (system.token(user, now).rpartition(".")[0], reason.MALFORMED),
    }
    if system.audience is not None:
        made["audience"] = system.token(user, now, aud=["other"]), reason.WRONG_AUDIENCE
        made["no_audience"] = system.token(user, now, aud=None), reason.WRONG_AUDIENCE
    if system.shares_key:
        other = replace(system.key, private=b"x" * 40)
        longer = replace(system.key, algorithm="HS512")
        made["key"] = system.token(user, now, other), reason.BAD_SIGNATURE
        made["algorithm"] = system.token(user, now, longer), reason.WRONG_ALGORITHM
    else:
        other = replace(system.key, private=rsa.generate_private_key(65537, 2048))
        public = system.key.private.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )
        made["key"] = system.token(user, now, other), reason.BAD_SIGNATURE
        made["key_id"] = system.sign(good, kid="other"), reason.UNKNOWN_KEY
        made["no_key_id"] = system.sign(good, kid=None), reason.UNKNOWN_KEY
        # A shared secret made of the public key, which everybody knows (RFC 8725 section 2.1).
        public_hmac = _Pem(system.key.kid, "HS256", public)
        made["algorithm"] = system.token(user, now, public_hmac), reason.WRONG_ALGORITHM
    return made


class _Pem(Key):
    """A public key in PEM, used as a shared secret, which PyJWT itself refuses to do."""

    def seal(self, signing_input: str) -> str:
        """Return the token of two encoded segments."""
        mac = hmac.digest(self.private, signing_input.encode(), "sha256")
        return f"{signing_input}.{base64url(mac)}"


def _flipped(token: str) -> str:
    """Return a token whose signature differs in the first character."""
    head, _, signature = token.rpartition(".")
    return f"{head}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"
