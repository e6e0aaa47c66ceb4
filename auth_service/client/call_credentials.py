"""Call credentials that put an access token into every call of a TLS channel.

Owns the form of the token (RFC 6750 section 2.1), and which calls go without one: Login and
Refresh, which yield the token, so that a source may share its channel with other calls.
"""

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import cast

import grpc

from auth_service.client.token_sources import SyncTokenSource, TokenSource

__all__ = ["AUTHORIZATION", "WITHOUT", "bearer", "call_credentials"]

AUTHORIZATION = "authorization"
WITHOUT = frozenset({"/authn.v1.AuthService/Login", "/authn.v1.AuthService/Refresh"})


def bearer(token: str) -> tuple[str, str]:
    """Return the metadata entry that presents a token."""
    return AUTHORIZATION, f"Bearer {token}"


def call_credentials(
    source: TokenSource | SyncTokenSource, loop: asyncio.AbstractEventLoop | None = None
) -> grpc.CallCredentials:
    """Return credentials for TLS channels, asyncio or not; gRPC refuses them on plaintext channels.

    An asyncio source is called on `loop`, by default the running one. A thread that makes a
    blocking call must not be the thread of that loop. gRPC does not report refusals to credentials:
    UNAUTHENTICATED does not invalidate the token unless the caller calls `invalidate`.
    """
    if inspect.iscoroutinefunction(source.access_token):
        where = loop or asyncio.get_running_loop()
        ask = partial(_ask_on, where, cast("TokenSource", source))
    else:
        ask = partial(_ask_here, cast("SyncTokenSource", source))
    return grpc.metadata_call_credentials(_BearerPlugin(ask), name="bearer")


class _BearerPlugin(grpc.AuthMetadataPlugin):
    def __init__(self, ask: Callable[[], "Future[str]"]) -> None:
        self._ask = ask

    def __call__(
        self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback
    ) -> None:
        service = context.service_url.rpartition("/")[2]
        if f"/{service}/{context.method_name}" in WITHOUT:
            callback((), None)
        else:
            self._ask().add_done_callback(partial(_answer, callback))


def _answer(callback: grpc.AuthMetadataPluginCallback, future: "Future[str]") -> None:
    try:
        token = future.result()
    except Exception as error:  # noqa: BLE001 - gRPC turns it into the status of the call
        callback((), error)
    else:
        callback((bearer(token),), None)


def _ask_on(loop: asyncio.AbstractEventLoop, source: TokenSource) -> "Future[str]":
    work = source.access_token()
    try:
        return asyncio.run_coroutine_threadsafe(work, loop)
    except RuntimeError:  # the loop is closed
        work.close()
        raise


def _ask_here(source: SyncTokenSource) -> "Future[str]":
    future: Future[str] = Future()
    try:
        future.set_result(source.access_token())
    except Exception as error:  # noqa: BLE001 - raised by the future
        future.set_exception(error)
    return future
