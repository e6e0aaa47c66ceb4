"""Validate: a verdict for every token, unless revocations are stale."""

from datetime import UTC, datetime, timedelta

import pytest

from auth_service.core.validation import Validation, Verdict
from auth_service.errors import InactiveReason, InvalidToken, RevocationsStale
from auth_service.models import Revocation, RevocationKind
from auth_service.tokens.access import AccessClaims, TokenSigner, TokenVerifier
from auth_service.tokens.keys import KeyRing, generate_key
from auth_service.tokens.revocation import RevocationList
from tests.clock import FakeClock

START = datetime(2026, 1, 1, tzinfo=UTC)
EPOCH = int(START.timestamp())
LIMIT = timedelta(seconds=5)
INSTANT = timedelta(microseconds=1)
KEY = generate_key("HS256")
RING = KeyRing([KEY], KEY.kid)
CLAIMS = AccessClaims(
    issuer="https://auth.test",
    subject="alice",
    audience=("billing",),
    expires_at=EPOCH + 900,
    issued_at=EPOCH,
    token_id="jti",
    session_id="sid",
    client_id="web",
    scope=("read",),
    roles=("user",),
    auth_time=EPOCH,
    amr=("pwd",),
)
TOKEN = TokenSigner(RING).sign(CLAIMS)


