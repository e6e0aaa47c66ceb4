"""The client's verifier without a network: keys, settings, events and the bound on staleness."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from authn.v1 import verifier_service_pb2 as pb
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from auth_service import base64url
from auth_service.client.feed import BadEvent, Feed
from auth_service.client.verifier import LocalVerifier, SyncLocalVerifier
from auth_service.clock import utc_now
from auth_service.errors import (
    ConfigError,
    InactiveReason,
    InvalidToken,
    RevocationsStale,
)
from auth_service.tokens import jws
from auth_service.tokens.jwk import key_set as read_key_set
from auth_service.tokens.jwk import public_key
from auth_service.tokens.keys import KeyRing, SigningKey, generate_key
from auth_service.tokens.revocation import RevocationList
from tests.clock import FakeClock
from tests.watch_events import (
    CLAIMS,
    LATER,
    PUBLIC,
    SECOND,
    SHARED,
    START,
    event,
    heartbeat,
    key_set,
    revocation,
    revoked,
    segment,
    snapshot,
    token_of,
    verification_key,
)

BOUND = 5 * SECOND
SECRET = base64url.encode(SHARED.secret)
KEYS = {algorithm: generate_key(algorithm) for algorithm in ("EdDSA", "ES256", "RS256")}
TOO_LATE = pb.Revocation(token_id="jti")
TOO_LATE.expires_at.seconds = 1 << 50


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands at START."""
    return FakeClock(START)


@pytest.fixture
def ring() -> KeyRing:
    """A ring with the one key that was given by hand."""
    return KeyRing([SHARED])


@pytest.fixture
def revocations(clock: FakeClock) -> RevocationList:
    """An empty list."""
    return RevocationList(clock)


@pytest.fixture
def feed(ring: KeyRing, revocations: RevocationList, clock: FakeClock) -> Feed:
    """A feed that has brought nothing yet."""
    feed = Feed(ring, revocations, [SHARED], clock)
    assert feed.begin() == ""
    return feed


def verifier_of(clock: Callable[[], datetime], **options: Any) -> LocalVerifier:
    """Return a verifier of the tests' issuer, with addresses that are never called."""
    settings: dict[str, Any] = {
        "issuer": CLAIMS.issuer,
        "addresses": ["auth.test:1"],
        "clock": clock,
    }
    return LocalVerifier(**(settings | options))


def informed(clock: FakeClock, **options: Any) -> LocalVerifier:
    """Return a verifier that has heard of its keys and, as of START, of no revocation."""
    verifier = verifier_of(clock, **options)
    apply(verifier, key_set(PUBLIC), snapshot())
    return verifier


def apply(verifier: LocalVerifier, *events: pb.WatchResponse) -> None:
    """Have the verifier hear of events, without a network."""
    for message in events:
        verifier._feed.apply(message)


def reason_against(verifier: LocalVerifier, token: str, **asked: Any) -> InactiveReason | None:
    """Return why the verifier refuses a token, or None."""
    try:
        verifier.verify(token, **asked)
    except InvalidToken as error:
        return error.inactive_reason
    return None


# Keys that are given by hand


@pytest.mark.parametrize(
    "padded", [SECRET, SECRET + "=", f" {SECRET}\n"], ids=["bare", "padded", "a line"]
)
def test_a_shared_key_alone_verifies_and_no_staleness_is_asked(
    clock: FakeClock, padded: str
) -> None:
    """There is no stream that could be late."""
    verifier = verifier_of(clock, addresses=(), shared_key=padded, max_staleness=timedelta(0))
    assert verifier.verify(token_of(SHARED), audience="orders", on_stale="deny") == CLAIMS
    assert verifier.revocations_as_of is None


def test_a_published_key_set_alone_verifies(clock: FakeClock) -> None:
    """Each of its keys, whatever the algorithm."""
    verifier = verifier_of(clock, addresses=(), jwks=KeyRing(KEYS.values()).jwks())
    assert [verifier.verify(token_of(key)) for key in KEYS.values()] == [CLAIMS] * 3


