"""The things the service is about, frozen and without behaviour that needs I/O."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID


@dataclass(frozen=True, slots=True)
class User:
    """A person's account. `identifiers` are normalised; `password_hash` is a PHC string."""

    id: UUID
    identifiers: tuple[str, ...]
    password_hash: str = field(repr=False)
    roles: tuple[str, ...]
    scope: tuple[str, ...]
    disabled: bool
    created_at: datetime
    revoked_before: datetime | None = None
    """Sessions and tokens issued before this moment are revoked; a whole second."""


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A service's account; it logs in with an id and a secret and holds no session."""

    client_id: str
    secret_hash: str = field(repr=False)
    roles: tuple[str, ...]
    scope: tuple[str, ...]
    disabled: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Session:
    """A login that may be refreshed. One row, however often it is refreshed.

    The current refresh token follows from it and the master key: `jti` from `seed` and
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
    """When the session ends whatever happens."""
    revoked_at: datetime | None = None
    refresh_request_hash: bytes | None = field(default=None, repr=False)
    """Identifies the request that made the current generation, if the client gave it an id."""


@dataclass(frozen=True, slots=True)
class TokenPair:
    """What a login or a refresh yields; `refresh_token` is empty for service accounts."""

    access_token: str = field(repr=False)
    access_expires_at: datetime
    scope: tuple[str, ...]
    refresh_token: str = field(default="", repr=False)
    refresh_expires_at: datetime | None = None
    session_id: str = ""


class RevocationKind(StrEnum):
    """What a revocation covers."""

    TOKEN = "token"  # noqa: S105 - a kind, not a secret
    SESSION = "session"
    USER = "user"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class Revocation:
    """Access tokens that are no good although they have not expired.

    `target` is a `jti`, `sid` or `sub` by `kind`, empty for ALL. `issued_before` bounds USER and
    ALL. It matters until `expires_at`, when the last token that it covers has expired.
    """

    kind: RevocationKind
    target: str
    expires_at: datetime
    issued_before: datetime | None = None
    xid: int = field(default=0, compare=False, repr=False)
    """The transaction that wrote it; 0 where that is not known."""
    disables: bool = field(default=False, compare=False, repr=False)
    """Whether the user (kind USER) is disabled since then, and not only signed out."""


class KeyState(StrEnum):
    """Where a signing key stands in its life."""

    PUBLISHED = "published"
    ACTIVE = "active"
    RETIRED = "retired"
    REMOVED = "removed"
    COMPROMISED = "compromised"


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A signing key as the database holds it: its private part encrypted (AES-256-GCM).

    Its state follows from its dates, so that no replica has to move it on.
    """

    kid: str
    algorithm: str
    encrypted_secret: bytes = field(repr=False)
    created_at: datetime
    activate_at: datetime
    """From when on it signs; verifiers know it before."""
    retire_at: datetime | None = None
    """From when on it only verifies."""
    remove_at: datetime | None = None
    """When the last token that it signed has expired."""
    compromised_at: datetime | None = None
    """Since when it is not trusted at all."""
    changed_at: datetime | None = field(default=None, compare=False)
    """When the database wrote this version, by its own clock; None if it has not yet."""

    def state(self, now: datetime) -> KeyState:
        """Return where the key stands at a moment."""
        if self.compromised_at is not None:
            return KeyState.COMPROMISED
        if self.remove_at is not None and self.remove_at <= now:
            return KeyState.REMOVED
        if self.retire_at is not None and self.retire_at <= now:
            return KeyState.RETIRED
        return KeyState.PUBLISHED if self.activate_at > now else KeyState.ACTIVE
