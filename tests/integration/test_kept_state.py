"""What a verifier keeps in a file, and that it starts from it while the service is away."""

import asyncio
import logging
import stat
from contextlib import AsyncExitStack
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from authn.v1 import verifier_service_pb2 as pb

from auth_service import base64url
from auth_service.client import follower as module
from auth_service.client.feed import Feed
from auth_service.client.follower import Follower
from auth_service.client.kept_state import KeptState
from auth_service.client.verifier import LocalVerifier, SyncLocalVerifier
from auth_service.errors import InactiveReason, RevocationsStale
from auth_service.tokens.keys import KeyRing, generate_key
from auth_service.tokens.revocation import RevocationList
from tests.clock import FakeClock
from tests.integration.test_client_watch import (
    PATIENCE,
    Peer,
    Script,
    in_executor,
    reason_against,
    serving,
    settings_of,
    silence,
)
from tests.watch_events import (
    CLAIMS,
    LATER,
    PUBLIC,
    SECOND,
    SHARED,
    START,
    heartbeat,
    key_set,
    revocation,
    segment,
    snapshot,
    token_of,
)

STATE_KEY = base64url.encode(generate_key("HS256").secret)
REVOKED = [
    segment(
        pb.PackedRevocations(
            expires_at=int(LATER.timestamp()), token_ids=bytes(16), session_ids=UUID(int=7).bytes
        ),
        others=[
            revocation(token_id="bad"),
            revocation(session_id="ended"),
            revocation(subject="eve", issued_before=START + SECOND),
            revocation(all_tokens=pb.AllTokens(), issued_before=START - SECOND),
        ],
    )
]
OPENING = [key_set(PUBLIC, SHARED), *REVOKED, snapshot(), heartbeat("1")]


def away(path: Path, **options: Any) -> dict[str, Any]:
    """Return the settings of a verifier that reaches nobody."""
    return {
        "issuer": CLAIMS.issuer,
        "addresses": ["127.0.0.1:1"],
        "clock": FakeClock(START),
        "state_file": path,
        "state_key": STATE_KEY,
        "on_stale": "allow",
    } | options


async def keep(path: Path, **options: Any) -> None:
    """Have a verifier follow a service for a moment."""
    async with serving(Peer(([*OPENING, silence()],)), None) as peer:
        settings = settings_of(peer, state_file=path, state_key=STATE_KEY)
        async with LocalVerifier(**(settings | options)) as verifier:
            async with asyncio.timeout(PATIENCE.total_seconds()):
                while not verifier._feed._cursor:
                    await asyncio.sleep(0)


async def test_a_verifier_starts_from_the_file_while_the_service_is_away(tmp_path: Path) -> None:
    """With its keys, and with all that it knew to be revoked."""
    path = tmp_path / "state"
    await keep(path)

    def check(verifier: LocalVerifier | SyncLocalVerifier) -> None:
        assert verifier.revocations_as_of == START
        assert verifier.verify(token_of(SHARED)) == verifier.verify(token_of(PUBLIC)) == CLAIMS
        for changes in (
            {"token_id": base64url.encode(bytes(16))},
            {"token_id": "bad"},
            {"session_id": str(UUID(int=7))},
            {"session_id": "ended"},
            {"subject": "eve"},
            {"issued_at": CLAIMS.issued_at - 5},
        ):
            assert reason_against(verifier, token_of(**changes)), changes

    async with LocalVerifier(**away(path)) as verifier:
        check(verifier)

    def use_twin() -> None:
        with SyncLocalVerifier(**away(path)) as twin:
            check(twin)

    await in_executor(use_twin)


async def test_its_age_counts(tmp_path: Path) -> None:
    """What the file holds is as stale as it is: "deny" refuses beyond the bound."""
    path = tmp_path / "state"
    await keep(path)
    clock = FakeClock(START + timedelta(minutes=1))
    async with LocalVerifier(**away(path, clock=clock)) as verifier:
        assert verifier.verify(token_of()) == CLAIMS
        with pytest.raises(RevocationsStale):
            verifier.verify(token_of(), on_stale="deny")


async def test_the_stream_resumes_where_the_file_ends(tmp_path: Path) -> None:
    """What was revoked meanwhile arrives, and no snapshot is needed."""
    path = tmp_path / "state"
    await keep(path)
    missed = segment(others=[revocation(token_id="jti")])
    clock = FakeClock(START + SECOND)
    script: Script = [key_set(PUBLIC), missed, heartbeat("2", as_of=START + SECOND), silence()]
    async with serving(Peer((script,)), None) as peer:
        settings = settings_of(peer, state_file=path, state_key=STATE_KEY, clock=clock)
        async with LocalVerifier(**settings) as verifier:
            assert (await peer.opened.get()).cursor == "1"
            assert reason_against(verifier, token_of()) == InactiveReason.TOKEN_REVOKED
            assert reason_against(verifier, token_of(token_id="bad")) != ""


