"""A clock that only a test advances."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class FakeClock:
    """Passed as the clock; starts at the current time in whole seconds.

    `on_change` is called with the initial time and with every new one.
    """

    def __init__(
        self,
        now: datetime | None = None,
        on_change: Callable[[datetime], object] = lambda _: None,
    ) -> None:
        self._on_change = on_change
        self.now = now or datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.now

    @property
    def now(self) -> datetime:
        """The time."""
        return self._now

    @now.setter
    def now(self, now: datetime) -> None:
        self._now = now
        self._on_change(now)

    def advance(self, by: timedelta) -> None:
        """Advance the clock."""
        self.now += by