class Feed:
    """The revocations that the service knows, and the moment up to which it knows them."""

    def __init__(self, clock: FakeClock) -> None:
        self.revocations = RevocationList(clock)
        self.as_of = clock()


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands at START."""
    return FakeClock(START)


@pytest.fixture
def feed(clock: FakeClock) -> Feed:
    """A feed that knows all revocations up to START; there are none."""
    return Feed(clock)


@pytest.fixture
def validation(clock: FakeClock, feed: Feed) -> Validation:
    """Validation with a limit of five seconds."""
    verifier = TokenVerifier(RING, feed.revocations, issuer=CLAIMS.issuer, clock=clock)
    return Validation(verifier, lambda: feed.as_of, LIMIT, clock)


def test_a_good_token_gets_its_claims(validation: Validation) -> None:
    """The verdict has the moment up to which revocations are known."""
    assert validation.validate(TOKEN) == Verdict(CLAIMS, None, START)


def test_what_is_required_and_there_changes_nothing(validation: Validation) -> None:
    """The token has the required audience, scope and roles."""
    verdict = validation.validate(
        TOKEN, audience="billing", required_scope=["read"], required_roles=["user"]
    )
    assert verdict == Verdict(CLAIMS, None, START)


def test_a_bad_token_gets_a_reason_and_no_claims(validation: Validation) -> None:
    """It is a normal answer, not an error."""
    assert validation.validate("x") == Verdict(None, InactiveReason.MALFORMED, START)


def test_an_audience_that_is_not_the_tokens_is_the_reason(validation: Validation) -> None:
    """The caller requires its own audience."""
    verdict = validation.validate(TOKEN, audience="shipping")
    assert verdict == Verdict(None, InactiveReason.WRONG_AUDIENCE, START)


def test_a_missing_scope_is_the_reason(validation: Validation) -> None:
    """Every required one must be present."""
    verdict = validation.validate(TOKEN, required_scope=["read", "write"])
    assert verdict == Verdict(None, InactiveReason.INSUFFICIENT_SCOPE, START)


def test_a_missing_role_is_the_reason(validation: Validation) -> None:
    """Every required one must be present."""
    verdict = validation.validate(TOKEN, required_roles=["user", "admin"])
    assert verdict == Verdict(None, InactiveReason.INSUFFICIENT_ROLE, START)


def test_a_revoked_token_gets_a_reason_and_no_claims(validation: Validation, feed: Feed) -> None:
    """Even if it was active a moment before."""
    assert validation.validate(TOKEN).claims == CLAIMS
    feed.revocations.add(Revocation(RevocationKind.SESSION, "sid", START + timedelta(hours=1)))
    assert validation.validate(TOKEN) == Verdict(None, InactiveReason.SESSION_REVOKED, START)


def test_a_verdict_tells_how_old_its_knowledge_is(
    validation: Validation, clock: FakeClock, feed: Feed
) -> None:
    """The moment follows the feed, not the clock."""
    clock.advance(timedelta(seconds=4))
    assert validation.validate(TOKEN).revocations_as_of == START
    feed.as_of = START + timedelta(seconds=3)
    assert validation.validate(TOKEN).revocations_as_of == START + timedelta(seconds=3)
    assert validation.validate("x").revocations_as_of == START + timedelta(seconds=3)


@pytest.mark.parametrize("token", [TOKEN, "x"], ids=["good", "bad"])
def test_past_the_limit_there_is_no_verdict(
    validation: Validation, clock: FakeClock, token: str
) -> None:
    """At the limit there is a verdict; past it, the error says to try another replica."""
    clock.advance(LIMIT)
    validation.validate(token)
    clock.advance(INSTANT)
    with pytest.raises(RevocationsStale, match="try another") as caught:
        validation.validate(token)
    assert caught.value.retry_after > timedelta(0)


def test_fresh_knowledge_ends_the_outage(
    validation: Validation, clock: FakeClock, feed: Feed
) -> None:
    """Verdicts resume as soon as the feed has caught up."""
    clock.advance(timedelta(seconds=60))
    with pytest.raises(RevocationsStale):
        validation.validate(TOKEN)
    feed.as_of = clock()
    assert validation.validate(TOKEN).claims == CLAIMS


def test_a_caller_may_want_fresher_knowledge(validation: Validation, clock: FakeClock) -> None:
    """The stricter of the two limits applies."""
    clock.advance(timedelta(seconds=2))
    assert validation.validate(TOKEN, max_staleness=timedelta(seconds=2)).claims == CLAIMS
    with pytest.raises(RevocationsStale):
        validation.validate(TOKEN, max_staleness=timedelta(seconds=2) - INSTANT)


def test_a_caller_that_wants_no_staleness_gets_a_verdict_of_this_moment(
    validation: Validation, clock: FakeClock
) -> None:
    """Zero is a limit, not the absence of one."""
    assert validation.validate(TOKEN, max_staleness=timedelta(0)).claims == CLAIMS
    clock.advance(INSTANT)
    with pytest.raises(RevocationsStale):
        validation.validate(TOKEN, max_staleness=timedelta(0))


@pytest.mark.parametrize("wanted", [timedelta(seconds=6), timedelta(days=365), timedelta.max])
def test_a_caller_cannot_allow_staler_knowledge(
    validation: Validation, clock: FakeClock, wanted: timedelta
) -> None:
    """A caller cannot relax the limit of the service."""
    clock.advance(LIMIT + INSTANT)
    with pytest.raises(RevocationsStale):
        validation.validate(TOKEN, max_staleness=wanted)


def test_knowledge_from_a_clock_ahead_is_fresh(validation: Validation, feed: Feed) -> None:
    """The database's clock may be ahead of this process's estimate."""
    feed.as_of = START + timedelta(seconds=2)
    assert validation.validate(TOKEN, max_staleness=timedelta(0)).claims == CLAIMS


def test_a_caller_is_known_by_its_own_token(validation: Validation, feed: Feed) -> None:
    """With any audience; an invalid or revoked token is an error here."""
    assert validation.verify(TOKEN) == CLAIMS
    with pytest.raises(InvalidToken):
        validation.verify("x")
    feed.revocations.add(Revocation(RevocationKind.TOKEN, "jti", START + timedelta(hours=1)))
    with pytest.raises(InvalidToken) as caught:
        validation.verify(TOKEN)
    assert caught.value.inactive_reason is InactiveReason.TOKEN_REVOKED


def test_no_caller_is_known_on_old_knowledge(validation: Validation, clock: FakeClock) -> None:
    """The token may have been revoked in the meantime."""
    clock.advance(LIMIT + INSTANT)
    with pytest.raises(RevocationsStale):
        validation.verify(TOKEN)