async def test_without_addresses_there_is_nothing_to_start(clock: FakeClock) -> None:
    """Both verifiers work at once, and leave no thread behind."""
    async with verifier_of(clock, addresses=(), shared_key=SECRET) as verifier:
        assert verifier.verify(token_of(SHARED)) == CLAIMS
    threads = threading.active_count()
    with SyncLocalVerifier(issuer=CLAIMS.issuer, shared_key=SECRET, clock=clock) as twin:
        assert threading.active_count() == threads
        assert twin.verify(token_of(SHARED)) == CLAIMS


def test_what_is_asked_of_a_token_is_passed_on(clock: FakeClock) -> None:
    """Audience, scope and roles."""
    verifier = verifier_of(clock, addresses=(), shared_key=SECRET)
    token = token_of(SHARED)
    asked: list[dict[str, Any]] = [
        {"audience": "billing"},
        {"required_scope": ["admin"]},
        {"required_roles": ["admin"]},
        {"required_scope": ["read"], "required_roles": ["clerk"]},
    ]
    assert [reason_against(verifier, token, **rule) for rule in asked] == [
        InactiveReason.WRONG_AUDIENCE,
        InactiveReason.INSUFFICIENT_SCOPE,
        InactiveReason.INSUFFICIENT_ROLE,
        None,
    ]


def test_the_clock_of_a_verifier_is_the_time_in_utc() -> None:
    """Unless a test gives another."""
    assert utc_now().tzinfo is UTC


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"addresses": ()}, "either addresses or a key"),
        ({"addresses": (), "jwks": '{"keys": []}'}, "either addresses or a key"),
        ({"addresses": "auth.test:1"}, "must be a list"),
        ({"addresses": [""]}, "must be a list"),
        ({"issuer": ""}, "issuer"),
        ({"shared_key": base64url.encode(b"k" * 31)}, "256 bits"),
        ({"shared_key": base64url.encode(b"k" * 32)}, "not random"),
        ({"shared_key": "no base64url!" * 9}, "shared_key is"),
        ({"shared_key": "é" * 43}, "shared_key is"),
        ({"jwks": "{"}, "jwks: is not JSON"),
        ({"jwks": json.dumps({"keys": [{"kty": "oct", "k": SECRET}]})}, "symmetric"),
        ({"max_staleness": -SECOND}, "max_staleness"),
        ({"on_stale": "perhaps"}, "on_stale"),
        ({"state_file": "state"}, "state_key"),
        ({"state_file": "state", "state_key": "short"}, "state_key"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    clock: FakeClock, settings: dict[str, Any], text: str
) -> None:
    """At once, with words that tell which, and without the secret."""
    with pytest.raises(ConfigError, match=text) as caught:
        verifier_of(clock, **settings)
    assert SECRET not in str(caught.value)


# The bound on staleness


def test_before_the_first_event_every_token_is_refused(clock: FakeClock) -> None:
    """Even where there is no bound; what is not a token is not looked at."""
    for bound in (BOUND, None):
        verifier = verifier_of(clock, shared_key=SECRET, max_staleness=bound)
        assert verifier.revocations_as_of is None
        for token in (token_of(SHARED), "not a token"):
            with pytest.raises(RevocationsStale):
                verifier.verify(token)


@pytest.mark.parametrize("age", [timedelta(0), BOUND])
def test_up_to_the_bound_a_verdict_is_given(clock: FakeClock, age: timedelta) -> None:
    """The bound itself included."""
    verifier = informed(clock)
    clock.advance(age)
    assert verifier.revocations_as_of == START
    assert verifier.verify(token_of()) == CLAIMS


def test_beyond_the_bound_every_token_is_refused(clock: FakeClock) -> None:
    """By a microsecond, and whatever the token; fresh revocations end that."""
    verifier = informed(clock)
    clock.advance(BOUND + timedelta(microseconds=1))
    for token in (token_of(), "not a token"):
        with pytest.raises(RevocationsStale) as caught:
            verifier.verify(token)
        assert caught.value.retry_after == SECOND
    apply(verifier, heartbeat(as_of=clock.now))
    assert verifier.verify(token_of()) == CLAIMS


