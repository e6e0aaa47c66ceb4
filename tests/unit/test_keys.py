"""Signing keys: made, published without secrets, sealed at rest, chosen for signing."""

import json
from datetime import UTC, datetime

import pytest

from auth_service.errors import ConfigError
from auth_service.keys import (
    ALGORITHMS,
    KeyRing,
    MasterKey,
    SigningKey,
    generate_key,
    key_ring,
    open_key,
    seal_key,
    shared_key,
)
from auth_service.models import KeyState, StoredKey

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MASTER = MasterKey(b"m" * 32)
KEYS = {algorithm: generate_key(algorithm) for algorithm in ALGORITHMS}
PUBLIC = [algorithm for algorithm in ALGORITHMS if algorithm != "HS256"]
SECRET_MEMBERS = {"k", "d", "p", "q", "dp", "dq", "qi", "oth"}


def stored(key: SigningKey, state: KeyState = KeyState.ACTIVE) -> StoredKey:
    """Seal a key as the database would hold it."""
    return seal_key(key, MASTER, state, NOW)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_sealed_key_opens_to_itself(algorithm: str) -> None:
    """With the same kid, and with state and time kept."""
    key = KEYS[algorithm]
    row = stored(key, KeyState.RETIRED)
    opened = open_key(row, MASTER)
    assert (row.state, row.created_at) == (KeyState.RETIRED, NOW)
    assert (opened.kid, opened.algorithm) == (key.kid, algorithm)
    if key.is_secret:
        assert opened.signing == key.signing == opened.verifying
    else:
        assert (
            opened.signing.private_numbers() == key.signing.private_numbers()
            if hasattr(key.signing, "private_numbers")
            else opened.signing.private_bytes_raw() == key.signing.private_bytes_raw()
        )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_sealed_key_does_not_open_under_another_master_key(algorithm: str) -> None:
    """The operator is told which setting to mend."""
    with pytest.raises(ConfigError, match="AUTH_MASTER_KEY"):
        open_key(stored(KEYS[algorithm]), MasterKey(b"n" * 32))


def test_a_sealed_key_does_not_open_under_another_kid() -> None:
    """Rows cannot be swapped by whoever can write to the database."""
    with pytest.raises(ConfigError):
        MASTER.decrypt("another", MASTER.encrypt("one", b"secret"))


@pytest.mark.parametrize("length", [0, 5, 12, 20])
def test_a_damaged_row_is_a_configuration_error(length: int) -> None:
    """Cut off anywhere, it is refused as what it is."""
    with pytest.raises(ConfigError, match="signing key one"):
        MASTER.decrypt("one", MASTER.encrypt("one", b"secret")[:length])


def test_sealing_twice_gives_two_texts() -> None:
    """Each has its own nonce."""
    assert MASTER.encrypt("one", b"secret") != MASTER.encrypt("one", b"secret")


def test_nothing_shows_a_secret() -> None:
    """Neither the master key, a signing key nor a stored key prints what it protects."""
    assert repr(MASTER) == str(MASTER) == "MasterKey(…)"
    key = shared_key(b"s" * 32)
    assert "sss" not in repr(key)
    assert "encrypted_secret" not in repr(stored(key))


@pytest.mark.parametrize("length", [0, 16, 31])
def test_a_weak_key_is_refused(length: int) -> None:
    """RFC 7518 section 3.2 wants 256 bits."""
    with pytest.raises(ConfigError, match="256 bits"):
        shared_key(b"s" * length)
    with pytest.raises(ConfigError, match="256 bits"):
        MasterKey(b"m" * length)


def test_the_refresh_key_is_the_master_keys_own() -> None:
    """It is derived, stable, and tells nothing of the master key."""
    key = MASTER.refresh_token_key()
    assert key == MasterKey(b"m" * 32).refresh_token_key()
    assert key not in (MasterKey(b"n" * 32).refresh_token_key(), b"m" * 32)
    assert len(key) == 32


def test_an_unknown_algorithm_is_a_configuration_error() -> None:
    """`none` above all."""
    for algorithm in ("none", "HS512", ""):
        with pytest.raises(ConfigError, match="one of HS256, EdDSA, ES256, RS256"):
            generate_key(algorithm)


def test_the_kid_follows_from_the_key() -> None:
    """Whoever holds the shared key knows its kid, and two keys have two."""
    assert shared_key(b"s" * 32).kid == shared_key(b"s" * 32).kid
    assert shared_key(b"s" * 32).kid != shared_key(b"t" * 32).kid
    assert generate_key("EdDSA").kid != generate_key("EdDSA").kid


def test_the_thumbprint_is_that_of_rfc_8037() -> None:
    """The example of appendix A.3."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from auth_service import base64url
    from auth_service.keys import _asymmetric_key

    secret = base64url.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")
    key = _asymmetric_key("EdDSA", Ed25519PrivateKey.from_private_bytes(secret))
    assert key.kid == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize("algorithm", PUBLIC)
def test_a_public_jwk_holds_the_public_half_alone(algorithm: str) -> None:
    """With what a mesh needs to choose it."""
    key = KEYS[algorithm]
    jwk = key.public_jwk()
    assert not jwk.keys() & SECRET_MEMBERS
    assert (jwk["kid"], jwk["alg"], jwk["use"]) == (key.kid, algorithm, "sig")
    assert "key_ops" not in jwk


def test_the_jwks_holds_no_secret() -> None:
    """The shared key is left out of it, and has no JWK of its own."""
    keys = json.loads(KeyRing(KEYS.values()).jwks())["keys"]
    assert sorted(jwk["alg"] for jwk in keys) == sorted(PUBLIC)
    assert not any(jwk.keys() & SECRET_MEMBERS for jwk in keys)
    with pytest.raises(ValueError, match="never published"):
        KEYS["HS256"].public_jwk()


def test_a_ring_finds_its_keys_alone() -> None:
    """By kid; without an active key it only verifies."""
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


def test_the_active_key_of_the_algorithm_signs() -> None:
    """While keys of every state and algorithm verify."""
    retired, active, published = (generate_key("EdDSA") for _ in range(3))
    rows = [
        stored(KEYS["ES256"]),
        stored(retired, KeyState.RETIRED),
        stored(published, KeyState.PUBLISHED),
        stored(active),
    ]
    ring = key_ring(rows, MASTER, "EdDSA", None)
    assert ring.active.kid == active.kid
    assert len(ring) == 4


def test_a_configured_shared_key_signs_before_a_stored_one() -> None:
    """And both verify."""
    row = stored(KEYS["HS256"])
    configured = shared_key(b"s" * 32)
    assert key_ring([row], MASTER, "HS256", None).active.kid == row.kid
    ring = key_ring([row], MASTER, "HS256", b"s" * 32)
    assert ring.active.kid == configured.kid
    assert row.kid in ring


def test_a_configured_shared_key_only_verifies_under_another_algorithm() -> None:
    """During a migration away from it."""
    ring = key_ring([stored(KEYS["ES256"])], MASTER, "ES256", b"s" * 32)
    assert ring.active.kid == KEYS["ES256"].kid
    assert shared_key(b"s" * 32).kid in ring


def test_without_an_active_key_nothing_signs() -> None:
    """A key that is merely published does not."""
    ring = key_ring([stored(KEYS["EdDSA"], KeyState.PUBLISHED)], MASTER, "EdDSA", None)
    with pytest.raises(ValueError, match="only verifies"):
        _ = ring.active
