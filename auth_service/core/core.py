"""What the edges call: the core of one serving process, wired."""

from collections.abc import Callable
from dataclasses import dataclass

from auth_service.clock import Clock
from auth_service.core.accounts import Accounts
from auth_service.core.audience_registry import AudienceRegistry
from auth_service.core.audiences import Audiences
from auth_service.core.auditing import Auditor
from auth_service.core.credentials import Credentials
from auth_service.core.exchange import GatewayExchange, TokenExchange
from auth_service.core.explanations import Explanations
from auth_service.core.migration import Migration
from auth_service.core.own_factors import OwnFactors
from auth_service.core.revocation import Revoker
from auth_service.core.sessions import Sessions
from auth_service.core.shielded import Shielded
from auth_service.core.signing_keys import SigningKeys
from auth_service.core.validation import Validation
from auth_service.db.store import Store

__all__ = ["Core"]


@dataclass(frozen=True, slots=True)
class Core:
    """The rules, and what runs them; call `announce_keys` when a new key is committed."""

    credentials: Credentials
    sessions: Sessions
    migration: Migration
    revoker: Revoker
    accounts: Accounts
    explanations: Explanations
    validation: Validation
    exchange: TokenExchange
    gateway: GatewayExchange
    keys: SigningKeys
    announce_keys: Callable[[], object]
    shielded: Shielded
    clock: Clock
    audiences: Audiences
    registry: AudienceRegistry
    factors: OwnFactors
    auditor: Auditor
    audit_log: Store
    api_audience: str
    """Tokens of callers must be for this audience."""