def test_allow_judges_by_what_is_known(clock: FakeClock) -> None:
    """A known revocation still counts, even if knowledge is old or incomplete."""
    verifier = verifier_of(clock, shared_key=SECRET, on_stale="allow")
    assert verifier.verify(token_of(SHARED)) == CLAIMS
    apply(verifier, key_set(PUBLIC), snapshot(revocation(token_id="bad")))
    clock.advance(timedelta(minutes=10))
    assert verifier.verify(token_of()) == CLAIMS
    assert reason_against(verifier, token_of(token_id="bad")) is InactiveReason.TOKEN_REVOKED


def test_no_bound_takes_revocations_of_any_age(clock: FakeClock) -> None:
    """Once they are known."""
    verifier = informed(clock, max_staleness=None)
    clock.advance(timedelta(minutes=10))
    assert verifier.verify(token_of()) == CLAIMS


def test_one_call_may_ask_for_another_bound(clock: FakeClock) -> None:
    """Tighter, wider, none, or another consequence."""
    verifier = informed(clock)
    clock.advance(2 * SECOND)
    with pytest.raises(RevocationsStale):
        verifier.verify(token_of(), max_staleness=SECOND)
    assert verifier.verify(token_of(), max_staleness=SECOND, on_stale="allow") == CLAIMS
    clock.advance(BOUND)
    assert verifier.verify(token_of(), max_staleness=timedelta(minutes=1)) == CLAIMS
    assert verifier.verify(token_of(), max_staleness=None) == CLAIMS
    assert verifier.verify(token_of(), on_stale="allow") == CLAIMS
    with pytest.raises(RevocationsStale):
        verifier.verify(token_of(), on_stale="deny")


def test_one_call_may_deny_what_the_verifier_allows(clock: FakeClock) -> None:
    """By the verifier's own bound."""
    verifier = informed(clock, on_stale="allow")
    clock.advance(BOUND + SECOND)
    with pytest.raises(RevocationsStale):
        verifier.verify(token_of(), on_stale="deny")


# Events


def test_a_fresh_stream_is_complete_with_its_snapshot(feed: Feed, ring: KeyRing) -> None:
    """Before that neither as_of nor cursor counts, whichever event has them."""
    assert feed.missing == "nothing has been received"
    feed.apply(key_set(PUBLIC, cursor="k"))
    feed.apply(heartbeat("h"))
    assert (feed.as_of, feed.begin()) == (None, "")
    assert feed.missing == "the keys are known, the revocations are not"
    feed.apply(snapshot())
    assert (feed.as_of, feed.missing) == (START, "")
    assert PUBLIC.kid in ring


def test_a_stream_without_any_key_is_told_from_one_that_is_late(clock: FakeClock) -> None:
    """More waiting brings no keys to a caller without the role."""
    feed = Feed(KeyRing([]), RevocationList(clock), [], clock)
    assert not feed.lacks_keys
    feed.apply(key_set())
    assert feed.lacks_keys
    assert feed.missing == "connected, but no keys"


def test_the_streamed_keys_are_replaced_and_the_given_ones_stay(feed: Feed, ring: KeyRing) -> None:
    """A key that left is not trusted any longer."""
    other = generate_key("HS256")
    feed.apply(key_set(PUBLIC, other))
    assert [key.kid in ring for key in (SHARED, PUBLIC, other)] == [True, True, True]
    feed.apply(key_set(other))
    assert [key.kid in ring for key in (SHARED, PUBLIC, other)] == [True, False, True]
    feed.apply(key_set())
    assert [key.kid in ring for key in (SHARED, PUBLIC, other)] == [True, False, False]


def test_a_key_given_by_hand_is_not_displaced(feed: Feed, ring: KeyRing) -> None:
    """By a streamed one of the same kid."""
    feed.apply(
        event(
            key_set=pb.KeySet(
                keys=[
                    pb.VerificationKey(kid=SHARED.kid, algorithm="HS256", secret=bytes(range(32)))
                ]
            )
        )
    )
    assert ring.get(SHARED.kid) is SHARED


def test_a_token_of_a_key_that_left_is_refused(clock: FakeClock) -> None:
    """Although it was accepted before."""
    verifier = informed(clock)
    assert verifier.verify(token_of()) == CLAIMS
    apply(verifier, key_set(KEYS["EdDSA"]))
    assert reason_against(verifier, token_of()) is InactiveReason.UNKNOWN_KEY
    assert verifier.verify(token_of(KEYS["EdDSA"])) == CLAIMS


