"""Signing keys: generated, read, published without secrets, encrypted at rest, selected."""

import hashlib
import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st

from auth_service import base64url
from auth_service.errors import ConfigError
from auth_service.models import KeyState, StoredKey
from auth_service.tokens.keys import (
    ALGORITHMS,
    KeyRing,
    MasterKey,
    SigningKey,
    decrypt_key,
    encrypt_key,
    generate_key,
    read_key,
    shared_key,
)
from auth_service.tokens.rsa_strength import check_rsa_key

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MASTER_SECRET, OTHER_SECRET = bytes(range(32)), bytes(range(32, 64))
MASTER = MasterKey(MASTER_SECRET)
KEYS = {algorithm: generate_key(algorithm) for algorithm in ALGORITHMS}
PUBLIC = [algorithm for algorithm in ALGORITHMS if algorithm != "HS256"]
SECRET_MEMBERS = {"k", "d", "p", "q", "dp", "dq", "qi", "oth"}


def stored(key: SigningKey) -> StoredKey:
    """Return a key as the database stores it."""
    return encrypt_key(key, MASTER, NOW, NOW)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_encrypted_key_decrypts_to_itself(algorithm: str) -> None:
    """It has the same kid and the same dates."""
    key, later = KEYS[algorithm], NOW + timedelta(minutes=30)
    row = encrypt_key(key, MASTER, NOW, later)
    decrypted = decrypt_key(row, MASTER)
    assert (row.created_at, row.activate_at) == (NOW, later)
    assert (row.retire_at, row.remove_at, row.compromised_at) == (None, None, None)
    assert (decrypted.kid, decrypted.algorithm) == (key.kid, algorithm)
    if key.is_secret:
        assert decrypted == key
    else:
        assert (
            decrypted.private_key.private_numbers() == key.private_key.private_numbers()
            if hasattr(key.private_key, "private_numbers")
            else decrypted.private_key.private_bytes_raw() == key.private_key.private_bytes_raw()
        )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_encrypted_key_does_not_decrypt_under_another_master_key(algorithm: str) -> None:
    """The error names the setting to correct."""
    with pytest.raises(ConfigError, match="AUTH_MASTER_KEY"):
        decrypt_key(stored(KEYS[algorithm]), MasterKey(OTHER_SECRET))


def test_an_encrypted_key_does_not_decrypt_under_another_kid() -> None:
    """Somebody who can write to the database cannot swap two rows."""
    with pytest.raises(ConfigError):
        MASTER.decrypt("another", MASTER.encrypt("one", b"secret"))


@pytest.mark.parametrize("length", [0, 5, 12, 20])
def test_a_damaged_row_is_a_configuration_error(length: int) -> None:
    """It may be cut off anywhere; the error is always the same."""
    with pytest.raises(ConfigError, match="key one was encrypted"):
        MASTER.decrypt("one", MASTER.encrypt("one", b"secret")[:length])


def test_sealing_twice_gives_two_texts() -> None:
    """Each encryption has its own nonce."""
    assert MASTER.encrypt("one", b"secret") != MASTER.encrypt("one", b"secret")


def test_nothing_shows_a_secret() -> None:
    """The repr of a master key, a signing key and a stored key contains no secret."""
    assert repr(MASTER) == str(MASTER) == "MasterKey(…)"
    secret = b"The quick brown fox jumps over it"
    key = shared_key(secret)
    assert "quick" not in repr(key)
    assert "encrypted_secret" not in repr(stored(key))


@given(secret=st.binary(min_size=1, max_size=200), messages=st.lists(st.binary(), max_size=3))
def test_a_mac_is_that_of_rfc_2104(secret: bytes, messages: list[bytes]) -> None:
    """With a secret of any length, for one message after the other."""
    key = SigningKey("kid", "HS256", secret=secret)
    for message in messages:
        assert key.mac(message) == hmac.digest(secret, message, "sha256")


def test_a_key_without_a_secret_makes_no_mac() -> None:
    """An empty secret would let anybody forge one."""
    with pytest.raises(ValueError, match="no secret"):
        generate_key("EdDSA").mac(b"message")


