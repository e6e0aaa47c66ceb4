"""The pool: who waits for which connection, which host is used, and what a failure looks like."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode, urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from auth_service.db import pool as pools
from auth_service.db.driver_errors import is_lost, is_wrong_server, translated
from auth_service.db.pool import Pool
from auth_service.errors import ConfigError, InvalidArgument, Unavailable
from tests.acceptance.servers import database_target
from tests.integration.client_side import Line

SOON = timedelta(milliseconds=300)
LONG = timedelta(seconds=30)
INSERT = "INSERT INTO login_throttle VALUES ($1, now())"


def at(url: str, *addresses: tuple[str, int | str]) -> str:
    """Return the URL of the same database at other addresses, in the order given."""
    parts = urlsplit(url)
    query = {"host": ",".join(host for host, _ in addresses), "sslmode": "disable"}
    query["port"] = ",".join(str(port) for _, port in addresses)
    user = parts.netloc.partition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{user}@", query=urlencode(query)))


def address(url: str) -> tuple[str, int | str]:
    """Return where a database is, as `at` takes it."""
    target = database_target(url)
    if isinstance(target, tuple):
        return target
    path = Path(target)
    return str(path.parent), path.suffix.lstrip(".")


@pytest.fixture
async def line(database_url: str) -> AsyncIterator[Line]:
    """A way to the database that can be cut."""
    line = Line(database_target(database_url))
    await line.open()
    yield line
    await line.cut()


@pytest.fixture
def hanging() -> Iterator[tuple[str, int]]:
    """A host on which the system takes connections, and nobody ever says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield "127.0.0.1", listener.getsockname()[1]


@pytest.fixture
async def limited_url(database_url: str) -> AsyncIterator[str]:
    """The database for a role that may have two connections."""
    role, admin = f"limited_{uuid4().hex}", await asyncpg.connect(database_url)
    await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'x' CONNECTION LIMIT 2")
    parts = urlsplit(database_url)
    yield urlunsplit(parts._replace(netloc=f"{role}:x@{parts.netloc.partition('@')[2]}"))
    await admin.execute(f"DROP ROLE {role}")
    await admin.close()


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail if the block takes longer."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


# Hosts


async def test_a_host_that_hangs_does_not_hold_up_the_next(
    database_url: str, hanging: tuple[str, int]
) -> None:
    """The time limit is each host's own, and the next host is tried long before it ends."""
    url = at(database_url, hanging, address(database_url))
    with within(5):
        pool = await pools.connect(url, connect_timeout=LONG)
    assert await pool.fetchval("SELECT 1") == 1
    pool.terminate()


async def test_a_host_that_refuses_is_passed_over(database_url: str) -> None:
    """Whether the host that works comes first or last."""
    here, dead = address(database_url), ("127.0.0.1", 1)
    for hosts in ([dead, here], [here, dead], [dead, dead, here]):
        with within(5):
            connection = await pools.open_connection(at(database_url, *hosts))
        await connection.close()


async def test_hosts_that_all_hang_take_the_time_of_one(hanging: tuple[str, int]) -> None:
    """They are tried side by side, and the failure says to try again."""
    url = at("postgresql://auth@/auth", hanging, hanging, hanging)
    with within(5), pytest.raises(Unavailable):
        await pools.connect(url, connect_timeout=SOON)


@pytest.mark.parametrize("attributes", ["standby", "read-only", "prefer-standby", "any", "x"])
async def test_a_url_that_asks_for_a_standby_is_refused(attributes: str, database_url: str) -> None:
    """The service writes; the error names the value that works."""
    joined = "&" if "?" in database_url else "?"
    with pytest.raises(ConfigError, match="set it to read-write"):
        await pools.connect(f"{database_url}{joined}target_session_attrs={attributes}")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://auth:hidden@one:x,two/auth",
        "postgresql://auth:hidden@one,,two/auth",
        "postgresql://auth:hidden@/auth?host=one,two&port=1,2,3",
        "postgresql://auth:hid@den:w@one/auth",
    ],
)
async def test_a_malformed_url_is_told_without_its_password(url: str) -> None:
    """Nothing of the password is in the error."""
    with pytest.raises(ConfigError, match="URL is not valid") as raised:
        await pools.connect(url)
    assert "hid" not in str(raised.value)
    assert "den" not in str(raised.value)


