"""The place of every error of the driver: what a caller sees, and what becomes of the connection.

    asyncpg.PostgresError, by SQLSTATE
        22, 54                            InvalidArgument: a value that cannot be stored
        23                                passes: the store names the constraint
        any other                         Unavailable
    asyncpg.DataError, UnicodeError       InvalidArgument: a value that cannot be encoded
    asyncpg.InterfaceError                Unavailable: the connection is gone
    asyncpg.InternalClientError           Unavailable: no server takes writes, or a broken dialogue
    OSError, TimeoutError                 Unavailable
    CancelledError without a cancel       Unavailable: the connection was closed under a statement

A retry may help wherever the answer is Unavailable. The driver's text never leaves: it may hold the
values of a statement. The log gets the class of the error and its SQLSTATE.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import structlog

from auth_service.errors import ConfigError, InvalidArgument, Unavailable

__all__ = [
    "UNAVAILABLE",
    "details",
    "is_lost",
    "is_setup_error",
    "is_wrong_server",
    "setup_errors",
    "translated",
]

log = structlog.get_logger(__name__)

UNAVAILABLE = "the database is not available; try again"

_NOT_STORABLE = (
    "22",  # data exception, for example NUL in a text
    "54",  # program limit exceeded, for example a text too long for an index
)
_CONSTRAINT = "23"
_SETUP = (
    "08P01",  # a start-up parameter that a pooler does not take
    "28",  # wrong user or password
    "3D000",  # no such database
    "42501",  # insufficient privilege
)
_WRONG_SERVER = (
    "0A000",  # an unlogged table on a standby
    "25006",  # read-only transaction
)
_CONNECTION_LOST = (
    "08",  # connection exceptions
    "57P",  # shutting down, starting up
)


@contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's errors into the service's; the cause is chained."""
    try:
        yield
    except asyncpg.PostgresError as error:
        state = error.sqlstate or ""
        if state.startswith(_CONSTRAINT):
            raise
        raise (
            _not_storable() if state.startswith(_NOT_STORABLE) else _unavailable(error)
        ) from error
    except (asyncpg.DataError, UnicodeError) as error:
        raise _not_storable() from error
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError) as error:
        raise _unavailable(error) from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise _unavailable(error) from error


@contextmanager
def setup_errors() -> Iterator[None]:
    """Raise ConfigError for what an operator has to correct before a retry can help."""
    try:
        yield
    except asyncpg.ClientConfigurationError as error:
        raise ConfigError(f"the database URL is not valid: {error}") from error
    except ValueError as error:  # its text may quote a part of the password
        raise ConfigError("the database URL is not valid: check its host and port") from error
    except asyncpg.PostgresError as error:
        if isinstance(error, asyncpg.ProtocolViolationError):
            raise ConfigError(
                f"the database refuses the connection: {error}; if the URL leads to a pooler such "
                "as pgbouncer, set AUTH_DATABASE_TRANSACTION_POOLING=true"
            ) from error
        if is_setup_error(error):
            raise ConfigError(f"the database refuses the connection: {error}") from error
        raise


def is_setup_error(error: BaseException) -> bool:
    """Tell whether the server refuses the user, the password or the database."""
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "").startswith(_SETUP)


def is_lost(error: BaseException) -> bool:
    """Tell whether the connection on which a statement failed so cannot be used again."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(_CONNECTION_LOST)
    lost = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
    return isinstance(error, lost) and not isinstance(error, asyncpg.DataError)


def is_wrong_server(error: BaseException) -> bool:
    """Tell whether the server takes no writes, so that no connection to it is of use."""
    state = error.sqlstate if isinstance(error, asyncpg.PostgresError) else None
    return (state or "").startswith(_WRONG_SERVER)


def details(error: BaseException) -> dict[str, str | None]:
    """Return what the log may say of an error."""
    return {"error": type(error).__name__, "sqlstate": getattr(error, "sqlstate", None)}


def _unavailable(error: BaseException) -> Unavailable:
    log.warning("database_unavailable", **details(error))
    return Unavailable(UNAVAILABLE)


def _not_storable() -> InvalidArgument:
    return InvalidArgument("request", "has a value that cannot be stored")