@pytest.mark.parametrize("length", [0, 16, 31])
def test_a_weak_key_is_refused(length: int) -> None:
    """RFC 7518 section 3.2 requires 256 bits."""
    with pytest.raises(ConfigError, match="256 bits"):
        shared_key(MASTER_SECRET[:length])
    with pytest.raises(ConfigError, match="256 bits"):
        MasterKey(MASTER_SECRET[:length])


def test_the_refresh_key_is_the_master_keys_own() -> None:
    """It is derived, stable, and does not reveal the master key."""
    key = MASTER.refresh_token_key()
    assert key == MasterKey(MASTER_SECRET).refresh_token_key()
    assert key not in (MasterKey(OTHER_SECRET).refresh_token_key(), MASTER_SECRET)
    assert len(key) == 32


def test_an_unknown_algorithm_is_a_configuration_error() -> None:
    """Above all `none`."""
    for algorithm in ("none", "HS512", ""):
        with pytest.raises(ConfigError, match="one of HS256, EdDSA, ES256, RS256"):
            generate_key(algorithm)


def test_the_kid_follows_from_the_key() -> None:
    """A holder of the shared key knows its kid, and two keys have different ones."""
    assert shared_key(MASTER_SECRET).kid == shared_key(MASTER_SECRET).kid
    assert shared_key(MASTER_SECRET).kid != shared_key(OTHER_SECRET).kid
    assert generate_key("EdDSA").kid != generate_key("EdDSA").kid


