"""Access tokens: the service's own verify, all others are refused, each with its reason."""

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import get_default_algorithms

from auth_service import base64url
from auth_service.errors import (
    InactiveReason,
    InsufficientUserAuthentication,
    InvalidArgument,
    InvalidToken,
)
from auth_service.models import Revocation, RevocationKind, Session
from auth_service.tokens import jws
from auth_service.tokens.access import AccessClaims, TokenSigner, TokenVerifier, new_token_id
from auth_service.tokens.delegation import Link
from auth_service.tokens.keys import ALGORITHMS, KeyRing, MasterKey, SigningKey, generate_key
from auth_service.tokens.refresh import RefreshTokens
from auth_service.tokens.revocation import RevocationList
from tests.clock import FakeClock

START = datetime(2026, 1, 1, tzinfo=UTC)
EPOCH = int(START.timestamp())
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

KEYS = {algorithm: generate_key(algorithm) for algorithm in ALGORITHMS}
FOREIGN_KEYS = {a: generate_key(a) for a in ALGORITHMS if a != "RS256"}
PUBLIC = [a for a in ALGORITHMS if a != "HS256"]
SHARED = KEYS["HS256"]
CLAIMS = AccessClaims(
    issuer="https://auth.test",
    subject="alice",
    audience=("billing", "shipping"),
    expires_at=EPOCH + 900,
    issued_at=EPOCH,
    token_id="jti",
    session_id="sid",
    client_id="web",
    scope=("read", "write"),
    roles=("user", "clerk"),
    auth_time=EPOCH - 60,
    amr=("pwd",),
)
GOOD = CLAIMS.as_jwt()
THUMBPRINT = base64url.encode(bytes(range(100, 132)))


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands at START."""
    return FakeClock(START)


@pytest.fixture
def revocations(clock: FakeClock) -> RevocationList:
    """An empty list."""
    return RevocationList(clock)


@pytest.fixture
def trusted() -> KeyRing:
    """The ring of the verifier: a key of every algorithm."""
    return ring()


@pytest.fixture
def verifier(clock: FakeClock, revocations: RevocationList, trusted: KeyRing) -> TokenVerifier:
    """A verifier that trusts a key of every algorithm."""
    return TokenVerifier(trusted, revocations, issuer=CLAIMS.issuer, clock=clock)


def ring(algorithm: str = "HS256") -> KeyRing:
    """Return a ring of all keys; the key of one algorithm signs."""
    return KeyRing(KEYS.values(), KEYS[algorithm].kid)


def lone_verifier(**options: Any) -> TokenVerifier:
    """Return a verifier at START, without revocations."""
    clock = FakeClock(START)
    return TokenVerifier(
        ring(), RevocationList(clock), issuer=CLAIMS.issuer, clock=clock, **options
    )


def token_of(claims: AccessClaims = CLAIMS, algorithm: str = "HS256") -> str:
    """Return the token that the service would issue."""
    return TokenSigner(ring(algorithm)).sign(claims)


def header_of(key: SigningKey, **changes: object) -> dict[str, object]:
    """Return the header that the service would issue, with some changes."""
    return {"typ": "at+jwt", "alg": key.algorithm, "kid": key.kid} | changes


def compact(header: object, payload: object, key: SigningKey) -> str:
    """Sign any header and payload, JSON values or bytes, without the module under test."""
    parts = [p if isinstance(p, bytes) else json.dumps(p).encode() for p in (header, payload)]
    signing_input = ".".join(map(base64url.encode, parts))
    algorithm = get_default_algorithms()[key.algorithm]
    signature = algorithm.sign(signing_input.encode(), key.secret or key.private_key)
    return f"{signing_input}.{base64url.encode(signature)}"


def ours(payload: object) -> str:
    """Sign any payload with the shared key, as a holder of that key can."""
    return compact(header_of(SHARED), payload, SHARED)


def refusal(call: Callable[..., object], *arguments: object, **options: object) -> InactiveReason:
    """Return why the call refuses the token."""
    with pytest.raises(InvalidToken) as caught:
        call(*arguments, **options)
    return caught.value.inactive_reason


def revocation(kind: RevocationKind, target: str) -> Revocation:
    """Return a revocation that lasts an hour and covers tokens issued until shortly after START."""
    return Revocation(kind, target, START + timedelta(hours=1), START + timedelta(seconds=500))


# What is signed verifies


WORDS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)
LISTS = st.lists(WORDS, max_size=3).map(tuple)
PAST = st.integers(0, EPOCH)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(
    claims=st.builds(
        AccessClaims,
        issuer=st.just(CLAIMS.issuer),
        subject=WORDS,
        audience=LISTS,
        expires_at=st.integers(EPOCH + 1, jws.LATEST_TIME),
        issued_at=PAST,
        token_id=WORDS,
        session_id=WORDS | st.just(""),
        client_id=WORDS,
        scope=LISTS,
        roles=LISTS,
        auth_time=PAST,
        amr=LISTS,
        not_before=PAST,
        chain=st.lists(st.builds(Link, WORDS, PAST, WORDS, PAST), max_size=5).map(tuple),
        certificate_thumbprint=st.just("")
        | st.binary(min_size=32, max_size=32).map(base64url.encode),
        acr=WORDS | st.just(""),
    )
)
def test_what_is_signed_verifies(algorithm: str, claims: AccessClaims) -> None:
    """The claims are equal, under every algorithm, at the first and at the second time."""
    token = token_of(claims, algorithm)
    verifier = lone_verifier()
    holder = claims.certificate_thumbprint
    assert verifier.verify(token, certificate_thumbprint=holder) == claims
    assert verifier.verify(token, certificate_thumbprint=holder) == claims
    assert verifier.authenticate(token) == claims


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_active_key_signs(algorithm: str) -> None:
    """The header names the key, its algorithm and the type of RFC 9068."""
    header = jws.read_header(token_of(algorithm=algorithm).split(".")[0])
    assert header == ("at+jwt", algorithm, KEYS[algorithm].kid)


def test_a_ring_that_only_verifies_signs_nothing() -> None:
    """A holder of public keys cannot issue tokens."""
    with pytest.raises(ValueError, match="only verifies"):
        TokenSigner(KeyRing([SHARED])).sign(CLAIMS)


def test_a_token_that_no_verifier_would_take_is_not_issued(verifier: TokenVerifier) -> None:
    """A token of the maximum length is issued. For a longer one, the error names the field."""
    room = jws.MAX_TOKEN_LENGTH - len(token_of(CLAIMS._replace(audience=("",))))
    enough = room * 3 // 4  # base64 makes four characters of three
    issued = set()
    for length in range(enough - 4, enough + 5):
        claims = CLAIMS._replace(audience=("x" * length,))
        if len(jws.sign(claims.as_jwt(), SHARED, "at+jwt")) <= jws.MAX_TOKEN_LENGTH:
            assert verifier.verify(token_of(claims)) == claims
            issued.add(length)
            continue
        with pytest.raises(InvalidArgument, match="4096 bytes") as caught:
            token_of(claims)
        assert caught.value.violations[0].field == "audience"
    assert enough in issued
    assert enough + 4 not in issued


def test_a_service_account_has_no_session(verifier: TokenVerifier) -> None:
    """Its token has no `sid`, and verifies without one."""
    claims = CLAIMS._replace(session_id="")
    assert "sid" not in claims.as_jwt()
    assert verifier.verify(token_of(claims)) == claims


def test_optional_claims_have_their_defaults(verifier: TokenVerifier) -> None:
    """No audience, session, scope or role; the login time is the time of issue."""
    required = {name: GOOD[name] for name in ("iss", "sub", "exp", "iat", "jti", "client_id")}
    claims = verifier.verify(ours(required))
    assert (claims.audience, claims.scope, claims.roles, claims.amr) == ((), (), (), ())
    assert (claims.session_id, claims.auth_time, claims.not_before) == ("", EPOCH, 0)
    assert claims.acr == ""


def test_a_claim_that_we_do_not_know_is_ignored(verifier: TokenVerifier) -> None:
    """RFC 7519 section 4 requires this of claims, unlike of header parameters."""
    assert verifier.verify(ours(GOOD | {"tenant": {"id": "x"}})) == CLAIMS


def test_token_ids_are_random() -> None:
    """128 bits each, in the alphabet of base64url."""
    ids = {new_token_id() for _ in range(100)}
    assert len(ids) == 100
    assert {len(base64url.decode(value)) for value in ids} == {16}


# Reasons against a token, and which comes first


@pytest.mark.parametrize("algorithm", FOREIGN_KEYS)
def test_a_key_that_is_not_in_the_ring_is_unknown(verifier: TokenVerifier, algorithm: str) -> None:
    """Even if its signature is valid."""
    key = FOREIGN_KEYS[algorithm]
    assert refusal(verifier.verify, compact(header_of(key), GOOD, key)) is (
        InactiveReason.UNKNOWN_KEY
    )


@pytest.mark.parametrize("typ", ["rt+jwt", "JWT", "jwt", "AT+JWT", "application/at+jwt", "", " "])
def test_another_type_of_token_is_refused(verifier: TokenVerifier, typ: str) -> None:
    """Only the spelling that the service issues is accepted (RFC 8725 section 3.11)."""
    token = compact(header_of(SHARED, typ=typ), GOOD, SHARED)
    assert refusal(verifier.verify, token) is InactiveReason.WRONG_TYPE


@pytest.mark.parametrize("issuer", ["https://auth.test/", "HTTPS://auth.test", "https://x"])
def test_another_issuer_is_refused(verifier: TokenVerifier, issuer: str) -> None:
    """Issuers are compared character by character (RFC 9068 section 4)."""
    token = token_of(CLAIMS._replace(issuer=issuer))
    assert refusal(verifier.verify, token) is InactiveReason.WRONG_ISSUER


def test_a_token_lasts_until_its_expiry_and_no_longer(
    clock: FakeClock, verifier: TokenVerifier
) -> None:
    """It is valid in its last moment; clock skew does not extend it."""
    clock.advance(timedelta(seconds=900) - timedelta(microseconds=1))
    assert verifier.verify(token_of()) == CLAIMS
    clock.advance(timedelta(microseconds=1))
    assert refusal(verifier.verify, token_of()) is InactiveReason.EXPIRED


@pytest.mark.parametrize("name", ["iat", "nbf"])
def test_a_token_of_the_future_is_not_yet_valid(verifier: TokenVerifier, name: str) -> None:
    """Further ahead than the allowed clock skew, ten seconds by default."""
    assert verifier.verify(ours(GOOD | {name: EPOCH + 10})).subject == "alice"
    early = ours(GOOD | {name: EPOCH + 11})
    assert refusal(verifier.verify, early) is InactiveReason.NOT_YET_VALID


def test_the_skew_of_clocks_is_a_setting() -> None:
    """With a skew of zero, a token issued in the next second is too early."""
    exact = lone_verifier(clock_skew=timedelta(0))
    assert exact.verify(token_of()) == CLAIMS
    early = token_of(CLAIMS._replace(issued_at=EPOCH + 1))
    assert refusal(exact.verify, early) is InactiveReason.NOT_YET_VALID


def test_a_token_becomes_valid(clock: FakeClock, verifier: TokenVerifier) -> None:
    """A token that was refused as too early is accepted later."""
    token = ours(GOOD | {"nbf": EPOCH + 60})
    assert refusal(verifier.verify, token) is InactiveReason.NOT_YET_VALID
    clock.advance(timedelta(seconds=60))
    assert verifier.verify(token).not_before == EPOCH + 60


@pytest.mark.parametrize("audience", ["billing", ["billing"], ["shipping", "billing"]])
def test_an_audience_is_found_in_a_text_or_a_list(
    verifier: TokenVerifier, audience: object
) -> None:
    """RFC 7519 section 4.1.3 allows both."""
    token = ours(GOOD | {"aud": audience})
    assert "billing" in verifier.verify(token, audience="billing").audience


@pytest.mark.parametrize(
    "audience", ["billing-admin", "bill", "Billing", "", [], ["billings"], ["b", "illing"]]
)
def test_an_audience_is_a_whole_text(verifier: TokenVerifier, audience: object) -> None:
    """A part, a list of parts or another case does not match; an empty audience matches any."""
    token = ours(GOOD | {"aud": audience})
    assert refusal(verifier.verify, token, audience="billing") is InactiveReason.WRONG_AUDIENCE
    assert verifier.verify(token).subject == "alice"


REVOCATIONS = [
    (RevocationKind.TOKEN, "jti", InactiveReason.TOKEN_REVOKED),
    (RevocationKind.SESSION, "sid", InactiveReason.SESSION_REVOKED),
    (RevocationKind.USER, "alice", InactiveReason.USER_REVOKED),
    (RevocationKind.ALL, "", InactiveReason.USER_REVOKED),
]


@pytest.mark.parametrize(("kind", "target", "reason"), REVOCATIONS)
def test_a_revoked_token_is_refused(
    clock: FakeClock,
    verifier: TokenVerifier,
    revocations: RevocationList,
    kind: RevocationKind,
    target: str,
    reason: InactiveReason,
) -> None:
    """By token, session, user or all; other tokens are not affected."""
    revocations.add(revocation(kind, target))
    assert refusal(verifier.verify, token_of()) is reason
    spared = CLAIMS._replace(token_id="a", session_id="b", subject="c", issued_at=EPOCH + 500)
    clock.advance(timedelta(seconds=500))
    assert verifier.verify(token_of(spared)) == spared


@pytest.mark.parametrize("required", [["read"], ("write", "read"), {"read"}, []])
def test_a_scope_that_is_there_is_enough(verifier: TokenVerifier, required: list[str]) -> None:
    """In any order and any collection; an empty requirement is always met."""
    assert verifier.verify(token_of(), required_scope=required) == CLAIMS


@pytest.mark.parametrize("required", [["admin"], ["read", "admin"], ["rea"], ["READ"], [""]])
def test_every_required_scope_must_be_there(verifier: TokenVerifier, required: list[str]) -> None:
    """One missing item refuses the token, and a part of an item does not count."""
    verdict = refusal(verifier.verify, token_of(), required_scope=required)
    assert verdict is InactiveReason.INSUFFICIENT_SCOPE


@pytest.mark.parametrize("required", [["clerk"], ("clerk", "user"), {"user"}, []])
def test_a_role_that_is_there_is_enough(verifier: TokenVerifier, required: list[str]) -> None:
    """In any order and any collection; an empty requirement is always met."""
    assert verifier.verify(token_of(), required_roles=required) == CLAIMS


@pytest.mark.parametrize("required", [["admin"], ["user", "admin"], ["use"], ["USER"], [""]])
def test_every_required_role_must_be_there(verifier: TokenVerifier, required: list[str]) -> None:
    """One missing item refuses the token, and a part of an item does not count."""
    verdict = refusal(verifier.verify, token_of(), required_roles=required)
    assert verdict is InactiveReason.INSUFFICIENT_ROLE


@pytest.mark.parametrize("name", ["iss", "sub", "jti", "client_id"])
def test_a_token_without_a_name_is_malformed(verifier: TokenVerifier, name: str) -> None:
    """RFC 9068 section 2.2 requires all of them, except the session."""
    without = {claim: value for claim, value in GOOD.items() if claim != name}
    assert refusal(verifier.verify, ours(without)) is InactiveReason.MALFORMED


def test_a_list_claim_is_read_in_order(verifier: TokenVerifier) -> None:
    """An absent list is empty."""
    assert verifier.verify(ours(GOOD | {"roles": ["b", "a"]})).roles == ("b", "a")
    without = {
        claim: value for claim, value in GOOD.items() if claim not in {"aud", "roles", "amr"}
    }
    claims = verifier.verify(ours(without))
    assert (claims.audience, claims.roles, claims.amr) == ((), (), ())


FAULTS: list[tuple[dict[str, Any], InactiveReason]] = [
    ({"issuer": "https://mallory.example"}, InactiveReason.WRONG_ISSUER),
    ({"expires_at": EPOCH}, InactiveReason.EXPIRED),
    ({"issued_at": EPOCH + 60}, InactiveReason.NOT_YET_VALID),
    ({"audience": ("another",)}, InactiveReason.WRONG_AUDIENCE),
    ({"token_id": "revoked"}, InactiveReason.TOKEN_REVOKED),
    ({"session_id": "revoked"}, InactiveReason.SESSION_REVOKED),
    ({"subject": "revoked"}, InactiveReason.USER_REVOKED),
    ({"certificate_thumbprint": "B" * 42 + "A"}, InactiveReason.WRONG_CERTIFICATE),
    ({"scope": ()}, InactiveReason.INSUFFICIENT_SCOPE),
    ({"roles": ()}, InactiveReason.INSUFFICIENT_ROLE),
    ({"auth_time": EPOCH - 311}, InactiveReason.INSUFFICIENT_USER_AUTHENTICATION),
    ({"acr": "1fa"}, InactiveReason.INSUFFICIENT_USER_AUTHENTICATION),
]


@pytest.mark.parametrize("first", range(len(FAULTS)))
def test_of_several_faults_the_first_is_the_reason(
    verifier: TokenVerifier, revocations: RevocationList, first: int
) -> None:
    """The order is issuer, time, audience, revocation, certificate, scope, role, login."""
    for kind in (RevocationKind.TOKEN, RevocationKind.SESSION, RevocationKind.USER):
        revocations.add(revocation(kind, "revoked"))
    changes = {name: value for fault, _ in FAULTS[first:] for name, value in fault.items()}
    verdict = refusal(
        verifier.verify,
        token_of(CLAIMS._replace(**{"acr": "2fa"} | changes)),
        audience="billing",
        required_scope=["read"],
        required_roles=["user"],
        certificate_thumbprint=THUMBPRINT,
        max_age=timedelta(minutes=5),
        acr_values=["2fa", "phr"],
    )
    assert verdict is FAULTS[first][1]


def test_a_forgery_tells_nothing_of_its_claims(verifier: TokenVerifier) -> None:
    """Type, key and signature are refused before any claim is read."""
    key = FOREIGN_KEYS["HS256"]
    wrong_type = compact(header_of(key, typ="JWT"), b"no claims", key)
    unknown_key = compact(header_of(key), b"no claims", key)
    bad_signature = compact(header_of(key, kid=SHARED.kid), b"no claims", key)
    assert refusal(verifier.verify, wrong_type) is InactiveReason.WRONG_TYPE
    assert refusal(verifier.verify, unknown_key) is InactiveReason.UNKNOWN_KEY
    assert refusal(verifier.verify, bad_signature) is InactiveReason.BAD_SIGNATURE


# How the user logged in


def test_a_login_is_too_old_after_the_age_and_the_skew(
    clock: FakeClock, verifier: TokenVerifier
) -> None:
    """To the second, also once the token is remembered; without a bound any age is accepted."""
    token, age = token_of(), timedelta(minutes=5)  # CLAIMS: a minute old
    for _ in range(3):
        assert verifier.verify(token, max_age=age) == CLAIMS
    clock.advance(timedelta(minutes=4, seconds=10))
    assert verifier.verify(token, max_age=age) == CLAIMS
    assert verifier.recall(token, "", age)
    clock.advance(timedelta(microseconds=1))
    with pytest.raises(InsufficientUserAuthentication) as raised:
        verifier.verify(token, max_age=age)
    assert (raised.value.max_age, raised.value.unmet) == (age, ("max_age",))
    assert not verifier.recall(token, "", age)
    assert verifier.recall(token)
    assert verifier.verify(token) == CLAIMS


def test_no_age_at_all_is_a_bound_too(clock: FakeClock, verifier: TokenVerifier) -> None:
    """It accepts the login of this moment, as clocks may differ."""
    now = token_of(CLAIMS._replace(auth_time=EPOCH))
    assert verifier.verify(now, max_age=timedelta(0))
    clock.advance(timedelta(seconds=11))
    with pytest.raises(InsufficientUserAuthentication):
        verifier.verify(now, max_age=timedelta(0))


@pytest.mark.parametrize(
    ("acr", "wanted", "good"),
    [
        ("2fa", ["2fa"], True),
        ("phr", ["2fa", "phr"], True),
        ("phr", {"2fa"}, False),  # no value includes another
        ("1fa", ("2fa", "phr"), False),
        ("2fa", ["2FA"], False),
        ("", ["1fa"], False),
        ("", [""], False),
        ("", "2fa", False),
        ("2fa", "2fa phr", False),  # a text, not a list of values
        ("fa", "2fa", False),
    ],
)
def test_one_of_the_demanded_values_suffices(
    verifier: TokenVerifier, acr: str, wanted: Any, good: bool
) -> None:
    """The token of a service account has none, and so no demand is satisfied by it."""
    token = token_of(CLAIMS._replace(acr=acr))
    for _ in range(3):  # remembered or not
        if good:
            assert verifier.verify(token, acr_values=wanted).acr == acr
            continue
        with pytest.raises(InsufficientUserAuthentication) as raised:
            verifier.verify(token, acr_values=wanted)
        assert (raised.value.acr_values, raised.value.unmet) == (tuple(wanted), ("acr_values",))
        assert verifier.verify(token).acr == acr


def test_a_token_without_auth_time_is_as_old_as_it_is(verifier: TokenVerifier) -> None:
    """Its login cannot have been later."""
    claims = {name: value for name, value in GOOD.items() if name != "auth_time"}
    assert verifier.verify(ours(claims), max_age=timedelta(0)).auth_time == EPOCH


# Tokens that are bound to a certificate


BOUND = CLAIMS._replace(certificate_thumbprint=THUMBPRINT)


def test_a_bound_token_names_the_certificate_as_rfc_8705_does() -> None:
    """In `cnf`, by the member x5t#S256; other tokens have no `cnf`."""
    assert BOUND.as_jwt()["cnf"] == {"x5t#S256": THUMBPRINT}
    assert "cnf" not in GOOD


