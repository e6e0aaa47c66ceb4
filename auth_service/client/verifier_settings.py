"""The settings of a local verifier: what makes sense, and the keys that are given by hand."""

import os
from collections.abc import Sequence
from datetime import timedelta

from auth_service import base64url
from auth_service.client.kept_state import KeptState
from auth_service.client.watch import IDLE_TIMEOUT
from auth_service.errors import ConfigError
from auth_service.tokens import keys
from auth_service.tokens.jwk import key_set
from auth_service.tokens.keys import SigningKey

__all__ = ["check_settings", "idle_timeout", "kept_state", "static_keys"]

_MIN_IDLE_TIMEOUT = timedelta(seconds=2)  # two heartbeats


def static_keys(shared_key: str, jwks: str) -> list[SigningKey]:
    """Return the keys that are trusted whatever the stream brings; raises ConfigError."""
    found: list[SigningKey] = []
    if shared_key:
        found.append(keys.shared_key(_secret("shared_key", shared_key)))
    if jwks:
        try:
            found += key_set(jwks)
        except ValueError as error:
            raise ConfigError(f"jwks: {error}") from None
    return found


def kept_state(
    path: str | os.PathLike[str] | None, state_key: str, shared_key: str, issuer: str
) -> KeptState | None:
    """Return the file that keeps the state, if one is named; raises ConfigError."""
    if path is None:
        return None
    if state_key:
        return KeptState(path, _secret("state_key", state_key), issuer)
    if shared_key:
        return KeptState(path, _secret("shared_key", shared_key), issuer)
    raise ConfigError("state_file needs a state_key (base64url, 256 bits), or a shared_key")


def check_settings(
    issuer: str,
    addresses: Sequence[str],
    given_keys: Sequence[SigningKey],
    max_staleness: timedelta | None,
    on_stale: str,
) -> None:
    """Raise ConfigError for settings that make no sense."""
    if not issuer:
        raise ConfigError("issuer must be the `iss` of the service's tokens")
    if isinstance(addresses, str) or not all(addresses):
        raise ConfigError('addresses must be a list of gRPC targets, like ["auth:50051"]')
    if not addresses and not given_keys:
        raise ConfigError("either addresses or a key (shared_key, jwks) must be given")
    if max_staleness is not None and max_staleness < timedelta(0):
        raise ConfigError("max_staleness must not be negative")
    if on_stale not in ("deny", "allow"):
        raise ConfigError('on_stale must be "deny" or "allow"')


def idle_timeout(max_staleness: timedelta | None) -> timedelta:
    """Return after how long a silent stream is given up: early enough to find another in time."""
    if max_staleness is None:
        return IDLE_TIMEOUT
    return min(IDLE_TIMEOUT, max(_MIN_IDLE_TIMEOUT, max_staleness / 2))


def _secret(name: str, text: str) -> bytes:
    try:
        return base64url.decode_secret(text)
    except ValueError as error:
        raise ConfigError(f"{name} {error}") from None
