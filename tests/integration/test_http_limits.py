"""Slow and greedy HTTP clients: deadlines, limits, and the probes that are answered meanwhile."""

import asyncio
import os
import socket
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog
from prometheus_client import REGISTRY
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from structlog.testing import capture_logs

from auth_service.errors import ConfigError
from auth_service.serving.server import Server
from auth_service.web.app import create_app
from auth_service.web.connections import Limits
from tests.acceptance.servers import eventually
from tests.chaos.slow_clients import (
    Prober,
    half_open,
    request,
    unread_http_responses,
)
from tests.integration.serving import make_settings, running
from tests.integration.test_http_server import Application, close, connect, get, serving
from tests.integration.test_tls import Files

SHORT = timedelta(milliseconds=300)
HALVES = {
    "one byte": b"G",
    "half of the headers": b"GET / HTTP/1.1\r\nhost: a\r\nx-slow: ",
    "no body": request(
        "/oauth2/token",
        "POST",
        content_type="application/x-www-form-urlencoded",
        content_length="999",
    ),
}


@pytest.fixture(autouse=True)
def _own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clear the AUTH_* variables of this process, and reset the logs that a server sets up."""
    for name in [name for name in os.environ if name.startswith("AUTH_")]:
        monkeypatch.delenv(name)
    yield
    structlog.reset_defaults()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """The certificate files of the test."""
    return Files(tmp_path)


@pytest.fixture
async def server(database_url: str) -> AsyncIterator[Server]:
    """A server that closes no half-open connection for its age, however slow the test is."""
    async with running(make_settings(database_url, http_client_timeout="10m")) as server:
        yield server


def closed(reason: str) -> float:
    """Return how many connections were closed for a reason."""
    name = "auth_http_connections_closed_total"
    return REGISTRY.get_sample_value(name, {"reason": reason}) or 0.0


# Probes


@pytest.mark.parametrize("sent", HALVES.values(), ids=HALVES)
async def test_probes_are_answered_while_a_thousand_connections_are_half_open(
    server: Server, sent: bytes
) -> None:
    """A new connection takes the place of the one that has waited longest."""
    before = closed("evicted")
    prober = Prober(server.http_port)
    async with prober.running(), half_open(server.http_port, 1000, sent):
        for _ in range(20):
            await prober.probe()
    prober.assert_all_answered(at_least=20)
    assert closed("evicted") >= before + 500  # of the one source


async def test_probes_with_an_address_of_their_own_are_served_there_alone(
    database_url: str,
) -> None:
    """They have places of their own, so that nothing at the other address takes theirs."""
    settings = make_settings(database_url, probe_address="127.0.0.1:0", http_max_connections=10)
    async with running(settings) as server:
        public, probes = (f"http://127.0.0.1:{p}" for p in (server.http_port, server.probe_port))
        prober = Prober(server.probe_port, "/readyz")
        async with prober.running(), half_open(server.http_port, 1000):
            for _ in range(20):
                await prober.probe()
        prober.assert_all_answered(at_least=20)
        assert await get(f"{probes}/healthz") == "ok\n"
        assert "auth_http_requests_total" in await get(f"{probes}/metrics")
        for path in ("/healthz", "/readyz", "/metrics"):
            assert '"not_found"' in await get(public + path)
        assert '"not_found"' in await get(f"{probes}/.well-known/jwks.json")


async def test_probes_are_served_without_any_other_http(database_url: str) -> None:
    """AUTH_HTTP_ADDRESS=off turns off the routes of clients alone."""
    settings = make_settings(database_url, probe_address="127.0.0.1:0", http_address="off")
    async with running(settings) as server:
        assert server.http_port == 0
        assert await get(f"http://127.0.0.1:{server.probe_port}/readyz") == "ready\n"


async def test_probes_are_in_plain_text_where_the_rest_is_encrypted(
    database_url: str, files: Files
) -> None:
    """They carry no secret, and few orchestrators trust a private authority."""
    settings = make_settings(
        database_url,
        probe_address="127.0.0.1:0",
        tls_cert_file=files.chain,
        tls_key_file=files.key,
    )
    async with running(settings) as server:
        assert await get(f"http://127.0.0.1:{server.probe_port}/healthz") == "ok\n"


async def test_a_port_of_the_probes_that_is_in_use_is_named_with_its_setting(
    database_url: str,
) -> None:
    """And the other ports are released."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"AUTH_PROBE_ADDRESS: cannot serve {where}"):
            await Server(make_settings(database_url, probe_address=where)).start()


