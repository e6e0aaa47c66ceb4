"""Refresh tokens: computed from the row of a session, byte for byte."""

import hashlib
import hmac
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auth_service import base64url
from auth_service.errors import AuthError, InvalidGrant
from auth_service.models import Session
from auth_service.tokens import jws
from auth_service.tokens.access import AccessClaims, TokenSigner
from auth_service.tokens.keys import KeyRing, MasterKey, SigningKey, generate_key
from auth_service.tokens.refresh import RefreshClaims, RefreshTokens, access_token_id, token_id

START = datetime(2026, 1, 1, tzinfo=UTC)
EPOCH = int(START.timestamp())
ISSUER = "https://auth.test"
MASTER_SECRET = bytes(range(32))
MASTER = MasterKey(MASTER_SECRET)
TOKENS = RefreshTokens(MASTER, ISSUER)
SESSION = Session(
    user_id=UUID("00000000-0000-4000-8000-00000000000a"),
    id=UUID("00000000-0000-4000-8000-00000000000b"),
    generation=3,
    seed=b"s" * 32,
    client_id="web",
    device_label="a browser",
    audience=("billing",),
    scope=("read",),
    amr=("pwd",),
    auth_time=START,
    created_at=START,
    refreshed_at=START,
    refresh_expires_at=START + timedelta(days=7),
    expires_at=START + timedelta(days=30),
)
TOKEN = TOKENS.current(SESSION)
HEADER = {"typ": "rt+jwt", "alg": "HS256", "kid": "refresh"}
CLAIMS: dict[str, Any] = {
    "iss": ISSUER,
    "sub": str(SESSION.user_id),
    "sid": str(SESSION.id),
    "gen": 3,
    "jti": base64url.encode(token_id(SESSION.seed, 3)),
    "iat": EPOCH,
    "exp": EPOCH + 7 * 86_400,
}
ACCESS = AccessClaims(
    issuer=ISSUER,
    subject=str(SESSION.user_id),
    audience=("billing",),
    expires_at=EPOCH + 900,
    issued_at=EPOCH,
    token_id="jti",
    session_id=str(SESSION.id),
    client_id="web",
    scope=("read",),
    roles=(),
    auth_time=EPOCH,
    amr=("pwd",),
)


def compact(header: object, payload: object, secret: bytes | None = None) -> str:
    """Sign any header and payload, JSON values or bytes, with the service's key or another."""
    parts = [p if isinstance(p, bytes) else json.dumps(p).encode() for p in (header, payload)]
    signing_input = ".".join(map(base64url.encode, parts))
    key = MASTER.refresh_token_key() if secret is None else secret
    signature = hmac.digest(key, signing_input.encode(), hashlib.sha256)
    return f"{signing_input}.{base64url.encode(signature)}"


def refuse(token: str) -> InvalidGrant:
    """Return the error that the token is refused with."""
    with pytest.raises(InvalidGrant) as caught:
        TOKENS.read(token)
    return caught.value


# The token of a row


def test_an_equal_row_has_an_equal_token() -> None:
    """This holds on every replica and after every restart, with the same master key."""
    assert RefreshTokens(MasterKey(MASTER_SECRET), ISSUER).current(replace(SESSION)) == TOKEN


def test_the_token_of_a_row_is_the_same_in_every_release() -> None:
    """A retry may reach a replica of another version, and must get the same bytes."""
    assert TOKEN == (
        "eyJhbGciOiJIUzI1NiIsImtpZCI6InJlZnJlc2giLCJ0eXAiOiJydCtqd3QifQ."
        "eyJpc3MiOiJodHRwczovL2F1dGgudGVzdCIsInN1YiI6IjAwMDAwMDAwLTAwMDAtNDAwMC04MDAwLTAw"
        "MDAwMDAwMDAwYSIsInNpZCI6IjAwMDAwMDAwLTAwMDAtNDAwMC04MDAwLTAwMDAwMDAwMDAwYiIsImdl"
        "biI6MywianRpIjoiV0d1amp5Vi1yYTZSdkFOSmc5TGRmQSIsImlhdCI6MTc2NzIyNTYwMCwiZXhwIjox"
        "NzY3ODMwNDAwfQ"
        ".EEuEBHVguiip2YTlktL2Vc1t-fJXS3W2zEr24pIrfDY"
    )


