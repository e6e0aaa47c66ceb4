"""Work that continues after its caller was cancelled."""

import asyncio
import gc
from typing import Any

import pytest

from auth_service.core.shielded import Shielded


class Work:
    """Starts, waits for a signal, then finishes or fails."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.begun = asyncio.Event()
        self.may_finish = asyncio.Event()
        self.done = False
        self._failure = failure

    async def __call__(self) -> str:
        self.begun.set()
        await self.may_finish.wait()
        self.done = True
        if self._failure is not None:
            raise self._failure
        return "result"


async def abandon(shielded: Shielded, work: Work) -> None:
    """Begin the work and cancel its caller."""
    caller = asyncio.create_task(shielded.run(work()))
    await work.begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_the_caller_gets_the_result() -> None:
    """Without a cancellation the result is that of the work."""
    work = Work()
    work.may_finish.set()
    assert await Shielded().run(work()) == "result"


async def test_the_caller_gets_the_error() -> None:
    """An error of the work is raised to a waiting caller."""
    work = Work(ValueError("broken"))
    work.may_finish.set()
    with pytest.raises(ValueError, match="broken"):
        await Shielded().run(work())


async def test_work_goes_on_although_the_caller_is_cancelled() -> None:
    """Work that has begun completes, whether or not anybody waits."""
    shielded, work = Shielded(), Work()
    await abandon(shielded, work)
    gc.collect()  # the loop alone would not keep it alive
    assert not work.done
    work.may_finish.set()
    await shielded.drain()
    assert work.done


async def test_drain_waits_for_all_that_goes_on() -> None:
    """A server that stops completes the work that it has begun."""
    shielded, works = Shielded(), [Work(), Work(ValueError("broken")), Work()]
    for work in works:
        await abandon(shielded, work)
    draining = asyncio.create_task(shielded.drain())
    for work in works:
        await asyncio.sleep(0)
        assert not draining.done()
        work.may_finish.set()
    await draining
    assert all(work.done for work in works)


async def test_drain_with_nothing_to_wait_for_returns() -> None:
    """Before the first work and after the last there is nothing to wait for."""
    shielded, work = Shielded(), Work()
    await shielded.drain()
    work.may_finish.set()
    await shielded.run(work())
    await shielded.drain()


async def test_an_error_of_abandoned_work_is_not_reported_as_never_retrieved() -> None:
    """Nobody waits for the error, so asyncio does not log it."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
    shielded, work = Shielded(), Work(ValueError("broken"))
    await abandon(shielded, work)
    work.may_finish.set()
    await shielded.drain()
    await asyncio.sleep(0)
    gc.collect()
    assert reports == []


async def test_work_that_is_cancelled_itself_ends_its_caller() -> None:
    """A cancellation of the work reaches the waiting caller and leaves nothing behind."""

    async def cancelled() -> None:
        raise asyncio.CancelledError

    shielded = Shielded()
    with pytest.raises(asyncio.CancelledError):
        await shielded.run(cancelled())
    await shielded.drain()