def test_keys_of_later_versions_and_of_others_are_left_out(
    feed: Feed, ring: KeyRing, caplog: pytest.LogCaptureFixture
) -> None:
    """A new algorithm is no reason to be without the keys that are understood."""
    keys = [
        pb.VerificationKey(kid="new", algorithm="ML-DSA-65", public_jwk="{}"),
        pb.VerificationKey(kid="hidden", algorithm="HS256"),
        verification_key(PUBLIC),
    ]
    feed.apply(event(key_set=pb.KeySet(keys=keys)))
    assert [kid in ring for kid in ("new", "hidden", PUBLIC.kid)] == [False, False, True]
    assert "ML-DSA-65" in caplog.text


@pytest.mark.parametrize(
    ("covered", "reason"),
    [
        (revocation(token_id="jti"), InactiveReason.TOKEN_REVOKED),
        (revocation(session_id="sid"), InactiveReason.SESSION_REVOKED),
        (revocation(subject="alice", issued_before=START + SECOND), InactiveReason.USER_REVOKED),
        (
            revocation(all_tokens=pb.AllTokens(), issued_before=START + SECOND),
            InactiveReason.USER_REVOKED,
        ),
        (revocation(subject="alice", issued_before=START), None),
        (revocation(token_id="other"), None),
    ],
)
def test_a_revocation_covers_what_it_names(
    clock: FakeClock, covered: pb.Revocation, reason: InactiveReason | None
) -> None:
    """In an event of its own as in a snapshot."""
    single, whole = informed(clock), verifier_of(clock)
    apply(single, revoked(covered, "1"))
    apply(whole, key_set(PUBLIC), snapshot(covered))
    assert reason_against(single, token_of()) is reason
    assert reason_against(whole, token_of()) is reason


def test_snapshots_add_up(feed: Feed, revocations: RevocationList) -> None:
    """In parts, or from replicas that know of different ones: nothing is forgotten early."""
    for token_id in ("a", "b"):
        feed.apply(snapshot(revocation(token_id=token_id)))
    feed.begin()
    feed.apply(snapshot())
    assert len(revocations) == 2


def test_a_heartbeat_drops_what_has_expired(
    feed: Feed, revocations: RevocationList, clock: FakeClock
) -> None:
    """So that a quiet service does not keep it."""
    feed.apply(snapshot(revocation(token_id="jti")))
    clock.advance(LATER - START + 2 * SECOND)
    feed.apply(heartbeat())
    assert len(revocations) == 0


def test_as_of_never_goes_back(feed: Feed, clock: FakeClock) -> None:
    """An event without it does not change it, and a replica's fast clock does not advance it."""
    feed.apply(snapshot(as_of=None))
    feed.apply(heartbeat(as_of=START - SECOND))
    assert feed.as_of is None
    feed.apply(snapshot(as_of=START - SECOND))
    feed.apply(heartbeat(as_of=START - 2 * SECOND))
    feed.apply(heartbeat(as_of=None))
    feed.apply(key_set(PUBLIC, as_of=START))
    assert feed.as_of == START - SECOND
    feed.apply(heartbeat(as_of=START + timedelta(days=1)))
    assert feed.as_of == START == clock.now


def test_a_stream_resumes_after_the_last_event_that_completes_it(feed: Feed) -> None:
    """Never among the parts of a snapshot: the rest of them would be missing."""
    feed.apply(key_set(PUBLIC, cursor="k"))
    feed.apply(snapshot())
    assert feed.begin() == ""
    feed.apply(snapshot())
    feed.apply(heartbeat("1"))
    assert feed.begin() == "1"
    feed.apply(key_set(PUBLIC, cursor="k"))
    feed.apply(revoked(revocation(token_id="jti"), "2"))
    feed.apply(heartbeat())
    assert feed.begin() == "2"
    feed.forget_cursor()
    assert feed.begin() == ""


def secret_key(**changes: Any) -> pb.VerificationKey:
    """Return a shared key as it is sent, some of it changed."""
    return pb.VerificationKey(
        **({"kid": "k", "algorithm": "HS256", "secret": bytes(range(32))} | changes)
    )


