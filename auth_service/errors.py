"""The errors of the service, each class with one stable reason.

AuthError
├── InvalidArgument          a field of the request is missing or malformed
│   └── WeakPassword         the password does not satisfy the policy
├── Unauthenticated
│   ├── InvalidCredentials   wrong identifier, password, id or secret; always the same text
│   ├── InvalidGrant         the refresh token is invalid (RFC 6749 section 5.2)
│   └── InvalidToken         the access token is invalid; carries an `InactiveReason`
│       └── InsufficientUserAuthentication  the user has to log in again (RFC 9470)
├── InvalidScope             the scope is unknown, or exceeds the grant (RFC 6749 section 5.2)
├── InvalidTarget            the audience is unknown, or not granted (RFC 8707 section 2)
├── InvalidSubjectToken      the token to exchange is invalid, or another's (RFC 8693 section 2.2.2)
├── PermissionDenied         the caller is known, but not allowed
├── NotFound                 the named object does not exist
├── AlreadyExists            the object exists already
├── TooManySecrets           the service account has as many live secrets as it may have
├── TooManyFactors           the user has as many second factors as a user may have
├── LastIdentifier           the identifier is the last one of its user
├── PasswordChangeRequired   the password is right, and has to be replaced
├── CertificateRequired      the client has to present its certificate (RFC 8705)
├── Retryable                the same call may succeed later; carries `retry_after`
│   ├── RateLimited          too many attempts or too much load
│   └── Unavailable          a dependency is not available
│       └── RevocationsStale  the known revocations are older than allowed
├── Unsupported              this version does not implement the method
└── ConfigError              the configuration is wrong; only operators see it

The text of an error may reach a client. Its cause is chained and goes to the log only. Each edge
maps the classes to its statuses in one place.
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
    WRONG_CERTIFICATE = "wrong_certificate"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    INSUFFICIENT_ROLE = "insufficient_role"
    INSUFFICIENT_USER_AUTHENTICATION = "insufficient_user_authentication"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """An invalid field of a request; `field` is its path in the message."""

    field: str
    description: str


class AuthError(Exception):
    """The base class. The text may be shown to a client."""

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
    """The password does not satisfy the policy."""

    reason: ClassVar[str] = "WEAK_PASSWORD"


class Unauthenticated(AuthError):
    """The caller is not authenticated."""


class InvalidCredentials(Unauthenticated):
    """The credentials do not match an account that may log in. The cause is not told."""

    reason: ClassVar[str] = "INVALID_CREDENTIALS"

    def __init__(self) -> None:
        super().__init__("the credentials are not valid")


class InvalidGrant(Unauthenticated):
    """The refresh token is forged, expired, revoked or used (RFC 6749 section 5.2)."""

    reason: ClassVar[str] = "INVALID_GRANT"

    def __init__(self) -> None:
        super().__init__("the refresh token is not valid; log in again")


class InvalidToken(Unauthenticated):
    """The access token is missing or invalid (RFC 6750 section 3.1)."""

    reason: ClassVar[str] = "INVALID_TOKEN"

    def __init__(
        self,
        inactive_reason: InactiveReason,
        text: str = "the access token is not valid",
    ) -> None:
        super().__init__(text)
        self.inactive_reason = inactive_reason


class InsufficientUserAuthentication(InvalidToken):
    """The token is good, but its user has to log in again, or by more factors (RFC 9470).

    A refreshed token does not help: it tells of the same login.
    """

    reason: ClassVar[str] = "INSUFFICIENT_USER_AUTHENTICATION"

    def __init__(
        self,
        max_age: timedelta | None = None,
        acr_values: tuple[str, ...] = (),
        unmet: tuple[str, ...] = (),
    ) -> None:
        texts = {
            ("max_age",): "a more recent login is required",
            ("acr_values",): "a login by other or more factors is required",
            ("max_age", "acr_values"): "a more recent login by other or more factors is required",
        }
        super().__init__(
            InactiveReason.INSUFFICIENT_USER_AUTHENTICATION,
            texts.get(unmet, "another login is required"),
        )
        self.max_age = max_age
        """How long ago the user may have logged in; None if that is not demanded."""
        self.acr_values = acr_values
        """The values of `acr`, one of which the token needs; empty if any will do."""
        self.unmet = unmet
        """Which of the two the token does not satisfy: `max_age`, `acr_values` or both, in this
        order; empty if that is not known."""


class InvalidScope(AuthError):
    """The requested scope is unknown, or exceeds the grant (RFC 6749 section 5.2)."""

    reason: ClassVar[str] = "INVALID_SCOPE"


class InvalidTarget(AuthError):
    """The audience is not registered, or not granted to the account (RFC 8707 section 2).

    Both look the same, so that nobody learns the names of audiences.
    """

    reason: ClassVar[str] = "INVALID_TARGET"

    def __init__(self, audience: str) -> None:
        super().__init__(f"the audience {audience} is not known, or not granted to this account")


class InvalidSubjectToken(AuthError):
    """The token to exchange is invalid, or not for this account (RFC 8693 section 2.2.2)."""

    reason: ClassVar[str] = "INVALID_SUBJECT_TOKEN"

    def __init__(self, problem: str) -> None:
        super().__init__(f"the subject token {problem}")


class PermissionDenied(AuthError):
    """The caller is authenticated, but not allowed to do this."""

    reason: ClassVar[str] = "PERMISSION_DENIED"


class NotFound(AuthError):
    """The named object does not exist."""

    reason: ClassVar[str] = "NOT_FOUND"


class AlreadyExists(AuthError):
    """The object to be created exists already."""

    reason: ClassVar[str] = "ALREADY_EXISTS"


class TooManySecrets(AuthError):
    """The service account has as many live secrets as it may have."""

    reason: ClassVar[str] = "TOO_MANY_SECRETS"


class TooManyFactors(AuthError):
    """The user has as many second factors as a user may have."""

    reason: ClassVar[str] = "TOO_MANY_FACTORS"


class LastIdentifier(AuthError):
    """The identifier is the last one of its user, who could not log in without it."""

    reason: ClassVar[str] = "LAST_IDENTIFIER"

    def __init__(self) -> None:
        super().__init__("this is the last identifier of the user: add another one first")


class PasswordChangeRequired(AuthError):
    """The password is right, and the user has to replace it."""

    reason: ClassVar[str] = "PASSWORD_CHANGE_REQUIRED"

    def __init__(self) -> None:
        super().__init__("the password must be changed: log in with it and with a new_password")


class CertificateRequired(AuthError):
    """The tokens are bound to a client certificate, and the client presented none (RFC 8705)."""

    reason: ClassVar[str] = "CERTIFICATE_REQUIRED"

    def __init__(self) -> None:
        super().__init__(
            "tokens for this account or audience are bound to a client certificate; present it by "
            "mutual TLS"
        )


class Retryable(AuthError):
    """The same call may succeed after `retry_after`."""

    def __init__(self, text: str, retry_after: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class RateLimited(Retryable):
    """Too many attempts, or too much load."""

    reason: ClassVar[str] = "RATE_LIMITED"


class Unavailable(Retryable):
    """A dependency is not available."""

    reason: ClassVar[str] = "UNAVAILABLE"


class RevocationsStale(Unavailable):
    """The known revocations are older than allowed, so no verdict is possible."""

    reason: ClassVar[str] = "REVOCATIONS_STALE"


class Unsupported(AuthError):
    """This version of the service does not implement the method."""

    reason: ClassVar[str] = "UNIMPLEMENTED"


class ConfigError(AuthError):
    """The configuration is wrong. The text says what is wrong and how to correct it."""

    reason: ClassVar[str] = "CONFIG"