@pytest.mark.parametrize(
    "presented", ["", THUMBPRINT[:-1], THUMBPRINT + "=", THUMBPRINT.lower(), "A" * 43, "*", " "]
)
def test_a_bound_token_needs_its_certificate_each_time(
    verifier: TokenVerifier, presented: str
) -> None:
    """Also once it is remembered; the rightful holder is not disturbed."""
    token = token_of(BOUND)
    for _ in range(4):
        wrong = refusal(verifier.verify, token, certificate_thumbprint=presented)
        assert wrong is InactiveReason.WRONG_CERTIFICATE
        assert refusal(verifier.verify, token) is InactiveReason.WRONG_CERTIFICATE
        assert verifier.verify(token, certificate_thumbprint=THUMBPRINT) == BOUND
    assert verifier.recall(token, THUMBPRINT)
    assert not verifier.recall(token, presented)
    assert not verifier.recall(token)


def test_other_tokens_are_valid_with_any_certificate(verifier: TokenVerifier) -> None:
    """A certificate on the connection says nothing against a bearer token."""
    for _ in range(3):
        assert verifier.verify(token_of(), certificate_thumbprint=THUMBPRINT) == CLAIMS
    assert verifier.recall(token_of(), THUMBPRINT)


@pytest.mark.parametrize(
    "confirmation",
    [
        None,
        {},
        [],
        "",
        THUMBPRINT,
        True,
        {"jkt": THUMBPRINT},
        {"x5t#S256": THUMBPRINT, "jkt": THUMBPRINT},
        {"x5t#S256": THUMBPRINT, "kid": None},
        {"X5T#S256": THUMBPRINT},
        {"x5t": THUMBPRINT},
        *(
            {"x5t#S256": wrong}
            for wrong in (
                None,
                "",
                0,
                [THUMBPRINT],
                THUMBPRINT + "=",
                THUMBPRINT + "A",
                THUMBPRINT[:-1],
                THUMBPRINT[:-1] + "B",  # not canonical: bits that no byte needs
                THUMBPRINT[:-2] + "+A",
                THUMBPRINT + "\n",
            )
        ),
    ],
    ids=repr,
)
def test_a_confirmation_that_is_not_understood_is_refused(
    verifier: TokenVerifier, confirmation: object
) -> None:
    """Nobody could check it: the token must not pass as one that needs no proof."""
    token = ours(GOOD | {"cnf": confirmation})
    for presented in ("", THUMBPRINT):
        reason = refusal(verifier.verify, token, certificate_thumbprint=presented)
        assert reason is InactiveReason.MALFORMED


