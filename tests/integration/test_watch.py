"""Watch: what one stream of keys and revocations brings, in which order, and to which callers."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc
import pytest
import structlog
import trustme
from authn.v1 import auth_service_pb2, verifier_service_pb2_grpc
from authn.v1 import verifier_service_pb2 as pb

from auth_service import base64url
from auth_service.client.feed import Feed
from auth_service.db.cursor import Cursor
from auth_service.models import Revocation, RevocationKind
from auth_service.rpc import revocation_log, watch
from auth_service.rpc.turns import LEAST, Turns
from auth_service.rpc.watch import MAX_EVENTS, WatchHub
from auth_service.tokens.keys import KeyRing, SigningKey, generate_key
from auth_service.tokens.revocation import RevocationList
from tests.acceptance.servers import Client, make_user
from tests.channels import open_channel
from tests.clock import FakeClock
from tests.integration.serving import (
    SERVICE,
    address,
    make_service_account,
    make_settings,
    refusal,
    running,
)
from tests.integration.test_tls import Files

EPOCH = "7512-00000001"
NEVER = timedelta(hours=1)
PUBLIC, SECRET = generate_key("EdDSA"), generate_key("HS256")
TIMEOUT = 30.0  # seconds, which no passing test takes

Stream = AsyncIterator[bytes]


class Replica:
    """A hub with all around it: what is revoked, which keys there are, how far the feed is."""

    def __init__(
        self, keys: Sequence[SigningKey] = (PUBLIC,), heartbeat: timedelta = NEVER
    ) -> None:
        self.clock = FakeClock()
        self.revocations = RevocationList(self.clock)
        self.ring = KeyRing(keys)
        self.epoch = EPOCH
        self.cursor = 1
        self.running: tuple[int, ...] = ()
        self.hub = WatchHub(self.ring, self.position, self.clock, heartbeat)

    def position(self) -> tuple[datetime, str, Cursor]:
        return self.clock.now, self.epoch, Cursor(self.cursor, self.running)

    def revocation(
        self, target: str, xid: int = 0, kind: RevocationKind = RevocationKind.SESSION
    ) -> Revocation:
        bounded = kind in (RevocationKind.USER, RevocationKind.ALL)
        before = self.clock.now if bounded else None
        return Revocation(kind, target, self.clock.now + timedelta(hours=1), before, xid)

    def announce(self, *found: Revocation) -> None:
        """Take in revocations as the feed does that has read or been told them."""
        new = [revocation for revocation in found if self.revocations.add(revocation)]
        self.hub.revoked(found, new)

    def read(self, *targets: str) -> None:
        """Let the feed read one more transaction that revoked these."""
        self.announce(*(self.revocation(target, self.cursor) for target in targets))
        self.cursor += 1

    def watch(self, cursor: str = "", secrets: bool = False, segments: bool = True) -> Stream:
        return self.hub.watch(cursor, lambda: secrets, segments=segments)

    def at(self, number: int) -> str:
        return f"{EPOCH}:{number}"


@pytest.fixture
def replica() -> Replica:
    """A replica that knows nothing yet."""
    return Replica()


async def take(stream: Stream, count: int) -> list[pb.WatchResponse]:
    """Return the next events of a stream."""
    async with asyncio.timeout(TIMEOUT):
        return [pb.WatchResponse.FromString(await anext(stream)) for _ in range(count)]


async def until(stream: Stream, kind: str) -> list[pb.WatchResponse]:
    """Return the next events of a stream, up to the first of a kind that has a position."""
    events: list[pb.WatchResponse] = []
    while not events or kinds(events)[-1] != kind or not events[-1].HasField("as_of"):
        events += await take(stream, 1)
    return events


async def fresh(replica: Replica, segments: bool = True) -> Stream:
    """Return a stream that has brought everything up to now."""
    stream = replica.watch(segments=segments)
    first, *_, snapshot, heartbeat = kinds(await until(stream, "heartbeat"))
    assert (first, snapshot, heartbeat) == ("key_set", "revocation_snapshot", "heartbeat")
    return stream


async def resumed(replica: Replica, cursor: str, segments: bool = True) -> list[str] | None:
    """Return what a stream that resumes brings as missed; None if it is everything."""
    events = await until(replica.watch(cursor, segments=segments), "heartbeat")
    if any(e.HasField("revocation_snapshot") and e.HasField("as_of") for e in events):
        return None
    assert kinds(events)[0] == "key_set"
    for event in events[:-1]:
        assert not event.cursor
        assert not event.HasField("as_of")
    return [name for event in events for name in names(event)]


def names(event: pb.WatchResponse) -> list[str]:
    """Return whom an event revokes."""
    match event.WhichOneof("event"):
        case "revocation":
            return [target(event.revocation)]
        case "revocation_snapshot":
            return [target(each) for each in event.revocation_snapshot.revocations]
        case "revocation_segment":
            segment = event.revocation_segment
            packed = [
                str(UUID(bytes=group.session_ids[at : at + 16]))
                for group in segment.packed
                for at in range(0, len(group.session_ids), 16)
            ]
            return packed + [target(each) for each in segment.others]
    return []


def kinds(events: Sequence[pb.WatchResponse]) -> list[str | None]:
    return [event.WhichOneof("event") for event in events]


def target(revocation: pb.Revocation) -> str:
    return str(getattr(revocation, revocation.WhichOneof("target") or ""))


# The head of a stream


async def test_a_stream_begins_with_the_keys_then_a_snapshot_then_a_heartbeat(
    replica: Replica,
) -> None:
    """The keys say nothing of how far revocations are known, the rest does."""
    replica.read("a", "b")
    key_set, segment, snapshot, heartbeat = await take(replica.watch(), 4)
    (key,) = key_set.key_set.keys
    assert (key.kid, key.algorithm) == (PUBLIC.kid, "EdDSA")
    assert key.public_jwk == PUBLIC.public_jwk_json()
    assert names(segment) == ["a", "b"]
    for event in (key_set, segment):
        assert not event.cursor
        assert not event.HasField("as_of")
    assert snapshot.HasField("revocation_snapshot")
    for event in (snapshot, heartbeat):
        assert event.cursor == replica.at(2)
        assert event.as_of.ToDatetime(replica.clock.now.tzinfo) == replica.clock.now
    assert heartbeat.HasField("heartbeat")


async def test_a_client_of_the_release_before_gets_the_older_form(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A snapshot in parts; only the last says how far it reaches, and no event is of a new kind."""
    monkeypatch.setattr(watch, "PLAIN_PART", 2)
    replica.read("a", "b", "c", "d", "e")
    _, *parts, heartbeat = await take(replica.watch(segments=False), 6)
    assert [names(part) for part in parts] == [["a", "b"], ["c", "d"], ["e"], []]
    assert kinds(parts) == ["revocation_snapshot"] * 4
    assert [part.HasField("as_of") for part in parts] == [False, False, False, True]
    assert [part.cursor for part in parts] == ["", "", "", replica.at(2)]
    assert heartbeat.HasField("heartbeat")


