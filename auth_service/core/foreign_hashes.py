"""Password hashes that other systems made, so that their users move in with their passwords.

Owns which forms are read, what a hash may cost, and how each is verified: by bcrypt, hashlib and
argon2-cffi. A hash is kept as it came, and becomes argon2id of our own at the first login.

    $2a$ $2b$ $2y$, bcrypt$…          bcrypt; Supabase Auth, PHP, Django
    bcrypt_sha256$…                   bcrypt of SHA-256; Django
    pbkdf2_sha256$…, pbkdf2_sha512$…  PBKDF2; Django
    $pbkdf2-sha256$…, $pbkdf2-sha512$…  PBKDF2 in the PHC form, and passlib's
    scrypt$…, $scrypt$…               scrypt; Django, and the PHC form
    $argon2id$ $argon2i$ $argon2d$, argon2$…  argon2 in the PHC form; Django
    {"credentialData": …, "secretData": …}    Keycloak's credentials: PBKDF2 and argon2
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Callable
from typing import Any

import bcrypt
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import Type, verify_secret

__all__ = ["accept", "verify"]

MAX_MEMORY_KIB = 128 * 1024
"""Of one verification. This bound and the following ones are each about a second of one core."""
MAX_BCRYPT_COST = 14
MAX_PBKDF2_ITERATIONS = {"sha256": 4_000_000, "sha512": 1_500_000}
"""Of all blocks of the derived key together."""
MAX_SCRYPT_BLOCKS = 2**21  # N · r · p
MAX_ARGON2_KIB = 1024 * 1024  # memory · passes
MAX_ARGON2_LANES = 16

_MAX_LENGTH = 2048  # characters of a hash
_BCRYPT_BYTES = 72  # bcrypt reads no more of a password (which the library refuses to cut)
_DIGEST_BYTES = range(16, 129)
_SALT_BYTES = range(4, 129)

Check = Callable[[bytes], bool]


def accept(text: str) -> str:
    """Return what to keep of a foreign hash. Raises ValueError, whose text quotes nothing of it."""
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"has more than {_MAX_LENGTH} characters")
    text = _of_keycloak(text) if text.startswith("{") else text
    _check_of(text)
    return text


def verify(kept: str, password: str) -> bool:
    """Tell whether a password matches a hash of `accept`; a hash of no known form never does."""
    try:
        return _check_of(kept)(password.encode())
    except ValueError:
        return False


def _check_of(text: str) -> Check:
    for form, check in _FORMS.items():
        if (match := re.fullmatch(form, text, re.ASCII)) is not None:
            return check(**match.groupdict())
    raise ValueError("is of no form that is read here: see docs/migrate.md")


def _bcrypt(hashed: str, cost: str) -> Check:
    _bound(int(cost), MAX_BCRYPT_COST, "cost", lowest=4)
    return lambda password: bcrypt.checkpw(password[:_BCRYPT_BYTES], hashed.encode())


def _bcrypt_sha256(hashed: str, cost: str) -> Check:
    check = _bcrypt(hashed, cost)
    return lambda password: check(hashlib.sha256(password).hexdigest().encode())


def _pbkdf2_django(name: str, iterations: str, salt: str, digest: str) -> Check:
    return _pbkdf2(name, int(iterations), salt.encode(), _decoded(digest))


def _pbkdf2_phc(name: str, iterations: str, salt: str, digest: str) -> Check:
    return _pbkdf2(name, int(iterations), _decoded(salt), _decoded(digest))


def _pbkdf2(name: str, iterations: int, salt: bytes, digest: bytes) -> Check:
    _lengths(salt, digest)
    blocks = -(-len(digest) // hashlib.new(name).digest_size)
    _bound(iterations * blocks, MAX_PBKDF2_ITERATIONS[name], "number of iterations")
    return lambda password: hmac.compare_digest(
        hashlib.pbkdf2_hmac(name, password, salt, iterations, len(digest)), digest
    )


def _scrypt_django(n: str, salt: str, r: str, p: str, digest: str) -> Check:
    return _scrypt(int(n), int(r), int(p), salt.encode(), _decoded(digest))


def _scrypt_phc(ln: str, r: str, p: str, salt: str, digest: str) -> Check:
    return _scrypt(2 ** int(ln), int(r), int(p), _decoded(salt), _decoded(digest))


def _scrypt(n: int, r: int, p: int, salt: bytes, digest: bytes) -> Check:
    _lengths(salt, digest)
    if n < 2 or n & (n - 1):
        raise ValueError("has a work factor (N) that is no power of two")
    _bound(n * r // 8, MAX_MEMORY_KIB, "memory in KiB")
    _bound(n * r * p, MAX_SCRYPT_BLOCKS, "work (N · r · p)")
    memory = 128 * r * (n + p + 2) + 1024  # bytes; without it OpenSSL stops at 32 MiB
    return lambda password: hmac.compare_digest(
        hashlib.scrypt(password, salt=salt, n=n, r=r, p=p, maxmem=memory, dklen=len(digest)),
        digest,
    )


def _argon2(hashed: str, kind: str, m: str, t: str, p: str, salt: str, digest: str) -> Check:
    _lengths(_decoded(salt), _decoded(digest), shortest_salt=8)
    _bound(int(m), MAX_MEMORY_KIB, "memory in KiB")
    _bound(int(m) * int(t), MAX_ARGON2_KIB, "work (memory in KiB · passes)")
    _bound(int(p), MAX_ARGON2_LANES, "number of lanes")
    if int(m) < 8 * int(p):
        raise ValueError("has less memory than 8 KiB for each lane")
    type_ = {"id": Type.ID, "i": Type.I, "d": Type.D}[kind]

    def check(password: bytes) -> bool:
        try:
            return verify_secret(hashed.encode(), password, type_)
        except (VerificationError, InvalidHashError):
            return False

    return check


_BCRYPT = r"(?P<hashed>\$2[aby]\$(?P<cost>\d\d)\$[./A-Za-z0-9]{53})"
_DIGEST = r"\$(?P<digest>[A-Za-z0-9+/]+={0,2})"
_SALT_AND_DIGEST = r"\$(?P<salt>[A-Za-z0-9+/.]+)\$(?P<digest>[A-Za-z0-9+/.]+)"
_TEXT_SALT = r"\$(?P<salt>[!-#%-~]+)"  # visible ASCII

_FORMS: dict[str, Callable[..., Check]] = {
    rf"(?:bcrypt\$)?{_BCRYPT}": _bcrypt,
    rf"bcrypt_sha256\${_BCRYPT}": _bcrypt_sha256,
    rf"pbkdf2_(?P<name>sha256|sha512)\$(?P<iterations>\d{{1,8}}){_TEXT_SALT}{_DIGEST}": (
        _pbkdf2_django
    ),
    rf"\$pbkdf2-(?P<name>sha256|sha512)\$(?:i=)?(?P<iterations>\d{{1,8}}){_SALT_AND_DIGEST}": (
        _pbkdf2_phc
    ),
    rf"scrypt\$(?P<n>\d{{1,8}}){_TEXT_SALT}\$(?P<r>\d{{1,3}})\$(?P<p>\d{{1,3}}){_DIGEST}": (
        _scrypt_django
    ),
    rf"\$scrypt\$ln=(?P<ln>\d{{1,2}}),r=(?P<r>\d{{1,3}}),p=(?P<p>\d{{1,3}}){_SALT_AND_DIGEST}": (
        _scrypt_phc
    ),
    r"(?:argon2)?(?P<hashed>\$argon2(?P<kind>id|i|d)\$(?:v=(?:16|19)\$)?"
    rf"m=(?P<m>\d{{1,8}}),t=(?P<t>\d{{1,4}}),p=(?P<p>\d{{1,3}}){_SALT_AND_DIGEST})": _argon2,
}


def _of_keycloak(text: str) -> str:
    """Return a credential of Keycloak's in the PHC form."""
    try:
        credential = json.loads(text)
        how, secret = (_part(credential, name) for name in ("credentialData", "secretData"))
        algorithm, iterations = str(how["algorithm"]), int(how["hashIterations"])
        salt, digest = (_unpadded(secret[name]) for name in ("salt", "value"))
        if algorithm != "argon2":
            return f"${algorithm}$i={iterations}${salt}${digest}"
        kind, version, memory, lanes = (
            how["additionalParameters"][name][0]
            for name in ("type", "version", "memory", "parallelism")
        )
        number = {"1.3": 19, "1.0": 16}[version]
        return f"$argon2{kind}$v={number}$m={memory},t={iterations},p={lanes}${salt}${digest}"
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(
            "is no credential of Keycloak's, which has credentialData and secretData"
        ) from error


def _part(credential: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a part of a credential: an object, or an object's JSON as Keycloak exports it."""
    part = credential[name]
    loaded: dict[str, Any] = json.loads(part) if isinstance(part, str) else part
    return loaded


def _unpadded(text: str) -> str:
    return text.rstrip("=")


def _decoded(text: str) -> bytes:
    """Return the bytes of base64, with padding or not; passlib writes a dot for the plus."""
    text = text.rstrip("=").replace(".", "+")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError("has a salt or a digest that is no base64") from error


def _lengths(salt: bytes, digest: bytes, shortest_salt: int = _SALT_BYTES.start) -> None:
    if not shortest_salt <= len(salt) < _SALT_BYTES.stop:
        raise ValueError(f"has a salt of fewer than {shortest_salt} or more than 128 bytes")
    if len(digest) not in _DIGEST_BYTES:
        raise ValueError("has a digest of fewer than 16 or more than 128 bytes")


def _bound(value: int, highest: int, what: str, lowest: int = 1) -> None:
    if not lowest <= value <= highest:
        raise ValueError(f"has a {what} of {value}; from {lowest} to {highest} is accepted")
