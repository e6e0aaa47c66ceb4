"""What a revocation covers, for how long, and what the list forgets."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_service.errors import InactiveReason
from auth_service.models import Revocation, RevocationKind
from auth_service.tokens.revocation import RevocationList, whole_second_after
from tests.clock import FakeClock

START = datetime(2026, 1, 1, tzinfo=UTC)
EPOCH = int(START.timestamp())


@dataclass(frozen=True)
class Claims:
    """What a revocation can name of a token."""

    token_id: str = "jti"
    session_id: str = "sid"
    subject: str = "sub"
    issued_at: int = EPOCH


def revocation(
    kind: RevocationKind, target: str = "", expires: int = 100, before: int | None = None
) -> Revocation:
    """Build a revocation; its times are seconds after START."""
    issued_before = None if before is None else START + timedelta(seconds=before)
    return Revocation(kind, target, START + timedelta(seconds=expires), issued_before)


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands at START."""
    return FakeClock(START)


@pytest.fixture
def revocations(clock: FakeClock) -> RevocationList:
    """An empty list."""
    return RevocationList(clock)


COVERING = [
    (revocation(RevocationKind.TOKEN, "jti"), InactiveReason.TOKEN_REVOKED),
    (revocation(RevocationKind.SESSION, "sid"), InactiveReason.SESSION_REVOKED),
    (revocation(RevocationKind.USER, "sub", before=1), InactiveReason.USER_REVOKED),
    (revocation(RevocationKind.ALL, before=1), InactiveReason.USER_REVOKED),
]
SPARING = [
    revocation(RevocationKind.TOKEN, "sid"),
    revocation(RevocationKind.SESSION, "jti"),
    revocation(RevocationKind.USER, "another", before=1),
    revocation(RevocationKind.USER, "sub", before=0),
    revocation(RevocationKind.ALL, before=0),
]


@pytest.mark.parametrize(("item", "reason"), COVERING)
def test_a_revocation_covers_what_it_names(
    revocations: RevocationList, item: Revocation, reason: InactiveReason
) -> None:
    """Each kind refuses its token with its own reason."""
    assert revocations.check(Claims()) is None
    revocations.add(item)
    assert revocations.check(Claims()) is reason


@pytest.mark.parametrize("item", SPARING)
def test_a_revocation_spares_what_it_does_not_name(
    revocations: RevocationList, item: Revocation
) -> None:
    """A target of another kind, another user, or a token issued at the bound stays good."""
    revocations.add(item)
    assert revocations.check(Claims()) is None


@pytest.mark.parametrize(("item", "reason"), COVERING)
def test_adding_twice_is_adding_once(
    revocations: RevocationList, item: Revocation, reason: InactiveReason
) -> None:
    """A feed may repeat itself."""
    revocations.add(item)
    revocations.add(item)
    assert len(revocations) == 1
    assert revocations.check(Claims()) is reason


@pytest.mark.parametrize(("item", "reason"), COVERING[:3])
def test_a_revocation_lasts_until_its_expiry_and_no_longer(
    clock: FakeClock, revocations: RevocationList, item: Revocation, reason: InactiveReason
) -> None:
    """It is there in its last second, and pruned after it."""
    revocations.add(item)
    clock.advance(timedelta(seconds=100))
    revocations.prune()
    assert revocations.check(Claims()) is reason
    clock.advance(timedelta(seconds=1))
    revocations.prune()
    assert revocations.check(Claims()) is None
    assert len(revocations) == 0


@pytest.mark.parametrize("order", [(50, 100), (100, 50)])
@pytest.mark.parametrize(("item", "reason"), COVERING[:3])
def test_of_two_expiries_the_later_one_holds(
    clock: FakeClock,
    revocations: RevocationList,
    item: Revocation,
    reason: InactiveReason,
    order: tuple[int, int],
) -> None:
    """In whichever order they come, the longer revocation wins."""
    before = 1 if item.kind is RevocationKind.USER else None
    for expires in order:
        revocations.add(revocation(item.kind, item.target, expires, before))
    clock.advance(timedelta(seconds=60))
    revocations.prune()
    assert revocations.check(Claims()) is reason
    clock.advance(timedelta(seconds=60))
    revocations.prune()
    assert len(revocations) == 0


