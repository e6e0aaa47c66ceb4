"""Work that goes on to its end although its caller has gone.

A rotation that has begun is committed or not, whatever the client's deadline; cut off half way it
would only be less clear which.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["Shielded"]

T = TypeVar("T")


class Shielded:
    """Runs work that a cancellation of its caller does not reach."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what the work returns; when the caller is cancelled, the work goes on."""
        task = asyncio.create_task(work)
        self._tasks.add(task)  # the loop itself holds no strong reference
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    async def drain(self) -> None:
        """Wait for the work that goes on."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen, should the caller be gone
