"""The objects of the domain: frozen, and without I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

ANY_SCOPE = "*"
"""In the scopes of an audience: every scope belongs to it."""


@dataclass(frozen=True, slots=True)
class User:
    """A person's account; `identifiers` are normalised.

    `password_hash` is a PHC string, or a hash of another system until the first login, or empty: no
    password.
    """

    id: UUID
    identifiers: tuple[str, ...]
    password_hash: str = field(repr=False)
    roles: tuple[str, ...]
    scope: tuple[str, ...]
    disabled: bool
    created_at: datetime
    revoked_before: datetime | None = None
    """Sessions and tokens issued before this whole second are revoked."""
    audiences: tuple[UUID, ...] = ()
    """The ids of the restricted audiences that are granted; some may be deleted."""
    second_factor: bool = False
    """Whether the user has a second factor, which every login needs then."""
    signed_out_before: datetime | None = None
    """As `revoked_before`, but a change of roles or scopes, which ends no session, is left out."""
    password_change_required: bool = False
    """Whether the next login has to replace the password."""


class FactorKind(StrEnum):
    """What proves that a person is who the password says."""

    TOTP = "totp"
    RECOVERY_CODE = "recovery_code"
    PASSKEY = "webauthn"


@dataclass(frozen=True, slots=True)
class Factor:
    """A second factor of a user: an authenticator app or a passkey."""

    user_id: UUID
    id: UUID
    kind: FactorKind
    name: str
    """What the user calls it; may be empty."""
    secret: bytes = field(repr=False)
    """The encrypted secret of an app, or the public key of a passkey."""
    counter: int
    """The last time step whose code was accepted, or the signature counter of a passkey."""
    created_at: datetime
    last_used_at: datetime | None = None
    credential_id: bytes | None = None
    """What a browser calls the passkey."""


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """A secret of a service account, as it is kept."""

    id: UUID
    secret_hash: str = field(repr=False)
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    """When it was last used, at most a minute too early; None if it never was."""
    live: bool = True
    """Whether it had not expired, by the database's clock, when it was read."""


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """The account of a service. It logs in with an id and a secret, and has no session."""

    client_id: str
    secrets: tuple[ClientSecret, ...]
    """Oldest first."""
    roles: tuple[str, ...]
    scope: tuple[str, ...]
    disabled: bool
    created_at: datetime
    revoked_before: datetime | None = None
    """Tokens issued before this whole second are revoked."""
    audiences: tuple[UUID, ...] = ()
    """The ids of the restricted audiences that are granted; some may be deleted."""
    bound: bool = False
    """Whether its tokens are bound to the client certificate of its login (RFC 8705)."""


@dataclass(frozen=True, slots=True)
class ActorRule:
    """Who may exchange the tokens of others for tokens for an audience."""

    client_id: str
    """The service account that may."""
    subject_roles: tuple[str, ...]
    """The other one must hold at least one of these roles; any subject will do if empty."""


@dataclass(frozen=True, slots=True)
class Audience:
    """Whom a token is for: one service, or several that trust each other (RFC 9068 section 3)."""

    id: UUID
    name: str
    """What the claim `aud` says."""
    scope: tuple[str, ...]
    """The scopes that belong to it; ANY_SCOPE among them stands for all."""
    open: bool
    """Whether everybody who can log in may have tokens for it, and not only accounts with it."""
    bound: bool
    """Whether its tokens must be bound to the certificate of their holder (RFC 8705)."""
    actors: tuple[ActorRule, ...]
    """Ordered by client id."""
    created_at: datetime


@dataclass(frozen=True, slots=True)
class WorkloadMapping:
    """Whom the tokens of a workload log in: `subject` at `issuer` is the account `client_id`."""

    issuer: str
    """The `iss` of its tokens; `spiffe://` and the trust domain for SPIFFE."""
    subject: str
    client_id: str
    claims: Mapping[str, str] = field(default_factory=dict)
    """Further claims that the token must have with these very values."""
    created_at: datetime | None = None
    """None if the mapping is in the configuration."""


@dataclass(frozen=True, slots=True)
class ClientKey:
    """A public key with which a service account signs its assertions (RFC 7523)."""

    client_id: str
    kid: str
    jwk: str
    """The JWK in JSON (RFC 7517)."""
    created_at: datetime
    expires_at: datetime | None = None
    live: bool = True
    """Whether it had not expired, by the database's clock, when it was read."""