def test_a_bound_token_can_be_revoked_by_whoever_has_it(verifier: TokenVerifier) -> None:
    """A thief may end it: RFC 7009 asks for the token alone."""
    assert verifier.authenticate(token_of(BOUND)) == BOUND


# Authentication alone, for revocation


def test_an_expired_or_revoked_token_still_says_whose_it_is(
    clock: FakeClock, verifier: TokenVerifier, revocations: RevocationList
) -> None:
    """Revoking it again must succeed (RFC 7009 section 2.2)."""
    revocations.add(revocation(RevocationKind.TOKEN, "jti"))
    clock.advance(timedelta(days=1))
    assert verifier.authenticate(token_of()) == CLAIMS


def test_what_is_not_ours_says_nothing(verifier: TokenVerifier) -> None:
    """It cannot be used to revoke either."""
    key = FOREIGN_KEYS["HS256"]
    forged = compact(header_of(key, kid=SHARED.kid), GOOD, key)
    foreign = token_of(CLAIMS._replace(issuer="https://mallory.example"))
    assert refusal(verifier.authenticate, "x") is InactiveReason.MALFORMED
    assert refusal(verifier.authenticate, forged) is InactiveReason.BAD_SIGNATURE
    assert refusal(verifier.authenticate, foreign) is InactiveReason.WRONG_ISSUER


