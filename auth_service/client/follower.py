"""A verifier's knowledge over time: from the file at the start, then from the stream, and kept.

Owns when a verifier has started, and when its state is saved. Knows nothing of connections.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from auth_service.client.feed import BadEvent, Feed
from auth_service.client.kept_state import KeptState
from auth_service.client.watch import Watch

__all__ = ["SAVE_INTERVAL", "Follower"]

log = logging.getLogger("auth_service.client")

SAVE_INTERVAL = 60.0  # seconds


class Follower:
    """Starts and ends what follows the service."""

    def __init__(
        self,
        feed: Feed,
        watch: Watch,
        state: KeptState | None,
        *,
        may_be_stale: bool,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        """`may_be_stale`: whether verdicts may be given before the service was reached."""
        self._feed = feed
        self._watch = watch
        self._state = state
        self._may_be_stale = may_be_stale
        self._sleep = sleep
        self._saved: datetime | None = None
        self._saving: asyncio.Task[None] | None = None

    async def start(self, timeout: timedelta) -> None:
        """Return once tokens can be verified; raises what `Watch.start` does."""
        if self._state is not None and self._feed.as_of is None:
            await self._restore(self._state)
        if self._may_be_stale and self._feed.has_keys:
            self._watch.begin()
        else:
            await self._watch.start(timeout)
        if self._state is not None:
            self._saving = asyncio.create_task(self._keep(self._state), name="auth-service state")

    async def close(self) -> None:
        """Stop following; save what is known."""
        await self._watch.close()
        saving, self._saving = self._saving, None
        if saving is not None and self._state is not None:
            saving.cancel()
            await asyncio.wait([saving])
            await self._save(self._state)

    async def _restore(self, state: KeptState) -> None:
        try:
            for event in await asyncio.to_thread(state.load):
                for _ in self._feed.steps(event):
                    await asyncio.sleep(0)
        except BadEvent as error:  # of another release of this library
            log.warning("the kept state is used in part: %s", error)
        self._saved = self._feed.as_of

    async def _keep(self, state: KeptState) -> None:
        while True:
            await self._sleep(SAVE_INTERVAL)
            await self._save(state)

    async def _save(self, state: KeptState) -> None:
        as_of = self._feed.as_of
        if as_of is None or as_of == self._saved:
            return
        events = []
        for event in self._feed.record():
            events.append(event)
            await asyncio.sleep(0)
        try:
            await asyncio.to_thread(state.save, events)
            self._saved = as_of
        except OSError as error:
            log.warning("the state of the verifier cannot be kept: %s", error)
