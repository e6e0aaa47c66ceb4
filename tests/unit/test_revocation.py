"""What a revocation covers, for how long, and what the list forgets."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_service import base64url
from auth_service.errors import InactiveReason
from auth_service.models import Revocation, RevocationKind
from auth_service.tokens.access import AccessClaims
from auth_service.tokens.revocation import (
    LAST_SECOND,
    MOST_PRUNED,
    RevocationList,
    marks,
    whole_second_after,
)
from tests.clock import FakeClock

START = datetime(2026, 1, 1, tzinfo=UTC)
EPOCH = int(START.timestamp())
RAW = bytes(range(0xF0, 0x100))
TOKEN_ID, SESSION_ID = base64url.encode(RAW), str(UUID(bytes=RAW))


def claims(
    token_id: str = "jti", session_id: str = "sid", subject: str = "sub", issued_at: int = EPOCH
) -> AccessClaims:
    """Return the claims of a token; the arguments are those that a revocation can name."""
    return AccessClaims(
        issuer="https://auth.test",
        subject=subject,
        audience=(),
        expires_at=issued_at + 900,
        issued_at=issued_at,
        token_id=token_id,
        session_id=session_id,
        client_id="web",
        scope=(),
        roles=(),
        auth_time=issued_at,
        amr=(),
    )


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
    assert revocations.check(claims()) is None
    revocations.add(item)
    assert revocations.check(claims()) is reason


@pytest.mark.parametrize("item", SPARING)
def test_a_revocation_spares_what_it_does_not_name(
    revocations: RevocationList, item: Revocation
) -> None:
    """A target of another kind, another user, and a token issued at the bound stay valid."""
    revocations.add(item)
    assert revocations.check(claims()) is None


@pytest.mark.parametrize(("item", "reason"), COVERING)
def test_adding_twice_is_adding_once(
    revocations: RevocationList, item: Revocation, reason: InactiveReason
) -> None:
    """A feed may repeat itself."""
    revocations.add(item)
    revocations.add(item)
    assert len(revocations) == 1
    assert revocations.check(claims()) is reason


@pytest.mark.parametrize(("item", "reason"), COVERING[:3])
def test_a_revocation_lasts_until_its_expiry_and_no_longer(
    clock: FakeClock, revocations: RevocationList, item: Revocation, reason: InactiveReason
) -> None:
    """It is there in its last second, and pruned after it."""
    revocations.add(item)
    clock.advance(timedelta(seconds=100))
    revocations.prune()
    assert revocations.check(claims()) is reason
    clock.advance(timedelta(seconds=1))
    revocations.prune()
    assert revocations.check(claims()) is None
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
    assert len(revocations) == 1
    clock.advance(timedelta(seconds=60))
    revocations.prune()
    assert revocations.check(claims()) is reason
    clock.advance(timedelta(seconds=60))
    revocations.prune()
    assert len(revocations) == 0


def test_of_two_bounds_for_a_user_the_later_one_holds(revocations: RevocationList) -> None:
    """An older revocation that comes late takes nothing back."""
    for before in (5, 2):
        revocations.add(revocation(RevocationKind.USER, "sub", before=before))
        revocations.add(revocation(RevocationKind.ALL, before=before - 2))
    assert revocations.check(claims(issued_at=EPOCH + 4)) is InactiveReason.USER_REVOKED
    assert revocations.check(claims(issued_at=EPOCH + 5)) is None
    assert revocations.check(claims(subject="x", issued_at=EPOCH + 2)) is not None
    assert revocations.check(claims(subject="x", issued_at=EPOCH + 3)) is None


def test_an_expired_revocation_is_not_taken_in(revocations: RevocationList) -> None:
    """What can no longer matter costs no memory."""
    revocations.add(revocation(RevocationKind.TOKEN, "jti", expires=-1))
    assert len(revocations) == 0


def test_adding_prunes_what_has_expired(clock: FakeClock, revocations: RevocationList) -> None:
    """The list stays small although nobody calls prune."""
    revocations.add(revocation(RevocationKind.TOKEN, "old", expires=10))
    clock.advance(timedelta(seconds=20))
    revocations.add(revocation(RevocationKind.TOKEN, "new"))
    assert len(revocations) == 1


def test_of_many_those_are_returned_that_say_something_new(revocations: RevocationList) -> None:
    """Not what was known, has expired, or came earlier in the same batch."""
    known, later = (revocation(RevocationKind.SESSION, "sid", expires) for expires in (50, 100))
    other = revocation(RevocationKind.TOKEN, "jti")
    revocations.add(known)
    expired = revocation(RevocationKind.TOKEN, "old", -1)
    assert revocations.add_all([known, later, known, expired, other, other]) == [later, other]
    assert len(revocations) == 2


@pytest.mark.parametrize("kind", [RevocationKind.USER, RevocationKind.ALL])
def test_a_bound_is_required_where_it_matters(
    revocations: RevocationList, kind: RevocationKind
) -> None:
    """Without it there would be no telling which tokens are meant."""
    with pytest.raises(ValueError, match="needs issued_before"):
        revocations.add(revocation(kind, "sub"))


@pytest.mark.parametrize(
    "item",
    [
        revocation(RevocationKind.TOKEN),
        revocation(RevocationKind.SESSION),
        revocation(RevocationKind.USER, before=1),
    ],
)
def test_a_revocation_of_nothing_covers_nothing(
    revocations: RevocationList, item: Revocation
) -> None:
    """The token of a service account has no session: an empty `sid` must not revoke them all."""
    assert not revocations.add(item)
    assert len(revocations) == 0
    assert revocations.check(claims("", "", "")) is None


@pytest.mark.parametrize(
    "kind", [RevocationKind.TOKEN, RevocationKind.SESSION, RevocationKind.USER]
)
def test_the_last_second_that_can_be_written_is_the_latest_expiry(
    revocations: RevocationList, kind: RevocationKind
) -> None:
    """A token may expire at the end of the year 9999, and its revocation can still be told."""
    end = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    assert revocations.add(Revocation(kind, "x", end, START))
    (told,) = revocations.snapshot()
    assert int(told.expires_at.timestamp()) == LAST_SECOND
    assert not revocations.add(told)


def test_the_second_after_is_whole_and_later() -> None:
    """Every `iat` up to the moment is before it."""
    for microsecond in (0, 1, 999_999):
        after = whole_second_after(START.replace(microsecond=microsecond))
        assert after == START + timedelta(seconds=1)


# How ids are spelled


SPELLINGS = {
    False: [TOKEN_ID, SESSION_ID, TOKEN_ID[:-1] + "x", TOKEN_ID.replace("-", "+"), TOKEN_ID + "=="],
    True: [SESSION_ID, TOKEN_ID, SESSION_ID.upper(), RAW.hex(), "{" + SESSION_ID + "}", "x" * 2700],
}


@pytest.mark.parametrize(
    ("session", "text"), [(kind, text) for kind, texts in SPELLINGS.items() for text in texts]
)
def test_an_id_is_its_exact_text(
    clock: FakeClock, revocations: RevocationList, session: bool, text: str
) -> None:
    """Although most are kept as 16 bytes, no other spelling of the same bytes is revoked."""
    kind = RevocationKind.SESSION if session else RevocationKind.TOKEN
    item = revocation(kind, text)
    assert revocations.add(item)
    assert not revocations.add(item)
    for name in {*SPELLINGS[False], *SPELLINGS[True]}:
        found = revocations.check(claims(session_id=name) if session else claims(token_id=name))
        assert (found is not None) == (name == text)
    assert [(told.kind, told.target) for told in revocations.snapshot()] == [(kind, text)]
    clock.advance(timedelta(seconds=101))
    assert not revocations.prune()
    assert (len(revocations), revocations.snapshot()) == (0, [])


@pytest.mark.parametrize("text", ["jti", "\ud800", "é", TOKEN_ID, SESSION_ID])
def test_a_token_and_a_session_of_one_name_are_two(
    clock: FakeClock, revocations: RevocationList, text: str
) -> None:
    """Each is found, told and forgotten by itself."""
    revocations.add(revocation(RevocationKind.TOKEN, text, 10))
    revocations.add(revocation(RevocationKind.SESSION, text, 50))
    assert len(revocations.snapshot()) == 2
    clock.advance(timedelta(seconds=20))
    revocations.prune()
    assert [told.kind for told in revocations.snapshot()] == [RevocationKind.SESSION]
    assert revocations.check(claims(token_id=text)) is None
    assert revocations.check(claims(session_id=text)) is InactiveReason.SESSION_REVOKED


def test_packed_ids_are_taken_in_as_they_are(clock: FakeClock, revocations: RevocationList) -> None:
    """Sixteen bytes each; what has expired is left out, and no expiry is too late."""
    other = bytes(16)
    revocations.add_packed(RAW + other, EPOCH + 100, session=False)
    revocations.add_packed(RAW, 1 << 50, session=True)
    revocations.add_packed(bytes(range(16)), EPOCH, session=True)
    assert len(revocations) == 3
    assert revocations.check(claims(token_id=TOKEN_ID)) is InactiveReason.TOKEN_REVOKED
    assert revocations.check(claims(token_id=base64url.encode(other))) is not None
    assert revocations.check(claims(session_id=SESSION_ID)) is InactiveReason.SESSION_REVOKED
    clock.advance(timedelta(days=365_000))
    revocations.prune()
    assert revocations.check(claims(token_id=TOKEN_ID)) is None
    assert revocations.check(claims(session_id=SESSION_ID)) is InactiveReason.SESSION_REVOKED


def test_known_marks_give_the_same_verdict() -> None:
    """They only spare their making."""
    revocations = RevocationList(FakeClock())
    revocations.add(revocation(RevocationKind.TOKEN, TOKEN_ID, 100))
    for each in (claims(token_id=TOKEN_ID), claims(token_id="other")):
        verdict = revocations.check(each, marks(each))
        assert verdict is revocations.check(each)


# Many of them


def many(count: int, expires: int = 100) -> list[Revocation]:
    """Return revocations of tokens and sessions whose ids are 16 bytes."""
    return [
        revocation(RevocationKind.SESSION, str(UUID(int=number)), expires)
        if number % 2
        else revocation(RevocationKind.TOKEN, base64url.encode(number.to_bytes(16)), expires)
        for number in range(count)
    ]


def test_one_call_prunes_no_more_than_so_many(
    clock: FakeClock, revocations: RevocationList
) -> None:
    """The event loop has its turn in between, however many expire in one second."""
    revocations.add_all([*many(MOST_PRUNED + 10), revocation(RevocationKind.USER, "sub", before=1)])
    clock.advance(timedelta(seconds=101))
    before = len(revocations)
    assert revocations.prune()
    assert 0 < before - len(revocations) <= MOST_PRUNED * 2
    while revocations.prune():
        pass
    assert len(revocations) == 0


def test_what_is_pruned_is_forgotten_and_nothing_else(
    clock: FakeClock, revocations: RevocationList
) -> None:
    """Among many ids, some in the same slot, exactly those that have not expired are found."""
    short, long = many(20_000, 50)[:10_000], many(20_000, 500)[10_000:]
    revocations.add_all([*short, *long])
    clock.advance(timedelta(seconds=51))
    while revocations.prune():
        pass
    assert len(revocations) == len(long)
    told = {(item.kind, item.target) for item in revocations.snapshot()}
    assert told == {(item.kind, item.target) for item in long}
    clock.advance(timedelta(seconds=450))
    while revocations.prune():
        pass
    assert not any(revocations._ids.slots)


def test_a_revocation_costs_64_bytes_or_less() -> None:
    """Of a hundred thousand, without the memory that even an empty list has."""
    revocations = RevocationList(FakeClock(START))
    ids = revocations._ids
    empty = sum(map(sys.getsizeof, {id(bucket): bucket for bucket in ids._buckets}.values()))
    count = 200_000
    for second in range(1000):
        part = b"".join(
            hash((second, number)).to_bytes(16, signed=True) for number in range(count // 1000)
        )
        revocations.add_packed(part, EPOCH + 1 + second, session=bool(second % 2))
    assert len(revocations) == count
    used = sum(map(sys.getsizeof, {id(bucket): bucket for bucket in ids._buckets}.values()))
    used += sum(map(sys.getsizeof, ids._due.values()))
    assert (used - empty) / count <= 64


@contextmanager
def eager_threads() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def test_threads_check_while_one_adds_and_prunes(clock: FakeClock) -> None:
    """A lasting revocation always holds during it, and a token that was not revoked never is."""
    revocations = RevocationList(clock)
    lasting = [
        revocation(RevocationKind.SESSION, str(UUID(int=n << 64)), 1000) for n in range(1, 200)
    ]
    revocations.add_all(lasting)
    revoked = [claims(session_id=item.target) for item in lasting]
    free = [claims(session_id=str(UUID(int=n << 64 | 1))) for n in range(1, 200)]
    wrong: list[AccessClaims] = []
    done = threading.Event()

    def check() -> None:
        while not done.is_set():
            wrong.extend(one for one in revoked if revocations.check(one) is None)
            wrong.extend(one for one in free if revocations.check(one) is not None)

    with eager_threads():
        threads = [threading.Thread(target=check) for _ in range(3)]
        for thread in threads:
            thread.start()
        for turn in range(5):
            revocations.add_all(many(1000, turn * 2 + 1))
            clock.advance(timedelta(seconds=2))
            while revocations.prune():
                pass
        done.set()
        for thread in threads:
            thread.join()
    assert wrong == []


ITEMS = st.builds(
    revocation,
    st.sampled_from(RevocationKind),
    st.sampled_from(["a", "b", TOKEN_ID, SESSION_ID]),
    st.integers(-5, 40),
    st.integers(0, 40),
)
CLAIMS = st.builds(
    claims,
    *[st.sampled_from(["a", "b", "c", TOKEN_ID, SESSION_ID])] * 3,
    st.integers(EPOCH, EPOCH + 40),
)


@given(st.lists(st.one_of(ITEMS, st.integers(0, 15))), CLAIMS)
def test_the_list_agrees_with_a_naive_model(
    steps: list[Revocation | int], token: AccessClaims
) -> None:
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
    assert (revocations.check(token) is not None) == _revoked(model, token, clock())


def _revoked(model: list[Revocation], token: AccessClaims, now: datetime) -> bool:
    named = {
        RevocationKind.TOKEN: token.token_id,
        RevocationKind.SESSION: token.session_id,
        RevocationKind.USER: token.subject,
    }
    for item in model:
        assert item.issued_before is not None
        early = token.issued_at < item.issued_before.timestamp()
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