async def test_the_file_is_private_and_shows_no_secret(tmp_path: Path) -> None:
    """Only its owner may read it, and nothing else is left in the folder."""
    path = tmp_path / "state"
    await keep(path)
    await keep(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SHARED.secret not in path.read_bytes()
    assert list(tmp_path.iterdir()) == [path]


def altered(path: Path) -> dict[str, Any]:
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    return {}


def cut_off(path: Path) -> dict[str, Any]:
    path.write_bytes(path.read_bytes()[:20])
    return {}


def of_another_key(_: Path) -> dict[str, Any]:
    return {"state_key": base64url.encode(generate_key("HS256").secret)}


def of_another_issuer(_: Path) -> dict[str, Any]:
    return {"issuer": "https://other.test"}


@pytest.mark.parametrize("spoil", [altered, cut_off, of_another_key, of_another_issuer])
async def test_a_file_that_is_not_ours_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Any
) -> None:
    """It may come from somebody who wants a revoked token to be accepted again."""
    path = tmp_path / "state"
    await keep(path)
    shared = base64url.encode(SHARED.secret)
    settings = away(path, shared_key=shared) | spoil(path)
    async with LocalVerifier(**settings) as verifier:
        assert verifier.revocations_as_of is None
    assert "the kept state in" in caplog.text


async def test_an_unusable_file_does_not_prevent_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither to read nor to write it: the stream is what counts."""
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "full").touch()
    await keep(folder)
    assert "cannot be read" in caplog.text
    assert "cannot be kept" in caplog.text
    assert list(tmp_path.iterdir()) == [folder]


async def test_the_key_may_be_derived_from_the_shared_key(tmp_path: Path) -> None:
    """Without a state_key of its own."""
    path, secret = tmp_path / "state", base64url.encode(SHARED.secret)
    await keep(path, state_key="", shared_key=secret)
    async with LocalVerifier(**away(path, state_key="", shared_key=secret)) as verifier:
        assert verifier.revocations_as_of == START


class Silent:
    """Stands for a stream that brings nothing by itself."""

    def begin(self) -> None:
        """Connect to nobody."""

    async def close(self) -> None:
        """End nothing."""


async def test_the_state_is_saved_from_time_to_time_if_it_has_changed(tmp_path: Path) -> None:
    """So that a killed process loses a minute, and a quiet one writes nothing."""
    clock = FakeClock(START)
    feed = Feed(KeyRing([SHARED]), RevocationList(clock), [SHARED], clock)
    feed.begin()
    state = KeptState(tmp_path / "state", SHARED.secret, CLAIMS.issuer)
    ticks: asyncio.Queue[float] = asyncio.Queue()
    passed = asyncio.Semaphore(0)

    async def sleep(seconds: float) -> None:
        ticks.put_nowait(seconds)
        await passed.acquire()

    silent: Any = Silent()
    follower = Follower(feed, silent, state, may_be_stale=True, sleep=sleep)
    await follower.start(PATIENCE)
    cursors = []
    for message in (None, heartbeat("1"), None, heartbeat("2", as_of=START + SECOND)):
        assert await ticks.get() == module.SAVE_INTERVAL
        if message is not None:
            feed.apply(snapshot())
            clock.advance(SECOND)
            feed.apply(message)
        passed.release()
        while ticks.empty():
            await asyncio.sleep(0)
        cursors.append([event.cursor for event in state.load()][-1:])
    assert cursors == [[], ["1"], ["1"], ["2"]]
    await follower.close()


async def test_state_that_later_releases_wrote_is_used_in_part(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What comes before an event of no known kind counts, but not as complete."""
    path = tmp_path / "state"
    state = KeptState(path, base64url.decode(STATE_KEY), CLAIMS.issuer)
    events = [*OPENING[:2], pb.WatchResponse(), *OPENING[2:]]
    state.save([event.SerializeToString() for event in events])
    with caplog.at_level(logging.WARNING):
        async with LocalVerifier(**away(path)) as verifier:
            assert verifier.revocations_as_of is None
            assert reason_against(verifier, token_of(token_id="bad")) != ""
    assert "used in part" in caplog.text


async def test_two_may_save_at_once(tmp_path: Path) -> None:
    """Each writes a file of its own, and the last one stays whole."""
    path = tmp_path / "state"
    async with AsyncExitStack() as stack:
        for _ in range(2):
            peer = await stack.enter_async_context(serving(Peer(([*OPENING, silence()],)), None))
            settings = settings_of(peer, state_file=path, state_key=STATE_KEY)
            await stack.enter_async_context(LocalVerifier(**settings))
    state = KeptState(path, base64url.decode(STATE_KEY), CLAIMS.issuer)
    assert state.load()[-1].as_of.ToDatetime(UTC) == START
