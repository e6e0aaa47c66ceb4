"""The HTTP server: its address, certificate and limits, and how it stops."""

import asyncio
import gc
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import structlog
import trustme
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from structlog.testing import capture_logs

from auth_service.errors import ConfigError
from auth_service.serving.server import Server
from auth_service.web.connections import Limits
from auth_service.web.http_server import HttpServer
from tests.acceptance.servers import (
    PASSWORD,
    USER,
    Client,
    ServerProcess,
    eventually,
    make_user,
)
from tests.integration.serving import address, make_settings, running, until
from tests.integration.test_tls import BREAKAGES, Breakage, Files, garbled_authority, write
from tests.ports import free_port

PAIR_BREAKAGES = [breakage for breakage in BREAKAGES if breakage is not garbled_authority]
LOOPBACK = "127.0.0.1:0"
HOUR = timedelta(hours=1)
TIMEOUT = 30.0  # seconds, which no passing test takes
WAITS_FOR_A_LOCK = """
    SELECT count(*) > 0 FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


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


class Application:
    """Answers at once, and /slow when the test allows it."""

    def __init__(self) -> None:
        self.waiting, self.let = asyncio.Event(), asyncio.Event()
        routes = [Route("/", self._answer), Route("/slow", self._slow, methods=["POST"])]
        self.asgi = Starlette(routes=routes)

    async def _answer(self, _: Request) -> Response:
        return PlainTextResponse("done")

    async def _slow(self, request: Request) -> Response:
        self.waiting.set()
        await request.body()
        await self.let.wait()
        return PlainTextResponse("done")


@asynccontextmanager
async def serving(where: str = LOOPBACK, **options: Any) -> AsyncIterator[HttpServer]:
    """Serve an Application."""
    server = HttpServer(options.pop("app", Application()).asgi, where, **options)
    server.start()
    try:
        yield server
    finally:
        await server.stop()


def client(authority: trustme.CA | None = None) -> httpx.AsyncClient:
    """Return a client that trusts an authority, and has no certificate."""
    context = ssl.create_default_context()
    if authority is not None:
        authority.configure_trust(context)
    return httpx.AsyncClient(verify=context, timeout=TIMEOUT, trust_env=False)


async def get(url: str, authority: trustme.CA | None = None) -> str:
    """Return the answer on a new connection."""
    async with client(authority) as http:
        return (await http.get(url)).text


async def presented(server: HttpServer) -> str:
    """Return the certificate of a new connection without a server name."""
    return await asyncio.to_thread(
        ssl.get_server_certificate, ("127.0.0.1", server.port), timeout=TIMEOUT
    )


async def connect(port: int, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection and send something on it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection, which may be broken."""
    writer.transport.abort()
    await asyncio.sleep(0)


