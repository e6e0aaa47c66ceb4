"""Validate: the verdict on an access token, with a bound on its staleness.

Owns the freshness rule. Everything else about a verdict belongs to the TokenVerifier.
"""

from collections.abc import Callable, Collection
from datetime import datetime, timedelta
from typing import NamedTuple

from auth_service.clock import Clock, seconds
from auth_service.errors import (
    InactiveReason,
    InsufficientUserAuthentication,
    InvalidToken,
    RevocationsStale,
)
from auth_service.tokens.access import AccessClaims, TokenVerifier

_WRONG_CERTIFICATE = InactiveReason.WRONG_CERTIFICATE


class Verdict(NamedTuple):
    """The claims, or the reason why there are none (RFC 7662 section 2.2)."""

    claims: AccessClaims | None
    inactive_reason: InactiveReason | None
    revocations_as_of: datetime
    unmet: tuple[str, ...] = ()
    """What of the question the login of the user does not satisfy: `max_age`, `acr_values`."""


class Validation:
    """Answers Validate from memory, and gives no verdict when revocations are stale."""

    def __init__(
        self,
        verifier: TokenVerifier,
        revocations_as_of: Callable[[], datetime],
        freshness_limit: timedelta,
        clock: Clock,
    ) -> None:
        self._verifier = verifier
        self._revocations_as_of = revocations_as_of
        self._limit = freshness_limit.total_seconds()
        self._now = seconds(clock)
        self._as_of: datetime | None = None
        self._as_of_seconds = 0.0

    def validate(
        self,
        token: str,
        *,
        audience: str = "",
        required_scope: Collection[str] = (),
        required_roles: Collection[str] = (),
        certificate_thumbprint: str = "",
        max_staleness: timedelta | None = None,
        max_age: timedelta | None = None,
        acr_values: Collection[str] = (),
    ) -> Verdict:
        """Return the verdict. Raises RevocationsStale if revocations are staler than allowed."""
        as_of = self._require_fresh(max_staleness)
        try:
            claims = self._verifier.verify(
                token,
                audience=audience,
                required_scope=required_scope,
                required_roles=required_roles,
                certificate_thumbprint=certificate_thumbprint,
                max_age=max_age,
                acr_values=acr_values,
            )
        except InsufficientUserAuthentication as error:
            return Verdict(None, error.inactive_reason, as_of, error.unmet)
        except InvalidToken as error:
            return Verdict(None, error.inactive_reason, as_of)
        return Verdict(claims, None, as_of)

    def recall(
        self, token: str, certificate_thumbprint: str = "", max_age: timedelta | None = None
    ) -> datetime | None:
        """Return as_of if a token that is remembered is still active.

        None means that `validate` has to give the verdict. Raises RevocationsStale for a token
        that is remembered.
        """
        known = self._verifier.recall(token, certificate_thumbprint, max_age)
        return self._require_fresh(None) if known else None

    @property
    def signatures_verified(self) -> int:
        """Number of access tokens whose signature was verified; see TokenVerifier."""
        return self._verifier.signatures_verified

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
        """Return the claims of an active token. Raises InvalidToken, RevocationsStale."""
        self._require_fresh(None)
        return self._verifier.verify(
            token,
            audience=audience,
            required_scope=required_scope,
            required_roles=required_roles,
            certificate_thumbprint=certificate_thumbprint,
            max_age=max_age,
            acr_values=acr_values,
        )

    def introspect(self, token: str, certificate_thumbprint: str = "") -> AccessClaims:
        """Return the claims of an active token to a resource server that checks `cnf` itself.

        Without a thumbprint, a bound token counts as presented with its own certificate, as in RFC
        8705 section 3.2. Raises InvalidToken, RevocationsStale.
        """
        try:
            return self.verify(token, certificate_thumbprint=certificate_thumbprint)
        except InvalidToken as error:
            if certificate_thumbprint or error.inactive_reason is not _WRONG_CERTIFICATE:
                raise
        bound_to = self._verifier.authenticate(token).certificate_thumbprint
        return self.verify(token, certificate_thumbprint=bound_to)

    def _require_fresh(self, max_staleness: timedelta | None) -> datetime:
        as_of = self._revocations_as_of()
        if as_of is not self._as_of:  # converted once for each poll, not in each call
            self._as_of, self._as_of_seconds = as_of, as_of.timestamp()
        limit = self._limit
        if max_staleness is not None:
            limit = min(limit, max_staleness.total_seconds())
        if self._now() - self._as_of_seconds > limit:
            raise RevocationsStale(
                "this replica has not heard of revocations for longer than allowed; try another"
            )
        return as_of