# Deadlines


@pytest.mark.parametrize("sent", HALVES.values(), ids=HALVES)
async def test_a_request_that_does_not_arrive_in_time_is_answered_408(
    database_url: str, sent: bytes
) -> None:
    """RFC 9110 section 15.5.9; then the connection is closed."""
    settings = make_settings(database_url, http_client_timeout=SHORT)
    async with running(settings) as server:
        reader, writer = await connect(server.http_port, sent)
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        await close(writer)


@pytest.mark.parametrize("sent", HALVES.values(), ids=HALVES)
async def test_a_byte_now_and_then_gives_no_more_time(database_url: str, sent: bytes) -> None:
    """The deadlines are for the whole of the headers, and for the whole of the body."""
    settings = make_settings(database_url, http_client_timeout=SHORT)
    async with running(settings) as server:
        before = closed("headers_timeout") + closed("body_timeout")
        reader, writer = await connect(server.http_port, sent)
        end = asyncio.create_task(reader.read())
        while not end.done():
            writer.write(b"a")
            await asyncio.wait([end], timeout=0.02)
        await close(writer)
        await asyncio.gather(end, return_exceptions=True)  # a reset may overtake the answer
        assert closed("headers_timeout") + closed("body_timeout") == before + 1


async def test_the_time_starts_again_with_each_request() -> None:
    """A connection that is kept alive may last longer than one request may take."""
    limit = timedelta(seconds=2)  # far longer than a request of this test takes
    async with serving(limits=Limits(client_timeout=limit)) as server:
        reader, writer = await connect(server.port, b"")
        end = time.monotonic() + 1.5 * limit.total_seconds()
        while time.monotonic() < end:
            writer.write(b"GET / HTTP/1.1\r\n")
            await get(f"http://127.0.0.1:{server.port}")  # by now the first line has arrived
            writer.write(b"host: x\r\n\r\n")
            assert b"200 OK" in await reader.readuntil(b"done")
        await close(writer)


async def test_a_response_that_takes_long_to_make_is_waited_for() -> None:
    """The deadlines are for what the client does."""
    app = Application()
    async with serving(app=app, limits=Limits(client_timeout=SHORT, idle_timeout=SHORT)) as server:
        reader, writer = await connect(server.port, request("/slow", "POST"))
        await app.waiting.wait()
        for _ in range(3):
            async with half_open(server.port, 1) as later:
                await later.all_closed()  # the deadline has passed
        app.let.set()
        assert b"200 OK" in await reader.readuntil(b"done")
        await close(writer)


async def test_a_body_that_goes_on_after_its_answer_ends_the_connection() -> None:
    """A body that the answer does not depend on has the same deadline."""
    before = closed("body_timeout")
    async with serving(limits=Limits(client_timeout=SHORT)) as server:
        head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n"
        reader, writer = await connect(server.port, head)
        assert b"405" in await reader.readuntil(b"Allowed")
        end = asyncio.create_task(reader.read())
        while not end.done():
            writer.write(b"a" * 1000)
            await asyncio.wait([end], timeout=0.02)
        await close(writer)
        await asyncio.gather(end, return_exceptions=True)
    assert closed("body_timeout") == before + 1


async def test_a_client_that_reads_no_response_is_cut_off() -> None:
    """Responses that nobody reads would fill the memory."""
    large = PlainTextResponse("a" * 100_000)
    before = closed("response_timeout")

    async def answer(_: Request) -> Response:
        return large

    app = Application()
    app.asgi.router.routes.append(Route("/large", answer))
    async with serving(app=app, limits=Limits(client_timeout=SHORT)) as server:
        figures = await unread_http_responses(server.port, request("/large"), connections=5)
        assert figures.sent > 5
        assert await get(f"http://127.0.0.1:{server.port}") == "done"
    assert closed("response_timeout") == before + 5


async def test_a_connection_that_is_closing_does_not_stay_for_an_unread_response() -> None:
    """The end of an idle connection flushes what is left, but not for ever."""
    served = asyncio.Event()

    async def answer(_: Request) -> Response:
        served.set()
        return PlainTextResponse("a" * 20_000_000, headers={"connection": "close"})

    app = Application()
    app.asgi.router.routes.append(Route("/huge", answer))
    async with serving(app=app, limits=Limits(client_timeout=SHORT)) as server:
        reader, writer = await connect(server.port, request("/huge"))
        transport = writer.transport
        transport.pause_reading()  # type: ignore[attr-defined]
        await served.wait()
        await server.stop()  # would otherwise wait for the drain timeout
        transport.resume_reading()  # type: ignore[attr-defined]
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(20_000_000)
        await close(writer)


