"""How passwords and the secrets of service accounts are proved: the one way for every caller."""

import hashlib
from datetime import datetime

from auth_service.core.passwords import PasswordHasher
from auth_service.core.session_policy import SessionPolicy
from auth_service.db.store import Store
from auth_service.errors import InvalidCredentials, RateLimited
from auth_service.models import User

__all__ = ["check_password", "secret_hash"]


async def check_password(
    store: Store,
    hasher: PasswordHasher,
    policy: SessionPolicy,
    now: datetime,
    identifier: str,
    password: str,
) -> User:
    """Return the user whose password this is; the one way in which a password is ever proved.

    It costs the identifier an attempt: the caller gives them back, along with what it does next.
    Raises InvalidCredentials, and RateLimited once an identifier's attempts are used up.
    """
    # In a flood most are refused here: it costs the database nothing, and no identifier an attempt.
    hasher.require_room()
    # The attempt is reserved before the hash, so that parallel guesses cannot race past.
    user, wait = await store.reserve_login_attempt(
        identifier, now, policy.login_burst, policy.login_refill
    )
    if wait is not None:
        raise RateLimited("too many login attempts for this identifier; wait", wait)
    matches = await hasher.verify(user.password_hash if user else None, password)
    if user is None or not matches or user.disabled:
        raise InvalidCredentials
    return user


def secret_hash(client_secret: str) -> str:
    """Return what is stored of a service account's secret.

    It is 256 random bits: no guessing, so that a fast hash is as good as a slow one.
    """
    return hashlib.sha256(client_secret.encode(errors="surrogatepass")).hexdigest()
