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
import time
from asyncio import wrap_future
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from benchmarks.wire import Http1, Http2, Link, encoded

CATCH_UP = 0.02  # seconds that a steady rate makes up for at most
PATIENCE = 60.0  # seconds that the last calls may take


@dataclass(frozen=True)
class Job:
    """What to send, to whom, how much of it at once, and when to stop."""

    address: str
    path: str
    bodies: Sequence[bytes]
    """Sent in this order, and again from the first; serialised messages for gRPC."""
    bearers: Sequence[str] = ()
    """The token in each call's `authorization`, beside `bodies`; none where empty."""
    calls: int = 0
    """Stop after so many; 0: after `seconds`."""
    seconds: float = 1.5
    connections: int = 2
    in_flight: int = 16
    """Calls at once on each connection; of HTTP/1.1 one."""
    rate: float = 0.0
    """Calls a second, sent whether or not answers have come; 0: as many as are answered."""
    expect: bytes = b""
    """What the answer's message begins with; over HTTP/1.1, what the body has in it."""
    http1: bool = False
    """A GET over HTTP/1.1, or a POST of the body where it is not empty."""
    content_type: str = "application/json"


@dataclass
class Outcome:
    """What came of it."""

    calls: int
    seconds: float
    statuses: Counter[str]
    latencies: list[float] = field(repr=False)
    """Seconds from sending to the end of the answer; of good answers, in order of arrival."""

    @property
    def rate(self) -> float:
        """Good answers a second; an answer that is not good makes the run worthless."""
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
    run = Run(job)
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
            _receive(selector, run.send_due(turn) if job.rate else PATIENCE)
    return Outcome(len(run.latencies), run.ended - run.started, run.statuses, run.latencies)


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


class Run:
    """The calls of all connections."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.statuses: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.started = self.ended = self.until = 0.0
        self.expect = job.expect
        self._left = job.calls or -1
        self._sent = self._open = 0
        self._calls = itertools.cycle(encoded(job))

    def begin(self) -> None:
        """Start the clock."""
        self.started = time.perf_counter()
        self.until = float("inf") if self.job.calls else self.started + self.job.seconds

    def may_send(self) -> bool:
        """Tell whether another call is to be sent."""
        return self._left != 0 and time.perf_counter() < self.until

    def is_over(self) -> bool:
        """Tell whether all calls are sent and answered."""
        return self._open == 0 and not self.may_send()

    def take(self) -> tuple[bytes, bytes]:
        """Return the next call: the fields that are its own, and its message."""
        self._left -= 1
        self._open += 1
        return next(self._calls)

    def send_due(self, turn: Iterator[Link]) -> float:
        """Send what is due by the rate; return how many seconds remain to the next, or to the end.

        To look more often would take CPU time from the server.
        """
        rate = self.job.rate
        due = int((time.perf_counter() - self.started) * rate)
        # What this process was kept from sending is not sent all at once.
        self._sent = max(self._sent, due - int(CATCH_UP * rate) - 1)
        while self._sent < due and self.may_send():
            link = next(turn)
            link.send_one()
            link.flush()
            self._sent += 1
        if not self.may_send():
            return PATIENCE
        return max(0.0, self.started + (self._sent + 1) / rate - time.perf_counter())

    def done(self, sent_at: float, status: str) -> None:
        """Note an answer; none is late here: all that were sent are waited for."""
        self.ended = time.perf_counter()
        self.statuses[status] += 1
        if status == "OK":
            self.latencies.append(self.ended - sent_at)
        self._open -= 1
