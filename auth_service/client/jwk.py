"""Public keys as JSON Web Keys, read strictly (RFC 7517, RFC 7518 section 6, RFC 8037).

Owns which keys a client may trust to verify with. PyJWT alone accepts a key whose `use`, `key_ops`
or `alg` forbid verifying, a private key, and values that are not in their canonical form.
"""

import json
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from jwt import PyJWTError
from jwt.algorithms import get_default_algorithms

from auth_service import base64url
from auth_service.tokens import strict_json
from auth_service.tokens.keys import SigningKey
from auth_service.tokens.rsa_strength import check_rsa_key

__all__ = ["key_set", "public_key"]

_ALGORITHMS = get_default_algorithms()
_FORM = {"EdDSA": ("OKP", "Ed25519"), "ES256": ("EC", "P-256"), "RS256": ("RSA", None)}
_PUBLIC_MEMBERS = {"OKP": ("x",), "EC": ("x", "y"), "RSA": ("n", "e")}
_SECRET_MEMBERS = {"k", "d", "p", "q", "dp", "dq", "qi", "oth"}


def public_key(kid: str, algorithm: str, jwk_json: str) -> SigningKey:
    """Return the key of a JWK, for this one algorithm, which only verifies.

    `algorithm` is EdDSA (Ed25519), ES256 or RS256. Raises ValueError with what is wrong.
    """
    return _public_key(kid, algorithm, _read_object(jwk_json))


def key_set(jwks_json: str) -> list[SigningKey]:
    """Return the keys of a JWK Set (RFC 7517 section 5); each must name `kid` and `alg`.

    Raises ValueError if a single one cannot be used: a set is trusted as a whole.
    """
    members = _read_object(jwks_json).get("keys")
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
    _check_form(algorithm, jwk)
    _check_purpose(kid, algorithm, jwk)
    try:
        key: Any = _ALGORITHMS[algorithm].from_jwk(jwk)
    except (PyJWTError, UnsupportedAlgorithm, ValueError) as error:
        raise ValueError(f"is not a usable key: {error}") from error
    if algorithm == "RS256":
        check_rsa_key(key)
    return SigningKey(kid=kid, algorithm=algorithm, public_key=key)


def _refuse_secrets(jwk: dict[str, Any]) -> None:
    if jwk.get("kty") == "oct" or "k" in jwk:
        raise ValueError("is a symmetric key, which must never be in a JWK Set")
    if not _SECRET_MEMBERS.isdisjoint(jwk):
        raise ValueError("is a private key")


def _check_form(algorithm: str, jwk: dict[str, Any]) -> None:
    """Check key type, curve and the encoding of the numbers."""
    if algorithm not in _FORM:
        raise ValueError(f"the algorithm {algorithm!r} is none of {', '.join(_FORM)}")
    if (jwk.get("kty"), jwk.get("crv")) != _FORM[algorithm]:
        raise ValueError(f"its kty and crv are not those of {algorithm}")
    for name in _PUBLIC_MEMBERS[jwk["kty"]]:
        if type(jwk.get(name)) is not str:
            raise ValueError(f"needs {name!r} as text")
        try:
            number = base64url.decode(jwk[name])
        except ValueError as error:
            raise ValueError(f"{name!r} {error}") from error
        if algorithm == "RS256" and number.startswith(b"\0"):  # RFC 7518 section 6.3.1
            raise ValueError(f"{name!r} begins with a zero byte")


def _check_purpose(kid: str, algorithm: str, jwk: dict[str, Any]) -> None:
    """Check the optional members that tell what the key is for (RFC 7517 sections 4.2 to 4.5)."""
    if jwk.get("alg", algorithm) != algorithm:
        raise ValueError(f"its alg is not {algorithm}")
    if jwk.get("kid", kid) != kid:
        raise ValueError("it names another kid")
    if jwk.get("use", "sig") != "sig":
        raise ValueError("its use is not sig")
    operations = jwk.get("key_ops", ["verify"])
    if type(operations) is not list or "verify" not in operations:
        raise ValueError("its key_ops do not allow to verify")


def _read_object(text: str) -> dict[str, Any]:
    try:
        value = strict_json.decode(text)
    except json.JSONDecodeError as error:  # whose text may quote a private key
        raise ValueError(f"is not JSON, at character {error.pos}") from None
    if type(value) is not dict:
        raise ValueError("is not a JSON object")
    return value
