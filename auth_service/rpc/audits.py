"""Where a gRPC call comes from, and which methods leave a row in the audit log for each call.

Owns the names of such rows. What the rows of changes are named, the stores know.
"""

import re
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any
from uuid import UUID

from auth_service import audit
from auth_service.audit import About, ActorKind, Origin
from auth_service.authz.sources import Sources
from auth_service.core.auditing import Auditor
from auth_service.core.shielded import Shielded

__all__ = ["Audits"]

_HEADERS = ("x-request-id", "traceparent")
_EACH_CALL = "/authn.v1.AdminService/"
_FAILURES = ("/authn.v1.AccountService/", "/authn.v1.AuthService/Revoke")
_NAMES = ("client_id", "name", "issuer", "subject", "kid")
_COLUMNS = {"name": "audience"}
_MAX_NAME = 256


class Audits:
    """Audits the calls of AdminService, and the failures of callers elsewhere."""

    def __init__(self, auditor: Auditor, shielded: Shielded, sources: Sources) -> None:
        self._auditor = auditor
        self._shielded = shielded
        self._sources = sources

    def begin(self, context: Any) -> None:
        """Begin a call. It is asked where it comes from once there is a row to write."""
        audit.begin(partial(self._origin, context))

    def _origin(self, context: Any) -> Origin:
        metadata = context.invocation_metadata() or ()
        source = self._sources.of_call(context)
        return Origin.of(source, {key: str(value) for key, value in metadata if key in _HEADERS})

    def wrap(self, method: str, behavior: Callable[..., Any], *, streams: bool) -> Any:
        """Return the behavior of a method, audited if it is to be.

        An audited call with one response completes even if its client cancels it: otherwise nobody
        could tell whether it had made its change.
        """
        event = _event(method)
        if method.startswith(_EACH_CALL):
            if streams:
                return self._streaming(event, behavior)
            return lambda request, context: self._shielded.run(
                self._auditor.audited(event, behavior(request, context), **_named(request))
            )
        return self._failures(event, behavior) if method.startswith(_FAILURES) else behavior

    def _failures(self, event: str, behavior: Callable[..., Any]) -> Callable[..., Any]:
        async def behave(request: Any, context: Any) -> Any:
            try:
                return await behavior(request, context)
            except Exception as error:
                if audit.current().actor.kind is not ActorKind.NOBODY:
                    self._auditor.failed(event, error, **_named(request))
                raise

        return behave

    def _streaming(self, event: str, behavior: Callable[..., Any]) -> Callable[..., Any]:
        async def behave(request: Any, context: Any) -> AsyncIterator[Any]:
            responses = behavior(request, context)
            first = await self._auditor.audited(event, anext(responses, None), **_named(request))
            if first is not None:
                yield first
                async for response in responses:
                    yield response

        return behave


def _event(method: str) -> str:
    """Return admin.get_user for /authn.v1.AdminService/GetUser."""
    _, service, name = method.split("/")
    service = service.rpartition(".")[2].removesuffix("Service").lower()
    return f"{service}.{re.sub(r'(?<!^)(?=[A-Z])', '_', name).lower()}"


def _named(request: Any) -> About:
    """Return what a request names by fields of its own. A text that is no name is left out."""
    named: Any = {}
    for field in ("user_id", "session_id", "secret_id"):
        try:
            named[field] = UUID(getattr(request, field, ""))
        except (TypeError, ValueError):
            continue
    for field in _NAMES:
        text = getattr(request, field, "")
        if isinstance(text, str) and 0 < len(text) <= _MAX_NAME and text.isprintable():
            named[_COLUMNS.get(field, field)] = text
    return named  # type: ignore[no-any-return]
