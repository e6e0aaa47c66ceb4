"""Hashes of other systems: which are accepted, and that they match their passwords alone."""

import json

import pytest

from auth_service.core.foreign_hashes import accept, verify
from auth_service.core.passwords import Argon2Profile, PasswordHasher
from tests.foreign_hashes import (
    ARGON2,
    BCRYPT,
    DJANGO_PBKDF2,
    HASHES,
    KEYCLOAK_ARGON2,
    KEYCLOAK_SHA256,
    SENTENCE,
    keycloak,
)

BCRYPT_HASH = BCRYPT.removeprefix("$2b$04$")
B64 = "c29tZXNhbHQ"
DIGEST = "nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"


@pytest.mark.parametrize(("given", "password"), HASHES.values(), ids=HASHES.keys())
def test_a_hash_of_another_system_matches_its_password_alone(given: str, password: str) -> None:
    """Each was made by the system's own library, or is a published vector."""
    kept = accept(given)
    assert verify(kept, password)
    assert not verify(kept, password + "x")
    assert not verify(kept, password.swapcase())
    assert not verify(kept, "")


def test_the_credentials_of_keycloak_are_kept_in_the_phc_form() -> None:
    """Also as objects, in which the JSON has been read."""
    credential = json.loads(KEYCLOAK_SHA256)
    parts = {name: json.loads(credential[name]) for name in ("credentialData", "secretData")}
    kept = accept(json.dumps(parts))
    assert kept == accept(KEYCLOAK_SHA256)
    assert kept.startswith("$pbkdf2-sha256$i=27500$x/bm4Y3DcuV9eU97ervkPA$")
    assert accept(KEYCLOAK_ARGON2).startswith("$argon2id$v=19$m=7168,t=5,p=1$")


@pytest.mark.parametrize(
    "given",
    [
        f"$2b$15${BCRYPT_HASH}",
        f"bcrypt_sha256$$2b$15${BCRYPT_HASH}",
        DJANGO_PBKDF2.replace("$1000$", "$4000001$"),
        f"$pbkdf2-sha512$i=1500001${B64}${DIGEST}",
        f"$pbkdf2-sha256$i=2000001${B64}${DIGEST}{DIGEST}",
        f"$scrypt$ln=18,r=8,p=1${B64}${DIGEST}",
        f"$scrypt$ln=17,r=8,p=3${B64}${DIGEST}",
        f"$scrypt$ln=99,r=8,p=3${B64}${DIGEST}",
        f"scrypt$262144$salt$8$1${DIGEST}",
        f"$argon2id$v=19$m=131073,t=1,p=1${B64}${DIGEST}",
        f"$argon2id$v=19$m=131072,t=9,p=1${B64}${DIGEST}",
        f"$argon2id$v=19$m=65536,t=1,p=17${B64}${DIGEST}",
        keycloak("argon2", 200, B64, DIGEST, **ARGON2),
    ],
    ids=str,
)
def test_a_hash_that_costs_more_than_a_second_is_refused(given: str) -> None:
    """Or more than 128 MiB: one import would let logins exhaust the machine."""
    with pytest.raises(ValueError, match="is accepted"):
        accept(given)


@pytest.mark.parametrize(
    "given",
    [
        f"$2b$14${BCRYPT_HASH}",
        DJANGO_PBKDF2.replace("$1000$", "$1800000$"),
        f"$scrypt$ln=17,r=8,p=1${B64}${DIGEST}",
        f"argon2$argon2id$v=19$m=102400,t=2,p=8${B64}${DIGEST}",
        f"$argon2id$v=19$m=65536,t=3,p=4${B64}${DIGEST}",
        f"$argon2i$v=16$m=4096,t=3,p=1${B64}${DIGEST}",
    ],
    ids=["bcrypt-14", "django", "owasp-scrypt", "django-argon2", "rfc9106-second", "argon2i"],
)
def test_the_costs_that_are_recommended_are_accepted(given: str) -> None:
    """The defaults of Django, OWASP's for scrypt, and the second of RFC 9106."""
    assert accept(given) == given


