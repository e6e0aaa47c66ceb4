"""Ports for servers that a test starts in other processes, or again on the same port."""

import itertools
import os
import random
import re
import socket

__all__ = ["free_address", "free_port"]

# Below the ephemeral ports (net.ipv4.ip_local_port_range begins at 32768), so that no connection
# and no server on port 0 can take a port between its choice and its use. Each process of
# pytest-xdist has a range of its own.
FIRST, PER_PROCESS = 10_000, 2000


def _ports() -> "itertools.cycle[int]":
    worker = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0) % 11
    ports = range(FIRST + worker * PER_PROCESS, FIRST + (worker + 1) * PER_PROCESS)
    start = random.SystemRandom().randrange(PER_PROCESS)  # another run may use the same range
    return itertools.cycle((*ports[start:], *ports[:start]))


_candidates = _ports()


def free_port() -> int:
    """Return a port of loopback on which nothing listens, and that it has not returned lately."""
    for port in itertools.islice(_candidates, PER_PROCESS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def free_address() -> str:
    """Return `127.0.0.1:port` with a free port."""
    return f"127.0.0.1:{free_port()}"