def test_the_thumbprint_is_that_of_rfc_8037() -> None:
    """The example of appendix A.3."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from auth_service.tokens.keys import _asymmetric_key

    secret = base64url.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")
    key = _asymmetric_key("EdDSA", Ed25519PrivateKey.from_private_bytes(secret))
    assert key.kid == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize("algorithm", PUBLIC)
def test_a_public_jwk_holds_the_public_half_alone(algorithm: str) -> None:
    """It has the members by which a mesh selects a key."""
    key = KEYS[algorithm]
    jwk = key.public_jwk()
    assert not jwk.keys() & SECRET_MEMBERS
    assert (jwk["kid"], jwk["alg"], jwk["use"]) == (key.kid, algorithm, "sig")
    assert "key_ops" not in jwk


def test_the_jwks_holds_no_secret() -> None:
    """The set omits the shared key, which has no JWK."""
    keys = json.loads(KeyRing(KEYS.values()).jwks())["keys"]
    assert sorted(jwk["alg"] for jwk in keys) == sorted(PUBLIC)
    assert not any(jwk.keys() & SECRET_MEMBERS for jwk in keys)
    with pytest.raises(ValueError, match="never published"):
        KEYS["HS256"].public_jwk()


def test_a_ring_finds_its_keys_alone() -> None:
    """It finds keys by kid, and only verifies without an active key."""
    key = KEYS["EdDSA"]
    ring = KeyRing([key])
    assert key.kid in ring
    assert "another" not in ring
    assert len(ring) == 1
    assert ring.get(key.kid) is key
    assert ring.get("another") is None
    with pytest.raises(ValueError, match="only verifies"):
        _ = ring.active
    assert KeyRing([key], key.kid).active is key


def test_a_ring_is_replaced_as_one() -> None:
    """Keys that are not in the new set are no longer trusted, and another key signs."""
    first, second = KEYS["EdDSA"], KEYS["ES256"]
    ring = KeyRing([first], first.kid)
    ring.replace([second], second.kid)
    assert list(ring) == [second]
    assert first.kid not in ring
    assert (ring.active, ring.active_kid) == (second, second.kid)
    ring.replace([second])
    assert ring.active_kid is None


def test_a_ring_without_the_key_that_is_to_sign_is_refused() -> None:
    """The ring does not change."""
    first, second = KEYS["EdDSA"], KEYS["ES256"]
    ring = KeyRing([first], first.kid)
    with pytest.raises(KeyError):
        ring.replace([first, second], "another")
    assert list(ring) == [first]
    assert ring.active is first


def test_a_ring_has_a_new_revision_when_a_key_is_distrusted() -> None:
    """Adding a key, or signing with another, does not void what was verified."""
    first, second = KEYS["EdDSA"], KEYS["ES256"]
    ring = KeyRing([first], first.kid)
    assert ring.revision == 0
    ring.replace([first, second], second.kid)
    assert ring.revision == 0
    ring.replace([second], second.kid)
    assert ring.revision == 1
    ring.replace([replace(second, public_key=first.public_key)])
    assert ring.revision == 2


# A key's life


@pytest.mark.parametrize(
    ("minute", "state"),
    [
        (0, KeyState.PUBLISHED),
        (9, KeyState.PUBLISHED),
        (10, KeyState.ACTIVE),
        (19, KeyState.ACTIVE),
        (20, KeyState.RETIRED),
        (29, KeyState.RETIRED),
        (30, KeyState.REMOVED),
        (99, KeyState.REMOVED),
    ],
)
def test_the_state_of_a_key_follows_from_its_dates(minute: int, state: KeyState) -> None:
    """Each state begins at its date. A compromised key is compromised at any time."""
    activate, retire, remove = (NOW + timedelta(minutes=m) for m in (10, 20, 30))
    now = NOW + timedelta(minutes=minute)
    row = StoredKey("kid", "EdDSA", b"sealed", NOW, activate, retire, remove)
    assert row.state(now) is state
    assert replace(row, compromised_at=NOW).state(now) is KeyState.COMPROMISED


def test_a_key_without_an_end_stays_active() -> None:
    """Until a date for its end is set."""
    assert stored(KEYS["EdDSA"]).state(NOW + timedelta(days=9999)) is KeyState.ACTIVE


# Keys that operators bring


PKCS8 = serialization.PrivateFormat.PKCS8


def pem(private: Any, password: bytes | None = None, form: Any = PKCS8) -> bytes:
    """Return a private key as OpenSSL writes it."""
    encryption = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    text: bytes = private.private_bytes(serialization.Encoding.PEM, form, encryption)
    return text


@pytest.mark.parametrize("algorithm", PUBLIC)
def test_a_pem_private_key_is_read(algorithm: str) -> None:
    """Ed25519, P-256 and RSA, each for its one algorithm."""
    read = read_key(pem(KEYS[algorithm].private_key))
    assert (read.kid, read.algorithm) == (KEYS[algorithm].kid, algorithm)


@pytest.mark.parametrize(
    ("private", "algorithm"),
    [
        (rsa.generate_private_key(65537, 2048), "RS256"),
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
    ],
)
def test_a_key_in_the_older_pem_form_is_read(private: Any, algorithm: str) -> None:
    """As older versions of openssl genrsa and ecparam write them; 2048 bits are enough."""
    assert (
        read_key(pem(private, form=serialization.PrivateFormat.TraditionalOpenSSL)).algorithm
        == algorithm
    )


@pytest.mark.parametrize(
    "private",
    [
        rsa.generate_private_key(65537, 1024),  # noqa: S505 - to be refused
        ec.generate_private_key(ec.SECP384R1()),
        ec.generate_private_key(ec.SECP256K1()),
        ed448.Ed448PrivateKey.generate(),
        x25519.X25519PrivateKey.generate(),
    ],
)
def test_a_pem_key_of_another_kind_or_size_is_refused(private: Any) -> None:
    """RFC 7518 sections 3.3 and 3.4. The error names the keys that are accepted."""
    with pytest.raises(ConfigError, match="2048 bits or more"):
        read_key(pem(private))


def test_a_pem_text_that_is_no_open_private_key_is_refused() -> None:
    """An encrypted key, one that is cut off, and a public key."""
    private = KEYS["EdDSA"].private_key
    public = KEYS["EdDSA"].public_key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for text in (pem(private, b"password"), pem(private)[:60], public):
        with pytest.raises(ConfigError, match="unencrypted PEM"):
            read_key(text)


@pytest.mark.parametrize("ending", ["", "=", "\n", "=\n"])
def test_a_shared_key_is_read(ending: str) -> None:
    """In base64url, as `keys export` prints it or with padding."""
    read = read_key((base64url.encode(KEYS["HS256"].secret) + ending).encode())
    assert read == KEYS["HS256"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "256 bits"),
        (base64url.encode(bytes(range(31))).encode(), "256 bits"),
        (b"a key!", "a key is PEM"),
        ("ключ".encode(), "a key is PEM"),
        (b"\xff\xfe\x00", "a key is PEM"),
        (b"-----BEGIN \xff", "unencrypted PEM"),
        (base64url.encode(b"s" * 32).encode(), "not random"),
        (base64url.encode(b"change me " * 8).encode(), "not random"),
    ],
)
def test_a_weak_or_garbled_shared_key_is_refused(content: bytes, told: str) -> None:
    """It is too short, not base64url, not even text, or plainly not random."""
    with pytest.raises(ConfigError, match=told):
        read_key(content)


NOT_RANDOM = {
    "zeros": bytes(32),
    "one byte": b"\xff" * 40,
    "few bytes": b"change me " * 8,
    "16 bytes twice": bytes(range(16)) * 2,
    "20 bytes, cut off": (bytes(range(20)) * 4)[:50],
}


@pytest.mark.parametrize("secret", NOT_RANDOM.values(), ids=NOT_RANDOM.keys())
def test_no_key_is_made_of_a_pattern(secret: bytes) -> None:
    """A shared key and the master key pass the same check."""
    for make in (shared_key, MasterKey):
        with pytest.raises(ConfigError, match="not random"):
            make(secret)


@given(st.binary(min_size=32, max_size=32))
def test_a_key_drawn_by_lot_is_taken(salt: bytes) -> None:
    """A digest, which looks random, passes the check."""
    digest = hashlib.sha256(salt).digest()
    assert shared_key(digest).secret == digest


ROCA_PRIMES = (
    0xC3A1512BA8424D7152F43B1F8BB454756EF57A1DB5AA02BC66CA26422948DB248D21C21B5E6DDE0FFE6CA1E07949A04F3ED3CB7541E3824513B1FABA2C6E4C596D7E2CA2DF1BDE69B778AE655E6F982E1D9BEA89CE19103FB211E88E8A91A9C27EF8E272D9635ABBAE8AA3702778AD83308420163B5D6B4C3006DBB65AD4B51B,
    0xDA1D8CC0F0EA615BC6EF337DBF4B944D743F5D902C34067C871EF835EF68B90DCCF777FA4C9085CAC221E7695F3826A809F8AF3FDBB5CF85D28AFC97FCF8DE8A5C154F403F25A3840BF2390F3D9FB1980E1E0688EFDD79AC97694C5FA646E0CCE20E455DF38A6B5A71D04587EDFC688DA5933F1B065A05BAC729159698B2D307,
)


def rsa_key(p: int, q: int, exponent: int = 65537) -> rsa.RSAPrivateKey:
    """Return the RSA key of two primes."""
    d = pow(exponent, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(exponent, p * q)
    return rsa.RSAPrivateNumbers(
        p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q), public
    ).private_key()


def test_a_key_that_can_be_factored_is_refused() -> None:
    """Some chips of Infineon generated primes of a recognisable form (CVE-2017-15361)."""
    key = rsa_key(*ROCA_PRIMES)
    assert key.key_size == 2048
    with pytest.raises(ConfigError, match="ROCA"):
        read_key(pem(key))
    with pytest.raises(ValueError, match="ROCA"):
        check_rsa_key(key.public_key())


def test_an_rsa_key_with_a_small_exponent_is_refused() -> None:
    """FIPS 186-5 section A.1.1 requires 65537 or more."""
    with pytest.raises(ConfigError, match="65537"):
        read_key(pem(rsa.generate_private_key(3, 2048)))


@pytest.mark.parametrize(
    "members", [{"algorithm": "HS256"}, {"algorithm": "EdDSA", "secret": bytes(range(32))}]
)
def test_only_an_hs256_key_has_a_secret(members: dict[str, Any]) -> None:
    """With an empty secret, HMAC would verify a token that anybody can sign."""
    with pytest.raises(ValueError, match="secret"):
        SigningKey("kid", **members)
