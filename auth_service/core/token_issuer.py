"""Issues tokens: what a session or a service account gets, and what a refresh token says.

Owns how the claims of tokens follow from a row. Knows no database.
"""

from dataclasses import replace
from datetime import datetime

from auth_service.core.session_policy import SessionPolicy
from auth_service.models import ServiceAccount, Session, TokenPair
from auth_service.tokens.access import AccessClaims, TokenSigner, new_token_id
from auth_service.tokens.device import DeviceTokens
from auth_service.tokens.refresh import RefreshClaims, RefreshTokens, access_token_id

__all__ = ["TokenIssuer"]


class TokenIssuer:
    """Makes access and refresh tokens; without I/O."""

    def __init__(
        self,
        signer: TokenSigner,
        refresh_tokens: RefreshTokens,
        device_tokens: DeviceTokens,
        policy: SessionPolicy,
    ) -> None:
        self._signer = signer
        self._refresh_tokens = refresh_tokens
        self._device_tokens = device_tokens
        self._policy = policy

    def read_refresh_token(self, token: str) -> RefreshClaims:
        """Return the claims of a refresh token that this service signed, expired or not.

        Raises InvalidGrant.
        """
        return self._refresh_tokens.read(token)

    def for_session(
        self,
        session: Session,
        roles: tuple[str, ...],
        scope: tuple[str, ...],
        now: datetime | None = None,
        *,
        audience: tuple[str, ...] = (),
        fresh: bool = False,
    ) -> TokenPair:
        """Return the tokens of a session's current generation: equal rows give equal tokens.

        The access token is for all audiences of the session, unless some of them are given.
        If the access token of this generation has expired at `now`, or was revoked and the session
        goes on, a new one takes its place, and so it does with `fresh`.
        """
        issued_at, jti = session.refreshed_at, access_token_id(session.seed, session.generation)
        revoked_before = session.revoked_before or issued_at
        ended = issued_at + self._policy.access_ttl <= now if now else False
        if now is not None and (fresh or ended or issued_at < revoked_before):
            issued_at, jti = max(now, issued_at, revoked_before), new_token_id()
        expires_at = min(issued_at + self._policy.access_ttl, session.expires_at)
        claims = AccessClaims(
            issuer=self._policy.issuer,
            subject=str(session.user_id),
            audience=audience or session.audience,
            expires_at=int(expires_at.timestamp()),
            issued_at=int(issued_at.timestamp()),
            token_id=jti,
            session_id=str(session.id),
            client_id=session.client_id,
            scope=scope,
            roles=roles,
            auth_time=int(session.auth_time.timestamp()),
            amr=session.amr,
            certificate_thumbprint=session.bound_to,
            acr=session.acr,
        )
        return TokenPair(
            access_token=self._signer.sign(claims),
            access_expires_at=_whole_second(expires_at),
            scope=scope,
            refresh_token=self._refresh_tokens.current(session),
            refresh_expires_at=session.refresh_expires_at,
            session_id=str(session.id),
        )

    def for_login(
        self, session: Session, roles: tuple[str, ...], now: datetime | None = None
    ) -> TokenPair:
        """Return the first tokens of a session, and the device token of its login."""
        device_token, expires_at = self._device_tokens.of(session)
        return replace(
            self.for_session(session, roles, session.scope, now),
            device_token=device_token,
            device_expires_at=expires_at,
        )

    def for_service(
        self,
        account: ServiceAccount,
        audience: tuple[str, ...],
        scope: tuple[str, ...],
        now: datetime,
        bound_to: str = "",
    ) -> TokenPair:
        """Return the access token of a service account; it gets no refresh token."""
        expires_at = now + self._policy.access_ttl
        claims = AccessClaims(
            issuer=self._policy.issuer,
            subject=account.client_id,
            audience=audience,
            expires_at=int(expires_at.timestamp()),
            issued_at=int(now.timestamp()),
            token_id=new_token_id(),
            session_id="",
            client_id=account.client_id,
            scope=scope,
            roles=account.roles,
            auth_time=int(now.timestamp()),
            amr=(),
            certificate_thumbprint=bound_to,
        )
        return TokenPair(self._signer.sign(claims), _whole_second(expires_at), scope)


def _whole_second(moment: datetime) -> datetime:
    return moment.replace(microsecond=0)
