"""The call in progress, as the audit log tells of it: who acts, from where, and with what outcome.

An edge begins a call. Whatever runs within the call, also in tasks that it starts, writes its rows
with `row`. Work that belongs to no call is that of the service itself. Knows neither transports nor
the database.
"""

import json
import os
import pwd
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple, TypedDict, Unpack
from uuid import UUID, uuid4, uuid5

__all__ = [
    "OK",
    "About",
    "Actor",
    "ActorKind",
    "Call",
    "Origin",
    "aside",
    "begin",
    "by_service",
    "certain_row",
    "closing_row",
    "current",
    "identify",
    "keep_origin",
    "note",
    "operator",
    "row",
]

OK = "OK"
"""The outcome of what succeeded. Any other outcome is the reason of an error, see errors.py."""

_CERTAIN = UUID("5f3c1a5e-6d0f-4f0e-9a57-3c8f0f5f6a11")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")


class ActorKind(StrEnum):
    """Who can act."""

    NOBODY = "nobody"
    """A caller that has not proved who it is."""
    USER = "user"
    SERVICE_ACCOUNT = "service_account"
    OPERATOR = "operator"
    """A user of the operating system, with a command."""
    SERVICE = "service"
    """This service, of its own accord."""


class Actor(NamedTuple):
    """Who acts, and what it has shown for it."""

    kind: ActorKind
    id: str = ""
    """The id of a user, the client id of a service account, or `name@host` of an operator."""
    credential: str = ""
    """Its kind: password, client_secret, workload, refresh_token, access_token …; never itself."""


class Origin(NamedTuple):
    """Where a call comes from."""

    source: str = ""
    """The IP address of the caller; empty for commands and for the service itself."""
    request_id: str = ""
    trace_id: str = ""
    """The trace id of W3C Trace Context; empty if the caller sent none."""

    @classmethod
    def of(cls, source: str, headers: Mapping[str, str]) -> "Origin":
        """Return the origin by the headers x-request-id and traceparent.

        A request id that is missing, too long or unprintable is replaced with a new one.
        """
        request_id = headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = uuid4().hex
        trace = _TRACE_PARENT.fullmatch(headers.get("traceparent", ""))
        return cls(source, request_id, trace[1] if trace else "")


class About(TypedDict, total=False):
    """What a row is about. Values are ids and names, never secrets."""

    user_id: UUID | str
    session_id: UUID | str
    client_id: str
    secret_id: UUID
    audience: str
    issuer: str
    subject: str
    kid: str
    details: Mapping[str, str]


_SERVICE = Actor(ActorKind.SERVICE)
_NOBODY = Actor(ActorKind.NOBODY)


class Call:
    """A call in progress. Its first row has an id that is known before the row is written.

    So a row for the failure of the call never joins a row of a commit that was only thought lost:
    both have the same key, and one of them is written.
    """

    __slots__ = ("_key", "_origin", "_tell", "about", "actor")

    def __init__(self, tell: Callable[[], Origin], actor: Actor = _NOBODY) -> None:
        """`tell` is called once, if there is something to write."""
        self.actor = actor
        self.about: About = {}
        self._tell = tell
        self._origin: Origin | None = None
        self._key: tuple[datetime, UUID] | None = None

    @property
    def has_row(self) -> bool:
        """Whether a row was made."""
        return self._key is not None

    @property
    def origin(self) -> Origin:
        """Where the call comes from."""
        if self._origin is None:
            self._origin = self._tell()
        return self._origin

    def key(self, at: datetime, row_id: UUID | None = None) -> tuple[datetime, UUID]:
        """Return the time and the id of the next row."""
        key = at, row_id or uuid4()
        self._key = self._key or key
        return key

    def closing_key(self, at: datetime) -> tuple[datetime, UUID]:
        """Return the time and the id of the first row, if there was one."""
        return self._key or self.key(at)


_call: ContextVar[Call | None] = ContextVar("call", default=None)


def begin(tell: Callable[[], Origin], actor: Actor = _NOBODY) -> Call:
    """Begin a call in this task and in those that it starts."""
    call = Call(tell, actor)
    _call.set(call)
    return call


def current() -> Call:
    """Return the call in progress, or a new one of the service itself."""
    return _call.get() or Call(Origin, _SERVICE)


def keep_origin() -> None:
    """Read where the call in progress comes from, for work that may outlive the call.

    gRPC crashes the process if a call that has ended is asked for its peer.
    """
    if (call := _call.get()) is not None:
        _ = call.origin


@contextmanager
def by_service() -> Iterator[None]:
    """Let the service itself be the actor of what follows, although a call causes it."""
    token = _call.set(None)
    try:
        yield
    finally:
        _call.reset(token)


@contextmanager
def aside(actor: Actor) -> Iterator[None]:
    """Let rows stand beside the one of the call in progress: they do not count as its own."""
    call = current()
    beside = Call(lambda: call.origin, actor)
    token = _call.set(beside)
    try:
        yield
    finally:
        _call.reset(token)


def identify(actor: Actor) -> None:
    """Say who makes the call in progress, if there is one."""
    if (call := _call.get()) is not None:
        call.actor = actor


def note(**about: Unpack[About]) -> None:
    """Say what every further row of the call in progress is about."""
    if (call := _call.get()) is not None:
        call.about = {**call.about, **about}


def row(event: str, at: datetime, outcome: str = OK, **about: Unpack[About]) -> str:
    """Return a row for the call in progress, as write_audit() of the database takes it."""
    call = current()
    return _row(call, call.key(at), event, outcome, about)


def closing_row(event: str, at: datetime, outcome: str, **about: Unpack[About]) -> str:
    """Return the row of a call that failed. It is written only if no row of the call was."""
    call = current()
    return _row(call, call.closing_key(at), event, outcome, about)


def certain_row(event: str, at: datetime, of: str, **about: Unpack[About]) -> str:
    """Return a row of what happens to `of` at a moment that was set before.

    Every replica may write it, and any number of times: the row is there once.
    """
    call = current()
    row_id = uuid5(_CERTAIN, f"{event} {of} {at.astimezone(UTC).isoformat()}")
    return _row(call, call.key(at, row_id), event, OK, about)


def operator(host: str) -> Actor:
    """Return the user of the operating system who runs this process."""
    # By the kernel's word: everybody can set the variables USER and LOGNAME.
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # as in many containers
        name = str(os.getuid())
    return Actor(ActorKind.OPERATOR, f"{name}@{host}", "operating_system")


def _row(call: Call, key: tuple[datetime, UUID], event: str, outcome: str, about: About) -> str:
    at, row_id = key
    origin = call.origin
    content = {
        "at": at.isoformat(),
        "id": str(row_id),
        "event": event,
        "outcome": outcome,
        "actor_kind": call.actor.kind.value,
        "actor": call.actor.id or None,
        "credential": call.actor.credential or None,
        "source": origin.source or None,
        "request_id": origin.request_id or None,
        "trace_id": origin.trace_id or None,
        **call.about,
        **about,
    }
    return json.dumps({name: value for name, value in content.items() if value}, default=str)