async def is_free(port: int) -> bool:
    """Tell whether a port may be bound."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


# TLS


async def test_with_certificate_files_https_is_served_and_nothing_else(files: Files) -> None:
    """Clients must trust the authority; plain HTTP gets no answer."""
    async with serving(certificate=(files.chain, files.key)) as server:
        where = f"127.0.0.1:{server.port}"
        assert await get(f"https://{where}", files.authority) == "done"
        with pytest.raises(httpx.ConnectError):
            await get(f"https://{where}", trustme.CA())
        with pytest.raises(httpx.TransportError):
            await get(f"http://{where}")


async def test_browsers_need_no_client_certificate(database_url: str, files: Files) -> None:
    """AUTH_TLS_CLIENT_CA_FILE is for gRPC."""
    settings = make_settings(
        database_url,
        tls_cert_file=files.chain,
        tls_key_file=files.key,
        tls_client_ca_file=files.clients,
    )
    async with running(settings) as server:
        url = f"https://127.0.0.1:{server.http_port}/healthz"
        assert await get(url, files.authority) == "ok\n"


async def test_a_renewed_certificate_is_shown_and_standing_connections_stay(files: Files) -> None:
    """The old client trusts only the old authority, so it must keep its connection."""
    before, after = files.authority, trustme.CA()
    async with serving(certificate=(files.chain, files.key)) as server, client(before) as standing:
        url = f"https://127.0.0.1:{server.port}"
        await standing.get(url)
        old = await presented(server)
        assert old == files.leaf
        files.renew(after)
        assert await presented(server) == files.leaf != old
        assert await get(url, after) == "done"
        assert (await standing.get(url)).text == "done"


async def test_a_renewal_that_is_half_done_is_taken_up_once_it_is_complete(files: Files) -> None:
    """Until both files are replaced, the old pair is used."""
    issued = files.authority.issue_cert("127.0.0.1")
    async with serving(certificate=(files.chain, files.key)) as server:
        old = files.leaf
        write(files.chain, b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        assert await presented(server) == old
        assert await presented(server) == old
        write(files.key, issued.private_key_pem.bytes())
        assert await presented(server) == files.leaf != old


@pytest.mark.parametrize("breakage", PAIR_BREAKAGES)
async def test_with_broken_files_the_certificate_before_them_stays(
    files: Files, breakage: Breakage
) -> None:
    """The error is logged without the key; corrected files are used."""
    async with serving(certificate=(files.chain, files.key)) as server:
        leaf, key = files.leaf, files.key.read_text()
        breakage(files)
        with capture_logs() as logs:
            assert await presented(server) == leaf
        assert {entry["event"] for entry in logs} == {"certificate_reload_failed"}
        assert not any(line in str(logs) for line in key.splitlines()[1:-1])
        files.renew(trustme.CA())
        assert await presented(server) == files.leaf


@pytest.mark.parametrize("breakage", PAIR_BREAKAGES)
async def test_broken_files_are_refused_with_the_variables(
    files: Files, breakage: Breakage
) -> None:
    """There is no prompt, no part of the key in the error, and no open socket."""
    key = files.key.read_text()
    breakage(files)
    with pytest.raises(ConfigError) as caught:
        HttpServer(Application().asgi, LOOPBACK, certificate=(files.chain, files.key))
    assert "AUTH_TLS_CERT_FILE" in caught.value.text
    assert "AUTH_TLS_KEY_FILE" in caught.value.text
    assert not any(line in caught.value.text for line in key.splitlines()[1:-1])
    gc.collect()  # would tell of a socket left open


# Addresses


async def test_a_port_in_use_is_named_with_its_setting_and_nothing_is_left(
    database_url: str,
) -> None:
    """The gRPC port is released, and the other server continues."""
    async with serving() as first:
        where = f"127.0.0.1:{first.port}"
        grpc_port = free_port()
        second = Server(
            make_settings(database_url, http_address=where, grpc_address=f"127.0.0.1:{grpc_port}")
        )
        with pytest.raises(ConfigError) as caught:
            await second.start()
        assert caught.value.text.startswith(f"AUTH_HTTP_ADDRESS: cannot serve {where}")
        assert "AUTH_HTTP_ADDRESS=off" in caught.value.text
        assert await is_free(grpc_port)
        assert await get(f"http://{where}") == "done"
        gc.collect()


async def test_where_grpc_has_no_port_http_lets_go_of_its_own(database_url: str) -> None:
    """A start that fails leaves nothing bound."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = free_port()
        settings = make_settings(
            database_url,
            http_address=f"127.0.0.1:{port}",
            grpc_address=f"127.0.0.1:{taken.getsockname()[1]}",
        )
        with pytest.raises(ConfigError, match="AUTH_GRPC_ADDRESS"):
            await Server(settings).start()
        assert await is_free(port)
        gc.collect()


async def test_of_two_that_want_a_port_at_once_the_second_is_told() -> None:
    """Even before either serves: a port that is only bound can be bound twice."""
    first = HttpServer(Application().asgi, LOOPBACK)
    with pytest.raises(ConfigError, match="AUTH_HTTP_ADDRESS"):
        HttpServer(Application().asgi, f"127.0.0.1:{first.port}")
    await first.stop()
    assert await is_free(first.port)


@pytest.mark.parametrize(
    "where", ["192.0.2.1:80", "nowhere.invalid:80", "a..b:80", "a" * 64 + ":1"]
)
def test_an_address_that_cannot_be_served_is_named_with_its_setting(where: str) -> None:
    """An address of another machine, an unknown host, or an invalid name."""
    with pytest.raises(ConfigError, match="AUTH_HTTP_ADDRESS"):
        HttpServer(Application().asgi, where)


async def test_http_may_be_off(database_url: str) -> None:
    """Then only gRPC is served."""
    async with running(make_settings(database_url, http_address="off")) as server:
        assert server.http_port == 0
        grpc_client = await Client(address(server)).ready()
        assert await grpc_client.serving()
        await grpc_client.channel.close()


async def test_ipv6_is_served() -> None:
    """As an address in brackets."""
    async with serving("[::1]:0") as server:
        assert await get(f"http://[::1]:{server.port}") == "done"


async def test_several_may_share_a_port_when_told_to() -> None:
    """SO_REUSEPORT, as for gRPC; the remaining server continues."""
    async with serving(reuse_port=True) as first:
        url = f"http://127.0.0.1:{first.port}"
        async with serving(f"127.0.0.1:{first.port}", reuse_port=True) as second:
            assert second.port == first.port
            assert await get(url) == "done"
        assert await get(url) == "done"


# Limits


