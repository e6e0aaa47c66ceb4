"""Public keys as JSON Web Keys, read strictly (RFC 7517, RFC 7518 section 6, RFC 8037).

Owns which keys may be trusted to verify with. PyJWT alone accepts a key whose `use`, `key_ops` or
`alg` forbid verifying, a private key, and values that are not in their canonical form.
"""

import json
from collections.abc import Collection
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from jwt import PyJWTError
from jwt.algorithms import get_default_algorithms

from auth_service import base64url
from auth_service.tokens import strict_json
from auth_service.tokens.keys import SigningKey
from auth_service.tokens.rsa_strength import check_rsa_key

__all__ = ["check_purpose", "key_set", "public_key", "public_numbers", "read_object"]

_ALGORITHMS = get_default_algorithms()
_FORM = {"EdDSA": ("OKP", "Ed25519"), "ES256": ("EC", "P-256"), "RS256": ("RSA", None)}
_PUBLIC_MEMBERS = {"OKP": ("x",), "EC": ("x", "y"), "RSA": ("n", "e")}
_LOADERS = {"OKP": "EdDSA", "EC": "ES256", "RSA": "RS256"}
_SECRET_MEMBERS = {"k", "d", "p", "q", "dp", "dq", "qi", "oth"}


def public_key(kid: str, algorithm: str, jwk_json: str) -> SigningKey:
    """Return the key of a JWK, for this one algorithm, which only verifies.

    `algorithm` is EdDSA (Ed25519), ES256 or RS256. Raises ValueError with what is wrong.
    """
    return _public_key(kid, algorithm, read_object(jwk_json))


def key_set(jwks_json: str) -> list[SigningKey]:
    """Return the keys of a JWK Set (RFC 7517 section 5); each must name `kid` and `alg`.

    Raises ValueError if a single one cannot be used: a set is trusted as a whole.
    """
    members = read_object(jwks_json).get("keys")
    if type(members) is not list:
        raise ValueError("is not a JWK Set: it has no list `keys`")
    keys: dict[str, SigningKey] = {}
    for position, jwk in enumerate(members):
        try:
            key = _member(jwk)
            if key.kid in keys:
                raise ValueError(f"the kid {key.kid!r} stands there twice")
        except ValueError as error:
            raise ValueError(f"keys[{position}]: {error}") from error
        keys[key.kid] = key
    return list(keys.values())


def _member(jwk: Any) -> SigningKey:
    if type(jwk) is not dict:
        raise ValueError("is not a JSON object")
    _refuse_secrets(jwk)  # before anything that an error may quote
    kid, algorithm = jwk.get("kid"), jwk.get("alg")
    if type(kid) is not str or type(algorithm) is not str:
        raise ValueError("needs `kid` and `alg`")
    return _public_key(kid, algorithm, jwk)


def _public_key(kid: str, algorithm: str, jwk: dict[str, Any]) -> SigningKey:
    if not kid or not kid.isprintable():
        raise ValueError("the kid must be printable text")
    _refuse_secrets(jwk)
    if algorithm not in _FORM:
        raise ValueError(f"the algorithm {algorithm!r} is none of {', '.join(_FORM)}")
    if (jwk.get("kty"), jwk.get("crv")) != _FORM[algorithm]:
        raise ValueError(f"its kty and crv are not those of {algorithm}")
    if jwk.get("alg", algorithm) != algorithm:
        raise ValueError(f"its alg is not {algorithm}")
    if jwk.get("kid", kid) != kid:
        raise ValueError("it names another kid")
    check_purpose(jwk)
    return SigningKey(kid=kid, algorithm=algorithm, public_key=public_numbers(jwk))


def _refuse_secrets(jwk: dict[str, Any]) -> None:
    if jwk.get("kty") == "oct" or "k" in jwk:
        raise ValueError("is a symmetric key, which must never be in a JWK Set")
    if not _SECRET_MEMBERS.isdisjoint(jwk):
        raise ValueError("is a private key")


def public_numbers(jwk: dict[str, Any]) -> Any:
    """Return the public key of a JWK, an object of the `cryptography` package.

    The key is of a known type and only public, its numbers are in their canonical form, and an RSA
    key is strong. Raises ValueError with what is wrong.
    """
    _refuse_secrets(jwk)
    kty = jwk.get("kty")
    if type(kty) is not str or kty not in _PUBLIC_MEMBERS:
        raise ValueError(f"its kty is none of {', '.join(_PUBLIC_MEMBERS)}")
    for name in _PUBLIC_MEMBERS[kty]:
        if type(jwk.get(name)) is not str:
            raise ValueError(f"needs {name!r} as text")
        try:
            number = base64url.decode(jwk[name])
        except ValueError as error:
            raise ValueError(f"{name!r} {error}") from error
        if kty == "RSA" and number.startswith(b"\0"):  # RFC 7518 section 6.3.1
            raise ValueError(f"{name!r} begins with a zero byte")
    try:
        key: Any = _ALGORITHMS[_LOADERS[kty]].from_jwk(jwk)
    except (PyJWTError, UnsupportedAlgorithm, ValueError) as error:
        raise ValueError(f"is not a usable key: {error}") from error
    if kty == "RSA":
        check_rsa_key(key)
    return key


def check_purpose(jwk: dict[str, Any], uses: Collection[str] = ("sig",)) -> None:
    """Check the optional members that tell what the key is for (RFC 7517 sections 4.2 and 4.3)."""
    if "use" in jwk and jwk["use"] not in uses:
        raise ValueError(f"its use is not {' or '.join(uses)}")
    operations = jwk.get("key_ops", ["verify"])
    if type(operations) is not list or "verify" not in operations:
        raise ValueError("its key_ops do not allow to verify")


def read_object(text: str) -> dict[str, Any]:
    """Return the JSON object in a text. Raises ValueError, which does not quote it."""
    try:
        value = strict_json.decode(text)
    except json.JSONDecodeError as error:  # whose text may quote a private key
        raise ValueError(f"is not JSON, at character {error.pos}") from None
    if type(value) is not dict:
        raise ValueError("is not a JSON object")
    return value