IDS = [str(UUID(int=number)) for number in range(3)]
TOKENS = [base64url.encode(bytes([number] * 16)) for number in range(3)]


@pytest.mark.parametrize("segments", [True, False])
async def test_both_forms_tell_the_same(replica: Replica, segments: bool) -> None:
    """What can be packed and what cannot, each until it expires."""
    named = (RevocationKind.SESSION, RevocationKind.TOKEN)
    found = [replica.revocation(text, 1, kind) for kind in named for text in (*IDS, *TOKENS)]
    replica.announce(*found, replica.revocation("ada", 1, RevocationKind.USER))
    replica.announce(replica.revocation("", 1, RevocationKind.ALL))
    told = RevocationList(replica.clock)
    feed = Feed(KeyRing([]), told, [], replica.clock)
    feed.begin()
    for event in await until(replica.watch(segments=segments), "heartbeat"):
        assert segments or not event.HasField("revocation_segment")
        feed.apply(event)
    assert sorted(map(str, told.snapshot())) == sorted(map(str, replica.revocations.snapshot()))
    assert len(told) == len(found) + 2
    assert feed.as_of == replica.clock.now


async def test_a_revocation_takes_20_bytes_or_less_on_the_wire(replica: Replica) -> None:
    """Of sessions that expire over half an hour."""
    count = 4 * revocation_log.CHUNK
    for number in range(count):
        session = replica.revocation(str(UUID(int=number << 60)), 1)
        expires_at = session.expires_at + timedelta(seconds=number % 1800)
        replica.announce(replace(session, expires_at=expires_at))
    stream, sizes = replica.watch(), []
    while not pb.WatchResponse.FromString(message := await anext(stream)).cursor:
        sizes.append(len(message))
    assert sum(sizes) / count <= 20
    assert max(sizes) < 2**18


