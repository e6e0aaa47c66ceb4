"""The root key, which the keys of refresh tokens derive from and the master key encrypts.

Makes the root key once, and lets the master key be replaced.
"""

import secrets

from auth_service.db.key_store import KeyStore
from auth_service.tokens.keys import MasterKey

__all__ = ["replace_master_key", "root_key"]

_NAME = "root"
_BYTES = 32


async def root_key(store: KeyStore, master_key: MasterKey) -> MasterKey:
    """Return the root key; the first start makes it. The keys of refresh tokens derive from it.

    It is not the master key itself, so that the master key can be replaced without ending sessions.
    """
    fresh = master_key.encrypt(_NAME, secrets.token_bytes(_BYTES))
    return MasterKey(master_key.decrypt(_NAME, await store.root_key(fresh)))


async def replace_master_key(store: KeyStore, old: MasterKey, new: MasterKey) -> int:
    """Encrypt all keys with another master key, in one transaction; return how many there are."""
    return await store.reencrypt(
        _NAME, lambda name, encrypted: new.encrypt(name, old.decrypt(name, encrypted))
    )