@pytest.mark.parametrize(
    "keys",
    [
        [secret_key(secret=bytes(range(31)))],
        [secret_key(secret=b"s" * 32)],
        [secret_key(kid="")],
        [secret_key(algorithm="EdDSA")],
        [pb.VerificationKey(kid="k", algorithm="EdDSA", public_jwk="{}")],
        [pb.VerificationKey(kid="k", algorithm="HS256", public_jwk="{}")],
        [verification_key(PUBLIC), verification_key(PUBLIC)],
    ],
)
def test_a_key_set_that_makes_no_sense_changes_nothing(
    feed: Feed, ring: KeyRing, keys: list[pb.VerificationKey]
) -> None:
    """Not even by the keys in it that do."""
    with pytest.raises(BadEvent):
        feed.apply(event(key_set=pb.KeySet(keys=[verification_key(KEYS["ES256"]), *keys])))
    assert KEYS["ES256"].kid not in ring
    assert feed.missing == "nothing has been received"


@pytest.mark.parametrize("bad", [pb.Revocation(), revocation()])
def test_a_revocation_of_a_later_kind_changes_nothing(
    feed: Feed, revocations: RevocationList, bad: pb.Revocation
) -> None:
    """What it covers is not known, so it is no sign of freshness."""
    whole = snapshot(revocation(token_id="good"), bad)
    for message in (revoked(bad, "1"), whole, segment(others=[revocation(token_id="x"), bad])):
        with pytest.raises(BadEvent):
            feed.apply(message)
    assert (len(revocations), feed.as_of, feed.begin()) == (0, None, "")


@pytest.mark.parametrize(
    ("bad", "covered", "spared"),
    [
        (revocation(token_id=""), [], [{"token_id": ""}, {}]),
        (revocation(session_id=""), [], [{"session_id": ""}, {}]),
        (revocation(subject="", issued_before=START + SECOND), [], [{}]),
        (revocation(subject="alice"), [{}, {"token_id": "x"}], [{"subject": "bob"}]),
        (revocation(token_id="jti", expires_at=None), [{}], [{"token_id": "x"}]),
        (TOO_LATE, [{}], [{"token_id": "x"}]),
        (
            revocation(all_tokens=pb.AllTokens()),
            [{}, {"subject": "bob"}],
            [{"issued_at": CLAIMS.issued_at + 5}],
        ),
    ],
)
def test_a_faulty_revocation_counts_for_what_it_covers_and_is_logged_once(
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
    bad: pb.Revocation,
    covered: list[dict[str, Any]],
    spared: list[dict[str, Any]],
) -> None:
    """All else goes on: one poisoned entry must not stop every verifier of the fleet."""
    verifier = verifier_of(clock)
    good = revocation(session_id="good")
    apply(verifier, key_set(PUBLIC), segment(others=[bad, good]), snapshot(bad), revoked(bad, "1"))
    assert verifier.revocations_as_of == START
    other = token_of(token_id="y", session_id="good", subject="eve")
    assert reason_against(verifier, other) is InactiveReason.SESSION_REVOKED
    assert all(reason_against(verifier, token_of(**claims)) for claims in covered)
    clock.advance(5 * SECOND)
    for claims in spared:
        reason = reason_against(verifier, token_of(**claims))
        assert reason in (None, InactiveReason.MALFORMED)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_segment_is_taken_in_and_completes_nothing(
    feed: Feed, revocations: RevocationList
) -> None:
    """Packed ids and others; the event that follows the last one says up to when it is."""
    ids, later = b"".join(number.to_bytes(16) for number in range(2500)), int(LATER.timestamp())
    packed = pb.PackedRevocations(expires_at=later, token_ids=ids, session_ids=ids[:160])
    feed.apply(key_set(PUBLIC))
    message = segment(packed, others=[revocation(token_id="jti")])
    assert len(list(feed.steps(message))) >= 2
    feed.apply(heartbeat("1"))
    assert (len(revocations), feed.as_of, feed.begin()) == (2511, None, "")
    feed.apply(snapshot())
    feed.apply(heartbeat("1"))
    assert (feed.as_of, feed.begin()) == (START, "1")
    ninth = base64url.encode((9).to_bytes(16))
    assert {r.target for r in revocations.snapshot()} >= {ninth, str(UUID(int=9)), "jti"}


