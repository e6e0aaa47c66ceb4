"""What an attack reports."""

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["CLOSED", "LOOPBACK", "TIMEOUT", "Figures"]

LOOPBACK = "127.0.0.1"
TIMEOUT = 60.0  # seconds for what an attack waits for
CLOSED = "closed"
"""The answer of a service that closes the connection."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What an attack did, and what the service did about it."""

    attack: str
    sent: int
    """Connections, requests, streams or frames that were sent, by the kind of the attack."""
    seconds: float
    connections: int = 1
    answers: Counter[str] = field(default_factory=Counter)
    """How often each answer came: a kind of frame, a status of HTTP, or CLOSED."""
