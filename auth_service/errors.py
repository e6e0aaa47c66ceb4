"""The errors of the service, each class with one stable reason.

AuthError
├── InvalidArgument          a field of the request is missing or malformed
│   └── WeakPassword         the password does not satisfy the policy
├── Unauthenticated
│   ├── InvalidCredentials   wrong identifier, password, id or secret; always the same text
│   ├── InvalidGrant         the refresh token is no good (RFC 6749 section 5.2)
│   └── InvalidToken         the access token is no good; carries an `InactiveReason`
├── InvalidScope             unknown scope, or more than was granted (RFC 6749 section 5.2)
├── PermissionDenied         the caller is known but may not do this
├── NotFound                 no such thing
├── AlreadyExists            the thing exists already
├── Retryable                the same call may succeed later; carries `retry_after`
│   ├── RateLimited          too many attempts or too much load
│   └── Unavailable          a dependency is down for now
│       └── RevocationsStale  revocations are known up to a moment too long ago
├── Unsupported              the method is not implemented by this version
└── ConfigError              the service is set up wrongly; seen by operators only

The text of an error is public: it may reach a client. Causes are chained and go to the log.
Each edge maps classes to its own statuses at one place.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import ClassVar


class InactiveReason(StrEnum):
    """Why an access token is not active."""

    MALFORMED = "malformed"
    BAD_SIGNATURE = "bad_signature"
    UNKNOWN_KEY = "unknown_key"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    WRONG_ISSUER = "wrong_issuer"
    WRONG_AUDIENCE = "wrong_audience"
    WRONG_TYPE = "wrong_type"
    TOKEN_REVOKED = "token_revoked"  # noqa: S105 - a reason, not a secret
    SESSION_REVOKED = "session_revoked"
    USER_REVOKED = "user_revoked"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    INSUFFICIENT_ROLE = "insufficient_role"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that is wrong; `field` is its path in the request message."""

    field: str
    description: str


class AuthError(Exception):
    """The root: whatever the service refuses or fails to do, with a text fit for a client."""

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class InvalidArgument(AuthError):
    """A field of the request is missing or malformed."""

    reason: ClassVar[str] = "INVALID_ARGUMENT"

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}")
        self.violations = (FieldViolation(field, description),)


class WeakPassword(InvalidArgument):
    """The password does not satisfy the password policy."""

    reason: ClassVar[str] = "WEAK_PASSWORD"


class Unauthenticated(AuthError):
    """The caller did not prove who it is."""


class InvalidCredentials(Unauthenticated):
    """The credentials do not match an account that may log in, whatever the cause."""

    reason: ClassVar[str] = "INVALID_CREDENTIALS"

    def __init__(self) -> None:
        super().__init__("the credentials are not valid")


class InvalidGrant(Unauthenticated):
    """The refresh token is forged, expired, revoked or used (RFC 6749 section 5.2)."""

    reason: ClassVar[str] = "INVALID_GRANT"

    def __init__(self) -> None:
        super().__init__("the refresh token is not valid; log in again")


class InvalidToken(Unauthenticated):
    """The access token is missing or no good (RFC 6750 section 3.1)."""

    reason: ClassVar[str] = "INVALID_TOKEN"

    def __init__(
        self,
        inactive_reason: InactiveReason,
        text: str = "the access token is not valid",
    ) -> None:
        super().__init__(text)
        self.inactive_reason = inactive_reason


class InvalidScope(AuthError):
    """The scope asked for is unknown or exceeds the grant (RFC 6749 section 5.2)."""

    reason: ClassVar[str] = "INVALID_SCOPE"


class PermissionDenied(AuthError):
    """The caller is known but may not do this."""

    reason: ClassVar[str] = "PERMISSION_DENIED"


class NotFound(AuthError):
    """The named thing does not exist."""

    reason: ClassVar[str] = "NOT_FOUND"


class AlreadyExists(AuthError):
    """The thing to be made exists already."""

    reason: ClassVar[str] = "ALREADY_EXISTS"


class Retryable(AuthError):
    """The same call may succeed later, not before `retry_after`."""

    def __init__(self, text: str, retry_after: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class RateLimited(Retryable):
    """Too many attempts, or more load than the service takes."""

    reason: ClassVar[str] = "RATE_LIMITED"


class Unavailable(Retryable):
    """A dependency is not available for now."""

    reason: ClassVar[str] = "UNAVAILABLE"


class RevocationsStale(Unavailable):
    """Revocations are known only up to a moment longer ago than allowed."""

    reason: ClassVar[str] = "REVOCATIONS_STALE"


class Unsupported(AuthError):
    """The method is not implemented by this version of the service."""

    reason: ClassVar[str] = "UNIMPLEMENTED"


class ConfigError(AuthError):
    """The service is set up wrongly; the text says what and how to mend it."""

    reason: ClassVar[str] = "CONFIG"