@pytest.mark.parametrize(
    "given",
    [
        "",
        "5f4dcc3b5aa765d61d8327deb882cf99",
        "md5$salt$5f4dcc3b5aa765d61d8327deb882cf99",
        "pbkdf2_sha1$1000$salt$abcd",
        f"pbkdf2_sha256$1000$sa\0lt${DIGEST}",
        f"scrypt$1024$sa lt$8$1${DIGEST}",
        "$1$salt$hash",
        "$6$salt$hash",
        f"$2x$04${BCRYPT_HASH}",
        f"$2b$03${BCRYPT_HASH}",
        f"$2b$\u0660\u0664${BCRYPT_HASH}",
        f"$2b$04${BCRYPT_HASH}a",
        f"$2b$04${BCRYPT_HASH}\n",
        "$2b$04$short",
        "$fbscrypt$v=1,n=14,r=8,p=1,ss=Bw==,sk=a$b$c",
        f"$pbkdf2-sha256$i=1000${B64}$c2hvcnQ",
        f"$pbkdf2-sha256$i=1000$a${DIGEST}",
        f"$pbkdf2-sha256$i=0${B64}${DIGEST}",
        f"$argon2id$v=19$m=64,t=2,p=1$c2hvcnQ${DIGEST}",
        f"$argon2id$v=19$m=8,t=2,p=2${B64}${DIGEST}",
        f"$argon2id$v=19$m=64,t=0,p=1${B64}${DIGEST}",
        f"scrypt$17$salt$8$1${DIGEST}",
        f"scrypt$0$salt$8$1${DIGEST}",
        "{",
        "{}",
        "[1]",
        '{"credentialData": [], "secretData": 1}',
        '{"credentialData": "{", "secretData": "{"}',
        keycloak("pbkdf2", 1000, B64, DIGEST),
        keycloak("argon2", 5, B64, DIGEST),
        keycloak("argon2", 5, B64, DIGEST, **(ARGON2 | {"version": ["1.4"]})),
        "$2b$" * 1000,
    ],
    ids=lambda given: given[:40],
)
def test_what_is_no_hash_of_a_known_form_is_refused(given: str) -> None:
    """The reason never quotes it, and it matches no password where it is kept all the same."""
    with pytest.raises(ValueError, match=r"^(is|has) ") as caught:
        accept(given)
    assert not given or given not in str(caught.value)
    assert not verify(given, "")


def test_bcrypt_reads_72_bytes() -> None:
    """As in the system that made the hash, whose users may have longer passwords."""
    long = "0123456789abcdef" * 5
    kept = accept("$2b$04$abcdefghijklmnopqrstuuTN6IG0bZlzCXx8n3dP7VVFVHW3Mbt9a")
    assert not verify(kept, long)
    made = accept(_bcrypt_of(long[:72]))
    assert verify(made, long)
    assert not verify(made, long[:71])


def _bcrypt_of(password: str) -> str:
    import bcrypt

    return bcrypt.hashpw(password.encode(), b"$2b$04$abcdefghijklmnopqrstuu").decode()


async def test_a_password_is_verified_as_typed_and_in_its_normal_form() -> None:
    """Other systems hash what a keyboard sends; here the normal form follows at the first login."""
    hasher = PasswordHasher(Argon2Profile(8, 1), workers=1)
    typed, normal = "sta\u0308ple", "st\xe4ple"
    assert typed != normal
    for made_of in (typed, normal):
        kept = accept(_bcrypt_of(made_of))
        assert hasher.needs_rehash(kept)
        assert await hasher.verify(kept, typed)
        assert await hasher.verify(kept, normal) == (made_of == normal)
    assert not hasher.needs_rehash(await hasher.hash(SENTENCE))
    hasher.close()


async def test_an_account_without_a_password_never_matches() -> None:
    """Its owner has to be given one."""
    hasher = PasswordHasher(Argon2Profile(8, 1), workers=1)
    for password in ("", "no account has this password", "x"):
        assert not await hasher.verify("", password)
    for kept in ("", None):
        assert not await hasher.verify(kept, SENTENCE, accept(BCRYPT))
    hasher.close()