async def test_all_streams_send_the_same_bytes(replica: Replica) -> None:
    """A slow reader holds a reference, and not a copy, of what is encoded once."""
    replica.announce(*(replica.revocation(str(number), 1) for number in range(3000)))
    streams = [replica.watch() for _ in range(3)]
    for stream in streams:
        await take(stream, 1)
    for _ in range(2):
        first, *others = [await anext(stream) for stream in streams]
        assert len(first) > 1000
        assert all(other is first for other in others)


async def test_the_heartbeat_after_a_snapshot_claims_nothing_that_is_still_to_be_sent(
    replica: Replica,
) -> None:
    """A stream that breaks right after it resumes before what was revoked meanwhile."""
    stream = replica.watch()
    await take(stream, 2)
    replica.read("late")
    heartbeat, event = await take(stream, 2)
    assert heartbeat.cursor == replica.at(1)
    assert target(event.revocation) == "late"
    assert await resumed(replica, heartbeat.cursor) == ["late"]


@pytest.mark.parametrize(
    ("kind", "field", "bounded"),
    [
        (RevocationKind.TOKEN, "token_id", False),
        (RevocationKind.SESSION, "session_id", False),
        (RevocationKind.USER, "subject", True),
        (RevocationKind.ALL, "all_tokens", True),
    ],
)
async def test_each_kind_of_revocation_is_told_in_full(
    replica: Replica, kind: RevocationKind, field: str, bounded: bool
) -> None:
    """What it names, which tokens it covers, and until when."""
    stream = await fresh(replica)
    name = "" if kind is RevocationKind.ALL else "x"
    given = replica.revocation(name, 1, kind)
    replica.announce(given)
    (event,) = await take(stream, 1)
    assert event.revocation.WhichOneof("target") == field
    assert name in (target(event.revocation), "")
    zone = replica.clock.now.tzinfo
    assert event.revocation.expires_at.ToDatetime(zone) == given.expires_at
    assert event.revocation.HasField("issued_before") == bounded


# Deltas, heartbeats, keys


async def test_what_is_new_is_sent_in_order_and_once(replica: Replica) -> None:
    """A revocation made here and then read again is one event, on every stream."""
    streams = [await fresh(replica) for _ in range(3)]
    replica.announce(replica.revocation("a"))
    replica.read("a", "b")
    replica.read("c")
    for stream in streams:
        assert [target(e.revocation) for e in await take(stream, 3)] == ["a", "b", "c"]


async def test_an_events_cursor_never_runs_ahead_of_what_was_sent(replica: Replica) -> None:
    """Resumed from any event, a stream brings all that came after it."""
    stream = await fresh(replica)
    for name in "abcd":
        replica.read(name, name.upper())
    events = await take(stream, 8)
    sent = [target(event.revocation) for event in events]
    for number, event in enumerate(events):
        missed = await resumed(replica, event.cursor)
        assert missed is not None
        assert set(sent[number + 1 :]) <= set(missed)


async def test_where_nothing_happens_a_heartbeat_comes() -> None:
    """With the time and the cursor up to which nothing did."""
    replica = Replica(heartbeat=timedelta(milliseconds=1))
    stream = await fresh(replica)
    replica.clock.advance(timedelta(seconds=7))
    replica.cursor = 9
    (event,) = await take(stream, 1)
    assert event.HasField("heartbeat")
    assert event.cursor == replica.at(9)
    assert event.as_of.ToDatetime(replica.clock.now.tzinfo) == replica.clock.now


async def test_a_change_of_keys_sends_the_set_again_before_anything_queued(
    replica: Replica,
) -> None:
    """A key that is trusted no more is not trusted a moment longer."""
    stream = await fresh(replica)
    other = generate_key("EdDSA")
    replica.read("a")
    replica.ring.replace([other])
    replica.hub.keys_changed()
    keys, event = await take(stream, 2)
    assert [key.kid for key in keys.key_set.keys] == [other.kid]
    assert target(event.revocation) == "a"