@dataclass(frozen=True, slots=True)
class Session:
    """A login that can be refreshed. It is one row, however often it is refreshed.

    The row and the master key determine the current refresh token: `jti` follows from `seed` and
    `generation`, `iat` from `refreshed_at`, `exp` from `refresh_expires_at`.
    """

    user_id: UUID
    id: UUID
    generation: int
    seed: bytes = field(repr=False)
    client_id: str
    device_label: str
    audience: tuple[str, ...]
    scope: tuple[str, ...]
    amr: tuple[str, ...]
    auth_time: datetime
    created_at: datetime
    refreshed_at: datetime
    refresh_expires_at: datetime
    """When the current refresh token expires: the earlier of idle and absolute expiry."""
    expires_at: datetime
    """When the session ends, whether it is refreshed or not."""
    revoked_at: datetime | None = None
    bound_to: str = ""
    """The client certificate that its tokens are bound to, as a thumbprint (RFC 8705); or empty."""
    acr: str = ""
    """How strongly the user was authenticated at `auth_time`, see `tokens.assurance`; or empty."""
    refresh_request_hash: bytes | None = field(default=None, repr=False)
    """Identifies the request that made the current generation, if the client gave it an id."""
    revoked_before: datetime | None = None
    """Its access tokens that were issued before this whole second are revoked; it goes on."""


@dataclass(frozen=True, slots=True)
class TokenPair:
    """The result of a login or a refresh; `refresh_token` is empty for a service account."""

    access_token: str = field(repr=False)
    access_expires_at: datetime
    scope: tuple[str, ...]
    refresh_token: str = field(default="", repr=False)
    refresh_expires_at: datetime | None = None
    session_id: str = ""
    device_token: str = field(default="", repr=False)
    """What the login leaves on the device; empty after a refresh."""
    device_expires_at: datetime | None = None


class Taken(NamedTuple):
    """What a login attempt has taken from a bucket of the throttle, or may be given back."""

    slot: int
    amount: timedelta
    """Attempts, as the time in which they are regained."""


class RevocationKind(StrEnum):
    """What a revocation covers."""

    TOKEN = "token"  # noqa: S105 - a kind, not a secret
    SESSION = "session"
    USER = "user"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Revocation:
    """Access tokens that are invalid although they have not expired.

    `target` is a `jti`, `sid` or `sub`, depending on `kind`, and empty for ALL. USER and ALL cover
    tokens issued before `issued_before`. A revocation matters until `expires_at`, when the last
    token that it covers has expired.
    """

    kind: RevocationKind
    target: str
    expires_at: datetime
    issued_before: datetime | None = None
    xid: int = field(default=0, compare=False, repr=False)
    """The transaction that wrote it; 0 if unknown."""
    disables: bool = field(default=False, compare=False, repr=False)
    """Whether the account (kind USER) is disabled since then, and not only signed out."""


@dataclass(frozen=True, slots=True)
class RecordedRevocation:
    """A revocation as the database has it."""

    revocation: Revocation
    recorded_at: datetime
    """When it was first written; a later one of the same target may have moved its times."""


class KeyState(StrEnum):
    """The state of a signing key."""

    PUBLISHED = "published"
    ACTIVE = "active"
    RETIRED = "retired"
    REMOVED = "removed"
    COMPROMISED = "compromised"


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A signing key in the database. Its private part is encrypted (AES-256-GCM).

    Its state follows from its dates, so no replica has to change it.
    """

    kid: str
    algorithm: str
    encrypted_secret: bytes = field(repr=False)
    created_at: datetime
    activate_at: datetime
    """When it starts to sign; verifiers know it before."""
    retire_at: datetime | None = None
    """When it stops signing and only verifies."""
    remove_at: datetime | None = None
    """When the last token that it signed has expired."""
    compromised_at: datetime | None = None
    """When it was marked as compromised: it is not trusted."""
    changed_at: datetime | None = field(default=None, compare=False)
    """When the database wrote this version, by its own clock; None if it has not yet."""

    def state(self, now: datetime) -> KeyState:
        """Return the state of the key at a moment."""
        if self.compromised_at is not None:
            return KeyState.COMPROMISED
        if self.remove_at is not None and self.remove_at <= now:
            return KeyState.REMOVED
        if self.retire_at is not None and self.retire_at <= now:
            return KeyState.RETIRED
        return KeyState.PUBLISHED if self.activate_at > now else KeyState.ACTIVE