# What is remembered


def remember(verifier: TokenVerifier, token: str | None = None) -> AccessClaims:
    """Present a token twice, so that it is cached; return the cached claims."""
    token = token or token_of()
    verifier.verify(token)
    claims = verifier.verify(token)
    assert verifier.verify(token) is claims
    return claims


def test_a_token_is_remembered_at_its_second_sight(verifier: TokenVerifier) -> None:
    """Tokens that come once do not use up the cache."""
    first, second, third = (verifier.verify(token_of()) for _ in range(3))
    assert first == second
    assert first is not second
    assert third is second
    assert verifier.signatures_verified == 2


def test_tokens_that_come_once_displace_none() -> None:
    """The number of such tokens does not matter."""
    verifier = lone_verifier(cache_size=1)
    kept = remember(verifier)
    for number in range(20):
        verifier.verify(token_of(CLAIMS._replace(token_id=str(number))))
    assert verifier.verify(token_of()) is kept


def test_only_a_remembered_token_is_recalled(verifier: TokenVerifier) -> None:
    """A token that came once, one that never came and a forgery are not recalled."""
    token = token_of()
    assert not verifier.recall(token)
    verifier.verify(token)
    assert not verifier.recall(token)
    remember(verifier)
    assert verifier.recall(token)
    assert not verifier.recall(token[:-4] + "AAAA")