async def test_a_stream_that_waits_is_woken_by_each_kind_of_event(replica: Replica) -> None:
    """Nothing waits for the heartbeat, which here never comes."""
    stream = await fresh(replica)
    causes: list[tuple[Callable[[], None], str]] = [
        (lambda: replica.read("a"), "revocation"),
        (replica.hub.keys_changed, "key_set"),
    ]
    for cause, kind in causes:
        waiting = asyncio.ensure_future(take(stream, 1))
        await asyncio.sleep(0)
        cause()
        assert kinds(await waiting) == [kind]


async def test_close_ends_all_streams_and_each_new_one() -> None:
    """Those that wait, those that have much to send, and those that come after."""
    replica = Replica()
    waiting, busy = await fresh(replica), await fresh(replica)

    async def to_its_end(stream: Stream) -> None:
        async for _ in stream:
            pass

    end = asyncio.ensure_future(to_its_end(waiting))
    replica.read("a", "b")
    await take(busy, 1)
    await asyncio.sleep(0)
    replica.hub.close()
    async with asyncio.timeout(TIMEOUT):
        await end
    assert await anext(busy, None) is None
    assert await anext(replica.watch(), None) is None


# Resuming


async def test_a_stream_resumes_with_exactly_what_was_missed(replica: Replica) -> None:
    """Keys first, then the revocations from the cursor on, then how far that reaches."""
    for name in "abcd":
        replica.read(name)
    keys, *missed, heartbeat = await until(replica.watch(replica.at(3)), "heartbeat")
    assert keys.HasField("key_set")
    assert [name for event in missed for name in names(event)] == ["c", "d"]
    assert heartbeat.cursor == replica.at(5)
    assert await resumed(replica, replica.at(5)) == []


async def test_what_was_revoked_here_and_not_read_yet_is_not_missed(replica: Replica) -> None:
    """It has no number yet, so every stream that resumes is told."""
    replica.announce(replica.revocation("here"))
    assert await resumed(replica, replica.at(replica.cursor)) == ["here"]
    replica.read("here")
    assert await resumed(replica, replica.at(1)) == ["here"]
    assert await resumed(replica, replica.at(2)) == []


async def test_what_was_read_before_it_was_announced_is_not_kept_as_unread(
    replica: Replica,
) -> None:
    """The feed may be faster than the call that revoked."""
    replica.read("here")
    replica.announce(replica.revocation("here"))
    assert await resumed(replica, replica.at(2)) == []


async def test_an_older_revocation_does_not_hide_a_wider_one_not_read_yet(
    replica: Replica,
) -> None:
    """Two of one user within one poll: both are told until the second is read."""
    first = replica.revocation("ada", 1, RevocationKind.USER)
    replica.clock.advance(timedelta(seconds=5))
    replica.announce(replica.revocation("ada", 0, RevocationKind.USER))
    second = replica.revocation("ada", 2, RevocationKind.USER)
    replica.announce(first)
    replica.cursor = 2
    assert await resumed(replica, replica.at(2)) == ["ada"]
    replica.announce(second)
    replica.cursor = 3
    assert await resumed(replica, replica.at(3)) == []


async def test_each_of_two_announcements_of_one_session_is_numbered(replica: Replica) -> None:
    """It was revoked twice before the feed read it once, the second time for longer."""
    replica.announce(replica.revocation("sid"))
    replica.clock.advance(timedelta(seconds=5))
    replica.announce(replica.revocation("sid"))
    assert await resumed(replica, replica.at(1)) == ["sid", "sid"]
    replica.read("sid")
    assert await resumed(replica, replica.at(1)) == ["sid", "sid"]
    assert await resumed(replica, replica.at(2)) == []


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "1",
        ":1",
        "another-00000001:1",
        "7512-00000002:1",
        f"{EPOCH}:",
        f"{EPOCH}:-1",
        f"{EPOCH}:1.5",
        f"{EPOCH}:²",
        f"{EPOCH}:{'9' * 5000}",
        f"{EPOCH}:x",
        f"{EPOCH}:9,",
        f"{EPOCH}:9" + ",1" * 65,
        f"{EPOCH}:{2**64}",
        "\x00",
        ":" * 1000,
    ],
)
async def test_a_cursor_that_means_nothing_here_gets_a_snapshot(
    replica: Replica, cursor: str
) -> None:
    """It is of another database or another timeline, or the service never made it."""
    replica.read("a")
    assert await resumed(replica, cursor) is None