@pytest.mark.parametrize("field", ["token_ids", "session_ids"])
def test_a_segment_that_is_cut_off_changes_nothing(
    feed: Feed, revocations: RevocationList, field: str
) -> None:
    """Its ids would be those of other tokens."""
    good = pb.PackedRevocations(expires_at=int(LATER.timestamp()), token_ids=bytes(16))
    bad = pb.PackedRevocations(expires_at=int(LATER.timestamp()), **{field: bytes(17)})
    with pytest.raises(BadEvent, match="cut off"):
        feed.apply(segment(good, bad))
    assert len(revocations) == 0


@pytest.mark.parametrize("expires_at", [-(2**63), 0, 2**63 - 1])
def test_a_packed_expiry_may_be_any_number(
    feed: Feed, revocations: RevocationList, expires_at: int
) -> None:
    """One that is too late to be written is kept for good."""
    feed.apply(segment(pb.PackedRevocations(expires_at=expires_at, token_ids=bytes(16))))
    assert len(revocations) == (expires_at > 0)
    assert len(revocations.snapshot()) == len(revocations)


def test_much_that_expires_at_once_is_dropped_in_steps(
    feed: Feed, revocations: RevocationList, clock: FakeClock
) -> None:
    """The event loop has its turn in between."""
    ids = b"".join(number.to_bytes(16) for number in range(3000))
    feed.apply(segment(pb.PackedRevocations(expires_at=int(LATER.timestamp()), session_ids=ids)))
    clock.advance(LATER - START)
    assert len(list(feed.steps(heartbeat()))) > 2
    assert len(revocations) == 0


def test_an_event_of_a_later_version_is_no_sign_of_freshness(feed: Feed) -> None:
    """It may have been a revocation of a new kind."""
    feed.apply(snapshot(as_of=START - SECOND))
    with pytest.raises(BadEvent, match="no known kind"):
        feed.apply(event(cursor="1"))
    assert (feed.as_of, feed.begin()) == (START - SECOND, "")


# JSON Web Keys


def jwk_of(algorithm: str, **changes: Any) -> str:
    """Return a public key as a JWK, with members changed or, where None, left out."""
    jwk = KEYS[algorithm].public_jwk() | changes
    return json.dumps({name: value for name, value in jwk.items() if value is not None})


def private_jwk(algorithm: str) -> str:
    """Return a private key as a JWK."""
    key = KEYS[algorithm].private_key
    classes: dict[str, Any] = {"EdDSA": OKPAlgorithm, "ES256": ECAlgorithm, "RS256": RSAAlgorithm}
    return str(classes[algorithm].to_jwk(key))


@pytest.mark.parametrize("algorithm", KEYS)
@pytest.mark.parametrize(
    "members",
    [{}, {"alg": None, "use": None, "kid": None}, {"key_ops": ["verify"]}, {"x5t": "of no use"}],
)
def test_a_public_key_is_read_as_it_was_published(algorithm: str, members: dict[str, Any]) -> None:
    """It verifies what the private key signs, and does not sign."""
    ours = KEYS[algorithm]
    key = public_key(ours.kid, algorithm, jwk_of(algorithm, **members))
    assert (key.kid, key.algorithm, key.private_key) == (ours.kid, algorithm, None)
    token = token_of(ours)
    jws.verify_signature(token, token.split(".")[2], key)


@pytest.mark.parametrize("algorithm", KEYS)
@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"alg": "HS256"}, "alg is not"),
        ({"kid": "another"}, "another kid"),
        ({"use": "enc"}, "use is not"),
        ({"key_ops": ["sign"]}, "key_ops"),
        ({"key_ops": "verify"}, "key_ops"),
        ({"kty": "oct"}, "symmetric"),
        ({"k": "c2VjcmV0"}, "symmetric"),
        ({"d": "c2VjcmV0"}, "private"),
        ({"kty": "other"}, "kty and crv"),
        ({"kty": None}, "kty and crv"),
        ({"kty": ["RSA"]}, "kty and crv"),
        ({"crv": "P-521"}, "kty and crv"),
    ],
)
def test_a_key_for_anything_else_is_refused(
    algorithm: str, members: dict[str, Any], text: str
) -> None:
    """Whatever says so: its type, its use, or its being secret."""
    with pytest.raises(ValueError, match=text):
        public_key(KEYS[algorithm].kid, algorithm, jwk_of(algorithm, **members))