@pytest.mark.parametrize("seconds", [900, -11], ids=["expired", "not yet valid"])
def test_a_token_that_is_out_of_its_time_is_not_recalled(
    clock: FakeClock, verifier: TokenVerifier, seconds: int
) -> None:
    """It has expired, or the clock was set back to before its issue."""
    remember(verifier)
    clock.advance(timedelta(seconds=seconds))
    assert not verifier.recall(token_of())


@pytest.mark.parametrize(("kind", "target", "reason"), REVOCATIONS)
def test_a_revoked_token_is_not_recalled(
    verifier: TokenVerifier,
    revocations: RevocationList,
    kind: RevocationKind,
    target: str,
    reason: InactiveReason,
) -> None:
    """`verify` then gives the reason."""
    remember(verifier)
    revocations.add(revocation(kind, target))
    assert not verifier.recall(token_of())
    assert refusal(verifier.verify, token_of()) is reason


def test_no_token_is_recalled_once_a_key_is_trusted_no_longer(
    verifier: TokenVerifier, trusted: KeyRing
) -> None:
    """The key need not be the one that signed the token."""
    remember(verifier)
    trusted.replace(k for k in KEYS.values() if k.algorithm != "ES256")
    assert not verifier.recall(token_of())


def test_a_remembered_token_expires(clock: FakeClock, verifier: TokenVerifier) -> None:
    """It expires on time, and is too early again after the clock is set back."""
    remember(verifier)
    clock.advance(timedelta(seconds=900))
    assert refusal(verifier.verify, token_of()) is InactiveReason.EXPIRED
    clock.advance(timedelta(seconds=-911))
    assert refusal(verifier.verify, token_of()) is InactiveReason.NOT_YET_VALID


@pytest.mark.parametrize(("kind", "target", "reason"), REVOCATIONS)
def test_a_remembered_token_is_revoked(
    verifier: TokenVerifier,
    revocations: RevocationList,
    kind: RevocationKind,
    target: str,
    reason: InactiveReason,
) -> None:
    """At once."""
    remember(verifier)
    revocations.add(revocation(kind, target))
    assert refusal(verifier.verify, token_of()) is reason


def test_a_remembered_token_gains_nothing(verifier: TokenVerifier) -> None:
    """Audience, scope and roles are checked each time."""
    remember(verifier)
    verdicts = [
        refusal(verifier.verify, token_of(), audience="another"),
        refusal(verifier.verify, token_of(), required_scope=["admin"]),
        refusal(verifier.verify, token_of(), required_roles=["admin"]),
    ]
    assert verdicts == [
        InactiveReason.WRONG_AUDIENCE,
        InactiveReason.INSUFFICIENT_SCOPE,
        InactiveReason.INSUFFICIENT_ROLE,
    ]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_token_outlives_the_trust_in_its_key(
    verifier: TokenVerifier, trusted: KeyRing, algorithm: str
) -> None:
    """This holds for a cached token and for any other token of the same key."""
    token = token_of(algorithm=algorithm)
    assert remember(verifier, token) == CLAIMS
    trusted.replace(k for k in KEYS.values() if k.algorithm != algorithm)
    another = token_of(CLAIMS._replace(token_id="another"), algorithm)
    assert refusal(verifier.verify, token) is InactiveReason.UNKNOWN_KEY
    assert refusal(verifier.verify, another) is InactiveReason.UNKNOWN_KEY


def test_a_new_key_is_trusted_from_when_it_comes(verifier: TokenVerifier, trusted: KeyRing) -> None:
    """A token that was refused before is then valid."""
    key = FOREIGN_KEYS["EdDSA"]
    token = compact(header_of(key), GOOD, key)
    assert refusal(verifier.verify, token) is InactiveReason.UNKNOWN_KEY
    trusted.replace([key])
    assert verifier.verify(token) == CLAIMS
    assert refusal(verifier.verify, token_of()) is InactiveReason.UNKNOWN_KEY


def test_another_key_under_the_same_kid_is_another_key(
    verifier: TokenVerifier, trusted: KeyRing
) -> None:
    """The key that was cached for a header is dropped with its ring."""
    remember(verifier)
    trusted.replace([replace(FOREIGN_KEYS["HS256"], kid=SHARED.kid)])
    assert refusal(verifier.verify, token_of()) is InactiveReason.BAD_SIGNATURE


def test_of_too_many_tokens_the_oldest_is_forgotten() -> None:
    """It is read again, while the others stay cached."""
    verifier = lone_verifier(cache_size=2)
    tokens = [token_of(CLAIMS._replace(token_id=str(n))) for n in range(3)]
    first, second, third = (remember(verifier, token) for token in tokens)
    assert verifier.verify(tokens[1]) is second
    assert verifier.verify(tokens[2]) is third
    again = verifier.verify(tokens[0])
    assert again == first
    assert again is not first


def test_nothing_is_remembered_where_there_is_no_room() -> None:
    """A size of zero turns the cache off."""
    verifier = lone_verifier(cache_size=0)
    seen = [verifier.verify(token_of()) for _ in range(3)]
    assert seen == [CLAIMS] * 3
    assert len(set(map(id, seen))) == 3


def test_headers_do_not_fill_the_memory(verifier: TokenVerifier) -> None:
    """Forged headers are not cached, and of the spellings of a valid one only a few are."""
    key = FOREIGN_KEYS["HS256"]
    for forged in (b"{}", header_of(key), header_of(key, kid=SHARED.kid)):
        refusal(verifier.verify, compact(forged, GOOD, key))
    assert not verifier._memory.keys
    for spaces in range(40):
        header = json.dumps(header_of(SHARED)).encode() + b" " * spaces
        assert verifier.verify(compact(header, GOOD, SHARED)) == CLAIMS
    assert len(verifier._memory.keys) == 4 * len(KEYS)


def test_a_forgery_of_a_remembered_token_is_refused(verifier: TokenVerifier) -> None:
    """The cache holds whole tokens with their signatures, and headers, which prove nothing."""
    header, payload, signature = token_of().split(".")
    remember(verifier)
    more = base64url.encode(json.dumps(GOOD | {"roles": ["admin"]}).encode())
    other = base64url.encode(b"\1" * 32)
    for forged in (f"{header}.{more}.{signature}", f"{header}.{payload}.{other}"):
        assert refusal(verifier.verify, forged) is InactiveReason.BAD_SIGNATURE


# Attacks on keys and algorithms


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", "HS384", "hs256", "RS256"])
@pytest.mark.parametrize("signature", ["", "AA", base64url.encode(b"\0" * 32)])
def test_the_algorithm_is_the_keys_and_never_the_tokens(
    verifier: TokenVerifier, alg: str, signature: str
) -> None:
    """`none` is refused, with or without a signature."""
    header, payload = header_of(SHARED, alg=alg), GOOD
    signing_input = compact(header, payload, SHARED).rpartition(".")[0]
    verdict = refusal(verifier.verify, f"{signing_input}.{signature}")
    assert verdict is (InactiveReason.UNKNOWN_KEY if signature else InactiveReason.MALFORMED)
    assert refusal(verifier.verify, compact(header, payload, SHARED)) is InactiveReason.UNKNOWN_KEY