async def test_a_database_without_an_epoch_gives_no_cursors(replica: Replica) -> None:
    """Every stream then begins with a snapshot."""
    replica.epoch = ""
    events = await take(replica.watch(":1"), 3)
    assert kinds(events) == ["key_set", "revocation_snapshot", "heartbeat"]
    assert [event.cursor for event in events] == [""] * 3


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that keeps four revocations one by one, or a few more, and others in chunks of two."""
    monkeypatch.setattr(revocation_log, "LATEST", 4)
    monkeypatch.setattr(revocation_log, "CHUNK", 2)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("segments", [True, False])
async def test_a_stream_resumes_however_much_it_missed(replica: Replica, segments: bool) -> None:
    """It gets nothing that is much older, and a revocation of before only within a chunk."""
    for number in range(1, 40):
        replica.read(str(number))
    for number in range(1, 41):
        missed = await resumed(replica, replica.at(number), segments)
        assert missed is not None
        wanted = [str(n) for n in range(number, 40)]
        assert missed[-len(wanted) :] == wanted or wanted == []
        assert len(missed) - len(wanted) <= 1


@pytest.mark.usefixtures("small")
async def test_what_is_announced_and_packed_before_it_is_read_is_told_until_then(
    replica: Replica,
) -> None:
    """Every stream that resumes gets it, however new its cursor."""
    replica.announce(replica.revocation("here"))
    replica.announce(*(replica.revocation(str(n), 1) for n in range(20)))
    replica.cursor = 5
    missed = await resumed(replica, replica.at(5))
    assert missed is not None
    assert "here" in missed
    replica.read("here")
    assert await resumed(replica, replica.at(6)) == []


@pytest.mark.usefixtures("small")
async def test_a_stream_resumes_past_a_transaction_that_stays_open(replica: Replica) -> None:
    """It is told what that transaction revokes in the end, and nothing from before."""
    replica.cursor, replica.running = 2, (1,)
    for number in range(2, 40):
        replica.read(str(number))
    cursor = f"{EPOCH}:{Cursor(replica.cursor, (1,))}"
    replica.read("next")
    assert await resumed(replica, cursor) == ["next"]
    replica.announce(replica.revocation("late", 1))
    assert await resumed(replica, cursor) == ["next", "late"]
    replica.running = ()
    replica.read(*map(str, range(100, 140)))
    missed = await resumed(replica, cursor)
    assert missed is not None
    assert {"next", "late", "139"} <= set(missed)
    assert len(missed) <= 43


@pytest.mark.usefixtures("small")
async def test_after_a_failover_no_cursor_covers_what_was_known_before(replica: Replica) -> None:
    """Transaction ids of another epoch mean nothing, and the new database may lack some of it."""
    for number in range(1, 20):
        replica.read(str(number))
    assert await resumed(replica, replica.at(20)) == []
    replica.epoch, replica.cursor = "7512-00000002", 3
    old = [str(number) for number in range(1, 20)]
    assert await resumed(replica, f"{replica.epoch}:100") == old
    replica.read("new")
    assert await resumed(replica, f"{replica.epoch}:4") == old
    assert await resumed(replica, f"{replica.epoch}:3") == [*old, "new"]
    assert await resumed(replica, replica.at(100)) is None


@pytest.mark.usefixtures("small")
async def test_what_has_expired_is_sent_no_more(replica: Replica) -> None:
    """Chunks go when all in them has expired, and lose what has when half has."""
    long = replica.revocation("long", 1)
    long = replace(long, expires_at=long.expires_at + timedelta(days=365))
    replica.announce(long, *(replica.revocation(str(n), 1) for n in range(30)))
    for _ in range(3):
        replica.clock.advance(timedelta(hours=2))
        replica.announce(*(replica.revocation(f"{replica.clock.now}{n}", 1) for n in range(10)))
    missed = await resumed(replica, replica.at(1))
    assert missed is not None
    assert "long" in missed
    assert set(missed).isdisjoint(map(str, range(30)))
    assert len(missed) <= 21


@pytest.mark.usefixtures("small")
async def test_expiry_between_two_seconds_leaves_no_empty_chunk(replica: Replica) -> None:
    """What cannot be packed expires at the end of its second, as what is packed does."""
    replica.clock.now = replica.clock.now.replace(microsecond=0)
    short, long = replica.revocation("short", 1), replica.revocation("long", 1)
    long = replace(long, expires_at=long.expires_at + timedelta(seconds=1))
    filling = [replica.revocation(str(n), 1) for n in range(20)]
    far = timedelta(days=1)
    replica.announce(short, long, *(replace(r, expires_at=r.expires_at + far) for r in filling))
    replica.clock.advance(timedelta(hours=1, seconds=1.5))
    replica.hub.revoked([], [])
    missed = await resumed(replica, replica.at(1))
    assert missed is not None
    assert (missed[0], len(missed)) == ("long", 21)


# Slow readers


@pytest.mark.parametrize("segments", [True, False])
@pytest.mark.parametrize("count", [MAX_EVENTS + 1, 5000])
async def test_a_slow_reader_gets_what_it_missed_in_few_messages(
    replica: Replica, count: int, segments: bool
) -> None:
    """Nothing is queued for it meanwhile, and the stream goes on."""
    stream, fast = await fresh(replica, segments), await fresh(replica, segments)
    for number in range(count):
        replica.read(str(number))
        if number % MAX_EVENTS == MAX_EVENTS - 1:
            assert len(await take(fast, MAX_EVENTS)) == MAX_EVENTS
    events = await until(stream, "heartbeat")
    assert [name for e in events for name in names(e)] == [str(n) for n in range(count)]
    assert len(events) <= 2 + (count / 400 if segments else count / 40)
    assert events[-1].cursor == replica.at(replica.cursor)
    replica.read("later")
    (event,) = await take(stream, 1)
    assert target(event.revocation) == "later"


async def test_a_stream_that_waits_for_its_turn_shows_that_it_lives(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By heartbeats that claim nothing; keys that change are sent at once, and close ends it."""
    for name in ("LEAST", "BYTES_PER_SECOND"):
        monkeypatch.setattr(f"auth_service.rpc.turns.{name}", 1e-6)
    replica.hub._heartbeat = 0.001
    replica.read("a")
    first, second = replica.watch(), replica.watch()
    assert kinds(await take(first, 1)) == ["key_set"]  # its opening takes the only turn
    keys, alive = await take(second, 2)
    assert keys.HasField("key_set")
    assert alive == pb.WatchResponse(heartbeat=pb.Heartbeat())
    replica.hub.keys_changed()
    assert kinds(await take(second, 3)) == ["key_set", "heartbeat", "heartbeat"]
    replica.hub.close()
    assert await anext(second, None) is None


