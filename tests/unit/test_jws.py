"""The form of a signed token: what the service issues is read back, and nothing else."""

import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import get_default_algorithms

from auth_service import base64url
from auth_service.errors import InactiveReason, InvalidToken
from auth_service.tokens import jws
from auth_service.tokens.keys import ALGORITHMS, SigningKey, generate_key

KEYS = {algorithm: generate_key(algorithm) for algorithm in ALGORITHMS}
FOREIGN_KEYS = {a: generate_key(a) for a in ALGORITHMS if a != "RS256"}
HEADER = {"typ": "at+jwt", "alg": "HS256", "kid": "one"}
CLAIMS = {"sub": "alice", "exp": 1}
READERS: list[Callable[[str], Any]] = [jws.read_header, jws.read_claims]

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
NAMES = st.text(max_size=8).filter(lambda name: name != "iss")  # which PyJWT wants to be text


def refusal(call: Callable[..., object], *arguments: object) -> InactiveReason:
    """Return why the call refuses the token."""
    with pytest.raises(InvalidToken) as caught:
        call(*arguments)
    return caught.value.inactive_reason


def segment(value: object) -> str:
    """Return the JSON of a value, or bytes as they are, as a segment of a token."""
    return base64url.encode(value if isinstance(value, bytes) else json.dumps(value).encode())


def signed(signing_input: str, key: SigningKey) -> str:
    """Return the signature segment, made without the module under test."""
    algorithm = get_default_algorithms()[key.algorithm]
    return base64url.encode(algorithm.sign(signing_input.encode(), key.secret or key.private_key))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(claims=st.dictionaries(NAMES, JSON, max_size=4))
def test_what_is_signed_is_read_back(algorithm: str, claims: dict[str, Any]) -> None:
    """With any claims, under every algorithm."""
    key = KEYS[algorithm]
    token = jws.sign(claims, key, "at+jwt")
    header, payload, signature = token.split(".")
    jws.verify_signature(token, signature, key)
    assert jws.read_header(header) == ("at+jwt", algorithm, key.kid)
    assert jws.read_claims(payload) == claims


@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if a != "ES256"])
def test_equal_claims_give_an_equal_token(algorithm: str) -> None:
    """A token can be computed again, byte for byte, except under ES256, which uses a nonce."""
    key = KEYS[algorithm]
    assert jws.sign(CLAIMS, key, "at+jwt") == jws.sign(CLAIMS, key, "at+jwt")


@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if a != "ES256"])
def test_a_token_is_the_one_that_pyjwt_makes(algorithm: str) -> None:
    """Byte for byte, as in earlier releases: the same refresh token must result."""
    key = KEYS[algorithm]
    headers = {"typ": "at+jwt", "kid": key.kid}
    expected = jwt.encode(
        CLAIMS, key.secret or key.private_key, algorithm=algorithm, headers=headers
    )
    assert jws.sign(CLAIMS, key, "at+jwt") == expected


def test_a_token_is_split_at_its_dots() -> None:
    """Into header, payload and signature."""
    assert jws.split("aA0.b-_.c") == ("aA0", "b-_", "c")


def test_the_longest_token_is_taken() -> None:
    """A token with one more character is refused."""
    longest = "a.b." + "c" * (jws.MAX_TOKEN_LENGTH - 4)
    assert jws.split(longest)[2] == longest[4:]
    assert refusal(jws.split, longest + "c") is InactiveReason.MALFORMED


SHAPES = {
    "empty": "",
    "one segment": "a",
    "two segments": "a.b",
    "four segments": "a.b.c.d",
    "five segments, as of JWE": "a.b.c.d.e",
    "dots alone": "..",
    "no header": ".b.c",
    "no payload": "a..c",
    "no signature": "a.b.",
    "padding": "a.b.cc==",
    "leading space": " a.b.c",
    "trailing space": "a.b.c ",
    "trailing newline": "a.b.c\n",
    "newline within": "a.b\n.c",
    "carriage return": "a.b.c\r\n",
    "NUL": "a.b.c\0",
    "plain base64": "a+.b/.c",
    "percent-encoded": "a.b.c%3D",
    "scheme": "Bearer a.b.c",
    "JSON serialisation": '{"payload":"a","signatures":[]}',
    "letter beyond ASCII": "é.b.c",
    "digit beyond ASCII": "a.b.\u0661",
    "full-width dot": "a\uff0eb\uff0ec",
    "lone surrogate": "a.b.\ud800",
    "BOM": "\ufeffa.b.c",
    "a megabyte": "a.b." + "c" * (1 << 20),
    "a megabyte of dots": "." * (1 << 20),
}