# Waiting


async def test_the_connect_timeout_governs_the_wait_for_a_connection(database_url: str) -> None:
    """A caller gets Unavailable once that time has passed, and the pool goes on."""
    pool = await pools.connect(database_url, min_size=1, max_size=1, connect_timeout=SOON)
    async with pool.acquire():
        with within(3), pytest.raises(Unavailable):
            await pool.fetchval("SELECT 1")
    assert await pool.fetchval("SELECT 1") == 1
    pool.terminate()


async def test_a_pool_that_cannot_grow_waits_for_a_connection_that_it_has(
    limited_url: str,
) -> None:
    """With the server's connections used up no call fails as long as one of them works."""
    pool = await pools.connect(limited_url, min_size=1, max_size=10)
    calls = [pool.fetchval("SELECT 1 FROM pg_sleep(0.02)") for _ in range(100)]
    assert await asyncio.gather(*calls) == [1] * 100
    assert pool.size == 2  # the premise: the role's limit kept it from growing
    pool.terminate()


async def test_a_caller_that_gives_up_costs_no_connection(database_url: str) -> None:
    """Cancelled while it waits, in the moment in which it is served, or in a statement."""
    pool = await pools.connect(database_url, min_size=1, max_size=1)
    for turns in range(12):
        async with pool.acquire():
            waiting = asyncio.create_task(pool.fetchval("SELECT 1 FROM pg_sleep(0.01)"))
            await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        assert await pool.fetchval("SELECT 1") == 1
    pool.terminate()


async def test_a_start_that_is_cancelled_leaves_no_connection(database_url: str) -> None:
    """In whatever step it is."""
    admin = await asyncpg.connect(database_url)
    for turns in range(0, 60, 6):
        start = asyncio.create_task(pools.connect(database_url, min_size=4))
        for _ in range(turns):
            await asyncio.sleep(0)
        start.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            (await start).terminate()
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    async with asyncio.timeout(10):
        while await admin.fetchval(others) > 1:
            await asyncio.sleep(0.01)
    await admin.close()


async def test_close_waits_for_statements_under_way(database_url: str) -> None:
    """The one under way succeeds; one that comes later is refused."""
    pool = await pools.connect(database_url, min_size=2)
    call = asyncio.create_task(pool.fetchval("SELECT 1 FROM pg_sleep(0.1)"))
    await asyncio.sleep(0)
    await asyncio.gather(pool.close(), call)
    assert call.result() == 1
    assert pool.size == 0
    with pytest.raises(Unavailable):
        await pool.fetchval("SELECT 1")


async def test_terminate_ends_statements_as_unavailable(database_url: str) -> None:
    """It ends statements under way, and the calls that wait for a connection."""
    pool = await pools.connect(database_url, min_size=1, max_size=1)
    calls = [asyncio.create_task(pool.fetchval("SELECT pg_sleep(30)")) for _ in range(2)]
    async with asyncio.timeout(10):
        while not await _running(database_url):
            await asyncio.sleep(0.01)
    pool.terminate()
    for answer in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(answer, Unavailable)


async def _running(database_url: str) -> int:
    connection = await asyncpg.connect(database_url)
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(30)'"
    found: int = await connection.fetchval(sleeping)
    await connection.close()
    return found


# A pooler in transaction mode


async def test_behind_a_pooler_nothing_is_prepared_or_set_for_a_session(database_url: str) -> None:
    """The next transaction may have another server connection, which others have used."""
    pool = await pools.connect(database_url, min_size=1, max_size=1, transaction_pooling=True)
    prepared = "SELECT count(*) FROM pg_prepared_statements WHERE $1"
    assert await pool.fetchval(prepared, True) == 0
    assert await pool.fetchval("SHOW statement_timeout") == "0"
    pool.terminate()
    direct = await pools.connect(database_url, min_size=1, max_size=1)
    assert await direct.fetchval(prepared, True) == 1  # the premise
    assert await direct.fetchval("SHOW statement_timeout") == "5s"
    direct.terminate()