async def test_a_handshake_that_does_not_go_on_is_ended(files: Files) -> None:
    """Before TLS is up a connection has a place and a deadline like any other."""
    limits = Limits(connections=10, client_timeout=SHORT)
    async with serving(certificate=(files.chain, files.key), limits=limits) as server:
        async with half_open(server.port, 5, b"\x16\x03\x01") as attack:
            await attack.all_closed()
        async with half_open(server.port, 30, b"\x16\x03\x01"):
            context = ssl.create_default_context()
            files.authority.configure_trust(context)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
            writer.write(request("/"))
            assert b"200 OK" in await reader.readuntil(b"done")
            writer.close()


# Limits


async def test_the_connection_that_has_waited_longest_gives_way() -> None:
    """Idle ones go first to last; a new one is always served."""
    async with (
        serving(limits=Limits(connections=3)) as server,
        half_open(server.port, 3, b"") as first,
        half_open(server.port, 2, b"") as second,
    ):

        async def evicted() -> bool:
            return first.closed() == 2

        await eventually(evicted, what="two connections are closed")
        assert second.closed() == 0
        assert not first.readers[2].at_eof()


async def test_a_request_in_progress_is_not_evicted() -> None:
    """Neither by others of its source nor at the limit of all."""
    app = Application()
    async with serving(app=app, limits=Limits(connections=2, per_source=2)) as server:
        reader, writer = await connect(server.port, request("/slow", "POST"))
        await app.waiting.wait()
        async with half_open(server.port, 20):
            app.let.set()
            assert b"200 OK" in await reader.readuntil(b"done")
        await close(writer)


@pytest.mark.parametrize(
    ("limits", "status", "error"),
    [
        (Limits(connections=2), 503, "UNAVAILABLE"),
        (Limits(per_source=2), 429, "RATE_LIMITED"),
    ],
    ids=["all", "source"],
)
async def test_requests_beyond_the_limit_are_refused_and_probes_are_answered(
    limits: Limits, status: int, error: str
) -> None:
    """The refusal closes its connection, and the requests in progress go on."""
    let, counts = asyncio.Event(), Counter[str]()

    async def slow(_: Request) -> Response:
        counts["waiting"] += 1
        await let.wait()
        return PlainTextResponse("done")

    async def probe(_: Request) -> Response:
        return PlainTextResponse("ok")

    app = create_app([Route("/slow", slow), Route("/healthz", probe)], limits, ["/healthz"])
    async with serving(app=SimpleNamespace(asgi=app), limits=limits) as server:
        working = [await connect(server.port, request("/slow")) for _ in range(2)]

        async def both() -> bool:
            return counts["waiting"] == 2

        await eventually(both, what="two requests are in progress")
        reader, writer = await connect(server.port, request("/slow"))
        answer = (await reader.read()).decode()
        await close(writer)
        assert answer.startswith(f"HTTP/1.1 {status} ")
        assert f'"reason": "{error}"' in answer
        assert "retry-after: 1\r\n" in answer.lower()
        prober = Prober(server.port)
        await prober.probe()
        prober.assert_all_answered()
        let.set()
        for reader, writer in working:
            assert b"200 OK" in await reader.readuntil(b"done")
            await close(writer)
        assert await get(f"http://127.0.0.1:{server.port}/slow") == "done"


async def test_connections_that_are_cut_off_are_logged_with_their_source() -> None:
    """An idle one that is closed is not."""
    limits = Limits(client_timeout=SHORT, idle_timeout=SHORT)
    with capture_logs() as entries:
        async with serving(limits=limits) as server:
            async with half_open(server.port, 1, b"") as idle, half_open(server.port, 1) as slow:
                await idle.all_closed()
                await slow.all_closed()
            reader, writer = await connect(server.port, b"nonsense\r\n\r\n")
            await reader.read()
            await close(writer)
    assert [(e["event"], e.get("reason"), e["source"]) for e in entries] == [
        ("http_connection_closed", "headers_timeout", "127.0.0.1"),
        ("http_unreadable", None, "127.0.0.1"),
    ]
