"""Step-up: a session whose user is authenticated again goes on with its id (RFC 9470).

Owns which session a refresh token names, and what becomes of it. Its generation stays, so the tabs
and devices that share the refresh token notice nothing.
"""

from auth_service.clock import Clock
from auth_service.core.audiences import Audiences, confined
from auth_service.core.token_issuer import TokenIssuer
from auth_service.db.sessions import FoundSession
from auth_service.db.store import Store
from auth_service.errors import InvalidGrant, InvalidTarget
from auth_service.models import TokenPair, User
from auth_service.tokens.assurance import acr_of
from auth_service.tokens.challenge import LoginTerms
from auth_service.tokens.refresh import is_genuine

__all__ = ["StepUp"]


class StepUp:
    """Finds the session to step up, and steps it up."""

    def __init__(
        self, store: Store, audiences: Audiences, tokens: TokenIssuer, clock: Clock
    ) -> None:
        self._store = store
        self._audiences = audiences
        self._tokens = tokens
        self._clock = clock

    async def find(
        self, refresh_token: str, client_id: str | None, certificate: str
    ) -> FoundSession:
        """Return the live session of a refresh token, which need not be the current one.

        Raises InvalidGrant.
        """
        claims = self._tokens.read_refresh_token(refresh_token)
        found = await self._store.get_session(claims.user_id, claims.session_id)
        if (
            found is None
            or not is_genuine(claims, found.session)
            or not _live(found)
            or claims.expires_at <= found.read_at.timestamp()
            or client_id not in (None, found.session.client_id)
            or found.session.bound_to not in ("", certificate)
        ):
            raise InvalidGrant
        return found

    async def complete(self, user: User, terms: LoginTerms, amr: tuple[str, ...]) -> TokenPair:
        """Return tokens of the session that tell of the login; the refresh token is the current.

        Raises InvalidGrant if the session has ended, InvalidTarget as a refresh does, and
        InvalidCredentials if the user was signed out since the login began.
        """
        if terms.session_id is None:
            raise InvalidGrant
        now = self._clock()
        await self._store.step_up_session(
            user.id, terms.session_id, amr, acr_of(amr), now, user.revoked_before
        )
        found = await self._store.get_session(user.id, terms.session_id, (), self._audiences.own)
        if found is None or not _live(found):
            raise InvalidGrant
        if found.refused:
            raise InvalidTarget(found.refused[0])
        scope = confined(found.session.scope, found.audience_scope)
        return self._tokens.for_session(found.session, found.roles, scope, now, fresh=True)


def _live(found: FoundSession) -> bool:
    session = found.session
    return not (
        session.revoked_at
        or found.disabled
        or min(session.refresh_expires_at, session.expires_at) <= found.read_at
    )