def test_a_token_says_what_its_row_says() -> None:
    """It contains nothing else: no seed, scope or roles."""
    header, payload, _ = TOKEN.split(".")
    assert json.loads(base64url.decode(header)) == HEADER
    assert json.loads(base64url.decode(payload)) == CLAIMS
    assert TOKENS.read(TOKEN) == RefreshClaims(
        SESSION.user_id, SESSION.id, 3, token_id(SESSION.seed, 3), EPOCH, EPOCH + 7 * 86_400
    )


MEMBERS: dict[str, Any] = {
    "user_id": UUID(int=1),
    "id": UUID(int=1),
    "generation": 4,
    "seed": b"t" * 32,
    "refreshed_at": START + timedelta(seconds=1),
    "refresh_expires_at": START + timedelta(days=8),
}


@pytest.mark.parametrize("name", MEMBERS)
def test_another_row_has_another_token(name: str) -> None:
    """Each column from which the token is computed changes it."""
    assert TOKENS.current(replace(SESSION, **{name: MEMBERS[name]})) != TOKEN


def test_a_token_counts_whole_seconds() -> None:
    """The database keeps microseconds; the token does not."""
    odd = timedelta(microseconds=999_999)
    session = replace(
        SESSION,
        refreshed_at=SESSION.refreshed_at + odd,
        refresh_expires_at=SESSION.refresh_expires_at + odd,
    )
    assert TOKENS.current(session) == TOKEN


MOMENTS = st.integers(0, jws.LATEST_TIME).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
SEEDS = st.binary(min_size=32, max_size=32)
GENERATIONS = st.integers(0, (1 << 40) - 1)


@given(
    st.builds(
        replace,
        st.just(SESSION),
        user_id=st.uuids(),
        id=st.uuids(),
        generation=GENERATIONS,
        seed=SEEDS,
        refreshed_at=MOMENTS,
        refresh_expires_at=MOMENTS,
    )
)
def test_the_token_of_any_row_is_read_back(session: Session) -> None:
    """With any ids, generation and times, expired or not."""
    claims = TOKENS.read(TOKENS.current(session))
    assert (claims.user_id, claims.session_id) == (session.user_id, session.id)
    assert claims.generation == session.generation
    assert claims.token_id == token_id(session.seed, session.generation)
    assert claims.issued_at == int(session.refreshed_at.timestamp())
    assert claims.expires_at == int(session.refresh_expires_at.timestamp())


@given(SEEDS, SEEDS, GENERATIONS, GENERATIONS)
def test_token_ids_follow_from_seed_and_generation(
    seed: bytes, other_seed: bytes, generation: int, other: int
) -> None:
    """They are equal for equal seeds and generations only; the access token has another one."""
    equal = (seed, generation) == (other_seed, other)
    assert (token_id(seed, generation) == token_id(other_seed, other)) is equal
    assert (access_token_id(seed, generation) == access_token_id(other_seed, other)) is equal
    access = base64url.decode(access_token_id(seed, generation))
    assert token_id(seed, generation) != access


def test_a_token_id_is_half_an_hmac() -> None:
    """It has 128 bits, which cannot be guessed without the seed."""
    assert token_id(b"seed", 7) == hmac.digest(b"seed", b"refresh 7", "sha256")[:16]
    access = hmac.digest(b"seed", b"access 7", "sha256")[:16]
    assert base64url.decode(access_token_id(b"seed", 7)) == access


# What is no refresh token of ours


def test_the_token_of_another_master_key_is_refused() -> None:
    """Only a holder of the master key can sign one."""
    refuse(RefreshTokens(MasterKey(bytes(range(32, 64))), ISSUER).current(SESSION))


@pytest.mark.parametrize("issuer", ["", "https://auth.test/", "https://another.test"])
def test_the_token_of_another_issuer_is_refused(issuer: str) -> None:
    """This holds even if two services share a master key."""
    refuse(RefreshTokens(MASTER, issuer).current(SESSION))


def test_an_access_token_is_no_refresh_token() -> None:
    """It is refused under its own key, and under the key of refresh tokens."""
    key = generate_key("HS256")
    refuse(TokenSigner(KeyRing([key], key.kid)).sign(ACCESS))
    secret = MASTER.refresh_token_key()
    refresh_key = SigningKey("refresh", "HS256", secret=secret)
    refuse(TokenSigner(KeyRing([refresh_key], "refresh")).sign(ACCESS))
    refuse(jws.sign(CLAIMS, refresh_key, "at+jwt"))
    refuse(jws.sign(ACCESS.as_jwt(), refresh_key, "rt+jwt"))


