"""Signing keys: how they are generated, read, published, and encrypted at rest.

Owns what a key is and which key signs. Knows neither the database nor tokens.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from jwt.algorithms import get_default_algorithms

from auth_service import base64url
from auth_service.errors import ConfigError
from auth_service.models import StoredKey
from auth_service.tokens.rsa_strength import check_rsa_key

ALGORITHMS = ("HS256", "EdDSA", "ES256", "RS256")

_JWT_ALGORITHMS = get_default_algorithms()
_NONCE_BYTES = 12  # NIST SP 800-38D section 8.2


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key for exactly one algorithm (RFC 8725 section 3.1).

    An HS256 key has a `secret`. Any other key has a `public_key`, and a `private_key` unless it
    only verifies.
    """

    kid: str
    algorithm: str
    private_key: Any = field(default=None, repr=False)
    """Signs: an object of the `cryptography` package."""
    public_key: Any = field(default=None, repr=False)
    """Verifies: an object of the `cryptography` package."""
    secret: bytes = field(default=b"", repr=False)
    """Signs and verifies (RFC 2104)."""
    _mac: hmac.HMAC | None = field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.is_secret != bool(self.secret):  # an empty secret would verify any forgery
            raise ValueError("an HS256 key has a secret, and no other key has one")
        if self.secret:
            object.__setattr__(self, "_mac", hmac.new(self.secret, digestmod="sha256"))

    @property
    def is_secret(self) -> bool:
        """Whether the key that verifies also signs."""
        return self.algorithm == "HS256"

    def mac(self, message: bytes) -> bytes:
        """Return the HMAC-SHA256 of a message. Raises ValueError if the key has no secret.

        A copy of an HMAC that has the secret already takes half the time of a new one.
        """
        if self._mac is None:
            raise ValueError("this key has no secret")
        mac = self._mac.copy()
        mac.update(message)
        return mac.digest()

    def public_jwk(self) -> dict[str, Any]:
        """Return the public key as a JWK (RFC 7517). Raises ValueError for a shared secret."""
        if self.is_secret:
            raise ValueError("a shared secret is never published")
        jwk: dict[str, Any] = _JWT_ALGORITHMS[self.algorithm].to_jwk(self.public_key, as_dict=True)
        jwk.pop("key_ops", None)
        return jwk | {"kid": self.kid, "alg": self.algorithm, "use": "sig"}

    def public_jwk_json(self) -> str:
        """Return the public key as a JWK in JSON."""
        return json.dumps(self.public_jwk(), separators=(",", ":"))


class KeyRing:
    """The keys that verify, by `kid`, and the one that signs; all are replaced together."""

    def __init__(self, keys: Iterable[SigningKey] = (), active_kid: str | None = None) -> None:
        self._keys: dict[str, SigningKey] = {}
        self._active: SigningKey | None = None
        self.revision = 0
        """Increases when a key is no longer trusted: tokens found valid before may be invalid."""
        self.replace(keys, active_kid)

    def __contains__(self, kid: str) -> bool:
        return kid in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[SigningKey]:
        return iter(self._keys.values())

    def replace(self, keys: Iterable[SigningKey], active_kid: str | None = None) -> None:
        """Trust these keys and no others."""
        before, after = self._keys, {key.kid: key for key in keys}
        self._active = after[active_kid] if active_kid is not None else None
        self._keys = after
        if any(after.get(kid) != key for kid, key in before.items()):
            self.revision += 1

    def get(self, kid: str) -> SigningKey | None:
        """Return the trusted key with this id."""
        return self._keys.get(kid)

    @property
    def active_kid(self) -> str | None:
        """The id of the key that signs; None in a ring that only verifies."""
        return self._active.kid if self._active else None

    @property
    def active(self) -> SigningKey:
        """The key that signs. Raises ValueError in a ring that only verifies."""
        if self._active is None:
            raise ValueError("this key ring only verifies")
        return self._active

    def jwks(self) -> str:
        """Return the public keys as a JWK Set in JSON (RFC 7517 section 5)."""
        public = [key.public_jwk() for key in self if not key.is_secret]
        return json.dumps({"keys": public}, separators=(",", ":"))


