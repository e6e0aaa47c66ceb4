"""Reads the audit log: a page of the past, or what was committed since a position.

Owns that a reader that goes on from a position gets each row exactly once, however late its
transaction commits.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from auth_service import audit
from auth_service.db.cursor import START, Cursor
from auth_service.db.executor import Executor
from auth_service.errors import Unavailable

__all__ = ["AUDIT_PAGE", "AuditEvent", "AuditFilter", "AuditKey", "AuditPosition", "AuditReader"]

AUDIT_PAGE = 500
"""Rows that a watcher reads at once, and those that their last transaction wrote beyond that."""
REPLAYED = timedelta(minutes=10)
"""What a watcher gets again after a failover, which may have lost rows that it has seen."""


class AuditKey(NamedTuple):
    """The place of a row in the log; rows of old releases have no id."""

    at: datetime
    id: UUID | None


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which rows; None stands for all. An `event` that ends with * is the beginning of one."""

    start: datetime | None = None
    end: datetime | None = None
    event: str | None = None
    actor: str | None = None
    user_id: UUID | None = None
    client_id: str | None = None
    outcome: str | None = None
    failures_only: bool = False
    source: str | None = None

    def arguments(self) -> Sequence[object]:
        """Return the first arguments of list_audit."""
        begins = self.event is not None and self.event.endswith("*")
        exact, prefix = (None, self.event) if begins else (self.event, None)
        return (
            self.start, self.end, exact, prefix and prefix.rstrip("*"), self.actor, self.user_id,
            self.client_id, self.outcome, self.failures_only, self.source,
        )  # fmt: skip

    def matches(self, event: "AuditEvent") -> bool:
        """Tell whether a row is one of these; the times are left to the statement."""
        wanted = self.event or "*"
        named = event.event == wanted or (
            wanted.endswith("*") and event.event.startswith(wanted.rstrip("*"))
        )
        pairs = (
            (self.actor, event.actor),
            (self.user_id, event.user_id),
            (self.client_id, event.client_id),
            (self.outcome, event.outcome),
            (self.source, event.source),
        )
        failed = event.outcome != audit.OK
        return (
            named
            and (failed or not self.failures_only)
            and all(given is None or given == found for given, found in pairs)
        )


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """A row of the audit log."""

    at: datetime
    id: UUID | None
    event: str
    outcome: str
    actor_kind: str | None
    actor: str | None
    credential: str | None
    source: str | None
    request_id: str | None
    trace_id: str | None
    user_id: UUID | None
    session_id: UUID | None
    client_id: str | None
    secret_id: UUID | None
    audience: str | None
    issuer: str | None
    subject: str | None
    kid: str | None
    details: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> AuditKey:
        """The place of the row."""
        return AuditKey(self.at, self.id)


@dataclass(frozen=True, slots=True)
class AuditPosition:
    """How far a watcher has read. Its text is what a client keeps."""

    epoch: str
    as_of: datetime
    cursor: Cursor

    @classmethod
    def parse(cls, text: str) -> "AuditPosition | None":
        """Return the position of a text that `str` made; None if it is not such a text."""
        epoch, _, rest = text.partition(":")
        seconds, _, numbers = rest.partition(":")
        cursor = Cursor.parse(numbers)
        if cursor is None or not (seconds.isascii() and seconds.isdecimal() and len(seconds) < 12):
            return None
        return cls(epoch, datetime.fromtimestamp(int(seconds), UTC), cursor)

    def __str__(self) -> str:
        return f"{self.epoch}:{int(self.as_of.timestamp())}:{self.cursor}"


class AuditReader(Executor):
    """The audit log, to be read."""

    async def list_audit(
        self, wanted: AuditFilter, limit: int, after: AuditKey | None = None
    ) -> list[AuditEvent]:
        """Return the rows that follow `after`, the newest first.

        There are `limit` of them, or more if rows of old releases have one time.
        """
        found = await self._rows("list_audit", *wanted.arguments(), *(after or (None, None)), limit)
        return [_event(row) for row in found]

    async def audit_position(self) -> AuditPosition:
        """Return the present position."""
        row = await self._row("feed_position")
        if row is None:
            raise Unavailable("the database does not tell its position")
        return _position(row)

    async def audit_since(
        self,
        since: AuditPosition | None,
        start: datetime | None = None,
        page: int = AUDIT_PAGE,
    ) -> tuple[list[AuditEvent], AuditPosition, bool]:
        """Return rows that were committed after a position, the next position, and whether that
        is the end for now. Without a position it begins with the rows since `start`.
        """
        cursor = START if since is None else since.cursor
        bound = start if since is None else None
        rows = await self._rows("audit_since", cursor.end, cursor.running, page, bound)
        position = _position(rows[0])
        if since is not None and since.epoch != position.epoch:
            return await self.audit_since(None, since.as_of - REPLAYED, page)
        found = [row for row in rows if row["at"] is not None]
        newer = [int(row["xid"]) for row in found if int(row["xid"]) >= cursor.end]
        complete = len(newer) < page
        if not complete:
            end = min(position.cursor.end, newer[-1] + 1)
            running = tuple(xid for xid in position.cursor.running if xid < end)
            position = AuditPosition(position.epoch, position.as_of, Cursor(end, running))
        return (
            [_event(row) for row in found if position.cursor.covers(int(row["xid"]))],
            position,
            complete,
        )


def _position(row: asyncpg.Record) -> AuditPosition:
    if row["standby"]:
        raise Unavailable("the database server is a standby; add target_session_attrs=primary")
    return AuditPosition(row["epoch"] or "", row["as_of"], Cursor.of_snapshot(row["snapshot"]))


_COLUMNS = [name for name in AuditEvent.__slots__ if name != "details"]


def _event(row: asyncpg.Record) -> AuditEvent:
    columns: dict[str, Any] = {name: row[name] for name in _COLUMNS}
    return AuditEvent(**columns, details=json.loads(row["details"] or "{}"))
