"""Connections to PostgreSQL, the named statements, and the one place where driver errors end.

Owns how a connection is made and given back. Knows nothing of tables.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, TypeAlias

import asyncpg
import structlog

from auth_service.errors import ConfigError, InvalidArgument, Unavailable

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]

__all__ = ["acquire", "connect", "open_connection", "statements", "translated"]

log = structlog.get_logger(__name__)

APPLICATION_NAME = "auth-service"
ACQUIRE_TIMEOUT = 5.0  # seconds to wait for a free connection
RELEASE_TIMEOUT = 5.0  # seconds for it to be free again after a cancellation
CLIENT_MARGIN = 1.0  # seconds that the server's own statement timeout goes first
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_TRANSIENT = (
    "08",  # connection exceptions
    "25006",  # read-only transaction: a primary that was demoted
    "40",  # serialization failure, deadlock
    "53",  # insufficient resources, too many connections
    "55P03",  # lock not available
    "57",  # cancelled by the statement timeout, shutting down, starting up
    "58",  # I/O errors of the system
)
_SETUP = (
    "28",  # wrong user or password
    "3D000",  # no such database
    "42501",  # insufficient privilege
)


@cache
def statements() -> Mapping[str, str]:
    """Return the statements of queries.sql by name."""
    text = resources.files(__package__).joinpath("queries.sql").read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    return {name: sql.strip() for name, sql in zip(parts[::2], parts[1::2], strict=True)}


@contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's errors into ours; the cause is chained and its text stays inside.

    asyncio.CancelledError is no error and passes.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        state = error.sqlstate or ""
        if state.startswith(_TRANSIENT):
            raise _unavailable(error) from error
        if state.startswith("22"):  # data exception, as NUL in a text
            raise _not_storable() from error
        raise
    except (asyncpg.InterfaceError, UnicodeError) as error:
        # asyncpg's DataError, an argument that it cannot encode, is both of these.
        if isinstance(error, ValueError):
            raise _not_storable() from error
        raise _unavailable(error) from error
    except (OSError, TimeoutError) as error:
        raise _unavailable(error) from error


@contextmanager
def _setup_errors() -> Iterator[None]:
    """Tell an operator at the start what no retry will mend."""
    try:
        yield
    except asyncpg.ClientConfigurationError as error:
        raise ConfigError(f"the database URL is not valid: {error}") from error
    except asyncpg.PostgresError as error:
        if (error.sqlstate or "").startswith(_SETUP):
            raise ConfigError(f"the database refuses the connection: {error}") from error
        raise


@asynccontextmanager
async def acquire(pool: "Pool") -> AsyncIterator["Connection"]:
    """Lend a connection; its errors leave translated."""
    with translated():
        async with asyncio.timeout(ACQUIRE_TIMEOUT):  # the pool's own runs in a task each time
            connection = await pool.acquire()
        try:
            yield connection
        except asyncpg.ReadOnlySQLTransactionError:
            # The server was demoted: connect anew, which finds the primary of now.
            await pool.expire_connections()
            connection.terminate()
            raise
        finally:
            await pool.release(connection, timeout=RELEASE_TIMEOUT)


async def connect(
    url: str,
    *,
    min_size: int = 2,
    max_size: int = 10,
    statement_timeout: timedelta = timedelta(seconds=5),
    connect_timeout: timedelta = timedelta(seconds=5),
) -> "Pool":
    """Open a pool. Raises Unavailable, or ConfigError where trying again will not help."""
    with translated(), _setup_errors():
        return await asyncpg.create_pool(
            url,
            min_size=min_size,
            max_size=max_size,
            timeout=connect_timeout.total_seconds(),
            command_timeout=statement_timeout.total_seconds() + CLIENT_MARGIN,
            server_settings=_server_settings(statement_timeout),
            reset=_reset,
        )


async def open_connection(
    url: str,
    *,
    application_name: str = APPLICATION_NAME,
    statement_timeout: timedelta = timedelta(seconds=5),
    connect_timeout: timedelta = timedelta(seconds=5),
) -> "asyncpg.Connection[asyncpg.Record]":
    """Open one connection outside of the pool. Raises as `connect` does."""
    with translated(), _setup_errors():
        return await asyncpg.connect(
            url,
            timeout=connect_timeout.total_seconds(),
            command_timeout=statement_timeout.total_seconds() + CLIENT_MARGIN,
            server_settings=_server_settings(statement_timeout, application_name),
        )


def _server_settings(
    statement_timeout: timedelta, application_name: str = APPLICATION_NAME
) -> dict[str, str]:
    return {
        "application_name": application_name,
        "jit": "off",  # every statement is short
        "statement_timeout": str(max(1, int(statement_timeout.total_seconds() * 1000))),
    }


async def _reset(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    # asyncpg's own reset is a round trip after every statement; nothing here alters a session,
    # so that only a transaction that a cancellation left open needs one.
    if connection.is_in_transaction():
        await connection.reset()


def _unavailable(error: Exception) -> Unavailable:
    log.warning("database_unavailable", error=type(error).__name__, exc_info=False)
    return Unavailable("the database is not available for now; try again")


def _not_storable() -> InvalidArgument:
    return InvalidArgument("request", "holds a value that cannot be stored")