def test_of_two_bounds_for_a_user_the_later_one_holds(revocations: RevocationList) -> None:
    """An older revocation that comes late takes nothing back."""
    for before in (5, 2):
        revocations.add(revocation(RevocationKind.USER, "sub", before=before))
        revocations.add(revocation(RevocationKind.ALL, before=before - 2))
    assert revocations.check(Claims(issued_at=EPOCH + 4)) is InactiveReason.USER_REVOKED
    assert revocations.check(Claims(issued_at=EPOCH + 5)) is None
    assert revocations.check(Claims(subject="x", issued_at=EPOCH + 2)) is not None
    assert revocations.check(Claims(subject="x", issued_at=EPOCH + 3)) is None


def test_an_expired_revocation_is_not_taken_in(revocations: RevocationList) -> None:
    """What can no longer matter costs no memory."""
    revocations.add(revocation(RevocationKind.TOKEN, "jti", expires=-1))
    assert len(revocations) == 0


def test_adding_prunes_what_has_expired(clock: FakeClock, revocations: RevocationList) -> None:
    """The list stays small without anybody calling prune."""
    revocations.add(revocation(RevocationKind.TOKEN, "old", expires=10))
    clock.advance(timedelta(seconds=20))
    revocations.add(revocation(RevocationKind.TOKEN, "new"))
    assert len(revocations) == 1


def test_of_many_those_are_returned_that_say_something_new(revocations: RevocationList) -> None:
    """Not what was known, nor what has expired, nor what came before in the same batch."""
    known, later = (revocation(RevocationKind.SESSION, "sid", expires) for expires in (50, 100))
    other = revocation(RevocationKind.TOKEN, "jti")
    revocations.add(known)
    expired = revocation(RevocationKind.TOKEN, "old", -1)
    assert revocations.add_all([known, later, known, expired, other, other]) == [later, other]
    assert len(revocations) == 2


def test_replacing_forgets_the_rest(revocations: RevocationList) -> None:
    """After a snapshot only what the snapshot holds counts."""
    for item, _ in COVERING:
        revocations.add(item)
    assert len(revocations) == 4
    revocations.replace([revocation(RevocationKind.SESSION, "another")])
    assert len(revocations) == 1
    assert revocations.check(Claims()) is None
    assert revocations.check(Claims(session_id="another")) is InactiveReason.SESSION_REVOKED


@pytest.mark.parametrize("kind", [RevocationKind.USER, RevocationKind.ALL])
def test_a_bound_is_required_where_it_matters(
    revocations: RevocationList, kind: RevocationKind
) -> None:
    """Without it there would be no telling which tokens are meant."""
    with pytest.raises(ValueError, match="needs issued_before"):
        revocations.add(revocation(kind, "sub"))


def test_the_second_after_is_whole_and_later() -> None:
    """Every `iat` up to the moment is before it."""
    for microsecond in (0, 1, 999_999):
        after = whole_second_after(START.replace(microsecond=microsecond))
        assert after == START + timedelta(seconds=1)


ITEMS = st.builds(
    revocation,
    st.sampled_from(RevocationKind),
    st.sampled_from("ab"),
    st.integers(-5, 40),
    st.integers(0, 40),
)
CLAIMS = st.builds(Claims, *[st.sampled_from("abc")] * 3, st.integers(EPOCH, EPOCH + 40))


@given(st.lists(st.one_of(ITEMS, st.integers(0, 15))), CLAIMS)
def test_the_list_agrees_with_a_naive_model(steps: list[Revocation | int], claims: Claims) -> None:
    """After any mix of additions and waiting, exactly the live revocations count."""
    clock = FakeClock(START)
    revocations = RevocationList(clock)
    model: list[Revocation] = []
    for step in steps:
        if isinstance(step, int):
            clock.advance(timedelta(seconds=step))
        else:
            revocations.add(step)
            if step.expires_at >= clock():
                model.append(step)
    revocations.prune()
    assert (revocations.check(claims) is not None) == _revoked(model, claims, clock())


def _revoked(model: list[Revocation], claims: Claims, now: datetime) -> bool:
    named = {
        RevocationKind.TOKEN: claims.token_id,
        RevocationKind.SESSION: claims.session_id,
        RevocationKind.USER: claims.subject,
    }
    for item in model:
        assert item.issued_before is not None
        early = claims.issued_at < item.issued_before.timestamp()
        if item.kind is RevocationKind.ALL:
            if early:
                return True
            continue
        # A user's bounds are kept together: as long as one lives, all that came before it do.
        bounded = item.kind is RevocationKind.USER
        last = max(o.expires_at for o in model if (o.kind, o.target) == (item.kind, item.target))
        alive = (last if bounded else item.expires_at) >= now
        if alive and named[item.kind] == item.target and (early or not bounded):
            return True
    return False