async def test_many_streams_are_woken_some_at_a_time(replica: Replica) -> None:
    """The event loop has its turn in between, and each stream is told."""
    streams = [await fresh(replica) for _ in range(3 * watch.WOKEN)]
    waiting = [asyncio.ensure_future(take(stream, 1)) for stream in streams]
    await asyncio.sleep(0)
    replica.read("a")
    woken = sum(stream.is_awake for stream in replica.hub._streams)
    assert woken == watch.WOKEN
    for told in await asyncio.gather(*waiting):
        assert names(told[0]) == ["a"]


async def test_the_stream_that_came_first_has_its_turns_first() -> None:
    """And one that has ended leaves its turn to the next."""
    turns = Turns()
    numbers = [turns.number() for _ in range(3)]
    asked = [turns.ask(number, 1000) for number in reversed(numbers)]
    given: list[int] = []

    def note(number: int, turn: "asyncio.Future[None]") -> None:
        if not turn.cancelled():
            given.append(number)

    for number, turn in zip(reversed(numbers), asked, strict=True):
        turn.add_done_callback(partial(note, number))
    asked[1].cancel()
    await asyncio.sleep(0)
    async with asyncio.timeout(TIMEOUT):
        await asyncio.wait(asked)
        await turns.ask(turns.number(), 1)
    assert given == [numbers[0], numbers[2]]


async def test_streams_get_their_least_however_late_the_event_loop_is() -> None:
    """The next turn is no later than the size of this one asks for at that rate."""
    turns, loop, size = Turns(), asyncio.get_running_loop(), 1000
    turn = turns.ask(turns.number(), size)
    time.sleep(0.2)  # noqa: ASYNC251 - what makes the loop late
    await turn
    assert turns._free_at <= loop.time() + size / LEAST


