"""Explanations of verdicts: they agree with the verifier, check everything, and hold no token."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auth_service import base64url
from auth_service.core.explanations import covers
from auth_service.errors import InactiveReason, InvalidToken
from auth_service.models import Revocation, RevocationKind, StoredKey
from auth_service.tokens import jws
from auth_service.tokens.access import AccessClaims, TokenVerifier, read_access_claims
from auth_service.tokens.delegation import Link
from auth_service.tokens.explanation import Explanation, Outcome, Question, View, explain
from auth_service.tokens.keys import ALGORITHMS, KeyRing, SigningKey, generate_key
from auth_service.tokens.revocation import RevocationList
from tests.clock import FakeClock

START = datetime(2026, 1, 1, tzinfo=UTC)
EPOCH = int(START.timestamp())
KEYS = {algorithm: generate_key(algorithm) for algorithm in ALGORITHMS if algorithm != "RS256"}
FOREIGN = generate_key("HS256")
HOLDER = "A" * 43
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
    roles=("clerk",),
    auth_time=EPOCH,
    amr=("pwd",),
)
CHAIN = (
    Link("orders", EPOCH - 5, "jti-1", EPOCH - 10),
    Link("gateway", EPOCH - 15, "jti-0", EPOCH - 20),
)
NAMES = [
    "form", "header", "type", "key", "signature", "claims", "issuer", "expiry", "start", "audience",
    "revocation", "certificate", "scope", "roles", "auth_time", "acr",
]  # fmt: skip


def view(now: datetime = START, revoked: tuple[Revocation, ...] = (), **fields: Any) -> View:
    """Return what a verifier with all of KEYS knows."""
    revocations = RevocationList(FakeClock(now))
    revocations.add_all(revoked)
    known: dict[str, Any] = {
        "ring": KeyRing(KEYS.values()),
        "stored": {},
        "revocations": revocations,
        "issuer": CLAIMS.issuer,
        "now": now,
        "clock_skew": timedelta(seconds=10),
    }
    return View(**known | fields)


def verdict(token: str, known: View, question: Question) -> InactiveReason | None:
    """Return the reason that the verifier gives."""
    verifier = TokenVerifier(
        known.ring, known.revocations, issuer=known.issuer, clock=lambda: known.now,
        clock_skew=known.clock_skew,
    )  # fmt: skip
    try:
        verifier.verify(
            token, audience=question.audience, required_scope=question.required_scope,
            required_roles=question.required_roles,
            certificate_thumbprint=question.certificate_thumbprint,
            max_age=question.max_age, acr_values=question.acr_values,
        )  # fmt: skip
    except InvalidToken as error:
        return error.inactive_reason
    return None


def outcome(explanation: Explanation, name: str) -> Outcome:
    """Return what came of a check."""
    return next(check.outcome for check in explanation.checks if check.name == name)


def signed(claims: dict[str, Any], key: SigningKey, typ: str = "at+jwt") -> str:
    """Sign any claims, as a holder of a key can."""
    return jws.sign(claims, key, typ)


TARGETS = st.sampled_from(["jti", "jti-0", "jti-1", "sid", "alice", "orders", "gateway", "other"])
REVOCATIONS = st.builds(
    lambda kind, target, before: Revocation(
        kind,
        "" if kind is RevocationKind.ALL else target,
        START + timedelta(hours=1),
        START + timedelta(seconds=before),
    ),
    st.sampled_from(RevocationKind),
    TARGETS,
    st.integers(-30, 5),
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "iss": st.sampled_from(["https://other.test", "", 1]),
        "sub": st.sampled_from(["bob", ""]),
        "aud": st.sampled_from([["ledger"], "billing", [], 7]),
        "exp": st.sampled_from([EPOCH, EPOCH - 1, EPOCH + 1, -1, 2**40, "soon"]),
        "iat": st.sampled_from([EPOCH + 10, EPOCH + 11, EPOCH - 100]),
        "nbf": st.sampled_from([EPOCH + 10, EPOCH + 11, None]),
        "scope": st.sampled_from(["", "read", 5]),
        "roles": st.sampled_from([[], ["admin"], "clerk"]),
        "auth_time": st.sampled_from([EPOCH - 70, EPOCH - 71, EPOCH + 5, "now"]),
        "acr": st.sampled_from(["1fa", "2fa", "", 2]),
        "act": st.sampled_from([{}, {"sub": "orders"}]),
        "cnf": st.sampled_from([{"x5t#S256": HOLDER}, {"x5t#S256": "short"}, {"jkt": HOLDER}]),
    },
)
QUESTIONS = st.builds(
    Question,
    st.sampled_from(["", "billing", "ledger"]),
    st.sampled_from([(), ("read",), ("read", "delete")]),
    st.sampled_from([(), ("clerk",), ("admin",)]),
    st.sampled_from(["", HOLDER, "B" * 42 + "A"]),
    st.sampled_from([None, timedelta(0), timedelta(minutes=1)]),
    st.sampled_from([(), ("2fa",), ("1fa", "phr")]),
)
TYPES = st.sampled_from(["at+jwt", "at+jwt", "at+jwt", "rt+jwt"])
SIGNERS = st.sampled_from([*KEYS.values(), FOREIGN])
DAMAGE = st.one_of(st.none(), st.none(), st.tuples(st.integers(0, 10_000), st.characters()))


@settings(max_examples=500)
@given(
    CHANGES, st.booleans(), SIGNERS, TYPES, DAMAGE, QUESTIONS, st.lists(REVOCATIONS, max_size=3)
)  # fmt: skip
def test_the_explanation_agrees_with_the_verifier(
    changes: dict[str, Any],
    exchanged: bool,
    key: SigningKey,
    typ: str,
    damage: tuple[int, str] | None,
    question: Question,
    revoked: list[Revocation],
) -> None:
    """The first check that fails has the verifier's reason, whatever is wrong with the token."""
    claims = CLAIMS._replace(chain=CHAIN if exchanged else ()).as_jwt() | changes
    token = signed(claims, key, typ)
    if damage is not None:
        at = damage[0] % len(token)
        token = token[:at] + damage[1] + token[at + 1 :]
    known = view(revoked=tuple(revoked))
    explanation = explain(token, known, question)
    assert explanation.reason == verdict(token, known, question)
    assert [check.name for check in explanation.checks] == NAMES
    passed = all(check.outcome is Outcome.PASSED for check in explanation.checks)
    assert passed == (explanation.reason is None)
    signature = token.rpartition(".")[2]
    for check in explanation.checks:
        assert token not in check.detail
        assert len(signature) < 20 or signature not in check.detail


