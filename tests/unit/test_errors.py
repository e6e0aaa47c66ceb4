"""The error tree: stable reasons, public texts, field violations."""

from datetime import timedelta

import pytest
from authn.v1 import error_reason_pb2

from auth_service import errors
from auth_service.errors import (
    AuthError,
    FieldViolation,
    InactiveReason,
    InvalidArgument,
    InvalidCredentials,
    InvalidGrant,
    InvalidToken,
    RateLimited,
    RevocationsStale,
    Unauthenticated,
    Unavailable,
    WeakPassword,
)

REASONS = {
    "AuthError": "INTERNAL",
    "InvalidArgument": "INVALID_ARGUMENT",
    "WeakPassword": "WEAK_PASSWORD",
    "InvalidCredentials": "INVALID_CREDENTIALS",
    "InvalidGrant": "INVALID_GRANT",
    "InvalidToken": "INVALID_TOKEN",
    "InsufficientUserAuthentication": "INSUFFICIENT_USER_AUTHENTICATION",
    "InvalidScope": "INVALID_SCOPE",
    "InvalidTarget": "INVALID_TARGET",
    "InvalidSubjectToken": "INVALID_SUBJECT_TOKEN",
    "CertificateRequired": "CERTIFICATE_REQUIRED",
    "PermissionDenied": "PERMISSION_DENIED",
    "NotFound": "NOT_FOUND",
    "AlreadyExists": "ALREADY_EXISTS",
    "TooManySecrets": "TOO_MANY_SECRETS",
    "TooManyFactors": "TOO_MANY_FACTORS",
    "LastIdentifier": "LAST_IDENTIFIER",
    "PasswordChangeRequired": "PASSWORD_CHANGE_REQUIRED",
    "RateLimited": "RATE_LIMITED",
    "Unavailable": "UNAVAILABLE",
    "RevocationsStale": "REVOCATIONS_STALE",
    "Unsupported": "UNIMPLEMENTED",
    "ConfigError": "CONFIG",
}


@pytest.mark.parametrize(("name", "reason"), REASONS.items())
def test_each_error_has_its_stable_reason(name: str, reason: str) -> None:
    """Clients match on reasons, so these never change."""
    assert getattr(errors, name).reason == reason


def test_the_proto_lists_every_reason_that_a_client_can_see() -> None:
    """Only operators see a ConfigError."""
    seen = {
        c.reason for c in vars(errors).values() if isinstance(c, type) and issubclass(c, AuthError)
    }
    listed = error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name
    assert seen - {"CONFIG"} <= {name.removeprefix("ERROR_REASON_") for name in listed}


def test_every_error_is_of_the_one_tree_and_drawn_in_its_docstring() -> None:
    """An edge that catches AuthError catches all of them, and the docstring lists all."""
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)]
    assert all(issubclass(c, AuthError) for c in classes)
    assert all(c.__name__ in (errors.__doc__ or "") for c in classes)


def test_the_text_is_what_the_error_says() -> None:
    """The text that a client sees is the text of the exception."""
    error = AuthError("something public")
    assert (error.text, str(error)) == ("something public", "something public")


def test_a_bad_field_is_named() -> None:
    """A violation names the field and says what is wrong."""
    error = WeakPassword("password", "too short")
    assert isinstance(error, InvalidArgument)
    assert error.violations == (FieldViolation("password", "too short"),)
    assert error.text == "password: too short"


def test_all_credential_failures_look_the_same() -> None:
    """The text does not say which credential was wrong."""
    assert str(InvalidCredentials()) == str(InvalidCredentials())
    assert isinstance(InvalidCredentials(), Unauthenticated)
    assert isinstance(InvalidGrant(), Unauthenticated)


@pytest.mark.parametrize("reason", InactiveReason)
def test_an_invalid_token_carries_why(reason: InactiveReason) -> None:
    """The verdict contains the reason; the default text does not."""
    error = InvalidToken(reason)
    assert error.inactive_reason is reason
    assert error.text == "the access token is not valid"


def test_a_retryable_error_says_when_to_retry() -> None:
    """One second by default."""
    assert RateLimited("busy").retry_after == timedelta(seconds=1)
    assert Unavailable("down", timedelta(seconds=7)).retry_after == timedelta(seconds=7)
    assert isinstance(RevocationsStale("stale"), Unavailable)