@pytest.mark.usefixtures("small")
async def test_a_stream_sends_several_chunks_in_a_turn(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And waits for another turn with what follows."""
    for name in ("LEAST", "BYTES_PER_SECOND"):
        monkeypatch.setattr(f"auth_service.rpc.turns.{name}", 1e-6)
    monkeypatch.setattr(watch, "OPENING", 0)
    for number in range(4 * watch.A_TURN):
        replica.read(str(number))
    stream = replica.watch()
    keys, *segments = kinds(await take(stream, 1 + watch.A_TURN))
    assert keys == "key_set"
    assert set(segments) == {"revocation_segment"}
    replica.hub._heartbeat = 0.001
    assert kinds(await take(stream, 1)) == ["heartbeat"]


# Secrets


@pytest.mark.parametrize("may", [True, False])
async def test_secrets_go_only_to_who_may_have_them(may: bool) -> None:
    """Others get the public keys of the same ring."""
    replica = Replica([SECRET, PUBLIC])
    (event,) = await take(replica.watch(secrets=may), 1)
    keys = {key.kid: key for key in event.key_set.keys}
    assert keys.keys() == ({SECRET.kid, PUBLIC.kid} if may else {PUBLIC.kid})
    if may:
        assert keys[SECRET.kid].secret == SECRET.secret
        assert not keys[SECRET.kid].public_jwk


async def test_whether_secrets_may_be_had_is_asked_for_each_set_that_has_any() -> None:
    """A ring without them asks nothing; what the answer raises ends the stream."""
    replica = Replica()

    def no_more() -> bool:
        raise PermissionError

    stream = replica.hub.watch("", no_more)
    await take(stream, 3)
    replica.ring.replace([SECRET])
    replica.hub.keys_changed()
    with pytest.raises(PermissionError):
        await take(stream, 1)


# Over the wire


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AUTH_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """A server sets up the logs of its process: leave nothing of that behind."""
    yield
    structlog.reset_defaults()


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


def open_watch(channel: Any, cursor: str = "", metadata: Any = ()) -> Any:
    stub: Any = verifier_service_pb2_grpc.VerifierServiceStub(channel)
    request = pb.WatchRequest(cursor=cursor, accept_segments=True)
    return stub.Watch(request, metadata=metadata, timeout=TIMEOUT)


async def first(call: Any, count: int = 3) -> list[Any]:
    """Return the first events of a call, which is then cancelled."""
    events = [await call.read() for _ in range(count)]
    call.cancel()
    return events


async def service_token(client: Client, secret: str) -> str:
    credentials = auth_service_pb2.ClientCredentials(client_id=SERVICE, client_secret=secret)
    reply = await client.auth.Login(
        auth_service_pb2.LoginRequest(client=credentials), timeout=TIMEOUT
    )
    return str(reply.tokens.access_token)


async def test_who_is_not_a_verifier_gets_public_keys_and_revocations(database_url: str) -> None:
    """Nobody in particular, and a user without the role."""
    await make_user(database_url)
    async with running(make_settings(database_url)) as server:
        client = await Client(address(server)).ready()
        pair = await client.login()
        await client.auth.Revoke(auth_service_pb2.RevokeRequest(refresh_token=pair.refresh_token))
        other = await client.login()
        for metadata in ((), bearer(other.access_token)):
            call = open_watch(client.channel, "", metadata)
            keys, segment, _, heartbeat = await first(call, 4)
            assert not keys.key_set.keys
            assert names(segment) == [pair.session_id]
            assert heartbeat.cursor
        await client.channel.close()
    async with running(make_settings(database_url, signing_algorithm="EdDSA")) as server:
        client = await Client(address(server)).ready()
        (keys,) = await first(open_watch(client.channel), 1)
        (key,) = keys.key_set.keys
        assert key.algorithm == "EdDSA"
        stub: Any = verifier_service_pb2_grpc.VerifierServiceStub(client.channel)
        reply = await stub.GetJwks(pb.GetJwksRequest(), timeout=TIMEOUT)
        assert json.loads(reply.jwks_json) == {"keys": [json.loads(key.public_jwk)]}
        await client.channel.close()


async def test_a_service_account_with_the_role_gets_the_shared_key(database_url: str) -> None:
    """It could sign with it: the role `verifier` is what allows that."""
    settings = make_settings(database_url)
    secret = await make_service_account(database_url)
    async with running(settings) as server:
        client = await Client(address(server)).ready()
        token = await service_token(client, secret)
        (keys,) = await first(open_watch(client.channel, "", bearer(token)), 1)
        (key,) = keys.key_set.keys
        assert (key.algorithm, key.secret) == ("HS256", settings.shared_key_bytes())
        await client.channel.close()


@pytest.mark.parametrize(
    "metadata",
    [
        bearer("nonsense"),
        bearer(""),
        (("authorization", "Basic YTpi"),),
        bearer("a") + bearer("b"),
    ],
)
async def test_an_invalid_token_is_reported_at_once(database_url: str, metadata: Any) -> None:
    """UNAUTHENTICATED, and not one event: it is no anonymous caller."""
    async with running(make_settings(database_url)) as server:
        client = await Client(address(server)).ready()
        seen = await refusal(open_watch(client.channel, "", metadata).read())
        assert seen.code is grpc.StatusCode.UNAUTHENTICATED
        assert seen.reason == "INVALID_TOKEN"
        await client.channel.close()


async def test_a_call_that_needs_a_caller_refuses_one_without_a_token(database_url: str) -> None:
    """Unlike Watch, which serves anybody what is public."""
    async with running(make_settings(database_url)) as server:
        client = await Client(address(server)).ready()
        request = auth_service_pb2.RevokeRequest(all_sessions=auth_service_pb2.AllSessions())
        seen = await refusal(client.auth.Revoke(request))
        assert seen.code is grpc.StatusCode.UNAUTHENTICATED
        await client.channel.close()


@pytest.mark.parametrize(
    ("name", "is_verifier"), [("orders.internal", True), ("billing.internal", False)]
)
async def test_a_certificate_of_a_listed_name_is_a_verifiers(
    database_url: str, tmp_path: Path, name: str, is_verifier: bool
) -> None:
    """By AUTH_VERIFIER_CERTIFICATES, without any token."""
    files = Files(tmp_path)
    settings = make_settings(
        database_url,
        tls_cert_file=files.chain,
        tls_key_file=files.key,
        tls_client_ca_file=files.clients,
        verifier_certificates="orders.internal,spiffe://mesh/orders",
    )
    certificate: trustme.LeafCert = files.client_authority.issue_cert(name)
    credentials = grpc.ssl_channel_credentials(
        files.authority.cert_pem.bytes(),
        certificate.private_key_pem.bytes(),
        b"".join(pem.bytes() for pem in certificate.cert_chain_pems),
    )
    async with (
        running(settings) as server,
        open_channel(address(server), credentials) as channel,
    ):
        (keys,) = await first(open_watch(channel), 1)
        secrets = [key.secret for key in keys.key_set.keys]
        assert secrets == ([settings.shared_key_bytes()] if is_verifier else [])


async def test_a_stream_resumes_at_the_same_server(database_url: str) -> None:
    """The cursor of a heartbeat brings what was revoked since, and no snapshot."""
    await make_user(database_url)
    async with running(make_settings(database_url)) as server:
        client = await Client(address(server)).ready()
        tokens = await client.login()
        *_, heartbeat = await first(open_watch(client.channel))
        request = auth_service_pb2.RevokeRequest(refresh_token=tokens.refresh_token)
        await client.auth.Revoke(request, timeout=TIMEOUT)
        events = await first(open_watch(client.channel, heartbeat.cursor))
        assert kinds(events) == ["key_set", "revocation_segment", "heartbeat"]
        assert names(events[1]) == [tokens.session_id]
        await client.channel.close()


async def test_a_server_that_stops_ends_its_streams_first(database_url: str) -> None:
    """With OK, and well before the time that calls in flight get to finish."""
    async with running(make_settings(database_url, drain_timeout="1h")) as server:
        client = await Client(address(server)).ready()
        call = open_watch(client.channel)
        assert (await call.read()).HasField("key_set")

        async def rest() -> None:
            while await call.read() is not grpc.aio.EOF:
                pass

        reading = asyncio.ensure_future(rest())
        async with asyncio.timeout(TIMEOUT):
            await server.stop()
            await reading
        assert await call.code() is grpc.StatusCode.OK
        await client.channel.close()