FORMATS = {
    "PEM": lambda key: key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    "PEM without its end of line": lambda key: key.public_bytes(
        Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    ).rstrip(),
    "DER": lambda key: key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
}


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS.keys())
@pytest.mark.parametrize("algorithm", PUBLIC)
def test_a_public_key_is_no_shared_secret(
    verifier: TokenVerifier, algorithm: str, form: Callable[[Any], bytes]
) -> None:
    """An HMAC made with a public key is refused under the name of either algorithm."""
    key = KEYS[algorithm]
    forger = SigningKey(key.kid, "HS256", secret=form(key.public_key))
    confused = compact(header_of(forger), GOOD, forger)
    honest = compact(header_of(key), GOOD, forger)
    shared = compact(header_of(SHARED), GOOD, forger)
    assert refusal(verifier.verify, confused) is InactiveReason.UNKNOWN_KEY
    assert refusal(verifier.verify, honest) is InactiveReason.BAD_SIGNATURE
    assert refusal(verifier.verify, shared) is InactiveReason.BAD_SIGNATURE


@pytest.mark.parametrize("signer", ALGORITHMS)
@pytest.mark.parametrize("named", ALGORITHMS)
def test_a_key_is_good_for_its_own_kid_and_algorithm_alone(
    verifier: TokenVerifier, named: str, signer: str
) -> None:
    """A trusted key cannot sign under the name of another trusted key."""
    if named == signer:
        assert verifier.verify(compact(header_of(KEYS[named]), GOOD, KEYS[signer])) == CLAIMS
        return
    same_name = compact(header_of(KEYS[named]), GOOD, KEYS[signer])
    mixed = compact(header_of(KEYS[named], alg=signer), GOOD, KEYS[signer])
    assert refusal(verifier.verify, same_name) is InactiveReason.BAD_SIGNATURE
    assert refusal(verifier.verify, mixed) is InactiveReason.UNKNOWN_KEY


@pytest.mark.parametrize(
    "kid",
    [
        "",
        "x",
        "../../../../dev/null",
        "/dev/null",
        "C:\\nul",
        "file:///dev/null",
        "https://mallory.example/key",
        "' OR '1'='1",
        "x' UNION SELECT 'secret' --",
        "x'; DROP TABLE signing_keys; --",
        "$(id)",
        "%00",
        "{kid}",
        "refresh",
        "__class__",
    ],
)
def test_a_kid_is_looked_up_in_the_ring_and_nowhere_else(verifier: TokenVerifier, kid: str) -> None:
    """It is never used as a path, a query, an address or a command."""
    forger = SigningKey(kid, "HS256", secret=bytes(32))
    token = compact(header_of(forger), GOOD, forger)
    assert refusal(verifier.verify, token) is InactiveReason.UNKNOWN_KEY


def forged_headers() -> dict[str, tuple[dict[str, object], SigningKey]]:
    """Return headers with parameters of attacks, and the key that signs each token."""
    theirs = FOREIGN_KEYS["EdDSA"]
    address = "https://mallory.example/keys"
    return {
        "jku": (header_of(theirs, jku=address), theirs),
        "jku of a trusted kid": (header_of(SHARED, jku=address), SHARED),
        "x5u": (header_of(theirs, x5u=address), theirs),
        "jwk": (header_of(theirs, jwk=theirs.public_jwk()), theirs),
        "x5c": (header_of(theirs, x5c=["AAAA"]), theirs),
        "crit": (header_of(SHARED, crit=["exp"]), SHARED),
        "empty crit": (header_of(SHARED, crit=[]), SHARED),
        "unknown crit": (header_of(SHARED, crit=["x"], x=1), SHARED),
        "zip": (header_of(SHARED, zip="DEF"), SHARED),
        "b64": (header_of(SHARED, b64=False, crit=["b64"]), SHARED),
        "cty": (header_of(SHARED, cty="JWT"), SHARED),
        "claims as header": (header_of(SHARED, **GOOD), SHARED),
        "alg of no text": (header_of(SHARED, alg=["HS256"]), SHARED),
        "kid of no text": (header_of(SHARED, kid={"kid": SHARED.kid}), SHARED),
        "kid with NUL": (header_of(SHARED, kid=SHARED.kid + "\0"), SHARED),
        "kid with newline": (header_of(SHARED, kid=SHARED.kid + "\n"), SHARED),
        "kid with a lone surrogate": (header_of(SHARED, kid=SHARED.kid + "\ud800"), SHARED),
    }


FORGED_HEADERS = forged_headers()


@pytest.mark.parametrize("name", FORGED_HEADERS)
def test_a_header_cannot_ask_for_more(verifier: TokenVerifier, name: str) -> None:
    """A trusted key may have signed it. Nothing is fetched, unpacked or ignored."""
    header, key = FORGED_HEADERS[name]
    assert refusal(verifier.verify, compact(header, GOOD, key)) is InactiveReason.MALFORMED


@pytest.mark.parametrize("duplicate", ['"alg":"none"', '"typ":"at+jwt"', '"kid":"x"'])
@pytest.mark.parametrize("last", [True, False], ids=["last", "first"])
def test_a_header_says_nothing_twice(verifier: TokenVerifier, duplicate: str, last: bool) -> None:
    """Two parsers could take different values."""
    members = json.dumps(header_of(SHARED))[1:-1]
    both = (members, duplicate) if last else (duplicate, members)
    token = compact(("{" + ",".join(both) + "}").encode(), GOOD, SHARED)
    assert refusal(verifier.verify, token) is InactiveReason.MALFORMED


@pytest.mark.parametrize(("r", "s"), [(0, 0), (1, 0), (0, 1), (1, 1), (-1, -1)])
def test_a_signature_of_no_point_is_refused(verifier: TokenVerifier, r: int, s: int) -> None:
    """Some verifiers accepted zeros as an ECDSA signature of anything (CVE-2022-21449)."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    header, payload, _ = token_of(algorithm="ES256").split(".")
    for offset in (0, order):
        raw = b"".join(((n + offset) % (1 << 256)).to_bytes(32, "big") for n in (r, s))
        forged = f"{header}.{payload}.{base64url.encode(raw)}"
        assert refusal(verifier.verify, forged) is InactiveReason.BAD_SIGNATURE


def test_the_twin_of_an_ecdsa_signature_is_revoked_with_it(
    verifier: TokenVerifier, revocations: RevocationList
) -> None:
    """(r, -s) signs the same claims, so a revocation names the claims and not the text."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    token = token_of(algorithm="ES256")
    signing_input, _, signature = token.rpartition(".")
    raw = base64url.decode(signature)
    s = order - int.from_bytes(raw[32:], "big")
    twin = f"{signing_input}.{base64url.encode(raw[:32] + s.to_bytes(32, 'big'))}"
    assert verifier.verify(twin) == verifier.verify(token)
    revocations.add(revocation(RevocationKind.TOKEN, "jti"))
    assert refusal(verifier.verify, token) is InactiveReason.TOKEN_REVOKED
    assert refusal(verifier.verify, twin) is InactiveReason.TOKEN_REVOKED