@pytest.mark.parametrize("secret", [b"k" * 32, MASTER_SECRET, b"", b"\0" * 32])
def test_no_other_secret_makes_a_refresh_token(secret: bytes) -> None:
    """The shared key, the master key itself and an empty key are refused."""
    refuse(compact(HEADER, CLAIMS, secret))


HEADERS: dict[str, object] = {
    "alg none": HEADER | {"alg": "none"},
    "alg of another key": HEADER | {"alg": "HS512"},
    "alg RS256": HEADER | {"alg": "RS256"},
    "type of access tokens": HEADER | {"typ": "at+jwt"},
    "type of any token": HEADER | {"typ": "JWT"},
    "type in capitals": HEADER | {"typ": "RT+JWT"},
    "foreign kid": HEADER | {"kid": "another"},
    "kid as path": HEADER | {"kid": "../../dev/null"},
    "kid as SQL": HEADER | {"kid": "' OR '1'='1"},
    "kid with NUL": HEADER | {"kid": "refresh\0"},
    "kid of no text": HEADER | {"kid": 1},
    "no kid": {"typ": "rt+jwt", "alg": "HS256"},
    "jku": HEADER | {"jku": "https://mallory.example"},
    "x5u": HEADER | {"x5u": "https://mallory.example"},
    "jwk": HEADER | {"jwk": {"kty": "oct", "k": "AAAA"}},
    "crit": HEADER | {"crit": ["exp"]},
    "zip": HEADER | {"zip": "DEF"},
    "duplicate alg": b'{"alg":"none","typ":"rt+jwt","alg":"HS256","kid":"refresh"}',
    "array": [HEADER],
    "no JSON": b"refresh",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_another_header_is_refused(header: object) -> None:
    """The service issues one header, and accepts no other under a valid signature."""
    refuse(compact(header, CLAIMS))


@pytest.mark.parametrize("name", CLAIMS)
def test_each_claim_is_required(name: str) -> None:
    """A token without one of them is refused."""
    refuse(compact(HEADER, {key: value for key, value in CLAIMS.items() if key != name}))


NOT_NUMBERS: list[object] = [
    -1,
    1 << 40,
    10**30,
    1.0,
    1e3,
    float("nan"),
    float("inf"),
    "1",
    True,
    None,
    [],
    {},
]


@pytest.mark.parametrize("value", NOT_NUMBERS, ids=str)
@pytest.mark.parametrize("name", ["gen", "iat", "exp"])
def test_a_number_is_whole_and_within_reason(name: str, value: object) -> None:
    """A value that reaches a query fits its column."""
    refuse(compact(HEADER, CLAIMS | {name: value}))


@pytest.mark.parametrize("value", [1 << 32, 253402300799])
@pytest.mark.parametrize("name", ["iat", "exp"])
def test_a_time_is_of_a_sane_year(name: str, value: int) -> None:
    """Before the year 2106."""
    refuse(compact(HEADER, CLAIMS | {name: value}))


NOT_TOKEN_IDS = ["", "a", "A" * 21, "A" * 23, "\u00e9" * 22, "A" * 21 + "=", "A" * 21 + "+"]


@pytest.mark.parametrize("value", NOT_TOKEN_IDS, ids=ascii)
def test_a_token_id_is_128_bits_in_base64url(value: str) -> None:
    """No row can have made a token with another value."""
    refuse(compact(HEADER, CLAIMS | {"jti": value}))


NOT_TEXTS: list[object] = [None, 1, True, [], {}, ["a"], "a\0", "a\n", "\ud800", "\u202e"]


@pytest.mark.parametrize("value", NOT_TEXTS, ids=ascii)
@pytest.mark.parametrize("name", ["iss", "sub", "sid", "jti"])
def test_a_text_is_printable_text(name: str, value: object) -> None:
    """Nothing is converted, and no value can corrupt a log."""
    refuse(compact(HEADER, CLAIMS | {name: value}))


NOT_IDS = {
    "empty": "",
    "name": "alice",
    "SQL": "' OR '1'='1",
    "capitals": str(SESSION.id).upper(),
    "no hyphens": SESSION.id.hex,
    "braces": f"{{{SESSION.id}}}",
    "URN": SESSION.id.urn,
    "leading space": f" {SESSION.id}",
    "longer": f"{SESSION.id}0",
    "shorter": str(SESSION.id)[:-1],
    "digits beyond ASCII": str(SESSION.id).replace("0", "\u0660"),
}


@pytest.mark.parametrize("value", NOT_IDS.values(), ids=NOT_IDS.keys())
@pytest.mark.parametrize("name", ["sub", "sid"])
def test_an_id_is_a_uuid_in_its_canonical_form(name: str, value: str) -> None:
    """In the form that the service writes, which is that of RFC 9562 section 4."""
    refuse(compact(HEADER, CLAIMS | {name: value}))


TEXT = json.dumps(CLAIMS)
PAYLOADS: dict[str, bytes] = {
    "array": f"[{TEXT}]".encode(),
    "duplicate generation": (TEXT[:-1] + ',"gen":4}').encode(),
    "duplicate, escaped": (TEXT[:-1] + ',"\\u0067en":4}').encode(),
    "trailing bytes": (TEXT + "x").encode(),
    "BOM": ("\ufeff" + TEXT).encode(),
    "UTF-16": TEXT.encode("utf-16"),
    "deep": (TEXT[:-1] + ',"x":' + "[" * 2500).encode(),
    "too long": (TEXT[:-1] + ',"x":"' + "x" * (1 << 20) + '"}').encode(),
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_another_payload_is_refused(payload: bytes) -> None:
    """Even under a valid signature."""
    refuse(compact(HEADER, payload))


def test_every_refusal_looks_the_same() -> None:
    """The client does not learn the cause; the log has it."""
    bad_signature = compact(HEADER, CLAIMS, b"k" * 32)
    refusals = [refuse(token) for token in ("", "a.b.c", bad_signature, compact(HEADER, {}))]
    assert {error.text for error in refusals} == {InvalidGrant().text}
    assert all(isinstance(error.__cause__, AuthError) for error in refusals)


@pytest.mark.parametrize("suffix", ["=", "==", "\n", " ", "\0", ".", ".a"])
def test_nothing_can_be_added_to_a_token(suffix: str) -> None:
    """A token has only one spelling, so a stolen token cannot be made to look new."""
    refuse(TOKEN + suffix)


def test_an_unsigned_token_is_refused() -> None:
    """Without a signature, or with an empty one."""
    signing_input = TOKEN.rpartition(".")[0]
    for signature in ("", ".", ".AA", "." + base64url.encode(b"\0" * 32)):
        refuse(signing_input + signature)


@settings(max_examples=300)
@given(
    st.integers(0, len(TOKEN) - 1),
    st.text("ABCDEFabcdef0123456789-_.", max_size=2) | st.text(max_size=2),
)
def test_a_token_with_one_character_changed_is_refused(position: int, characters: str) -> None:
    """Or removed, or added."""
    changed = TOKEN[:position] + characters + TOKEN[position + 1 :]
    if changed != TOKEN:
        refuse(changed)


def test_no_last_character_has_a_twin() -> None:
    """Excess bits, which a lenient decoder drops, must be zero."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for other in alphabet.replace(TOKEN[-1], ""):
        refuse(TOKEN[:-1] + other)


@given(st.text() | st.lists(st.sampled_from([*TOKEN.split("."), ".", "e30", "="])).map("".join))
def test_any_text_is_refused_as_a_grant(text: str) -> None:
    """The refusal is never an unexpected exception."""
    if text != TOKEN:
        refuse(text)


VALUES = st.none() | st.integers() | st.floats() | st.text(max_size=8) | st.lists(st.none())


@given(st.dictionaries(st.sampled_from([*CLAIMS]), VALUES), st.binary())
def test_any_signed_payload_is_a_grant_or_refused(some: dict[str, Any], raw: bytes) -> None:
    """The claims are those that were signed; there is no third outcome."""
    refuse(compact(HEADER, raw))
    try:
        claims = TOKENS.read(compact(HEADER, CLAIMS | some))
    except InvalidGrant:
        return
    assert claims.generation == (CLAIMS | some)["gen"]
    assert base64url.encode(claims.token_id) == (CLAIMS | some)["jti"]