@given(st.text(max_size=200))
def test_any_text_is_explained(token: str) -> None:
    """Text that is no token has checks too."""
    explanation = explain(token, view(), Question())
    assert explanation.reason == verdict(token, view(), Question())
    assert (explanation.claims, explanation.genuine) == (None, False)
    assert [check.name for check in explanation.checks] == NAMES


@given(REVOCATIONS, st.booleans())
def test_a_revocation_covers_what_the_list_says(revocation: Revocation, exchanged: bool) -> None:
    """The rule for one revocation is that of the list."""
    claims = CLAIMS._replace(chain=CHAIN if exchanged else ())
    known = view(revoked=(revocation,))
    assert covers(revocation, claims) == (known.revocations.check(claims) is not None)


def test_every_check_is_made_after_one_has_failed() -> None:
    """An expired token for another audience without the scope shows all three."""
    question = Question("ledger", ("delete",), ("admin",))
    late = view(START + timedelta(hours=1))
    explanation = explain(signed(CLAIMS.as_jwt(), KEYS["HS256"]), late, question)
    failed = [check.name for check in explanation.checks if check.outcome is Outcome.FAILED]
    assert failed == ["expiry", "audience", "scope", "roles"]
    assert explanation.reason is InactiveReason.EXPIRED
    details = {check.name: check.detail for check in explanation.checks}
    assert details["expiry"] == "exp is 2026-01-01T00:15:00Z, 2700 s ago"
    assert details["audience"] == 'aud is "billing", "shipping", without "ledger"'
    assert details["scope"] == 'it has "read", "write", and lacks "delete"'


