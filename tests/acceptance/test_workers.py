"""Several workers on one port, as real processes: sharing, replacement, stop and restart."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import grpc
import httpx
import pytest
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc as rpc

from tests.acceptance.conftest import MakeClient, StartServer
from tests.acceptance.servers import (
    PROJECT,
    ServerProcess,
    environment,
    eventually,
    make_user,
)
from tests.folders import open_folder
from tests.ports import free_address

FIRST_USER = "demo@example.com"
PACE = 0.02  # seconds between two calls of a client; leaves CPU time to start processes


def logged(server: ServerProcess, event: str) -> list[dict[str, Any]]:
    """Return the log entries of an event, of all processes of a server."""
    lines = [line for line in server.output().splitlines() if line.startswith("{")]
    return [entry for entry in map(json.loads, lines) if entry["event"] == event]


def alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    shown = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip()[:1] not in ("", "Z")


async def all_started(server: ServerProcess, count: int = 2) -> list[int]:
    """Return the pids of the workers when `count` of them serve."""

    async def started() -> bool:
        return len(logged(server, "serving")) >= count

    await eventually(started, what=f"{count} workers serve")
    return [entry["pid"] for entry in logged(server, "worker_started")]


async def ended(pids: list[int]) -> None:
    async def none_left() -> bool:
        return not any(map(alive, pids))

    await eventually(none_left, what="the workers end")


async def metric(url: str, name: str, *patterns: str) -> float:
    """Return a sum of the metrics that any of the workers reports."""
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"{url}/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith(name)]
    return sum(float(line.split()[-1]) for line in lines if all(p in line for p in patterns))


async def test_workers_share_clients_and_metrics_and_one_that_is_killed_is_replaced(
    start_server: StartServer, client: MakeClient, database_url: str, tmp_path: Path
) -> None:
    """Connections reach every worker, and the metrics include those of the killed one."""
    await make_user(database_url)
    address = free_address()
    server = await asyncio.to_thread(
        start_server, AUTH_WORKERS="2", TMPDIR=str(tmp_path), AUTH_HTTP_ADDRESS=address
    )
    url = f"http://{address}"
    pids = await all_started(server)
    token = (await (await client(server.address)).login()).access_token
    for _ in range(40):
        assert (await (await client(server.address)).validate(token)).active

    [directory] = tmp_path.glob("auth-service-metrics-*")
    shares = sorted(directory.glob("counter_*.db"))
    assert len(shares) == 2, "both have counted"
    validated = ("auth_rpc_total", "Validate", '"OK"')

    async def counted() -> bool:  # each worker counts its calls four times a second
        return await metric(url, *validated) == 40

    await eventually(counted, what="the calls of both are counted")

    os.kill(pids[0], signal.SIGKILL)

    async def replaced() -> bool:
        with contextlib.suppress(grpc.aio.AioRpcError):  # on the connections of the killed worker
            assert (await (await client(server.address)).validate(token)).active
        return bool(logged(server, "worker_replaced"))

    await eventually(replaced, what="a killed worker is replaced")
    [entry] = logged(server, "worker_replaced")
    assert entry["pid"] == pids[0]
    assert alive(entry["by"])
    for _ in range(40):
        assert (await (await client(server.address)).validate(token)).active

    async def counted_on() -> bool:
        return await metric(url, *validated) >= 80

    await eventually(counted_on, what="the calls of the dead one are not forgotten")
    assert sorted(directory.glob("counter_*.db")) == shares


async def test_a_stop_lets_the_calls_of_every_worker_finish(
    start_server: StartServer, client: MakeClient, database_url: str
) -> None:
    """After SIGTERM, running calls finish, the exit code is 0, and no process is left."""
    await make_user(database_url)
    server = await asyncio.to_thread(
        start_server, AUTH_WORKERS="2", AUTH_DATABASE_STATEMENT_TIMEOUT="30s"
    )
    pids = await all_started(server)
    clients = [await client(server.address) for _ in range(8)]
    connection: Any = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE sessions IN ACCESS EXCLUSIVE MODE")
            calls = asyncio.gather(*(each.login() for each in clients))

            async def all_wait() -> bool:
                waiting = await connection.fetchval(
                    "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation ="
                    " 'sessions'::regclass AND database ="
                    " (SELECT oid FROM pg_database WHERE datname = current_database())"
                )
                return bool(waiting >= len(clients))

            await eventually(all_wait, what="all calls are in the database")
            server.terminate()

            async def draining() -> bool:
                return len(logged(server, "draining")) == 3

            await eventually(draining, what="the supervisor and both workers drain")
            assert all(map(alive, pids))
        for answer in await calls:
            assert answer.access_token
    finally:
        await connection.close()
    assert await asyncio.to_thread(server.process.wait, 60) == 0
    assert not any(map(alive, pids))


async def call_on(channel: grpc.aio.Channel, token: str) -> None:
    answer = await rpc.AuthServiceStub(channel).Validate(
        pb.ValidateRequest(access_token=token), timeout=30
    )
    assert answer.active


def channel_to(address: str) -> grpc.aio.Channel:
    """Return a channel with the default options, except that it does not share its connection."""
    return grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


async def call_on_new_channels(address: str, token: str, stop: asyncio.Event) -> int:
    """Validate, each time on a new connection, until `stop`; return the number of calls."""
    calls = 0
    while not stop.is_set():
        async with channel_to(address) as channel:
            await call_on(channel, token)
        calls += 1
        await asyncio.sleep(PACE)
    return calls


async def call_on_one_channel(address: str, token: str, stop: asyncio.Event) -> int:
    """Validate on one channel until `stop`; return the number of calls."""
    calls = 0
    async with channel_to(address) as channel:
        while not stop.is_set():
            await call_on(channel, token)
            calls += 1
            await asyncio.sleep(PACE)
    return calls


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux steers connections (docs/workers.md)"
)
async def test_a_restart_under_load_refuses_no_call(
    start_server: StartServer, client: MakeClient, database_url: str
) -> None:
    """SIGHUP replaces every process, and no call fails, on new and on existing connections."""
    await make_user(database_url)
    server = await asyncio.to_thread(
        start_server, AUTH_WORKERS="2", AUTH_MAX_CONNECTION_AGE="500ms"
    )
    pids = await all_started(server)
    token = (await (await client(server.address)).login()).access_token
    stop = asyncio.Event()
    load = [
        asyncio.create_task(kind(server.address, token, stop))
        for kind in (call_on_new_channels, call_on_new_channels, call_on_one_channel)
        for _ in range(4)
    ]
    server.process.send_signal(signal.SIGHUP)

    async def all_replaced() -> bool:
        done = len(logged(server, "worker_replaced")) == 2
        return done or any(task.done() for task in load)

    await eventually(all_replaced, within=90, what="both workers are replaced")
    stop.set()
    assert all(calls > 10 for calls in await asyncio.gather(*load))
    new = [entry["pid"] for entry in logged(server, "worker_started")][2:]
    assert len(new) == 2
    assert all(map(alive, new))
    assert not any(map(alive, pids))
    assert {entry["code"] for entry in logged(server, "worker_exited")} == {0}


def start_development(folder: Path) -> ServerProcess:
    """Start `serve --dev` with two workers; the folder gets its `greeting` and `log`."""
    server = ServerProcess("", folder / "log")
    server.address = free_address()
    variables = environment("", AUTH_GRPC_ADDRESS=server.address)
    variables["AUTH_EMBEDDED_DIR"] = str(folder / "pg")
    del variables["AUTH_DATABASE_URL"], variables["AUTH_MASTER_KEY"]
    with (folder / "log").open("wb") as log, (folder / "greeting").open("wb") as greeting:
        server.process = subprocess.Popen(
            [sys.executable, "-m", "auth_service", "serve", "--dev", "--workers", "2"],
            env=variables,
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=greeting,
            stderr=log,
        )
    return server


async def test_workers_on_the_embedded_postgresql_end_with_a_supervisor_that_is_killed(
    client: MakeClient,
) -> None:
    """There is one greeting, one key and one database; kill -9 leaves no process behind."""
    with open_folder() as folder:
        server = await asyncio.to_thread(start_development, folder)
        try:

            async def greeted() -> str | None:
                text = (folder / "greeting").read_text()
                return text if "# Revoke" in text else None

            text = await eventually(greeted, what="the greeting is printed")
            assert text.count("Password") == 1
            pids = await all_started(server)
            password = text.split("Password")[1].split()[0]
            credentials = pb.PasswordCredentials(identifier=FIRST_USER, password=password)
            for _ in range(8):
                auth = (await client(server.address)).auth
                reply = await auth.Login(pb.LoginRequest(password=credentials), timeout=30)
                assert reply.tokens.access_token
            for pid in (server.process.pid, *pids):
                arguments = Path(f"/proc/{pid}/cmdline")
                assert not arguments.exists() or b"postgresql:" not in arguments.read_bytes()
            server.kill()
            await ended(pids)
        finally:
            server.stop()


def refused(database_url: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Return the result of a server that does not start."""
    return subprocess.run(
        [sys.executable, "-m", "auth_service", "serve", "--workers", "2"],
        env=environment(database_url, AUTH_GRPC_ADDRESS=free_address()) | settings,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_error_that_prevents_all_workers_from_starting_is_reported_once(
    empty_database_url: str,
) -> None:
    """The error and the exit code are those of the worker."""
    result = refused(empty_database_url)
    assert result.returncode == 3
    assert result.stderr.count("error: ") == 1
    assert "run `auth-service migrate`" in result.stderr
    assert result.stderr.count("worker_started") == 1
