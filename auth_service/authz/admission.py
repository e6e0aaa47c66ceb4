"""Decides whether a caller is admitted, for every edge of the service and of the client library.

Owns the form of a rule, how the bearer token is read, and what a refused caller is told. Knows no
transport: a refusal has a status of HTTP, which the gRPC edges translate.
"""

import logging
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Protocol

from auth_service.authz import step_up
from auth_service.errors import (
    AuthError,
    InactiveReason,
    InsufficientUserAuthentication,
    InvalidToken,
    PermissionDenied,
    Retryable,
)
from auth_service.tokens import assurance
from auth_service.tokens.access import SCOPE_TOKEN, AccessClaims

__all__ = ["Admission", "Refused", "Rule", "Verifier", "admit", "claims_of", "without_certificate"]

log = logging.getLogger("auth_service.client")

_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # RFC 6750 section 2.1
_NOTHING: Mapping[str, str] = MappingProxyType({})
_INSUFFICIENT = (InactiveReason.INSUFFICIENT_SCOPE, InactiveReason.INSUFFICIENT_ROLE)


class Verifier(Protocol):
    """Verifies access tokens, in memory; it is called for every request."""

    def verify(
        self,
        token: str,
        *,
        audience: str = "",
        required_scope: Collection[str] = (),
        required_roles: Collection[str] = (),
        certificate_thumbprint: str = "",
        max_age: timedelta | None = None,
        acr_values: Collection[str] = (),
    ) -> AccessClaims:
        """Return the claims of a valid token. Raises InvalidToken or RevocationsStale.

        `certificate_thumbprint` is that of the caller's certificate, empty if it shows none; a
        token that is bound to another must be refused (RFC 8705 section 3). If the user logged in
        longer ago than `max_age`, or its `acr` is not one of `acr_values`, this raises
        InsufficientUserAuthentication. The last three are given only if there is something to give.
        """
        ...


@dataclass(frozen=True, slots=True)
class Rule:
    """What one method requires of its callers; `Rule()` requires a valid token.

    The token must have the audience `audience`, if one is given, and all of `scope` and `roles`.
    The user must not have logged in longer ago than `max_age`, in whole seconds, and must have
    reached one of `acr_values` (docs/step-up.md). A `public` method admits every caller, and still
    identifies one whose token has the audience. Raises ValueError for a rule that contradicts
    itself.
    """

    audience: str = ""
    scope: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    public: bool = False
    max_age: timedelta | None = None
    acr_values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # A string is a collection of its letters: ("admin") instead of ("admin",).
        given: tuple[object, ...] = (self.scope, self.roles, self.acr_values)
        if any(isinstance(each, str) for each in given):
            raise ValueError("scope, roles and acr_values must be tuples of strings")
        # www-authenticate quotes the scope, so no value may end the quotation.
        for scope in self.scope:
            if not SCOPE_TOKEN.fullmatch(scope):
                raise ValueError(f"not a scope (RFC 6749 section 3.3): {scope!r}")
        if self.public and (self.scope or self.roles):
            raise ValueError("a public method must not require a scope or a role")
        self._check_login()

    def _check_login(self) -> None:
        age: object = self.max_age
        if age is not None and not (
            isinstance(age, timedelta) and age >= timedelta() and not age.microseconds
        ):
            raise ValueError("max_age must be a timedelta of whole seconds, zero or more")
        for value in self.acr_values:
            if not assurance.FORM.fullmatch(value):
                raise ValueError(f"not a value of acr, which is visible ASCII: {value!r}")
        if self.public and (self.acr_values or age is not None):
            raise ValueError("a public method must not require max_age or acr_values")


class Refused(Exception):
    """A caller is refused; this holds everything that the caller is told."""

    def __init__(
        self,
        status: int,
        reason: str,
        error: str,
        text: str,
        *,
        challenge: str = "",
        retry_after: timedelta | None = None,
        metadata: Mapping[str, str] = _NOTHING,
    ) -> None:
        super().__init__(text)
        self.status = status
        """Status code of HTTP: 401, 403, 500 or 503."""
        self.reason = reason
        """Stable reason of google.rpc.ErrorInfo."""
        self.error = error
        """Error code of OAuth (RFC 6750 section 3.1, RFC 6749 section 4.1.2.1)."""
        self.text = text
        self.challenge = challenge
        """Value of www-authenticate (RFC 6750 section 3), or empty."""
        self.retry_after = retry_after
        self.metadata = metadata
        """Metadata of google.rpc.ErrorInfo: what a login must satisfy (RFC 9470), or empty."""

    def body(self) -> dict[str, str]:
        """Return the JSON object of an HTTP response."""
        return {"error": self.error, "error_description": self.text}

    def headers(self) -> dict[str, str]:
        """Return the headers of an HTTP response, without those that describe its body."""
        headers = {"cache-control": "no-store"}
        if self.challenge:
            headers["www-authenticate"] = self.challenge
        if self.retry_after is not None:
            headers["retry-after"] = str(math.ceil(self.retry_after.total_seconds()))
        return headers


