"""Bounds the HTTP connections of a process, in total and for each source address.

Owns which connection has to go when there is no room for another. Knows neither sockets nor HTTP.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache

from auth_service.addresses import ip_of, network_of

__all__ = ["Connections", "Limits", "Place", "source_of"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the clients of an HTTP server may use of it."""

    connections: int = 1000
    per_source: int = 500
    """Connections of one source: an IPv4 address, or an IPv6 network of 64 bits."""
    client_timeout: timedelta = timedelta(seconds=10)
    """How long a client may take for the headers, for the body, and to read the response."""
    idle_timeout: timedelta = timedelta(seconds=5)
    """How long a connection stays open without a request."""


class Place:
    """What one connection occupies, from the accept to its end."""

    __slots__ = ("_connections", "_evict", "source")

    def __init__(self, connections: "Connections", source: str, evict: Callable[[], None]) -> None:
        self._connections = connections
        self._evict = evict
        self.source = source

    def wait(self) -> None:
        """The connection waits for its client; from now on it may be evicted."""
        self._connections.wait(self)

    def work(self) -> None:
        """The service works on a request of the connection, which is not evicted meanwhile."""
        self._connections.work(self)

    def leave(self) -> None:
        """The connection has ended; safe to call twice."""
        self._connections.leave(self)

    def evict(self) -> None:
        """Leave, and close the connection."""
        self.leave()
        self._evict()


class Connections:
    """The places of all connections. Those that wait are ordered by since when they do."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._places: set[Place] = set()
        self._by_source: Counter[str] = Counter()
        self._waiting: dict[Place, None] = {}
        self._waiting_by_source: defaultdict[str, dict[Place, None]] = defaultdict(dict)

    def __len__(self) -> int:
        """Return how many connections there are."""
        return len(self._places)

    def enter(self, source: str, evict: Callable[[], None]) -> Place:
        """Return the place of a new connection, which waits for its client.

        If a limit is reached, the connection that has waited longest is evicted: of this source if
        it is the source's limit. If none waits, the new one is admitted all the same, since a
        probe may come on it; requests have a limit of their own.
        """
        if self._by_source[source] >= self._limits.per_source:
            self._evict_first(self._waiting_by_source[source])
        elif len(self._places) >= self._limits.connections:
            self.evict_oldest()
        place = Place(self, source, evict)
        self._places.add(place)
        self._by_source[source] += 1
        self.wait(place)
        return place

    def evict_oldest(self, count: int = 1) -> None:
        """Evict the connections that have waited longest, as many of them as wait."""
        for _ in range(min(count, len(self._waiting))):
            self._evict_first(self._waiting)

    def wait(self, place: Place) -> None:
        """Put a place behind all others that wait."""
        if place in self._places:
            self._waiting[place] = None
            self._waiting_by_source[place.source][place] = None

    def work(self, place: Place) -> None:
        """Take a place out of those that wait."""
        self._waiting.pop(place, None)
        waiting = self._waiting_by_source[place.source]
        waiting.pop(place, None)
        if not waiting:
            del self._waiting_by_source[place.source]

    def leave(self, place: Place) -> None:
        """Forget a place."""
        if place not in self._places:
            return
        self.work(place)
        self._places.discard(place)
        self._by_source[place.source] -= 1
        if not self._by_source[place.source]:
            del self._by_source[place.source]

    def _evict_first(self, waiting: dict[Place, None]) -> None:
        for place in waiting:
            place.evict()
            return


@lru_cache(maxsize=4096)
def source_of(host: str) -> str:
    """Return what a client's address counts as: itself, or its IPv6 network of 64 bits."""
    try:
        address = ip_of(host)
    except ValueError:  # not an address, as in tests of the application alone
        return host
    return network_of(address, 32, 64).removesuffix("/32").removesuffix("/64")
