"""An event loop in a thread of its own, for programs without one."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from inspect import isawaitable
from threading import Thread
from typing import Any, TypeVar

__all__ = ["LoopThread", "in_thread"]

Result = TypeVar("Result")


class LoopThread:
    """Runs coroutines for blocking callers, in a daemon thread, which keeps no program alive."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Return the result of `work`, which is cancelled if the caller is interrupted."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # has an effect only after Ctrl-C

    def stop(self) -> None:
        """Cancel all running work, and wait for the end of the thread."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._stop.wait())


def in_thread(function: Callable[[], str | Awaitable[str]]) -> Callable[[], Awaitable[str]]:
    """Return an async function that calls `function` in a thread, where it may block.

    The thread is a new one: the loop cannot end before the threads of its executor have ended.
    """

    async def call() -> str:
        outcome: Future[str | Awaitable[str]] = Future()
        Thread(target=_call, args=(function, outcome), daemon=True).start()
        result = await asyncio.wrap_future(outcome)
        return await result if isawaitable(result) else result

    return call


def _call(function: Callable[[], Result], outcome: Future[Result]) -> None:
    outcome.set_running_or_notify_cancel()  # now it cannot be cancelled any more
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001 - raised again in the caller
        outcome.set_exception(error)
    else:
        outcome.set_result(result)