@dataclass(frozen=True, slots=True)
class Admission:
    """An admitted caller; `claims` is None for an anonymous caller of a public method."""

    verifier: Verifier
    rule: Rule
    token: str = field(repr=False)
    claims: AccessClaims | None

    @property
    def certificate(self) -> str:
        """The thumbprint of the caller's certificate, if the token is bound to it; else empty."""
        return "" if self.claims is None else self.claims.certificate_thumbprint

    def renew(self) -> None:
        """Verify the token again. Raises Refused if it is no longer valid."""
        _verify(self.verifier, self.rule, self.token, lambda: self.certificate)


def without_certificate() -> str:
    """Return the thumbprint of a caller that presents no certificate."""
    return ""


def admit(
    verifier: Verifier,
    rule: Rule,
    authorization: Sequence[str],
    certificate: Callable[[], str] = without_certificate,
) -> Admission:
    """Admit a caller by the values of its `authorization` header. Raises Refused.

    `certificate` returns the thumbprint of the caller's certificate, see `authz.certificates`. It
    is called for a bound token only, as reading a certificate takes longer than verifying. A public
    rule never refuses; a caller with an invalid token is treated as anonymous.
    """
    try:
        token = _bearer_token(authorization)
        return Admission(verifier, rule, token, _verify(verifier, rule, token, certificate))
    except Refused:
        if rule.public:
            return Admission(verifier, rule, "", None)
        raise


def claims_of(
    verifier: Verifier,
    rule: Rule,
    authorization: Sequence[str],
    certificate: Callable[[], str] = without_certificate,
) -> AccessClaims:
    """Return the claims of the token in these values. Raises Refused, even under a public rule."""
    return _verify(verifier, rule, _bearer_token(authorization), certificate)


def _bearer_token(authorization: Sequence[str]) -> str:
    if not authorization:
        raise _missing()
    if len(authorization) > 1:  # another reader could take another one
        raise _invalid("there is more than one authorization value")
    scheme, _, token = authorization[0].strip(" ").partition(" ")
    if scheme.lower() != "bearer":  # case-insensitive: RFC 9110 section 11.1
        raise _missing()
    token = token.lstrip(" ")
    if not _TOKEN.fullmatch(token):
        raise _invalid("the authorization value is not one Bearer token")
    return token


def _ask(
    verifier: Verifier, rule: Rule, token: str, certificate: Callable[[], str]
) -> AccessClaims:
    asked: dict[str, Any] = {
        "audience": rule.audience,
        "required_scope": rule.scope,
        "required_roles": rule.roles,
    }
    if rule.max_age is not None:
        asked["max_age"] = rule.max_age
    if rule.acr_values:
        asked["acr_values"] = rule.acr_values
    try:
        return verifier.verify(token, **asked)
    except InvalidToken as error:
        if error.inactive_reason is not InactiveReason.WRONG_CERTIFICATE:
            raise
        if not (thumbprint := certificate()):
            raise
    return verifier.verify(token, **asked, certificate_thumbprint=thumbprint)


def _verify(
    verifier: Verifier, rule: Rule, token: str, certificate: Callable[[], str]
) -> AccessClaims:
    try:
        claims = _ask(verifier, rule, token, certificate)
        if not isinstance(claims, AccessClaims):  # for example a coroutine
            raise TypeError(f"verify() returned {type(claims).__name__}, not AccessClaims")
        return claims
    except InvalidToken as error:
        log.debug("access token refused: %s", error.inactive_reason)
        raise _refusal(error, rule) from error
    except Retryable as error:
        raise Refused(
            503,
            error.reason,
            "temporarily_unavailable",
            error.text,
            retry_after=error.retry_after,
        ) from error
    except Exception as error:  # no failure of a verifier admits a caller
        log.exception("the verifier failed; the call is refused")
        raise Refused(
            500, AuthError.reason, "server_error", "internal error; the log has the cause"
        ) from error


def _missing() -> Refused:
    # RFC 6750 section 3.1: a request without a token gets the scheme, without an error code.
    return Refused(
        401, InvalidToken.reason, "invalid_token", "an access token is required", challenge="Bearer"
    )


def _invalid(text: str) -> Refused:
    return Refused(
        401,
        InvalidToken.reason,
        "invalid_token",
        text,
        challenge='Bearer error="invalid_token"',
    )


def _refusal(error: InvalidToken, rule: Rule) -> Refused:
    if error.inactive_reason is InactiveReason.WRONG_AUDIENCE:
        return _invalid("the access token is for another audience")
    if error.inactive_reason is InactiveReason.WRONG_CERTIFICATE:
        return _invalid("the access token is bound to a client certificate; present it")
    if isinstance(error, InsufficientUserAuthentication):
        return Refused(
            401,
            error.reason,
            step_up.ERROR,
            error.text,
            challenge=step_up.challenge(error),
            metadata=step_up.demands(error),
        )
    if error.inactive_reason not in _INSUFFICIENT:
        return _invalid(error.text)
    challenge = 'Bearer error="insufficient_scope"'
    if rule.scope:
        challenge += f', scope="{" ".join(rule.scope)}"'
    return Refused(
        403,
        PermissionDenied.reason,
        "insufficient_scope",
        "the access token lacks the required scope or role",
        challenge=challenge,
    )