async def test_behind_a_pooler_a_slow_statement_still_ends(database_url: str) -> None:
    """The driver cancels it, and its connection serves the next caller."""
    pool = await pools.connect(
        database_url, min_size=1, max_size=1, statement_timeout=SOON, transaction_pooling=True
    )
    with within(5), pytest.raises(Unavailable):
        await pool.execute("SELECT pg_sleep(30)")
    assert await pool.fetchval("SELECT 1") == 1
    assert await _running(database_url) == 0
    pool.terminate()


# Failures


async def test_a_database_that_returns_is_used_again(database_url: str, line: Line) -> None:
    """Without a restart, and without an attempt for each call that fails meanwhile."""
    pool = await pools.connect(at(database_url, ("127.0.0.1", line.port)), connect_timeout=SOON)
    await line.cut()
    with capture_logs() as logs:
        for answer in await asyncio.gather(
            *(pool.fetchval("SELECT 1") for _ in range(50)), return_exceptions=True
        ):
            assert isinstance(answer, Unavailable)
        await line.open()
        async with asyncio.timeout(10):
            while await _failed(pool):
                await asyncio.sleep(0.01)
    events = [entry["event"] for entry in logs]
    assert events.count("database_connection_failed") == 1
    assert events.count("database_connection_restored") == 1
    pool.terminate()


async def _failed(pool: Pool) -> bool:
    try:
        await pool.fetchval("SELECT 1")
    except Unavailable:
        return True
    return False


async def test_a_database_that_hangs_costs_each_call_one_timeout_at_most(
    database_url: str, line: Line
) -> None:
    """After a statement that the server did not end in time, no old connection is used again."""
    url = at(database_url, ("127.0.0.1", line.port))
    connect_timeout = timedelta(seconds=2)
    pool = await pools.connect(
        url, min_size=5, connect_timeout=connect_timeout, statement_timeout=SOON
    )
    await asyncio.gather(*(pool.fetchval("SELECT 1 FROM pg_sleep(0.05)") for _ in range(5)))
    assert pool.size == 5
    line.withhold()
    with within(5), pytest.raises(Unavailable):
        await pool.fetchval("SELECT 1")
    async with asyncio.timeout(10):
        while pool.size:
            await asyncio.sleep(0.01)
    line.forward()
    async with asyncio.timeout(10):
        while await _failed(pool):
            await asyncio.sleep(0.01)
    pool.terminate()


async def test_a_read_only_database_opens_no_storm_of_connections(
    database_url: str, line: Line
) -> None:
    """Each failing write is Unavailable, few connections are opened, and writes work again."""
    url = at(database_url, ("127.0.0.1", line.port))
    pool = await pools.connect(url, min_size=2, max_size=10)
    name = urlsplit(database_url).path.lstrip("/")
    admin = await asyncpg.connect(database_url)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(10):
            connection = await stack.enter_async_context(pool.acquire())
            await connection.execute("SET default_transaction_read_only = on")
    await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    before, failed, deadline = line.accepted, 0, time.monotonic() + 2
    while time.monotonic() < deadline:
        answers = await asyncio.gather(
            *(pool.execute(INSERT, f"{failed}-{n}") for n in range(5)), return_exceptions=True
        )
        assert {type(answer) for answer in answers} == {Unavailable}
        failed += 5
    assert failed >= 20  # the premise
    assert line.accepted - before <= 10
    await admin.execute("SET default_transaction_read_only = off")
    await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    await admin.close()
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(Unavailable):
                await pool.execute(INSERT, "again")
                break
    pool.terminate()


