"""A workload that knows the truth: what was acknowledged, and so what must hold afterwards.

Each client logs in, refreshes, validates and revokes, over and over. Breaking anything is for
others, and so is what is checked once the fault is over (audit).
"""

import asyncio
import base64
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from authn.v1 import auth_service_pb2 as pb

from tests.acceptance.servers import PASSWORD
from tests.chaos.retrying import RetryingClient
from tests.chaos.row import Row

__all__ = ["Model", "OwnSession", "generation"]

STALENESS = 5.0  # seconds; the default of AUTH_FRESHNESS_LIMIT
READING = 1.0  # seconds by which this process may be late to note an answer
SETTLE_SECONDS = 60.0
PAUSE = 0.03  # seconds between two rounds of a client
DUPLICATED = 0.2  # of the refreshes


@dataclass
class OwnSession:
    """A session as its client knows it: by what was acknowledged."""

    tokens: pb.TokenPair
    parent: tuple[str, str] | None = None
    """The token before this one, and the request_id that exchanged it."""
    revoked_at: float | None = None
    """When the revocation was acknowledged."""
    token_only: bool = False
    """Whether the access token was revoked, and not the session."""
    seen_inactive: set[int] = field(default_factory=set)
    """The replicas that have told that the revocation is in force."""

    def may_be_unknown(self, asked: float) -> bool:
        """Tell whether a replica asked at a moment may not know of the revocation yet."""
        return self.revoked_at is None or asked - self.revoked_at <= STALENESS + READING


class Model:
    """Clients of several replicas, and what they were told."""

    def __init__(self, row: Row, addresses: Sequence[str], users: Sequence[str]) -> None:
        self.row = row
        self.client = RetryingClient(addresses)
        self.live: list[OwnSession] = []
        self.revoked: list[OwnSession] = []
        self._users = users
        self._ending = asyncio.Event()
        self._last_write = 0.0  # when the latest acknowledged write began
        self._written = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run a client for each user. At the end each of them finishes what it has begun."""
        clients = [asyncio.create_task(self._run(user)) for user in self._users]
        try:
            await self.write()
            yield
            self._ending.set()
            async with asyncio.timeout(SETTLE_SECONDS):
                await asyncio.gather(*clients)
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)

    async def write(self, within: float = SETTLE_SECONDS) -> float:
        """Return once a write that began after now is acknowledged: after how many seconds."""
        started = time.monotonic()
        async with asyncio.timeout(within), self._written:
            await self._written.wait_for(lambda: self._last_write >= started)
        return time.monotonic() - started

    async def _run(self, user: str) -> None:
        while not self._ending.is_set():
            session = await self._login(user)
            for _ in range(random.randint(3, 12)):
                await self._validate(session)
                if self.revoked:
                    await self._validate(random.choice(self.revoked[-50:]))
                if self._ending.is_set() or not await self._refresh(session):
                    break
                await asyncio.sleep(PAUSE)
            if not self._ending.is_set() and session in self.live and random.random() < 0.8:
                await self._revoke(session)

    async def _login(self, user: str) -> OwnSession:
        credentials = pb.PasswordCredentials(identifier=user, password=PASSWORD)
        request = pb.LoginRequest(password=credentials, request_id=uuid4().hex)
        started = time.monotonic()
        session = OwnSession(await self.client.login(request))
        self.live.append(session)
        await self._wrote(started)
        return session

    async def _refresh(self, session: OwnSession) -> bool:
        """Refresh, sometimes in two calls at once; return whether the session goes on."""
        parent = session.tokens.refresh_token, uuid4().hex
        started = time.monotonic()
        calls = 2 if random.random() < DUPLICATED else 1
        answers = await asyncio.gather(*(self.client.refresh(*parent) for _ in range(calls)))
        given = [answer for answer in answers if answer is not None]
        if len(given) < calls:
            self.row.logged_out += 1
            self.live.remove(session)
            return False
        first, expected = given[0], generation(session.tokens.refresh_token) + 1
        heads = {answer.refresh_token for answer in given}
        if len(heads) > 1 or generation(first.refresh_token) != expected:
            self.row.forked += 1
        session.tokens, session.parent = first, parent
        await self._wrote(started)
        return True

    async def _revoke(self, session: OwnSession) -> None:
        session.token_only = random.random() < 0.3
        tokens = session.tokens
        request = (
            pb.RevokeRequest(access_token=tokens.access_token)
            if session.token_only
            else pb.RevokeRequest(refresh_token=tokens.refresh_token)
        )
        self.live.remove(session)  # before the answer: it may be revoked without one
        started = time.monotonic()
        await self.client.revoke(request)
        session.revoked_at = time.monotonic()
        self.revoked.append(session)
        await self._wrote(started)

    async def _validate(self, session: OwnSession) -> None:
        replica, asked = random.randrange(len(self.client.stubs)), time.monotonic()
        revoked_before = session.revoked_at
        verdict = await self.client.validate_once(replica, session.tokens.access_token)
        if verdict is None:
            return
        if revoked_before is None:
            self.row.wrong += not verdict.active
        elif not verdict.active:
            session.seen_inactive.add(replica)
        elif replica in session.seen_inactive:
            self.row.came_back += 1
        elif not session.may_be_unknown(asked):
            self.row.wrong += 1

    async def _wrote(self, started: float) -> None:
        async with self._written:
            self._last_write = max(self._last_write, started)
            self._written.notify_all()


def generation(refresh_token: str) -> int:
    """Return which generation of its session a refresh token is."""
    payload = refresh_token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return int(claims["gen"])
