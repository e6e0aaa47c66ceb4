"""An event loop in a thread of its own, for programs that have none."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from inspect import isawaitable
from threading import Thread
from typing import Any, TypeVar

__all__ = ["LoopThread", "in_thread"]

Result = TypeVar("Result")


class LoopThread:
    """Runs coroutines for callers that wait; a daemon thread, so it never keeps a program alive."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Return what `work` returns; it is cancelled where the wait for it is interrupted."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # nothing to cancel, unless by Ctrl-C

    def stop(self) -> None:
        """Cancel what runs, and wait for the thread to end."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._stop.wait())


def in_thread(function: Callable[[], str | Awaitable[str]]) -> Callable[[], Awaitable[str]]:
    """Return an async function that calls `function` where it may block.

    In a thread of its own: those of the loop's executor would have to end before the loop can.
    """

    async def call() -> str:
        outcome: Future[str | Awaitable[str]] = Future()
        Thread(target=_call, args=(function, outcome), daemon=True).start()
        result = await asyncio.wrap_future(outcome)
        return await result if isawaitable(result) else result

    return call


def _call(function: Callable[[], Result], outcome: Future[Result]) -> None:
    outcome.set_running_or_notify_cancel()  # from now on nobody's cancelling makes setting fail
    try:
        result = function()
    except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
        outcome.set_exception(error)
    else:
        outcome.set_result(result)
