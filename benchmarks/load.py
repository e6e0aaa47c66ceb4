"""The load generator: a process of its own that speaks HTTP/2, or HTTP/1.1, over plain sockets.

A gRPC client for Python takes longer over a call than the server under test, and h2load and ghz
are not on every machine, cannot send another token in each call, and look at no answer. A benchmark
needs little of HTTP/2: requests are frames made in advance, and of an answer it reads the status
and the first bytes. So a call costs the generator about 10 µs, a tenth of what it costs a server.

It waits for its sockets without an event loop's machinery, which takes twice as long over a call
that comes alone, and where all share the cores, takes that from the server.
"""

import itertools
import multiprocessing
import os
import selectors
import statistics
from asyncio import wrap_future
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from benchmarks.jobs import PATIENCE, Job, Run
from benchmarks.wire import Http1, Http2, Link, encoded


@dataclass
class Outcome:
    """What came of it."""

    calls: int
    seconds: float
    statuses: Counter[str]
    latencies: list[float] = field(repr=False)
    """Seconds from sending to the end of the answer; of expected answers, in order of arrival."""

    @property
    def rate(self) -> float:
        """Expected answers a second; any other answer makes the run worthless."""
        bad = {status: count for status, count in self.statuses.items() if status != "OK"}
        if bad:
            raise RuntimeError(f"answers that were not good: {bad}")
        return self.calls / self.seconds

    @property
    def p99(self) -> float:
        """The 99th percentile of the latencies, in seconds."""
        return statistics.quantiles(self.latencies, n=100)[-1]


class Generator:
    """The process that sends; started afresh, never forked."""

    def __init__(self, cpus: set[int] | None = None) -> None:
        self._pool = ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), initializer=_pin, initargs=(cpus,)
        )

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def run(self, job: Job) -> Outcome:
        """Send, and return when the last answer is there."""
        return self._pool.submit(drive, job).result()

    async def run_async(self, job: Job) -> Outcome:
        """Do the same while the caller's event loop goes on."""
        return await wrap_future(self._pool.submit(drive, job))


def drive(job: Job) -> Outcome:
    """Send in this process."""
    run = Run(job, encoded(job))
    with ExitStack() as stack, selectors.DefaultSelector() as selector:
        links: list[Link] = [(Http1 if job.http1 else Http2)(run) for _ in range(job.connections)]
        for link in links:
            stack.enter_context(link.socket)
            selector.register(link.socket, selectors.EVENT_READ, link)
        while not all(link.ready for link in links):
            _receive(selector, PATIENCE)
        run.begin()
        turn = itertools.cycle(links)
        for link in () if job.rate else links:
            link.fill()
            link.flush()
        while not run.is_over():
            _receive(selector, _send_due(run, turn) if job.rate else PATIENCE)
    return Outcome(len(run.latencies), run.ended - run.started, run.statuses, run.latencies)


def _send_due(run: Run, turn: Iterator[Link]) -> float:
    """Send the calls that are due by the rate; return how many seconds to wait for answers."""
    for _ in range(run.due()):
        if not run.may_send():
            break
        link = next(turn)
        link.send_one()
        link.flush()
    return run.pause()


def _receive(selector: selectors.BaseSelector, seconds: float) -> None:
    """Let the links take in what has come, or what comes within these seconds."""
    ready = selector.select(seconds)
    if not ready and seconds >= PATIENCE:
        raise TimeoutError("the server does not answer")
    for key, _ in ready:
        key.data.receive()


def _pin(cpus: set[int] | None) -> None:
    if cpus and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)