async def test_connections_that_the_server_ends_are_unavailable_and_leave_the_pool(
    database_url: str,
) -> None:
    """In whatever state the server finds them; the driver does not always tell that one is lost."""
    pool = await pools.connect(database_url, min_size=1, max_size=4)
    admin = await asyncpg.connect(database_url)
    own = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    causes = set()
    for turn in range(40):
        calls = [asyncio.create_task(pool.execute("SELECT pg_sleep(0.0005)")) for _ in range(30)]
        for _ in range(turn):
            await asyncio.sleep(0)
        await admin.execute(f"SELECT pg_terminate_backend(pid) {own}")
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(answer, BaseException):
                assert isinstance(answer, Unavailable)
                causes.add(type(answer.__cause__))
    assert asyncpg.InternalClientError in causes  # the premise: "cannot switch to state"
    async with asyncio.timeout(10):
        while await admin.fetchval(f"SELECT count(*) {own}") != pool.size:
            await asyncio.sleep(0.01)
    await admin.close()
    pool.terminate()


UNAVAILABLE = [
    asyncpg.InternalClientError("got result for unknown protocol state 3"),
    asyncpg.TargetServerAttributeNotMatched("None of the hosts match"),
    asyncpg.ProtocolError("unexpected message"),
    asyncpg.InterfaceError("cannot perform operation: connection is closed"),
    asyncpg.ConnectionDoesNotExistError("connection was closed"),
    asyncpg.ClientConfigurationError("the root certificate is gone"),
    asyncpg.FeatureNotSupportedError("cannot access temporary or unlogged relations"),
    asyncpg.InvalidCachedStatementError("cached statement plan is invalid"),
    asyncpg.ReadOnlySQLTransactionError("cannot execute INSERT in a read-only transaction"),
    asyncpg.IdleInTransactionSessionTimeoutError("terminating connection"),
    asyncpg.DuplicatePreparedStatementError("prepared statement already exists"),
    asyncpg.InvalidSQLStatementNameError("prepared statement does not exist"),
    asyncpg.InvalidPasswordError("password authentication failed"),
    asyncpg.InsufficientPrivilegeError("permission denied for table users"),
    asyncpg.UndefinedTableError("relation does not exist"),
    asyncpg.DeadlockDetectedError("deadlock detected"),
    asyncpg.DiskFullError("could not extend file"),
    asyncpg.OutOfMemoryError("out of memory"),
    asyncpg.TooManyConnectionsError("sorry, too many clients already"),
    asyncpg.LockNotAvailableError("canceling statement due to lock timeout"),
    asyncpg.QueryCanceledError("canceling statement due to statement timeout"),
    asyncpg.AdminShutdownError("terminating connection due to administrator command"),
    asyncpg.CannotConnectNowError("the database system is starting up"),
    asyncpg.exceptions.PostgresIOError("could not read block"),
    asyncpg.InternalServerError("cache lookup failed"),
    asyncpg.PostgresError("without a state"),
    ConnectionResetError("reset by peer"),
    TimeoutError(),
]


@pytest.mark.parametrize("error", UNAVAILABLE, ids=lambda error: type(error).__name__)
def test_an_error_of_the_driver_is_unavailable_and_says_when_to_retry(error: Exception) -> None:
    """Whatever it is; its own text stays inside."""
    with pytest.raises(Unavailable) as raised, translated():
        raise error
    assert raised.value.retry_after > timedelta(0)
    assert raised.value.text == "the database is not available; try again"
    assert raised.value.__cause__ is error


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.DataError("invalid input for query argument $1"),
        asyncpg.CharacterNotInRepertoireError("invalid byte sequence"),
        asyncpg.ProgramLimitExceededError("index row size exceeds maximum"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_value_that_cannot_be_stored_is_an_invalid_argument(error: Exception) -> None:
    """No retry helps, and the connection serves the next caller."""
    with pytest.raises(InvalidArgument), translated():
        raise error
    assert not is_lost(error)
    assert not is_wrong_server(error)


def test_a_violated_constraint_is_left_to_the_store() -> None:
    """The store knows what it means."""
    with pytest.raises(asyncpg.UniqueViolationError), translated():
        raise asyncpg.UniqueViolationError("duplicate key")


async def test_a_caller_that_is_cancelled_sees_its_cancellation() -> None:
    """Only a CancelledError that nobody asked for is an error of the driver."""

    async def wait() -> None:
        with translated():
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def stray() -> None:
        with translated():
            raise asyncio.CancelledError

    with pytest.raises(Unavailable):
        await asyncio.create_task(stray())
