"""One HTTP connection: uvicorn's, with a deadline for whatever the client still owes.

Owns the phase of a connection, and what happens at its deadline. uvicorn itself has one timer, for
idle connections, which the first byte cancels.
"""

import asyncio
from enum import StrEnum
from typing import Any

import h11
import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from auth_service.authz.certificates import thumbprint
from auth_service.telemetry.metrics import HTTP_CLOSED
from auth_service.web.certificates import CLIENT_CERTIFICATE
from auth_service.web.connections import Limits, Place

__all__ = ["Protocol"]

log = structlog.get_logger(__name__)

_TIMED_OUT = "the request did not arrive in time"


class Phase(StrEnum):
    """What the connection waits for."""

    IDLE = "idle"
    HEADERS = "headers"
    BODY = "body"
    WORK = "work"
    """The response of the service; the only phase without a deadline."""
    RESPONSE = "response"
    """That the client reads the response."""
    CLOSE = "close"
    """That the client reads the rest, and closes."""


class Protocol(H11Protocol):
    """A connection that is closed if its client takes too long."""

    def __init__(self, config: uvicorn.Config, state: ServerState, limits: Limits) -> None:
        super().__init__(config, state, {})
        self.place: Place  # set before the connection is made
        self._client_timeout = limits.client_timeout.total_seconds()
        self._idle_timeout = limits.idle_timeout.total_seconds()
        self._phase: Phase | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and (certificate := tls.getpeercert(binary_form=True)):
            self.app_state[CLIENT_CERTIFICATE] = thumbprint(certificate)
        self._enter(Phase.IDLE)

    def connection_lost(self, exc: Exception | None) -> None:
        """Free the place."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._set_deadline(None)
        self.place.leave()

    def data_received(self, data: bytes) -> None:
        """Take in what the client sends."""
        super().data_received(data)
        self._update()

    def on_response_complete(self) -> None:
        """Go on to the next request, which may have been received already."""
        super().on_response_complete()
        self._update()

    def pause_writing(self) -> None:
        """The client does not read as fast as the response is made."""
        super().pause_writing()
        self._update()

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        self._update()

    def shutdown(self) -> None:
        """Close as soon as no request is in progress."""
        super().shutdown()
        self._update()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        log.info("http_unreadable", source=self.place.source)
        super().send_400_response(msg)

    def evict(self) -> None:
        """Make room for another connection."""
        if self.transport is None:  # still in the handshake of TLS
            return
        if self._phase is not Phase.IDLE:
            self._record("evicted")
        self.transport.abort()

    def _update(self) -> None:
        if (phase := self._current()) is not self._phase:
            self._enter(phase)

    def _current(self) -> Phase:
        if self.transport.is_closing():
            return Phase.CLOSE
        if self.flow.write_paused:
            return Phase.RESPONSE
        cycle: Any = self.cycle  # None before the first request
        if cycle is not None and not cycle.response_complete:
            return Phase.BODY if cycle.more_body else Phase.WORK
        if self.conn.their_state is h11.SEND_BODY:  # of a request that has been answered already
            return Phase.BODY
        return Phase.HEADERS if self.conn.trailing_data[0] else Phase.IDLE

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        match phase:
            case Phase.WORK:
                self._set_deadline(None)
                self.place.work()
            case Phase.IDLE:
                self._set_deadline(self._idle_timeout)
                self.place.wait()
            case _:
                self._set_deadline(self._client_timeout)
                self.place.wait()

    def _set_deadline(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None if seconds is None else self.loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        match self._phase:
            case Phase.IDLE:
                self.timeout_keep_alive_handler()
            case Phase.HEADERS | Phase.BODY:
                self._record(f"{self._phase}_timeout")
                self._refuse()
            case phase:
                self._record(f"{phase}_timeout")
                self.transport.abort()
        self._update()

    def _refuse(self) -> None:
        """Answer 408 if nothing has been answered yet (RFC 9110 section 15.5.9), and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers: Any = [("content-type", "text/plain"), ("connection", "close")]
            events = (
                h11.Response(status_code=408, headers=headers, reason=b"Request Timeout"),
                h11.Data(data=_TIMED_OUT.encode()),
                h11.EndOfMessage(),
            )
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        if self.cycle is not None:
            self.cycle.disconnected = True  # what the application still sends is dropped
            self.cycle.message_event.set()
        self.transport.close()

    def _record(self, reason: str) -> None:
        HTTP_CLOSED.labels(reason).inc()
        log.info("http_connection_closed", reason=reason, source=self.place.source)
