"""Whether a caller is let in: the one decision behind every door, the service's and its clients'.

Owns the form of a rule, reading the bearer token, asking the verifier, and what a refused caller is
told. Knows no transport; a refusal's status is a number of HTTP, which the gRPC edges translate.
"""

import logging
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from auth_service.errors import (
    AuthError,
    InactiveReason,
    InvalidToken,
    PermissionDenied,
    Retryable,
)
from auth_service.tokens.access import SCOPE_TOKEN, AccessClaims

__all__ = ["Admission", "Refused", "Rule", "Verifier", "admit", "claims_of"]

log = logging.getLogger("auth_service.client")

_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # RFC 6750 section 2.1
_INSUFFICIENT = (InactiveReason.INSUFFICIENT_SCOPE, InactiveReason.INSUFFICIENT_ROLE)


class Verifier(Protocol):
    """What tells a good access token from a bad one, in memory: called on every request."""

    def verify(
        self,
        token: str,
        *,
        audience: str = "",
        required_scope: Collection[str] = (),
        required_roles: Collection[str] = (),
    ) -> AccessClaims:
        """Return the claims of a good token; raises InvalidToken or RevocationsStale."""
        ...


@dataclass(frozen=True, slots=True)
class Rule:
    """What one method asks of its callers; `Rule()` is a good token and nothing more.

    The token must be for `audience` (empty: for anybody) and hold all of `scope` and `roles`.
    A `public` method takes every caller; a token that satisfies `audience` still makes its holder
    the principal. Raises ValueError for a rule that cannot mean what it says.
    """

    audience: str = ""
    scope: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    public: bool = False

    def __post_init__(self) -> None:
        # A lone string is a collection too, of its letters: ("admin") for ("admin",).
        given: tuple[object, ...] = (self.scope, self.roles)
        if any(isinstance(each, str) for each in given):
            raise ValueError("scope and roles are tuples of strings, not a string")
        # It is quoted in www-authenticate, so that nothing may break out of there.
        for scope in self.scope:
            if not SCOPE_TOKEN.fullmatch(scope):
                raise ValueError(f"not a scope (RFC 6749 section 3.3): {scope!r}")
        if self.public and (self.scope or self.roles):
            raise ValueError("a public method asks for no scope and no role")


class Refused(Exception):
    """A caller is not let in: all that it is told, and no more."""

    def __init__(
        self,
        status: int,
        reason: str,
        error: str,
        text: str,
        *,
        challenge: str = "",
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(text)
        self.status = status
        """The status code of HTTP: 401, 403, 500 or 503."""
        self.reason = reason
        """The stable reason of google.rpc.ErrorInfo."""
        self.error = error
        """The error code of OAuth (RFC 6750 section 3.1, RFC 6749 section 4.1.2.1)."""
        self.text = text
        self.challenge = challenge
        """The value of www-authenticate (RFC 6750 section 3), or empty."""
        self.retry_after = retry_after

    def body(self) -> dict[str, str]:
        """Return what a caller over HTTP is told, to be written as JSON."""
        return {"error": self.error, "error_description": self.text}

    def headers(self) -> dict[str, str]:
        """Return the headers of an answer over HTTP, but those that describe its body."""
        headers = {"cache-control": "no-store"}
        if self.challenge:
            headers["www-authenticate"] = self.challenge
        if self.retry_after is not None:
            headers["retry-after"] = str(math.ceil(self.retry_after.total_seconds()))
        return headers


@dataclass(frozen=True, slots=True)
class Admission:
    """A caller that was let in; `claims` is None for a stranger at a public door."""

    verifier: Verifier
    rule: Rule
    token: str = field(repr=False)
    claims: AccessClaims | None

    def renew(self) -> None:
        """Look at the token again; raises Refused when it is good no longer."""
        _verify(self.verifier, self.rule, self.token)


def admit(verifier: Verifier, rule: Rule, authorization: Sequence[str]) -> Admission:
    """Let a caller in by the values of its `authorization` header; raises Refused.

    A public rule never refuses: a token that is no good only leaves the caller a stranger.
    """
    try:
        token = _bearer_token(authorization)
        return Admission(verifier, rule, token, _verify(verifier, rule, token))
    except Refused:
        if rule.public:
            return Admission(verifier, rule, "", None)
        raise


def claims_of(verifier: Verifier, rule: Rule, authorization: Sequence[str]) -> AccessClaims:
    """Return the claims of the one token in these values; raises Refused, be the rule public."""
    return _verify(verifier, rule, _bearer_token(authorization))


def _bearer_token(authorization: Sequence[str]) -> str:
    if not authorization:
        raise _missing()
    if len(authorization) > 1:  # two readers could take different ones
        raise _invalid("there is more than one authorization value")
    scheme, _, token = authorization[0].strip(" ").partition(" ")
    if scheme.lower() != "bearer":  # in any case: RFC 9110 section 11.1
        raise _missing()
    token = token.lstrip(" ")
    if not _TOKEN.fullmatch(token):
        raise _invalid("the authorization value is not one Bearer token")
    return token


def _verify(verifier: Verifier, rule: Rule, token: str) -> AccessClaims:
    try:
        claims = verifier.verify(
            token, audience=rule.audience, required_scope=rule.scope, required_roles=rule.roles
        )
        if not isinstance(claims, AccessClaims):  # a coroutine, say, which is no verdict
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
    except Exception as error:  # whatever happens in there, nobody gets in by it
        log.exception("the verifier failed; the call is refused")
        raise Refused(
            500, AuthError.reason, "server_error", "internal error; the log has the cause"
        ) from error


def _missing() -> Refused:
    # RFC 6750 section 3.1: who shows no token is told how to, and of no error.
    return Refused(
        401, InvalidToken.reason, "invalid_token", "an access token is needed", challenge="Bearer"
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
    if error.inactive_reason not in _INSUFFICIENT:
        return _invalid(error.text)
    challenge = 'Bearer error="insufficient_scope"'
    if rule.scope:
        challenge += f', scope="{" ".join(rule.scope)}"'
    return Refused(
        403,
        PermissionDenied.reason,
        "insufficient_scope",
        "the access token does not carry the scope or the role that this needs",
        challenge=challenge,
    )