@pytest.mark.parametrize("chunk", [b"x-a: " + b"a" * 100 + b"\r\n", b"a"])
async def test_headers_without_end_are_cut_off(chunk: bytes) -> None:
    """Beyond 16 KiB, of many headers or of one; other clients are served."""
    async with serving() as server:
        start = b"GET / HTTP/1.1\r\nhost: x\r\nx-b: b" + (b"" if chunk == b"a" else b"\r\n")
        reader, writer = await connect(server.port, start + chunk * (20_000 // len(chunk)))
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 4")
        await close(writer)
        assert await get(f"http://127.0.0.1:{server.port}") == "done"


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx-a: \0\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx-a : b\r\n\r\n",
        b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n",
    ],
    ids=["no host", "two hosts", "two lengths", "NUL", "space before colon", "TLS"],
)
async def test_an_invalid_request_is_refused(request_: bytes) -> None:
    """An ambiguous request does not reach the application, and the connection is closed."""
    async with serving() as server:
        reader, writer = await connect(server.port, request_)
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
        await close(writer)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"])
async def test_idle_connections_are_closed(sent: bytes) -> None:
    """Before the first request and after the last."""
    async with serving(limits=Limits(idle_timeout=timedelta(seconds=1))) as server:
        reader, writer = await connect(server.port, sent)
        assert (await reader.read()).endswith(b"done" if sent else b"")
        await close(writer)


# Stop


async def test_a_stop_lets_a_request_in_flight_finish() -> None:
    """Its client gets the answer, and no new connection is accepted."""
    app = Application()
    async with serving(app=app, drain_timeout=HOUR) as server, client() as http:
        url = f"http://127.0.0.1:{server.port}"
        call = asyncio.create_task(http.post(f"{url}/slow"))
        await app.waiting.wait()
        stopping = asyncio.create_task(server.stop())

        async def refused() -> bool:
            try:
                _, writer = await connect(server.port, b"")
            except ConnectionRefusedError:
                return True
            except ConnectionResetError:  # it waited to be accepted when the listener was closed
                return False
            await close(writer)
            return False

        try:
            await eventually(refused, what="nobody else gets in")
        finally:
            app.let.set()
        assert (await call).text == "done"
        await stopping


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: ", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"],
    ids=["nothing", "half a request", "idle after its answer"],
)
async def test_a_stop_does_not_wait_for_connections_without_a_request(sent: bytes) -> None:
    """Connections that sent nothing or a part of the headers, and idle ones."""
    async with serving(drain_timeout=HOUR) as server:
        reader, writer = await connect(server.port, sent)
        if sent.endswith(b"\r\n\r\n"):
            await reader.readuntil(b"done")
        await get(f"http://127.0.0.1:{server.port}")  # by now the other is known
        await server.stop()
        assert await reader.read() == b""
        await close(writer)


async def test_a_request_that_never_ends_holds_a_stop_no_longer_than_the_drain_timeout() -> None:
    """It is cut off, and its connection closed."""
    app = Application()
    async with serving(app=app, drain_timeout=timedelta(0)) as server:
        head = b"POST /slow HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n"
        reader, writer = await connect(server.port, head)
        await app.waiting.wait()
        await server.stop()
        assert b"done" not in await reader.read()
        await close(writer)


async def test_a_stop_may_be_repeated_and_come_first() -> None:
    """Stopping is safe at any point of the start."""
    async with serving() as server:
        await asyncio.gather(server.stop(), server.stop())
        await server.stop()
    never = HttpServer(Application().asgi, LOOPBACK)
    await never.stop()
    assert await is_free(never.port)


async def test_signals_stay_with_the_process() -> None:
    """Their handlers are unchanged while HTTP is served."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    async with serving() as server:
        await get(f"http://127.0.0.1:{server.port}")
        assert [signal.getsignal(number) for number in numbers] == before


async def test_sigterm_finishes_the_request_in_flight_and_exits_with_0(
    database_url: str, tmp_path: Path
) -> None:
    """A login in progress succeeds, and an idle connection does not delay the exit."""
    await make_user(database_url)
    port = free_port()
    process = ServerProcess(
        database_url,
        tmp_path / "log",
        AUTH_HTTP_ADDRESS=f"127.0.0.1:{port}",
        AUTH_DRAIN_TIMEOUT="1h",
    )
    await asyncio.to_thread(process.start)
    url = f"http://127.0.0.1:{port}"
    connection = await asyncpg.connect(database_url)
    try:
        async with client() as http, client() as idle:
            assert (await idle.get(f"{url}/readyz")).text == "ready\n"
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute("LOCK TABLE sessions IN EXCLUSIVE MODE")
            login = asyncio.create_task(
                http.post(
                    f"{url}/v1/login",
                    json={"identifier": USER, "password": PASSWORD},
                    headers={"origin": url, "x-requested-with": "fetch"},
                )
            )
            await until(database_url, WAITS_FOR_A_LOCK, what="the login waits for the sessions")
            process.terminate()

            async def draining() -> bool:
                return "draining" in process.output()

            await eventually(draining, what="the server is stopping")
            await transaction.rollback()
            assert (await login).status_code == 200
            assert await asyncio.to_thread(process.process.wait, TIMEOUT) == 0
    finally:
        await connection.close()
        await asyncio.to_thread(process.stop)
    assert "Traceback" not in process.output()
