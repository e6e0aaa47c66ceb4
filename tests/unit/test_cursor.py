"""Cursors: what they cover, and the text that clients keep."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_service.db.cursor import MAX_RUNNING, START, Cursor

SNAPSHOTS = st.lists(st.integers(1, 500), min_size=1, max_size=200, unique=True).map(
    lambda ids: (min(ids), max(ids), tuple(sorted(ids)[:-1]))
)


def test_a_cursor_covers_what_had_ended() -> None:
    """Transactions in progress and those that began later are not covered."""
    cursor = Cursor.of_snapshot((5, 9, (5, 7)))
    assert [xid for xid in range(3, 11) if cursor.covers(xid)] == [3, 4, 6, 8]
    assert not START.covers(0)


@given(SNAPSHOTS)
def test_a_cursor_never_covers_more_than_its_snapshot(
    snapshot: tuple[int, int, tuple[int, ...]],
) -> None:
    """With too many transactions in progress it covers less, and its text stays short."""
    _, end, running = snapshot
    cursor = Cursor.of_snapshot(snapshot)
    for xid in range(502):
        if cursor.covers(xid):
            assert xid < end
            assert xid not in running
        elif len(running) <= MAX_RUNNING:
            assert xid >= end or xid in running
    assert len(cursor.running) <= MAX_RUNNING


@given(SNAPSHOTS)
def test_a_cursor_survives_its_text(snapshot: tuple[int, int, tuple[int, ...]]) -> None:
    """Any replica reads the text that another one made."""
    cursor = Cursor.of_snapshot(snapshot)
    assert Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "-1", "1.5", "²", "x", "9" * 21, str(2**64), "9" + ",1" * 65, " 1"]
)
def test_a_text_that_is_no_cursor_is_refused(text: str) -> None:
    """Clients send it, so it may be anything."""
    assert Cursor.parse(text) is None
