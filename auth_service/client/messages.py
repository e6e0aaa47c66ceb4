"""What the messages of Watch hold, as our own objects and back.

Owns which keys of a stream are trusted. Raises ValueError for what makes no sense.
"""

import logging

from authn.v1 import verifier_service_pb2 as pb

from auth_service.base64url import check_secret
from auth_service.models import Revocation, RevocationKind
from auth_service.tokens.jwk import public_key
from auth_service.tokens.keys import ALGORITHMS, SigningKey

__all__ = ["keys_of", "message_of"]

log = logging.getLogger("auth_service.client")


def keys_of(key_set: pb.KeySet) -> dict[str, SigningKey]:
    """Return the keys by `kid`; the set is taken as a whole or not at all."""
    keys: dict[str, SigningKey] = {}
    for message in key_set.keys:
        if message.kid in keys:
            raise ValueError(f"the kid {message.kid!r} stands twice in a key set")
        if (key := _key(message)) is not None:
            keys[key.kid] = key
    return keys


def _key(message: pb.VerificationKey) -> SigningKey | None:
    """Return the key, or None for one that is not meant for this caller or this version."""
    if message.algorithm not in ALGORITHMS:
        log.warning("key %r is for %r: update this library", message.kid, message.algorithm)
        return None
    material = message.WhichOneof("material")
    if material is None:
        return None
    if material == "public_jwk":
        return public_key(message.kid, message.algorithm, message.public_jwk)
    check_secret(message.secret)
    if message.algorithm != "HS256" or not message.kid:
        raise ValueError(f"the secret of key {message.kid!r} is not one of HS256")
    return SigningKey(message.kid, message.algorithm, secret=message.secret)


def message_of(revocation: Revocation) -> pb.Revocation:
    """Return a revocation as a message of its own."""
    message = pb.Revocation()
    match revocation.kind:
        case RevocationKind.TOKEN:
            message.token_id = revocation.target
        case RevocationKind.SESSION:
            message.session_id = revocation.target
        case RevocationKind.USER:
            message.subject = revocation.target
        case RevocationKind.ALL:
            message.all_tokens.SetInParent()
    message.expires_at.FromDatetime(revocation.expires_at)
    if revocation.issued_before is not None:
        message.issued_before.FromDatetime(revocation.issued_before)
    return message
