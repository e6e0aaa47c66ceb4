"""What the load generator is to send, and the calls of one run over all connections."""

import itertools
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["PATIENCE", "Job", "Run"]

CATCH_UP = 0.02  # seconds that a steady rate makes up for at most
PATIENCE = 60.0  # seconds that the last calls may take


@dataclass(frozen=True)
class Job:
    """What to send, to which address, how much of it at once, and when to stop."""

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


class Run:
    """The calls of all connections."""

    def __init__(self, job: Job, calls: Iterable[tuple[bytes, bytes]]) -> None:
        """`calls` are the job's calls, encoded: the header fields of each, and its message."""
        self.job = job
        self.statuses: Counter[str] = Counter()
        self.latencies: list[float] = []
        self.started = self.ended = self.until = 0.0
        self.expect = job.expect
        self._left = job.calls or -1
        self._paced = self._open = 0
        self._calls = itertools.cycle(calls)

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
        """Return the next call: its own header fields, and its message."""
        self._left -= 1
        self._open += 1
        return next(self._calls)

    def due(self) -> int:
        """Return how many calls the rate asks for now.

        Calls that this process was kept from sending are not sent all at once.
        """
        rate = self.job.rate
        due = int((time.perf_counter() - self.started) * rate)
        self._paced = max(self._paced, due - int(CATCH_UP * rate) - 1)
        count, self._paced = max(0, due - self._paced), max(due, self._paced)
        return count

    def pause(self) -> float:
        """Return the seconds to the next call that is due, or PATIENCE after the last one.

        Looking more often would take CPU time from the server.
        """
        if not self.may_send():
            return PATIENCE
        return max(0.0, self.started + (self._paced + 1) / self.job.rate - time.perf_counter())

    def done(self, sent_at: float, status: str) -> None:
        """Record an answer."""
        self.ended = time.perf_counter()
        self.statuses[status] += 1
        if status == "OK":
            self.latencies.append(self.ended - sent_at)
        self._open -= 1
