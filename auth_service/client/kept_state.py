"""What a verifier knows, kept in a file, so that it starts while the service is away.

Owns the file: who may read it, and that nobody else has written it. Its content is a stream of
Watch events, which the Feed takes in like any other; it holds shared keys, so it is encrypted.
"""

import contextlib
import hashlib
import hmac
import logging
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from authn.v1 import verifier_service_pb2 as pb
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from google.protobuf.message import DecodeError

__all__ = ["KeptState"]

log = logging.getLogger("auth_service.client")

_MAGIC = b"auth-service verifier state 1\n"
_NONCE_BYTES = 12
_LENGTH_BYTES = 4


class KeptState:
    """A file that only this user may read, encrypted and authenticated with AES-256-GCM."""

    def __init__(self, path: str | os.PathLike[str], secret: bytes, issuer: str) -> None:
        """The key is derived from `secret`; the state of another issuer is not taken."""
        self.path = Path(path)
        key = hmac.digest(secret, b"auth-service verifier state", hashlib.sha256)
        self._cipher = AESGCM(key)
        self._bound_to = _MAGIC + issuer.encode()

    def load(self) -> list[pb.WatchResponse]:
        """Return the events that were saved; none if there is no file, or none that we wrote."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            log.warning("the kept state cannot be read: %s", error)
            return []
        start = len(_MAGIC) + _NONCE_BYTES
        nonce, encrypted = content[len(_MAGIC) : start], content[start:]
        try:
            return list(_events(self._cipher.decrypt(nonce, encrypted, self._bound_to)))
        except (InvalidTag, ValueError, DecodeError):
            log.warning(
                "the kept state in %s is not used: it was written with another key, for another "
                "issuer, or by somebody else",
                self.path,
            )
            return []

    def save(self, events: Iterable[bytes]) -> None:
        """Replace the file as a whole; raises OSError."""
        plain = b"".join(len(each).to_bytes(_LENGTH_BYTES) + each for each in events)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        encrypted = self._cipher.encrypt(nonce, plain, self._bound_to)
        own = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}")
        try:
            with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(_MAGIC + nonce + encrypted)
                file.flush()
                os.fsync(file.fileno())
            own.replace(self.path)
        except OSError:
            with contextlib.suppress(OSError):
                own.unlink()
            raise


def _events(plain: bytes) -> Iterable[pb.WatchResponse]:
    at = 0
    while at < len(plain):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(plain[at:start])
        yield pb.WatchResponse.FromString(plain[start:at])
