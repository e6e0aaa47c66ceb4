"""The callers of AdminService: who they are, and what they change, in the log."""

import structlog

from auth_service.core.accounts import require_admin
from auth_service.rpc.callers import Callers
from auth_service.rpc.dispatcher import Context
from auth_service.tokens.access import AccessClaims

__all__ = ["AdminCallers", "log_change"]

log = structlog.get_logger(__name__)


class AdminCallers:
    """Identifies callers that must have the admin role."""

    def __init__(self, callers: Callers) -> None:
        self._callers = callers

    def require(self, context: Context) -> AccessClaims:
        """Return the claims of the caller. Raises Refused, PermissionDenied."""
        caller = self._callers.require(context)
        require_admin(caller)
        return caller


def log_change(call: str, caller: AccessClaims, **what: object) -> None:
    """Log a change with the admin who made it."""
    log.info("admin", call=call, by=caller.subject, by_session=caller.session_id or None, **what)