def test_the_twin_of_an_eddsa_signature_is_refused(verifier: TokenVerifier) -> None:
    """S must be less than the order of the group (RFC 8032 section 5.1.7)."""
    order = 2**252 + 27742317777372353535851937790883648493
    signing_input, _, signature = token_of(algorithm="EdDSA").rpartition(".")
    raw = base64url.decode(signature)
    s = int.from_bytes(raw[32:], "little") + order
    twin = f"{signing_input}.{base64url.encode(raw[:32] + s.to_bytes(32, 'little'))}"
    assert refusal(verifier.verify, twin) is InactiveReason.BAD_SIGNATURE


def test_a_refresh_token_is_no_access_token(verifier: TokenVerifier) -> None:
    """It is refused under its own key, and under a key of the ring."""
    master_key = MasterKey(bytes(range(32)))
    session = Session(
        user_id=UUID(int=1),
        id=UUID(int=2),
        generation=1,
        seed=b"seed",
        client_id="web",
        device_label="",
        audience=CLAIMS.audience,
        scope=CLAIMS.scope,
        amr=CLAIMS.amr,
        auth_time=START,
        created_at=START,
        refreshed_at=START,
        refresh_expires_at=START + timedelta(days=7),
        expires_at=START + timedelta(days=30),
    )
    token = RefreshTokens(master_key, CLAIMS.issuer).current(session)
    assert refusal(verifier.verify, token) is InactiveReason.WRONG_TYPE
    payload = base64url.decode(token.split(".")[1])
    resigned = compact(header_of(SHARED, typ="rt+jwt"), payload, SHARED)
    assert refusal(verifier.verify, resigned) is InactiveReason.WRONG_TYPE
    retyped = SigningKey("refresh", "HS256", secret=master_key.refresh_token_key())
    relabelled = compact(header_of(retyped), GOOD, retyped)
    assert refusal(verifier.verify, relabelled) is InactiveReason.UNKNOWN_KEY
    assert refusal(verifier.verify, ours(payload)) is InactiveReason.MALFORMED


# Attacks on claims, by somebody who holds a key of the ring


@pytest.mark.parametrize("name", ["iss", "sub", "exp", "iat", "jti", "client_id"])
def test_each_claim_of_the_profile_is_required(verifier: TokenVerifier, name: str) -> None:
    """Above all the expiry (RFC 9068 section 2.2)."""
    claims = {key: value for key, value in GOOD.items() if key != name}
    assert refusal(verifier.verify, ours(claims)) is InactiveReason.MALFORMED


NOT_TIMES = [
    float("nan"),
    float("inf"),
    float("-inf"),
    10**30,
    10**400,
    1 << 32,
    1 << 40,
    253402300799,  # the last second of the year 9999
    -1,
    -(10**30),
    EPOCH + 900.0,
    EPOCH + 900.5,
    1e300,
    str(EPOCH + 900),
    "",
    True,
    False,
    None,
    [EPOCH + 900],
    {},
]


@pytest.mark.parametrize("value", NOT_TIMES, ids=lambda value: repr(value)[:12])
@pytest.mark.parametrize("name", ["exp", "iat", "nbf", "auth_time"])
def test_a_time_is_whole_seconds_within_reason(
    verifier: TokenVerifier, name: str, value: object
) -> None:
    """NaN, infinity, floats, texts, booleans and years after 2106 are refused."""
    assert refusal(verifier.verify, ours(GOOD | {name: value})) is InactiveReason.MALFORMED


UNPRINTABLE = ["a\0", "\0", "a\nb", "a\tb", "\x7f", "\ud800", "\udfff\ud800", "\u202e", "\u2028"]
TEXTS = ["iss", "sub", "jti", "sid", "client_id", "scope", "aud", "acr"]
LIST_CLAIMS = ["aud", "roles", "amr"]


@pytest.mark.parametrize("value", UNPRINTABLE, ids=ascii)
@pytest.mark.parametrize("name", TEXTS)
def test_a_text_is_printable(verifier: TokenVerifier, name: str, value: str) -> None:
    """No claim can corrupt a log, a header or a database."""
    assert refusal(verifier.verify, ours(GOOD | {name: value})) is InactiveReason.MALFORMED


@pytest.mark.parametrize("value", UNPRINTABLE, ids=ascii)
@pytest.mark.parametrize("name", LIST_CLAIMS)
def test_each_text_of_a_list_is_printable(verifier: TokenVerifier, name: str, value: str) -> None:
    """Each item of the list is checked, not only the first."""
    assert refusal(verifier.verify, ours(GOOD | {name: ["a", value]})) is InactiveReason.MALFORMED


@pytest.mark.parametrize("value", [None, 1, True, 1.5, {}, [1], [None], [["a"]], [{}]], ids=repr)
@pytest.mark.parametrize("name", sorted({*TEXTS, *LIST_CLAIMS}))
def test_a_claim_of_another_type_is_malformed(
    verifier: TokenVerifier, name: str, value: object
) -> None:
    """Nothing is converted."""
    assert refusal(verifier.verify, ours(GOOD | {name: value})) is InactiveReason.MALFORMED


@pytest.mark.parametrize("value", ["", "a" * 257, "\u00e9" * 257, "a" * 2700], ids=len)
@pytest.mark.parametrize("name", ["iss", "sub", "jti", "sid", "client_id", "acr"])
def test_a_name_is_not_empty_and_not_too_long(
    verifier: TokenVerifier, name: str, value: str
) -> None:
    """A revocation stores such a claim, and an index entry has 2,704 bytes at most."""
    assert refusal(verifier.verify, ours(GOOD | {name: value})) is InactiveReason.MALFORMED
    assert refusal(verifier.authenticate, ours(GOOD | {name: value})) is InactiveReason.MALFORMED


@pytest.mark.parametrize("name", ["sub", "jti", "sid", "client_id"])
def test_the_longest_name_is_taken(verifier: TokenVerifier, name: str) -> None:
    """It has 256 characters, of any number of bytes in UTF-8."""
    payload = json.dumps(GOOD | {name: "\U0001f511" * 256}, ensure_ascii=False)
    verifier.verify(compact(header_of(SHARED), payload.encode(), SHARED))


def test_the_latest_time_is_taken(verifier: TokenVerifier) -> None:
    """It is the largest 32-bit number, in the year 2106."""
    assert verifier.verify(ours(GOOD | {"exp": (1 << 32) - 1})).expires_at == (1 << 32) - 1


