"""Local verifiers whose Watch streams are cut, over and over, while the workload runs."""

import asyncio
import logging
import math
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

from auth_service.client import LocalVerifier
from auth_service.errors import InactiveReason, InvalidToken, RevocationsStale
from tests.acceptance.servers import KEYS
from tests.chaos.fleet import open_fleet
from tests.chaos.kills import audited
from tests.chaos.link import Link
from tests.chaos.model import STALENESS, Model, OwnSession
from tests.chaos.row import Row
from tests.chaos.watchers import fill

__all__ = ["Asker", "cut_streams"]

VERIFIERS = 20
FILLED = 20_000  # live revocations, which make a whole snapshot far larger than what is resumed
SNAPSHOT = 16 * FILLED  # bytes at least
BETWEEN = 0.04  # seconds at most from one cut to the next
ASKED = 4  # sessions of a kind at a time, and how many seconds until the next time:
PAUSE = 0.02
SECONDS = 60.0  # for all verifiers to know everything
ISSUER = "https://auth.internal"
_REVOKED = {InactiveReason.TOKEN_REVOKED, InactiveReason.SESSION_REVOKED}
_CODE = re.compile(r": ([A-Z_]+): ")


class Asker:
    """Asks one verifier for verdicts, and compares them to the truth."""

    def __init__(self, row: Row, verifier: LocalVerifier) -> None:
        self.verifier = verifier
        self.verdicts = 0
        self.oldest = 0.0
        """The greatest age of what the verifier knew when it was asked, in seconds."""
        self.stale = 0
        """How often it gave no verdict, because what it knew was too old."""
        self._row = row
        self._refused: set[str] = set()  # tokens that it has refused as revoked

    @property
    def age(self) -> float:
        """How old the verifier's knowledge is by its own account, in seconds."""
        as_of = self.verifier.revocations_as_of
        return math.inf if as_of is None else time.time() - as_of.timestamp()

    def ask(self, session: OwnSession) -> None:
        """Count a verdict that is wrong, and a revocation that came back."""
        token, age, now = session.tokens.access_token, self.age, time.monotonic()
        self.oldest = max(self.oldest, age)
        try:
            self.verifier.verify(token)
        except RevocationsStale:
            self.stale += 1
            return
        except InvalidToken as error:
            if session.revoked_at is None or error.inactive_reason not in _REVOKED:
                self._row.wrong += 1
            else:
                self._refused.add(token)
        else:
            if token in self._refused:
                self._row.came_back += 1
            elif session.revoked_at is not None:
                # It must know what is older than its bound, and all that it says it knows.
                self._row.wrong += session.revoked_at < now - min(STALENESS, age)
        self.verdicts += 1

    async def knows(self, moment: float) -> None:
        """Return once the verifier knows all revocations until a moment of the clock."""
        while time.time() - self.age < moment:
            await asyncio.sleep(0.02)


class _Streams(logging.Handler):
    """Counts streams by what their verifiers log."""

    def __init__(self) -> None:
        super().__init__()
        self.followed = 0
        self.lost = 0
        self.codes: Counter[str] = Counter()
        """With which status they ended."""

    def emit(self, record: logging.LogRecord) -> None:
        """Count a stream that has brought its first event, or an attempt that has ended."""
        text = record.getMessage()
        self.followed += text.startswith("following ")
        if text.startswith("lost "):
            self.lost += 1
            self.codes.update(_CODE.findall(text)[:1])


async def cut_streams(times: int, seconds: float) -> Row:
    """Cut the connections of random verifiers to both replicas, at random moments."""
    row, streams = Row(f"Watch streams of {VERIFIERS} local verifiers cut"), _Streams()
    log = logging.getLogger("auth_service.client")
    log.addHandler(streams)
    log.setLevel(logging.DEBUG)
    try:
        async with open_fleet() as fleet, audited(row, fleet) as model:
            await fill(fleet.database.direct_url, FILLED)
            async with _verifiers(row, fleet.addresses) as (askers, links):
                asking = asyncio.create_task(_ask(model, askers))
                await _cut(row, streams, askers, links, times, seconds)
                asking.cancel()
                for asker in askers:
                    for session in (*model.live, *model.revoked):
                        asker.ask(session)
    finally:
        log.removeHandler(streams)
        log.setLevel(logging.NOTSET)
    row.errors += streams.codes
    return row


@asynccontextmanager
async def _verifiers(
    row: Row, addresses: Sequence[str]
) -> AsyncIterator[tuple[list[Asker], list[Link]]]:
    """Yield verifiers that know everything, with a link of its own from each to each replica."""
    askers, links = [], []
    async with AsyncExitStack() as stack:
        for _ in range(VERIFIERS):
            own = []
            for address in addresses:
                host, port = address.split(":")
                own.append(Link((host, int(port))))
                await own[-1].open()
                stack.push_async_callback(own[-1].close)
            verifier = LocalVerifier(
                issuer=ISSUER,
                addresses=[f"127.0.0.1:{link.port}" for link in own],
                shared_key=KEYS["AUTH_SHARED_KEY"],
                max_staleness=timedelta(seconds=STALENESS),
            )
            askers.append(Asker(row, await stack.enter_async_context(verifier)))
            links += own
        await _all_know(askers)
        yield askers, links


async def _cut(
    row: Row,
    streams: _Streams,
    askers: Sequence[Asker],
    links: Sequence[Link],
    times: int,
    seconds: float,
) -> None:
    followed, whole, deadline = streams.followed, _whole(links), time.monotonic() + seconds
    while row.times < times and time.monotonic() < deadline:
        row.times += await random.choice(links).drop()  # half of them have no connection
        await asyncio.sleep(random.uniform(0, BETWEEN))
    await _all_know(askers)
    followed, whole = streams.followed - followed, _whole(links) - whole
    assert followed > row.times / 2, f"{row.times} cuts, {followed} streams that began again"
    assert whole <= VERIFIERS, f"{whole - VERIFIERS} of {followed} streams did not resume"
    row.recovery = max(asker.oldest for asker in askers)
    verdicts, stale = sum(each.verdicts for each in askers), sum(each.stale for each in askers)
    row.remark = (
        f"{followed} streams began again, all by cursor; {verdicts} verdicts, and {stale} refused "
        f"as too stale; recovery is the greatest age of what a verifier knew"
    )


def _whole(links: Sequence[Link]) -> int:
    """Return how many streams that have ended brought a whole snapshot."""
    return sum(size >= SNAPSHOT for link in links for size in link.sizes)


async def _ask(model: Model, askers: Sequence[Asker]) -> None:
    """Ask all verifiers, over and over, for sessions that live and for those revoked last."""
    while True:
        for asker in askers:
            for session in (*_some(model.live), *_some(model.revoked[-50:])):
                asker.ask(session)
            await asyncio.sleep(0)
        await asyncio.sleep(PAUSE)


def _some(sessions: Sequence[OwnSession]) -> Iterable[OwnSession]:
    return random.sample(sessions, min(ASKED, len(sessions)))


async def _all_know(askers: Sequence[Asker]) -> None:
    now = time.time()
    async with asyncio.timeout(SECONDS):
        await asyncio.gather(*(asker.knows(now) for asker in askers))
