"""Work that completes even if its caller is cancelled.

A rotation that has begun is committed or not, whatever the client's deadline. Stopping it half way
would only make the outcome harder to tell.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from auth_service import audit

__all__ = ["Shielded"]

T = TypeVar("T")


class Shielded:
    """Runs work that the cancellation of its caller does not reach."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start work that `drain` waits for, whether or not anybody else does."""
        audit.keep_origin()
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the loop itself holds no strong reference
        task.add_done_callback(self._finished)
        return task

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what the work returns. If the caller is cancelled, the work continues."""
        return await asyncio.shield(self.start(work))

    async def drain(self) -> None:
        """Wait until all work has ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, in case the caller has gone