def test_a_login_that_does_not_suffice_is_told_with_what_would() -> None:
    """Both checks have the one reason."""
    token = signed(CLAIMS._replace(acr="1fa").as_jwt(), KEYS["HS256"])
    question = Question(max_age=timedelta(minutes=5), acr_values=("2fa", "phr"))
    late = view(START + timedelta(minutes=6))
    explanation = explain(token, late, question)
    failed = [check for check in explanation.checks if check.outcome is Outcome.FAILED]
    assert [check.name for check in failed] == ["auth_time", "acr"]
    assert {check.reason for check in failed} == {InactiveReason.INSUFFICIENT_USER_AUTHENTICATION}
    assert failed[0].detail == (
        "auth_time is 2026-01-01T00:00:00Z, 360 s ago; the limit is 300 s, and clocks may differ "
        "by 10 s"
    )
    assert failed[1].detail == 'acr is "1fa", not one of "2fa", "phr"'
    unknown = explain(signed(CLAIMS.as_jwt(), KEYS["HS256"]), view(), question)
    assert unknown.checks[-1].detail == 'it has no acr, not one of "2fa", "phr"'


def test_claims_of_a_forged_token_are_shown_but_not_vouched_for() -> None:
    """An operator sees what the token claims, and that nobody vouches for it."""
    forged = SigningKey(KEYS["HS256"].kid, "HS256", secret=FOREIGN.secret)
    explanation = explain(signed(CLAIMS.as_jwt(), forged), view(), Question())
    assert explanation.reason is InactiveReason.BAD_SIGNATURE
    assert explanation.claims == CLAIMS
    assert not explanation.genuine
    assert outcome(explanation, "expiry") is Outcome.PASSED


@pytest.mark.parametrize(
    ("dates", "text"),
    [
        ({"compromised_at": START - timedelta(minutes=5)}, "compromised since 2025-12-31T23:55:00"),
        ({"retire_at": START, "remove_at": START}, "removed since 2026-01-01T00:00:00Z"),
        ({"activate_at": START + timedelta(minutes=5)}, "published, and signs from 2026-01-01"),
    ],
)
def test_the_state_of_a_key_that_is_not_trusted_is_told(dates: dict[str, Any], text: str) -> None:
    """A token of a compromised key does not just have an unknown key."""
    key = generate_key("EdDSA")
    row: dict[str, Any] = {"created_at": START, "activate_at": START - timedelta(days=1)}
    stored = StoredKey(key.kid, "EdDSA", b"", **row | dates)
    known = view(stored={key.kid: stored})
    explanation = explain(signed(CLAIMS.as_jwt(), key), known, Question())
    assert explanation.reason is InactiveReason.UNKNOWN_KEY
    assert text in next(c.detail for c in explanation.checks if c.name == "key")
    assert outcome(explanation, "signature") is Outcome.NOT_CHECKED


def test_an_algorithm_that_is_not_the_keys_is_told() -> None:
    """The key decides the algorithm, never the token."""
    key = KEYS["HS256"]
    header = base64url.encode(json.dumps({"alg": "none", "kid": key.kid, "typ": "at+jwt"}).encode())
    _, payload, signature = signed(CLAIMS.as_jwt(), key).split(".")
    explanation = explain(f"{header}.{payload}.{signature}", view(), Question())
    assert explanation.reason is InactiveReason.UNKNOWN_KEY
    detail = next(check.detail for check in explanation.checks if check.name == "key")
    assert detail == f'alg is "none", but key {key.kid} is for HS256'


def test_claims_are_read_as_the_verifier_reads_them() -> None:
    """The explanation shows every claim."""
    token = signed(CLAIMS._replace(chain=CHAIN).as_jwt(), KEYS["EdDSA"])
    explanation = explain(token, view(), Question())
    assert explanation.claims == read_access_claims(jws.read_claims(token.split(".")[1]))
    assert explanation.claims.actors == ("orders", "gateway")