@pytest.mark.parametrize(
    ("algorithm", "members", "text"),
    [
        ("EdDSA", {"x": None}, "needs 'x'"),
        ("EdDSA", {"x": 1}, "needs 'x'"),
        ("EdDSA", {"x": "AA=="}, "canonical"),
        ("EdDSA", {"x": "AA"}, "not a usable key"),
        ("EdDSA", {"crv": "Ed448"}, "kty and crv"),
        ("ES256", {"y": None}, "needs 'y'"),
        ("ES256", {"x": "AA"}, "not a usable key"),
        ("ES256", {"x": base64url.encode(b"\1" * 32)}, "not a usable key"),
        ("RS256", {"n": "A"}, "cut off"),
        ("RS256", {"e": "Ag"}, "not a usable key"),
        ("RS256", {"e": "Aw"}, "65537"),
        ("RS256", {"e": "AAEAAQ"}, "zero byte"),
    ],
)
def test_a_malformed_key_is_refused(algorithm: str, members: dict[str, Any], text: str) -> None:
    """Numbers that are missing, of another encoding, or of no key."""
    with pytest.raises(ValueError, match=text):
        public_key(KEYS[algorithm].kid, algorithm, jwk_of(algorithm, **members))


@pytest.mark.parametrize("algorithm", KEYS)
def test_a_private_key_is_refused(algorithm: str) -> None:
    """Its sender leaks the key, which must not go unnoticed."""
    with pytest.raises(ValueError, match="private"):
        public_key("kid", algorithm, private_jwk(algorithm))


def test_a_short_rsa_key_is_refused() -> None:
    """RFC 7518 section 3.3 asks for 2048 bits."""
    short = rsa.generate_private_key(65537, 1024).public_key()  # noqa: S505 - under test
    with pytest.raises(ValueError, match="2048"):
        public_key("kid", "RS256", RSAAlgorithm.to_jwk(short))


@pytest.mark.parametrize(
    ("kid", "algorithm", "text"),
    [
        ("", "EdDSA", "{}"),
        ("line\nbreak", "EdDSA", "{}"),
        ("kid", "HS256", "{}"),
        ("kid", "none", "{}"),
        ("kid", "EdDSA", ""),
        ("kid", "EdDSA", "[]"),
        ("kid", "EdDSA", "null"),
        ("kid", "EdDSA", '{"kty": "OKP", "kty": "OKP"}'),
        ("kid", "EdDSA", "[" * 100_000),
    ],
)
def test_what_is_not_a_key_is_refused(kid: str, algorithm: str, text: str) -> None:
    """As a ValueError, whatever it is."""
    with pytest.raises(ValueError, match=r"."):
        public_key(kid, algorithm, text)


def test_a_key_set_gives_its_keys() -> None:
    """In order; members of the set that are of no concern are passed over."""
    members = [json.loads(jwk_of(algorithm)) for algorithm in KEYS]
    keys: list[SigningKey] = read_key_set(json.dumps({"keys": members, "more": 1}))
    assert [key.kid for key in keys] == [key.kid for key in KEYS.values()]


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (None, "no list"),
        ({}, "no list"),
        ([1], "keys\\[0\\]: is not a JSON object"),
        ([KEYS["EdDSA"].public_jwk() | {"kid": 1}], "needs `kid` and `alg`"),
        ([KEYS["EdDSA"].public_jwk() | {"alg": None}], "needs `kid` and `alg`"),
        ([KEYS["EdDSA"].public_jwk()] * 2, "keys\\[1\\]: .* twice"),
        ([KEYS["EdDSA"].public_jwk(), {"kty": "oct", "k": SECRET}], "keys\\[1\\]: is a symm"),
        ([KEYS["EdDSA"].public_jwk() | {"use": "enc"}], "use"),
    ],
)
def test_a_key_set_is_trusted_as_a_whole(members: Any, text: str) -> None:
    """One key of no use, and somebody has to look."""
    with pytest.raises(ValueError, match=text):
        read_key_set(json.dumps({"keys": members}))
