"""The keys of other issuers: which keys of a JWK Set may verify, and by which algorithms.

Owns that a set is trusted key by key: what is unknown, private or weak in it is left out, because
nobody here can mend the set of another issuer (RFC 7517 section 5). Knows no source of keys.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWTError
from jwt.algorithms import get_default_algorithms

from auth_service.tokens.jwk import check_purpose, public_numbers, read_object
from auth_service.tokens.keys import thumbprint

__all__ = [
    "ALGORITHMS",
    "SHARED_ALGORITHMS",
    "ForeignKey",
    "TrustedKeys",
    "foreign_key",
    "foreign_keys",
    "public_jwk",
    "shared_foreign_key",
]

MAX_KEYS = 100
"""Keys of a set; a longer one is no set of an issuer's keys."""
MAX_KEY_LENGTH = 8192
"""Characters of a key that is registered; those of RSA with 16,384 bits have some 3,000."""

_BY_FORM = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
ALGORITHMS = tuple(name for names in _BY_FORM.values() for name in names)
"""The algorithms of public keys. A key of a JWK Set has no other (RFC 8725 section 3.1)."""
SHARED_ALGORITHMS = ("HS256", "HS384", "HS512")
"""The algorithms of a key that an issuer shares with this service."""
MIN_SECRET_LENGTH = 32
"""Bytes of a shared key (RFC 7518 section 3.2, for HS256)."""

_IMPLEMENTED = get_default_algorithms()


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A key that verifies, and the algorithms that its type and its JWK allow."""

    kid: str
    algorithms: tuple[str, ...]
    key: Any = field(repr=False)
    """A public key; or the bytes of a shared one."""

    def verify(self, algorithm: str, message: bytes, signature: bytes) -> bool:
        """Return whether the signature is right; False for an algorithm that is not the key's."""
        if algorithm not in self.algorithms:
            return False
        return bool(_IMPLEMENTED[algorithm].verify(message, self.key, signature))


class TrustedKeys:
    """The keys of one issuer, by `kid`; all are replaced together."""

    def __init__(self, keys: Mapping[str, ForeignKey] | None = None) -> None:
        self._keys = keys
        self.fetched_at: datetime | None = None
        """When the issuer last said that these are its keys; None before the first time."""

    @property
    def known(self) -> bool:
        """Whether there is a set of keys, which may be old."""
        return self._keys is not None

    @property
    def kids(self) -> tuple[str, ...]:
        """The ids of the keys."""
        return tuple(self._keys or ())

    def get(self, kid: str) -> ForeignKey | None:
        """Return the key with this id."""
        return (self._keys or {}).get(kid)

    def replace(self, keys: Mapping[str, ForeignKey], now: datetime) -> None:
        """Trust these keys and no others."""
        self._keys, self.fetched_at = keys, now


def foreign_key(jwk: object, uses: Collection[str] = ("sig",)) -> ForeignKey:
    """Return the key of a JWK, which needs a `kid`. Raises ValueError with what is wrong.

    `uses` are the values of `use` that allow to verify tokens.
    """
    if type(jwk) is not dict:
        raise ValueError("is not a JSON object")
    public = public_numbers(jwk)  # before anything that an error may quote
    kid, curve = jwk.get("kid"), jwk.get("crv")
    if type(kid) is not str or not kid or not kid.isprintable() or len(kid) > 256:
        raise ValueError("needs a `kid` of 1 to 256 printable characters")
    algorithms = _BY_FORM.get((jwk["kty"], curve if type(curve) is str else None), ())
    named = jwk.get("alg")
    if named is not None:
        algorithms = tuple(name for name in algorithms if name == named)
    if not algorithms:
        raise ValueError("its kty, crv and alg are not those of a supported algorithm")
    check_purpose(jwk, uses)
    return ForeignKey(kid, algorithms, public)


def shared_foreign_key(secret: bytes, algorithms: tuple[str, ...]) -> ForeignKey:
    """Return the key that an issuer shares with this service. Raises ValueError if it is short."""
    if len(secret) < MIN_SECRET_LENGTH:
        raise ValueError(f"has fewer than {MIN_SECRET_LENGTH} bytes, and could be guessed")
    return ForeignKey("", algorithms, secret)


def public_jwk(text: str) -> dict[str, Any]:
    """Return the JWK in a text, which is a JWK or a public key in PEM.

    Its `kid` is the thumbprint unless it names one (RFC 7638). Raises ValueError, which does not
    quote the text.
    """
    if len(text) > MAX_KEY_LENGTH:
        raise ValueError(f"has more than {MAX_KEY_LENGTH} characters")
    jwk = _jwk_of_pem(text) if "-----BEGIN" in text else read_object(text)
    public_numbers(jwk)
    kept = ("kty", "crv", "x", "y", "n", "e", "alg", "use", "key_ops", "kid")
    return {"kid": thumbprint(jwk)} | {name: jwk[name] for name in kept if name in jwk}


def _jwk_of_pem(pem: str) -> dict[str, Any]:
    if "PRIVATE KEY" in pem:
        raise ValueError("is a private key, which stays with the service; register the public key")
    try:
        key: Any = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("is not a PEM public key (SubjectPublicKeyInfo)") from error
    for algorithm in ("RS256", "ES256", "EdDSA"):
        try:
            jwk: dict[str, Any] = _IMPLEMENTED[algorithm].to_jwk(key, as_dict=True)
        except (PyJWTError, TypeError, AttributeError):
            continue
        return {name: value for name, value in jwk.items() if name != "key_ops"}
    raise ValueError("is a PEM public key of a kind that is not supported")


def foreign_keys(
    jwks_json: str, uses: Collection[str] = ("sig",)
) -> tuple[dict[str, ForeignKey], list[str]]:
    """Return the usable keys of a JWK Set, and why others are left out.

    A `kid` that two usable keys have names none of them. Raises ValueError if this is not a JWK
    Set, or one without a usable key.
    """
    members = read_object(jwks_json).get("keys")
    if type(members) is not list or len(members) > MAX_KEYS:
        raise ValueError(f"is not a JWK Set: it has no list `keys` of up to {MAX_KEYS}")
    keys: dict[str, ForeignKey] = {}
    ambiguous: set[str] = set()
    left_out: list[str] = []
    for position, jwk in enumerate(members):
        try:
            key = foreign_key(jwk, uses)
            if key.kid in keys:
                ambiguous.add(key.kid)
                raise ValueError("its kid stands there twice")
        except ValueError as error:
            left_out.append(f"keys[{position}]: {error}")
        else:
            keys[key.kid] = key
    for kid in ambiguous:
        del keys[kid]
    if not keys:
        reasons = "; ".join(left_out[:3]) or "it is empty"
        raise ValueError(f"has no usable key: {reasons}")
    return keys, left_out
