"""The session that a login begins: what it is for, how long it lives, and what it is bound to.

Owns that every way to log in begins the same kind of session. How the user was authenticated, the
caller decides.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime
from uuid import uuid4

from auth_service.clock import Clock
from auth_service.core import fields
from auth_service.core.audiences import Audiences, granted_scope
from auth_service.core.session_policy import SessionPolicy
from auth_service.errors import CertificateRequired
from auth_service.models import Session, User
from auth_service.tokens.challenge import LoginTerms

__all__ = ["NewSessions", "login_terms", "uncovered"]

_SEED_BYTES = 32


def login_terms(
    audience: Sequence[str],
    scope: Sequence[str],
    client_id: str,
    device_label: str,
    request_id: str = "",
    certificate: str = "",
) -> LoginTerms:
    """Return what a login asks for. Raises InvalidArgument."""
    return LoginTerms(
        fields.labels(audience, "audience"),
        fields.scope(scope),
        fields.label(client_id, "client_id") or "first-party",
        fields.label(device_label, "device_label"),
        fields.request_id(request_id),
        certificate,
    )


class NewSessions:
    """Makes sessions, which are not stored yet."""

    def __init__(self, audiences: Audiences, policy: SessionPolicy, clock: Clock) -> None:
        self._audiences = audiences
        self._policy = policy
        self._clock = clock

    async def make(
        self,
        user: User,
        terms: LoginTerms,
        amr: tuple[str, ...],
        acr: str,
        auth_time: datetime | None = None,
    ) -> Session:
        """Return the session of these terms; without an `auth_time` the login is of now.

        Raises InvalidTarget, InvalidScope, CertificateRequired.
        """
        audience = terms.audience or self._policy.default_audience
        within = await self._audiences.admit(audience, user.audiences)
        now = uncovered(self._clock(), user.revoked_before)
        expires_at = now + self._policy.refresh_absolute_ttl
        return Session(
            user_id=user.id,
            id=uuid4(),
            generation=0,
            seed=secrets.token_bytes(_SEED_BYTES),
            client_id=terms.client_id,
            device_label=terms.device_label,
            audience=audience,
            scope=granted_scope(user.scope, terms.scope, within),
            amr=amr,
            acr=acr,
            auth_time=auth_time or now,
            created_at=now,
            refreshed_at=now,
            refresh_expires_at=min(now + self._policy.refresh_idle_ttl, expires_at),
            expires_at=expires_at,
            bound_to=self.bound_to(audience, terms.certificate),
        )

    def bound_to(self, audience: Sequence[str], certificate: str, asked: bool = False) -> str:
        """Return the certificate that tokens for these audiences are bound to; empty if none.

        Raises CertificateRequired if they have to be and the client presented none.
        """
        if not (asked or self._audiences.any_bound(audience)):
            return ""
        if not certificate:
            raise CertificateRequired
        return certificate


def uncovered(now: datetime, revoked_before: datetime | None) -> datetime:
    """Return now, or a later moment that no earlier revocation of the account covers."""
    return max(now, revoked_before) if revoked_before else now
