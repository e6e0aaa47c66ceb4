"""AdminService's methods for the audit log: a page of it, and a stream.

Owns how long a stream waits, and that it ends with the token of its caller and with the server.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

from authn.v1 import admin_service_pb2 as pb

from auth_service.core import fields
from auth_service.db.audit_reader import AuditEvent, AuditFilter, AuditKey, AuditPosition
from auth_service.db.store import Store
from auth_service.errors import InvalidArgument
from auth_service.rpc.admin_callers import AdminCallers
from auth_service.rpc.dispatcher import Context
from auth_service.rpc.paging import page_size, page_start, page_token
from auth_service.rpc.timestamps import moment, timestamp

__all__ = ["AuditMethods"]

POLL = 1.0  # seconds
SIGN_OF_LIFE = 10
"""After so many polls without a row an empty message is sent."""
_EVENT = re.compile(r"[a-z0-9_.]{0,64}\*?")
_NO_ID = UUID(int=0)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class AuditMethods:
    """Reads the audit log, for admins."""

    _admins: AdminCallers
    _store: Store
    _closed: asyncio.Event

    async def ListAudit(
        self, request: pb.ListAuditRequest, context: Context
    ) -> pb.ListAuditResponse:
        """Return a page, which has what this process has to tell until now."""
        self._admins.require(context)
        size = page_size(request.page_size)
        wanted = _filter(request.filter)
        after = page_start(request.page_token, _key)
        await self._store.flush_audit()
        found = await self._store.list_audit(wanted, size, after)
        following = page_token(_key_bytes(found[-1].key)) if len(found) >= size else ""
        return pb.ListAuditResponse(events=map(_event, found), next_page_token=following)

    async def WatchAudit(
        self, request: pb.WatchAuditRequest, context: Context
    ) -> AsyncIterator[pb.WatchAuditResponse]:
        """Send rows as they are committed."""
        self._admins.require(context)
        wanted = _filter(request.filter)
        if wanted.end is not None:
            raise InvalidArgument("filter.end_time", "must be empty: a stream has no end")
        position = _cursor(request.cursor)
        if position is None and wanted.start is None:
            position = await self._store.audit_position()
            yield pb.WatchAuditResponse(cursor=str(position))
        silent = 0
        while not self._closed.is_set():
            self._admins.require(context)  # a token that was revoked or has expired ends it
            found, position, complete = await self._store.audit_since(position, wanted.start)
            events = [_event(event) for event in found if wanted.matches(event)]
            silent += 1
            if events or not complete or silent >= SIGN_OF_LIFE:
                silent = 0
                yield pb.WatchAuditResponse(events=events, cursor=str(position))
            if complete:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closed.wait(), POLL)

    def close(self) -> None:
        """End all streams."""
        self._closed.set()


def _filter(given: pb.AuditFilter) -> AuditFilter:
    if not _EVENT.fullmatch(given.event):
        raise InvalidArgument("filter.event", "must be an event such as session.created, or user.*")
    return AuditFilter(
        start=moment(given.start_time, "filter.start_time")
        if given.HasField("start_time")
        else None,
        end=moment(given.end_time, "filter.end_time") if given.HasField("end_time") else None,
        event=given.event or None,
        actor=fields.label(given.actor, "filter.actor") or None,
        user_id=fields.uuid(given.user_id, "filter.user_id") if given.user_id else None,
        client_id=fields.label(given.client_id, "filter.client_id") or None,
        outcome=fields.label(given.outcome, "filter.outcome") or None,
        failures_only=given.failures_only,
        source=fields.label(given.source, "filter.source") or None,
    )


def _cursor(text: str) -> AuditPosition | None:
    if not text:
        return None
    position = AuditPosition.parse(text)
    if position is None:
        raise InvalidArgument("cursor", "must be the cursor of an earlier message, or empty")
    return position


def _key_bytes(key: AuditKey) -> bytes:
    micros = (key.at - _EPOCH) // timedelta(microseconds=1)
    return micros.to_bytes(8, signed=True) + (key.id or _NO_ID).bytes


def _key(data: bytes) -> AuditKey:
    if len(data) != 24:
        raise ValueError("is no key of a row")
    try:
        at = _EPOCH + timedelta(microseconds=int.from_bytes(data[:8], signed=True))
    except OverflowError as error:
        raise ValueError("is no time") from error
    row_id = UUID(bytes=data[8:])
    return AuditKey(at, None if row_id == _NO_ID else row_id)


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _event(event: AuditEvent) -> pb.AuditEvent:
    return pb.AuditEvent(
        id=_text(event.id),
        time=timestamp(event.at),
        event=event.event,
        outcome=event.outcome,
        actor_kind=_text(event.actor_kind),
        actor=_text(event.actor),
        credential=_text(event.credential),
        source=_text(event.source),
        request_id=_text(event.request_id),
        trace_id=_text(event.trace_id),
        user_id=_text(event.user_id),
        session_id=_text(event.session_id),
        client_id=_text(event.client_id),
        secret_id=_text(event.secret_id),
        audience=_text(event.audience),
        issuer=_text(event.issuer),
        subject=_text(event.subject),
        kid=_text(event.kid),
        details=event.details,
    )
