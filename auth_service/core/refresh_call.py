"""What a Refresh presents, when it arrived, and whether a session has what it asks for."""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import datetime

from auth_service.core.audiences import require_confined
from auth_service.db.sessions import FoundSession
from auth_service.errors import InvalidScope, InvalidTarget
from auth_service.models import Session
from auth_service.tokens.refresh import RefreshClaims

__all__ = ["RefreshCall", "request_hash"]

_REQUEST_HASH_BYTES = 16


@dataclass(frozen=True, slots=True)
class RefreshCall:
    """A Refresh."""

    claims: RefreshClaims
    scope: tuple[str, ...]
    """The scopes that it names; none if it leaves them to the session."""
    audience: tuple[str, ...]
    """The audiences that it names; none if it leaves them to the session."""
    request_hash: bytes | None
    arrived_at: datetime
    steady_arrival: float
    coalesce: bool
    certificate: str
    """The thumbprint of the client's certificate, or empty."""

    @property
    def expired(self) -> bool:
        """Whether the token had expired when the call arrived."""
        return self.claims.expires_at <= self.arrived_at.timestamp()

    def require_granted(self, found: FoundSession) -> None:
        """Raise InvalidTarget or InvalidScope for what is not the session's, or not granted now."""
        others = [name for name in self.audience if name not in found.session.audience]
        if refused := (*others, *found.refused):
            raise InvalidTarget(refused[0])
        if not set(self.scope) <= set(found.session.scope):
            raise InvalidScope("scope exceeds what the session was granted")
        require_confined(self.scope, found.audience_scope)

    def made(self, session: Session) -> bool:
        """Tell whether this request, by its id, made the current generation of the session."""
        return (
            self.request_hash is not None
            and session.refresh_request_hash is not None
            and hmac.compare_digest(self.request_hash, session.refresh_request_hash)
        )


def request_hash(claims: RefreshClaims, request_id: str | None) -> bytes | None:
    """Return what a session keeps of a request id; it differs for each step of each session."""
    if request_id is None:
        return None
    step = b"%s %d %s" % (claims.session_id.bytes, claims.generation, request_id.encode())
    return hashlib.sha256(step).digest()[:_REQUEST_HASH_BYTES]
