"""What the settings say of signing keys, for the server and for the commands alike."""

from datetime import timedelta

from auth_service.config.loading import Settings
from auth_service.core.signing_keys import KeyPolicy
from auth_service.tokens.keys import shared_key

__all__ = ["key_policy"]

KEY_MARGIN = timedelta(minutes=1)
"""How much longer a key is trusted than the last token that it signed lives."""


def key_policy(settings: Settings) -> KeyPolicy:
    """Return the life of keys that the settings ask for."""
    shared = settings.shared_key_bytes()
    return KeyPolicy(
        algorithm=settings.signing_algorithm,
        configured=None if shared is None else shared_key(shared),
        publish_lead=settings.key_publish_lead,
        rotation_interval=settings.key_rotation_interval,
        keep=settings.access_token_ttl + settings.clock_skew + KEY_MARGIN,
    )