@pytest.mark.parametrize("token", SHAPES.values(), ids=SHAPES.keys())
def test_another_shape_is_malformed(token: str) -> None:
    """Only three segments of base64url are accepted."""
    assert refusal(jws.split, token) is InactiveReason.MALFORMED


NOT_OBJECTS = {
    "nothing": b"\0",
    "no JSON": b"alice",
    "array": b"[]",
    "text": b'"text"',
    "number": b"1",
    "null": b"null",
    "trailing bytes": b'{"sub":"alice"}x',
    "two objects": b"{}{}",
    "trailing NUL": b'{"sub":"alice"}\0',
    "trailing comma": b'{"sub":"alice",}',
    "comment": b'{"sub":"alice"/**/}',
    "single quotes": b"{'sub':'alice'}",
    "raw newline in text": b'{"sub":"a\nb"}',
    "BOM": b'\xef\xbb\xbf{"sub":"alice"}',
    "UTF-16": '{"sub":"alice"}'.encode("utf-16"),
    "UTF-16 without BOM": '{"sub":"alice"}'.encode("utf-16-le"),
    "UTF-32": '{"sub":"alice"}'.encode("utf-32"),
    "Latin-1": '{"sub":"é"}'.encode("latin-1"),
    "overlong UTF-8": b'{"sub":"\xc0\xae"}',
    "encoded surrogate": b'{"sub":"\xed\xa0\x80"}',
    "NaN": b'{"exp":NaN}',
    "Infinity": b'{"exp":Infinity}',
    "minus Infinity": b'{"exp":-Infinity}',
    "duplicate member": b'{"sub":"alice","sub":"mallory"}',
    "duplicate in another spelling": b'{"sub":"alice","\\u0073ub":"mallory"}',
    "duplicate within": b'{"act":{"sub":"alice","sub":"mallory"}}',
    "deep array": b'{"a":' + b"[" * 100_000,
    "deep closed array": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "number of many digits": b'{"exp":' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("raw", NOT_OBJECTS.values(), ids=NOT_OBJECTS.keys())
def test_only_one_plain_json_object_is_read(read: Callable[[str], Any], raw: bytes) -> None:
    """In UTF-8, each member once, numbers as in RFC 8259."""
    assert refusal(read, segment(raw)) is InactiveReason.MALFORMED


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("change", ["=", "==", "\n", " ", ".", "A", "AA", "!"])
def test_base64_is_read_in_its_canonical_form_alone(
    read: Callable[[str], Any], change: str
) -> None:
    """Padding, white space and foreign characters are refused."""
    good = segment(HEADER)
    assert read(good)
    assert refusal(read, good + change) is InactiveReason.MALFORMED


@pytest.mark.parametrize("read", READERS)
def test_a_segment_has_no_second_spelling(read: Callable[[str], Any]) -> None:
    """Excess bits in the last character of a segment are refused."""
    good = segment(HEADER)
    assert len(good) % 4, "the last character has bits to spare"
    assert read(good)
    siblings = [good[:-1] + chr(ord(good[-1]) + stray) for stray in (1, 2, 3)]
    for other in siblings:
        assert refusal(read, other) is InactiveReason.MALFORMED


def test_a_header_is_read_in_any_order() -> None:
    """Members may come in any order and with white space, as JSON allows."""
    raw = b' { "kid" : "one" , "alg" : "HS256" ,\n"typ" : "at+jwt" } '
    assert jws.read_header(segment(raw)) == jws.Header("at+jwt", "HS256", "one")


@pytest.mark.parametrize("missing", HEADER)
def test_each_header_parameter_is_required(missing: str) -> None:
    """The service never issues a header without typ, alg or kid."""
    header = {name: value for name, value in HEADER.items() if name != missing}
    assert refusal(jws.read_header, segment(header)) is InactiveReason.MALFORMED


FOREIGN_PARAMETERS: dict[str, object] = {
    "jku": "https://mallory.example/jwks",
    "x5u": "https://mallory.example/cert",
    "jwk": {"kty": "oct", "k": "AAAA"},
    "x5c": ["AAAA"],
    "x5t": "AAAA",
    "x5t#S256": "AAAA",
    "crit": ["exp"],
    "exp": 1,
    "zip": "DEF",
    "enc": "A256GCM",
    "b64": False,
    "cty": "JWT",
    "p2c": 10**9,
    "ALG": "none",
    "": "",
}


@pytest.mark.parametrize("name", FOREIGN_PARAMETERS)
def test_a_header_parameter_that_we_never_issue_is_refused(name: str) -> None:
    """No parameter is ignored: it could be meant for another verifier (RFC 8725 section 3.10)."""
    header = HEADER | {name: FOREIGN_PARAMETERS[name]}
    assert refusal(jws.read_header, segment(header)) is InactiveReason.MALFORMED


@pytest.mark.parametrize("value", [None, 1, True, 1.5, [], ["one"], {}, {"a": 1}])
@pytest.mark.parametrize("name", HEADER)
def test_a_header_parameter_is_text(name: str, value: object) -> None:
    """Nothing is converted."""
    assert refusal(jws.read_header, segment(HEADER | {name: value})) is InactiveReason.MALFORMED


UNPRINTABLE = ["a\0b", "a\nb", "a\x7fb", "a\ud800b", "\udc00", "a\u202eb", "a\u200bb", "\ufeffa"]


@pytest.mark.parametrize("value", UNPRINTABLE, ids=ascii)
@pytest.mark.parametrize("name", HEADER)
def test_a_header_parameter_is_printable(name: str, value: str) -> None:
    """NUL, control characters and lone surrogates could corrupt a log."""
    assert refusal(jws.read_header, segment(HEADER | {name: value})) is InactiveReason.MALFORMED


@pytest.mark.parametrize("theirs", FOREIGN_KEYS)
@pytest.mark.parametrize("ours", ALGORITHMS)
def test_the_signature_of_another_key_is_bad(ours: str, theirs: str) -> None:
    """The key may have the same algorithm or another."""
    token = jws.sign(CLAIMS, FOREIGN_KEYS[theirs], "at+jwt")
    signature = token.split(".")[2]
    verdict = refusal(jws.verify_signature, token, signature, KEYS[ours])
    assert verdict is InactiveReason.BAD_SIGNATURE


@pytest.mark.parametrize("raw", [b"\0", b"\0" * 32, b"\0" * 64, b"\0" * 384, b"\xff" * 64])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_blank_signature_is_bad(algorithm: str, raw: bytes) -> None:
    """Above all an ECDSA signature of zeros, which some verifiers accepted for any message."""
    token = f"{segment(HEADER)}.{segment(CLAIMS)}.{segment(raw)}"
    verdict = refusal(jws.verify_signature, token, segment(raw), KEYS[algorithm])
    assert verdict is InactiveReason.BAD_SIGNATURE


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_signature_has_its_exact_length(algorithm: str) -> None:
    """One byte more or less, at either end, makes it invalid."""
    signing_input = f"{segment(HEADER)}.{segment(CLAIMS)}"
    raw = base64url.decode(signed(signing_input, KEYS[algorithm]))
    jws.verify_signature(f"{signing_input}.{segment(raw)}", segment(raw), KEYS[algorithm])
    for other in (raw + b"\0", b"\0" + raw, raw[:-1], raw[1:], raw + raw):
        token = f"{signing_input}.{segment(other)}"
        verdict = refusal(jws.verify_signature, token, segment(other), KEYS[algorithm])
        assert verdict is InactiveReason.BAD_SIGNATURE


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_signature_covers_header_and_payload(algorithm: str) -> None:
    """It is not valid for another header or another payload."""
    header, payload = segment(HEADER), segment(CLAIMS)
    signature = signed(f"{header}.{payload}", KEYS[algorithm])
    for moved in (f"{payload}.{header}", f"{header}.{segment({})}", f"{header}{payload}"):
        verdict = refusal(jws.verify_signature, f"{moved}.{signature}", signature, KEYS[algorithm])
        assert verdict is InactiveReason.BAD_SIGNATURE


@pytest.mark.parametrize("signature", ["A", "AB", "AAAAA", "AA=="])
def test_a_signature_that_is_no_base64url_is_malformed(signature: str) -> None:
    """Cut off, with excess bits, or padded."""
    verdict = refusal(jws.verify_signature, f"a.b.{signature}", signature, KEYS["HS256"])
    assert verdict is InactiveReason.MALFORMED


def test_a_text_claim_is_read() -> None:
    """Any printable text, even an empty one."""
    assert jws.text({"sub": "älice b"}, "sub") == "älice b"
    assert jws.text({"sub": ""}, "sub") == ""
    assert refusal(jws.text, {}, "sub") is InactiveReason.MALFORMED


@pytest.mark.parametrize("value", [None, 1, True, 1.5, [], ["a"], {}, *UNPRINTABLE], ids=ascii)
def test_a_text_claim_is_printable_text(value: object) -> None:
    """Nothing is converted."""
    assert refusal(jws.text, {"sub": value}, "sub") is InactiveReason.MALFORMED


@pytest.mark.parametrize("value", [0, 1, jws.LATEST_TIME])
def test_a_time_is_whole_seconds(value: int) -> None:
    """From the epoch to the year 2106."""
    assert jws.seconds({"exp": value}, "exp") == value
    assert refusal(jws.seconds, {}, "exp") is InactiveReason.MALFORMED


@pytest.mark.parametrize(
    "value",
    [
        None,
        "1",
        "",
        True,
        False,
        1.0,
        1e3,
        float("inf"),
        float("nan"),
        -1,
        1 << 32,
        253402300799,
        10**30,
        [1],
        {},
    ],
)
def test_a_time_of_another_type_or_range_is_malformed(value: object) -> None:
    """Texts, floats, booleans and years after 2106 are refused."""
    assert refusal(jws.seconds, {"exp": value}, "exp") is InactiveReason.MALFORMED


@pytest.mark.parametrize("number", [b"1.0", b"1e3", b"1E400", b"-0.0", b"-1", b"1" + b"0" * 400])
def test_a_time_as_json_may_write_it_is_malformed(number: bytes) -> None:
    """A float is refused even if it is whole, and an overflow is no unexpected exception."""
    claims = jws.read_claims(segment(b'{"exp":' + number + b"}"))
    assert refusal(jws.seconds, claims, "exp") is InactiveReason.MALFORMED


@given(st.text() | st.text("aZ09-_.", max_size=40))
def test_any_text_is_split_or_refused(token: str) -> None:
    """There is never an unexpected exception, and the segments are those of the text."""
    try:
        segments = jws.split(token)
    except InvalidToken:
        return
    assert ".".join(segments) == token


@given(st.text() | st.text("aZ09-_") | st.binary().map(segment) | JSON.map(segment))
def test_any_segment_is_read_or_refused(value: str) -> None:
    """There is never an unexpected exception."""
    for read in READERS:
        try:
            read(value)
        except InvalidToken:
            continue
        assert segment(base64url.decode(value)) == value


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(raw=st.binary() | st.binary(min_size=64, max_size=64))
def test_a_random_signature_is_bad(algorithm: str, raw: bytes) -> None:
    """Of any length; there is never an unexpected exception."""
    token = f"a.b.{segment(raw)}"
    verdict = refusal(jws.verify_signature, token, segment(raw), KEYS[algorithm])
    assert verdict is InactiveReason.BAD_SIGNATURE
