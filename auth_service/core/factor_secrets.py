"""The secrets of authenticator apps at rest: encrypted with the root key, for one row each."""

from datetime import datetime
from uuid import UUID

from auth_service.models import Factor, FactorKind
from auth_service.tokens.keys import MasterKey

__all__ = ["new_totp_factor", "secret_of"]


def new_totp_factor(
    root_key: MasterKey,
    user_id: UUID,
    id_: UUID,
    secret: bytes,
    *,
    step: int,
    name: str,
    now: datetime,
) -> Factor:
    """Return an authenticator app whose code of a time step was just accepted."""
    sealed = root_key.encrypt(_row(user_id, id_), secret)
    return Factor(user_id, id_, FactorKind.TOTP, name, sealed, step, now, last_used_at=now)


def secret_of(root_key: MasterKey, factor: Factor) -> bytes:
    """Return the secret of an authenticator app. Raises ConfigError under another root key."""
    return root_key.decrypt(_row(factor.user_id, factor.id), factor.secret)


def _row(user_id: UUID, id_: UUID) -> str:
    return f"totp {user_id} {id_}"