@pytest.mark.parametrize("name", ["roles", "amr"])
def test_a_text_is_no_list_of_its_letters(verifier: TokenVerifier, name: str) -> None:
    """The text `admin` does not contain the role `a`."""
    assert refusal(verifier.verify, ours(GOOD | {name: "admin"})) is InactiveReason.MALFORMED


TEXT = json.dumps(GOOD)
PAYLOADS = {
    "empty object": b"{}",
    "array": json.dumps([GOOD]).encode(),
    "text": json.dumps(TEXT).encode(),
    "null": b"null",
    "no JSON": b"sub=alice",
    "another expiry first": ('{"exp":9999999999,' + TEXT[1:]).encode(),
    "another expiry last": (TEXT[:-1] + ',"exp":9999999999}').encode(),
    "another role, escaped": (TEXT[:-1] + ',"\\u0072oles":["admin"]}').encode(),
    "duplicate in a claim that we ignore": (TEXT[:-1] + ',"act":{"a":1,"a":2}}').encode(),
    "trailing bytes": (TEXT + "x").encode(),
    "trailing object": (TEXT + TEXT).encode(),
    "trailing NUL": (TEXT + "\0").encode(),
    "BOM": ("\ufeff" + TEXT).encode(),
    "UTF-16": TEXT.encode("utf-16"),
    "UTF-16 without BOM": TEXT.encode("utf-16-be"),
    "UTF-32": TEXT.encode("utf-32"),
    "no UTF-8": TEXT.encode().replace(b"alice", b"al\xffice"),
    "encoded surrogate": TEXT.encode().replace(b"alice", b"al\xed\xa0\x80"),
    "compressed": zlib.compress(TEXT.encode())[2:-4],
    "deep array": (TEXT[:-1] + ',"x":' + "[" * 2000).encode(),
    "deep closed array": (TEXT[:-1] + ',"x":' + "[" * 1200 + "]" * 1200 + "}").encode(),
    "deep object": (TEXT[:-1] + ',"x":' + '{"":' * 600).encode(),
    "NaN in a claim that we ignore": (TEXT[:-1] + ',"x":NaN}').encode(),
    "nested token": token_of().encode(),
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
def test_another_payload_is_malformed(verifier: TokenVerifier, payload: bytes) -> None:
    """This holds even for the signature of a trusted key."""
    token = ours(payload)
    assert len(token) <= jws.MAX_TOKEN_LENGTH
    assert refusal(verifier.verify, token) is InactiveReason.MALFORMED


@pytest.mark.parametrize("size", [1 << 12, 1 << 20])
def test_a_token_too_long_is_malformed(verifier: TokenVerifier, size: int) -> None:
    """This holds even for the signature of a trusted key."""
    assert refusal(verifier.verify, ours(GOOD | {"x": "x" * size})) is InactiveReason.MALFORMED


# No second spelling


def with_segment(token: str, index: int, segment: str) -> str:
    """Return the token with one segment replaced."""
    segments = token.split(".")
    segments[index] = segment
    return ".".join(segments)


@pytest.mark.parametrize("index", range(3), ids=["header", "payload", "signature"])
@pytest.mark.parametrize("suffix", ["=", "==", "\n", "\r\n", " ", "\t", "\0", ".", "%3D", "é"])
def test_nothing_can_be_added_to_a_segment(
    verifier: TokenVerifier, suffix: str, index: int
) -> None:
    """Padding, white space and other characters that a lenient decoder skips."""
    changed = with_segment(token_of(), index, token_of().split(".")[index] + suffix)
    assert refusal(verifier.verify, changed) is InactiveReason.MALFORMED


@pytest.mark.parametrize("index", range(3), ids=["header", "payload", "signature"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_last_character_of_a_segment_has_a_twin(algorithm: str, index: int) -> None:
    """Excess bits, which a lenient decoder drops, must be zero."""
    verifier, token = lone_verifier(), token_of(algorithm=algorithm)
    segment = token.split(".")[index]
    for other in ALPHABET.replace(segment[-1], ""):
        refusal(verifier.verify, with_segment(token, index, segment[:-1] + other))


@pytest.mark.parametrize("index", range(3), ids=["header", "payload", "signature"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_cut_short_is_refused(algorithm: str, index: int) -> None:
    """In each segment, by any number of characters."""
    verifier, token = lone_verifier(), token_of(algorithm=algorithm)
    segment = token.split(".")[index]
    for length in range(len(segment)):
        refusal(verifier.verify, with_segment(token, index, segment[:length]))


TOKENS = {algorithm: token_of(algorithm=algorithm) for algorithm in ALGORITHMS}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=300)
@given(
    position=st.integers(0, 10_000),
    characters=st.text(ALPHABET, max_size=2) | st.text(max_size=2),
)
def test_a_token_with_one_character_changed_is_refused(
    algorithm: str, position: int, characters: str
) -> None:
    """Or removed, or added, even if the token itself has just been accepted."""
    token = TOKENS[algorithm]
    verifier = lone_verifier()
    assert verifier.verify(token) == CLAIMS
    position %= len(token)
    changed = token[:position] + characters + token[position + 1 :]
    if changed != token:
        refusal(verifier.verify, changed)


# Nothing but InvalidToken


PIECES = [*".-_=", *TOKENS["HS256"].split("."), "e30", "bnVsbA", "W10"]


@given(
    st.text() | st.lists(st.sampled_from(PIECES)).map("".join) | st.from_regex(r"\A\w+\.\w+\.\w+\Z")
)
def test_any_text_is_refused_as_a_token(text: str) -> None:
    """The refusal is never an unexpected exception."""
    if text != TOKENS["HS256"]:
        refusal(lone_verifier().verify, text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
PARTIAL = st.dictionaries(st.sampled_from([*GOOD, "nbf"]), JSON).map(lambda some: GOOD | some)


@given(JSON | PARTIAL | st.binary())
def test_any_signed_payload_is_good_or_refused(payload: object) -> None:
    """A holder of the shared key cannot cause an unexpected exception either."""
    try:
        claims = lone_verifier().verify(ours(payload))
    except InvalidToken:
        return
    assert isinstance(payload, dict)
    assert (claims.subject, claims.expires_at) == (payload["sub"], payload["exp"])


@given(
    st.dictionaries(st.sampled_from(["typ", "alg", "kid", "crit"]), JSON)
    | st.binary()
    | st.builds(header_of, st.sampled_from([*KEYS.values()]), kid=JSON | st.just(SHARED.kid))
)
def test_any_signed_header_is_good_or_refused(header: object) -> None:
    """A token is valid only if its header names the key that signed it."""
    try:
        lone_verifier().verify(compact(header, GOOD, SHARED))
    except InvalidToken:
        return
    assert header == header_of(SHARED)