class MasterKey:
    """The key that never leaves the server; other keys are derived from it (RFC 5869)."""

    def __init__(self, secret: bytes) -> None:
        _require_strong(secret, "the master key")
        self._secret = secret
        self._cipher = AESGCM(self._derive(b"signing-keys at rest"))

    def __repr__(self) -> str:
        return "MasterKey(…)"

    def refresh_token_key(self) -> bytes:
        """Return the HS256 key of refresh tokens, unknown to holders of the shared key."""
        return self._derive(b"refresh tokens")

    def challenge_key(self) -> bytes:
        """Return the HS256 key of the challenges of logins."""
        return self._derive(b"login challenges")

    def enrollment_key(self) -> bytes:
        """Return the key from which the secrets of new second factors are derived."""
        return self._derive(b"factor enrollments")

    def device_token_key(self) -> bytes:
        """Return the HS256 key of device tokens."""
        return self._derive(b"device tokens")

    def throttle_key(self) -> bytes:
        """Return the key that spreads login attempts over buckets, so that nobody can aim."""
        return self._derive(b"login throttle")

    def encrypt(self, kid: str, secret: bytes) -> bytes:
        """Encrypt the private part of a key; it decrypts only under the same `kid`."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret, kid.encode())

    def decrypt(self, kid: str, encrypted: bytes) -> bytes:
        """Return what `encrypt` was given; raises ConfigError under another master key."""
        nonce, ciphertext = encrypted[:_NONCE_BYTES], encrypted[_NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, ciphertext, kid.encode())
        except (InvalidTag, ValueError) as error:  # ValueError: shorter than a nonce
            raise ConfigError(
                f"key {kid} was encrypted with another master key; set AUTH_MASTER_KEY or "
                "AUTH_MASTER_KEY_FILE to the master key of this database"
            ) from error

    def _derive(self, purpose: bytes) -> bytes:
        return HKDF(
            algorithm=hashes.SHA256(), length=32, salt=None, info=b"auth-service " + purpose
        ).derive(self._secret)


def shared_key(secret: bytes) -> SigningKey:
    """Return the HS256 key of a shared secret. Raises ConfigError for a weak one.

    The `kid` is computed from the secret, so that every holder of the secret knows it (RFC 7638,
    key type oct). It does not reveal the secret, which has 256 random bits.
    """
    _require_strong(secret, "the shared key")
    jwk = json.dumps({"k": base64url.encode(secret), "kty": "oct"}, separators=(",", ":"))
    kid = base64url.encode(hashlib.sha256(jwk.encode()).digest())
    return SigningKey(kid=kid, algorithm="HS256", secret=secret)


def generate_key(algorithm: str) -> SigningKey:
    """Generate a key for one of `ALGORITHMS`. Raises ConfigError for another algorithm."""
    match algorithm:
        case "HS256":
            return shared_key(secrets.token_bytes(base64url.SECRET_BYTES))
        case "EdDSA":
            return _asymmetric_key(algorithm, ed25519.Ed25519PrivateKey.generate())
        case "ES256":
            return _asymmetric_key(algorithm, ec.generate_private_key(ec.SECP256R1()))
        case "RS256":
            return _asymmetric_key(algorithm, rsa.generate_private_key(65537, 3072))
        case _:
            raise ConfigError(f"unknown algorithm {algorithm!r}; one of {', '.join(ALGORITHMS)}")


def encrypt_key(
    key: SigningKey, master_key: MasterKey, now: datetime, activate_at: datetime
) -> StoredKey:
    """Return the key as the database stores it; it signs from `activate_at`."""
    secret = (
        key.secret
        if key.is_secret
        else key.private_key.private_bytes(
            serialization.Encoding.DER,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    encrypted = master_key.encrypt(key.kid, secret)
    return StoredKey(key.kid, key.algorithm, encrypted, now, activate_at)


def decrypt_key(stored: StoredKey, master_key: MasterKey) -> SigningKey:
    """Return the key that `encrypt_key` encrypted; raises ConfigError under another master key."""
    secret = master_key.decrypt(stored.kid, stored.encrypted_secret)
    if stored.algorithm == "HS256":
        return shared_key(secret)
    return _asymmetric_key(stored.algorithm, serialization.load_der_private_key(secret, None))


def read_key(content: bytes) -> SigningKey:
    """Return the key in a PEM private key, or in a shared secret in base64url.

    Raises ConfigError for anything else, and for a weak key (RFC 7518 sections 3.2 to 3.4).
    """
    if b"-----BEGIN" in content:
        return _pem_key(content)
    try:
        secret = base64url.decode(content.decode("ascii").strip().rstrip("="))
    except ValueError as error:
        raise ConfigError("a key is PEM, or base64url for HS256") from error
    return shared_key(secret)


def _pem_key(pem: bytes) -> SigningKey:
    try:
        private = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError("not an unencrypted PEM private key (PKCS#8)") from error
    match private:
        case ed25519.Ed25519PrivateKey():
            return _asymmetric_key("EdDSA", private)
        case ec.EllipticCurvePrivateKey(curve=ec.SECP256R1()):
            return _asymmetric_key("ES256", private)
        case rsa.RSAPrivateKey():
            try:
                check_rsa_key(private.public_key())
            except ValueError as error:
                raise ConfigError(str(error)) from None
            return _asymmetric_key("RS256", private)
    raise ConfigError("a private key must be Ed25519, EC P-256, or RSA of 2048 bits or more")


def _require_strong(secret: bytes, name: str) -> None:
    try:
        base64url.check_secret(secret)
    except ValueError as error:
        raise ConfigError(f"{name} {error}") from None


def _asymmetric_key(algorithm: str, private: Any) -> SigningKey:
    public = private.public_key()
    jwk = _JWT_ALGORITHMS[algorithm].to_jwk(public, as_dict=True)
    return SigningKey(thumbprint(jwk), algorithm, private, public)


def thumbprint(jwk: dict[str, Any]) -> str:
    """Return the JWK thumbprint (RFC 7638 section 3)."""
    required = {name: jwk[name] for name in ("crv", "e", "kty", "n", "x", "y") if name in jwk}
    canonical = json.dumps(required, separators=(",", ":"), sort_keys=True)
    return base64url.encode(hashlib.sha256(canonical.encode()).digest())
