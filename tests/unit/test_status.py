"""Errors as gRPC statuses: the code, the reason, the details, and nothing else."""

from datetime import timedelta
from typing import TypeVar

import grpc
import pytest
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from auth_service import errors
from auth_service.authz.status import make_status, read_details
from auth_service.errors import AuthError, FieldViolation, InactiveReason
from auth_service.rpc import status

Detail = TypeVar("Detail", bound=Message)

EXPECTED: list[tuple[AuthError, grpc.StatusCode, str]] = [
    (AuthError("secret plan"), grpc.StatusCode.INTERNAL, "INTERNAL"),
    (
        errors.InvalidArgument("scope", "is odd"),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_ARGUMENT",
    ),
    (errors.WeakPassword("password", "short"), grpc.StatusCode.INVALID_ARGUMENT, "WEAK_PASSWORD"),
    (errors.Unauthenticated("who?"), grpc.StatusCode.UNAUTHENTICATED, "INTERNAL"),
    (errors.InvalidCredentials(), grpc.StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS"),
    (errors.InvalidGrant(), grpc.StatusCode.UNAUTHENTICATED, "INVALID_GRANT"),
    (
        errors.InvalidToken(InactiveReason.EXPIRED),
        grpc.StatusCode.UNAUTHENTICATED,
        "INVALID_TOKEN",
    ),
    (
        errors.InsufficientUserAuthentication(timedelta(minutes=5), ("2fa", "phr"), ("max_age",)),
        grpc.StatusCode.UNAUTHENTICATED,
        "INSUFFICIENT_USER_AUTHENTICATION",
    ),
    (errors.InvalidScope("too much"), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_SCOPE"),
    (errors.InvalidTarget("orders"), grpc.StatusCode.INVALID_ARGUMENT, "INVALID_TARGET"),
    (
        errors.InvalidSubjectToken("is not active: expired"),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_SUBJECT_TOKEN",
    ),
    (
        errors.CertificateRequired(),
        grpc.StatusCode.FAILED_PRECONDITION,
        "CERTIFICATE_REQUIRED",
    ),
    (errors.PermissionDenied("no"), grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"),
    (errors.NotFound("none"), grpc.StatusCode.NOT_FOUND, "NOT_FOUND"),
    (errors.AlreadyExists("taken"), grpc.StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS"),
    (errors.TooManySecrets("two"), grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY_SECRETS"),
    (errors.TooManyFactors("ten"), grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY_FACTORS"),
    (errors.LastIdentifier(), grpc.StatusCode.FAILED_PRECONDITION, "LAST_IDENTIFIER"),
    (
        errors.PasswordChangeRequired(),
        grpc.StatusCode.FAILED_PRECONDITION,
        "PASSWORD_CHANGE_REQUIRED",
    ),
    (errors.Retryable("later"), grpc.StatusCode.INTERNAL, "INTERNAL"),
    (errors.RateLimited("slow down"), grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED"),
    (errors.Unavailable("down"), grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"),
    (errors.RevocationsStale("stale"), grpc.StatusCode.UNAVAILABLE, "REVOCATIONS_STALE"),
    (errors.Unsupported("not yet"), grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED"),
    (errors.ConfigError("bad path"), grpc.StatusCode.INTERNAL, "INTERNAL"),
]


class Unlisted(AuthError):
    """An error that no edge knows."""

    reason = "UNLISTED"


def name_of(value: object) -> str:
    """Return the name of a parameter set: the class of the error."""
    return type(value).__name__ if isinstance(value, AuthError) else ""


def message(seen: status.Status) -> status_pb2.Status:
    """Return the google.rpc.Status in the trailers."""
    trailers = dict(seen.trailers)
    return status_pb2.Status.FromString(trailers["grpc-status-details-bin"])


def details(error: AuthError, kind: type[Detail]) -> list[Detail]:
    """Return the details of one kind."""
    found = []
    for box in message(status.of(error)).details:
        detail = kind()
        if box.Unpack(detail):
            found.append(detail)
    return found


def test_every_error_of_the_tree_is_expected_here() -> None:
    """A new error class must have a status."""
    tree = {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, AuthError)
    }
    assert {type(error) for error, _, _ in EXPECTED} == tree


@pytest.mark.parametrize(("error", "code", "reason"), EXPECTED, ids=name_of)
def test_each_error_becomes_its_code_with_reason_and_domain(
    error: AuthError, code: grpc.StatusCode, reason: str
) -> None:
    """A client decides by the code and ErrorInfo."""
    assert status.of(error).code is code
    (info,) = details(error, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == (reason, "authn")


@pytest.mark.parametrize(("error", "code", "reason"), EXPECTED, ids=name_of)
def test_the_details_repeat_code_and_text(
    error: AuthError, code: grpc.StatusCode, reason: str
) -> None:
    """The gRPC status and the google.rpc.Status beside it never disagree."""
    seen = status.of(error)
    assert (message(seen).code, message(seen).message) == (code.value[0], seen.text)


def test_a_known_error_says_its_public_text() -> None:
    """The text of the core reaches the client unchanged."""
    assert status.of(errors.NotFound("no such session")).text == "no such session"


@pytest.mark.parametrize(
    "error",
    [Unlisted("/etc/secret"), errors.ConfigError("/etc/secret"), AuthError("/etc/secret")],
    ids=name_of,
)
def test_an_error_that_is_not_mapped_says_nothing(error: AuthError) -> None:
    """The text and the reason of an unknown error do not reach the client."""
    seen = status.of(error)
    assert (seen.code, seen.text) == (grpc.StatusCode.INTERNAL, status.INTERNAL.text)
    assert [info.reason for info in details(error, error_details_pb2.ErrorInfo)] == ["INTERNAL"]
    assert "secret" not in repr(seen)
    assert "UNLISTED" not in repr(seen)


def test_a_subclass_of_a_known_error_is_mapped_as_that() -> None:
    """A new subclass has the status of its parent."""

    class Locked(errors.PermissionDenied):
        reason = "LOCKED"

    assert status.of(Locked("locked")).code is grpc.StatusCode.PERMISSION_DENIED
    assert [i.reason for i in details(Locked("locked"), error_details_pb2.ErrorInfo)] == ["LOCKED"]


@pytest.mark.parametrize("kind", [errors.InvalidArgument, errors.WeakPassword])
def test_a_bad_field_is_named_in_bad_request(kind: type[errors.InvalidArgument]) -> None:
    """A client learns the path of the invalid field, and why it is invalid."""
    (bad,) = details(kind("requests[3].access_token", "is required"), error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad.field_violations] == [
        ("requests[3].access_token", "is required")
    ]


@pytest.mark.parametrize("kind", [errors.RateLimited, errors.Unavailable, errors.RevocationsStale])
@pytest.mark.parametrize("delay", [timedelta(0), timedelta(seconds=2, milliseconds=500)])
def test_what_may_be_retried_says_when(kind: type[errors.Retryable], delay: timedelta) -> None:
    """RetryInfo contains the delay, with fractions of a second."""
    (retry,) = details(kind("later", delay), error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToTimedelta() == delay


@pytest.mark.parametrize(("error", "code", "reason"), EXPECTED, ids=name_of)
def test_no_other_error_names_fields_or_a_delay(
    error: AuthError, code: grpc.StatusCode, reason: str
) -> None:
    """A client that retries on RetryInfo does not retry calls that cannot succeed."""
    without = ("INVALID_SCOPE", "INVALID_TARGET", "INVALID_SUBJECT_TOKEN")
    fields = code is grpc.StatusCode.INVALID_ARGUMENT and reason not in without
    retry = code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert len(details(error, error_details_pb2.BadRequest)) == int(fields)
    assert len(details(error, error_details_pb2.RetryInfo)) == int(retry)


@pytest.mark.parametrize("reason", InactiveReason)
def test_a_bad_access_token_is_challenged(reason: InactiveReason) -> None:
    """The challenge says invalid_token, without the cause (RFC 6750 section 3)."""
    trailers = dict(status.of(errors.InvalidToken(reason)).trailers)
    assert trailers["www-authenticate"] == 'Bearer error="invalid_token"'


def test_a_login_that_does_not_suffice_is_challenged_with_what_does() -> None:
    """In both forms: www-authenticate (RFC 9470 section 3), and ErrorInfo."""
    error = errors.InsufficientUserAuthentication(timedelta(minutes=5), ("2fa", "phr"))
    assert dict(status.of(error).trailers)["www-authenticate"] == (
        'Bearer error="insufficient_user_authentication", '
        'error_description="another login is required", acr_values="2fa phr", max_age="300"'
    )
    (info,) = details(error, error_details_pb2.ErrorInfo)
    assert info.metadata == {"acr_values": "2fa phr", "max_age": "300"}


@pytest.mark.parametrize(
    "error",
    [error for error, _, _ in EXPECTED if not isinstance(error, errors.InvalidToken)],
    ids=name_of,
)
def test_no_other_error_is_challenged(error: AuthError) -> None:
    """A new access token would not help."""
    assert "www-authenticate" not in dict(status.of(error).trailers)


def received(trailers: tuple[tuple[str, str | bytes], ...]) -> grpc.aio.AioRpcError:
    """Return the error that a client gets with these trailers."""
    metadata = grpc.aio.Metadata(("x-other", "1"), *trailers)
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), metadata)


def test_a_client_reads_the_details_that_the_service_sent() -> None:
    """The reason, the fields, the delay and the metadata come back as they were given."""
    violations = (FieldViolation("scope", "is odd"), FieldViolation("audience", "is empty"))
    sent = make_status(
        grpc.StatusCode.UNAVAILABLE,
        "later",
        "UNAVAILABLE",
        violations=violations,
        retry_after=timedelta(seconds=2.5),
        metadata={"max_age": "300"},
    )
    assert read_details(received(sent.trailers)) == (
        "UNAVAILABLE",
        violations,
        timedelta(seconds=2.5),
        {"max_age": "300"},
    )


def test_details_that_cannot_be_read_count_as_absent() -> None:
    """A proxy may send none, its own, bytes that are no message, or a delay out of range."""
    foreign, endless = status_pb2.Status(), status_pb2.Status()
    foreign.details.add().Pack(error_details_pb2.ErrorInfo(reason="X", domain="proxy"))
    endless.details.add().Pack(
        error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1 << 62))
    )
    for sent in (foreign.SerializeToString(), endless.SerializeToString(), b"\xff\xff"):
        assert read_details(received((("grpc-status-details-bin", sent),))) == ("", (), None, {})
    assert read_details(received(())) == ("", (), None, {})
