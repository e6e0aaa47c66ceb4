"""The root key, from which the keys of refresh tokens are derived, and the master key over it.

Owns that the root key is made once, and that the master key can be replaced.
"""

import secrets

from auth_service.db.key_store import KeyStore
from auth_service.tokens.keys import MasterKey

__all__ = ["replace_master_key", "root_key"]

_NAME = "root"
_BYTES = 32


async def root_key(store: KeyStore, master_key: MasterKey) -> MasterKey:
    """Return the key from which those of refresh tokens are derived; the first start makes it.

    It is not the master key itself, so that the master key can be replaced without ending sessions.
    """
    fresh = master_key.encrypt(_NAME, secrets.token_bytes(_BYTES))
    return MasterKey(master_key.decrypt(_NAME, await store.root_key(fresh)))


async def replace_master_key(store: KeyStore, old: MasterKey, new: MasterKey) -> int:
    """Encrypt all keys with another master key, in one transaction; return how many there are."""
    return await store.reencrypt(
        _NAME, lambda name, encrypted: new.encrypt(name, old.decrypt(name, encrypted))
    )
