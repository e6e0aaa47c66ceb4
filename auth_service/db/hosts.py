"""One new connection: to the first of the URL's hosts that takes writes.

Owns how long each host may take, what a session is told at its start, and which server is refused.
"""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from auth_service.db.driver_errors import is_setup_error
from auth_service.errors import ConfigError

__all__ = ["APPLICATION_NAME", "Connection", "Connector"]

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

APPLICATION_NAME = "auth-service"
NEXT_HOST_DELAY = 0.5
"""Seconds after which the next host is tried beside one that has not answered yet."""
STATEMENT_CACHE_SIZE = 100
CLIENT_MARGIN = 1.0
"""Seconds by which the server's own statement timeout comes before the driver's."""
TARGETS = ("read-write", "primary")
"""What `target_session_attrs` may ask for: the service writes. The first is the default."""
_HOST = re.compile(r"(\[[^\]]*\]|/[^:]*|[^:]*)(?::(\d+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Connector:
    """How a connection to the database is made.

    With `transaction_pooling` the URL leads to a pooler that gives each transaction another server
    connection: nothing is prepared, listened to, or set for a session.
    """

    url: str = field(repr=False)  # it may hold a password
    connect_timeout: timedelta = timedelta(seconds=5)
    """The time that each host has to take a connection."""
    statement_timeout: timedelta = timedelta(seconds=5)
    transaction_pooling: bool = False
    application_name: str = APPLICATION_NAME
    writes: bool = True
    """Whether a primary that is set read-only is refused too. A standby always is."""

    async def connect(self) -> Connection:
        """Open a connection to a server that takes writes. Raises the driver's errors.

        The hosts are tried in the order of the URL. One that does not answer within half a second
        is overtaken by the next (as in RFC 8305 section 5), so that a host that hangs costs that.
        """
        target = self._target()
        hosts = list(_hosts(self.url))
        waiting: set[asyncio.Task[Connection]] = set()
        errors: list[BaseException] = []
        try:
            for number, host in enumerate(hosts, start=1):
                waiting.add(asyncio.create_task(self._attempt(target, *host)))
                last = number == len(hosts)
                while waiting:
                    done, waiting = await asyncio.wait(
                        waiting,
                        timeout=None if last else NEXT_HOST_DELAY,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                    if (connection := _chosen(done, errors)) is not None:
                        return connection
                    if not last:
                        break
        finally:
            for task in waiting:
                task.cancel()
                task.add_done_callback(_discard)
        raise next(filter(is_setup_error, errors), errors[-1])

    async def _attempt(
        self, target: SessionAttribute, host: str | None, port: int | None
    ) -> Connection:
        timeout = self.statement_timeout.total_seconds()
        settings = {"application_name": self.application_name}
        if not self.transaction_pooling:
            settings["jit"] = "off"  # every statement is short
            settings["statement_timeout"] = str(max(1, int(timeout * 1000)))
        return await asyncpg.connect(
            self.url,
            host=host,
            port=port,
            statement_cache_size=0 if self.transaction_pooling else STATEMENT_CACHE_SIZE,
            timeout=self.connect_timeout.total_seconds(),
            command_timeout=timeout + CLIENT_MARGIN,
            server_settings=settings,
            target_session_attrs=target,
        )

    def _target(self) -> SessionAttribute:
        if self.transaction_pooling:
            return SessionAttribute.any  # a pooler repeats what some server told it earlier
        query = dict(parse_qsl(urlsplit(self.url).query))
        target = query.get("target_session_attrs", TARGETS[0] if self.writes else TARGETS[1])
        if target not in TARGETS:
            raise ConfigError(
                f"the database URL has target_session_attrs={target}, and the service needs a "
                f"server that takes writes; set it to {TARGETS[0]} or leave it out"
            )
        return SessionAttribute(target)


def _hosts(url: str) -> Iterator[tuple[str | None, int | None]]:
    """Yield the hosts and ports of the URL; None stands for what a URL with one host says."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    user, at, named = parts.netloc.partition("@")
    hosts = [unquote(host) for host in (named if at else user).split(",")]
    if hosts == [""]:
        hosts = query.get("host", "").split(",")
    if len(hosts) == 1:
        yield None, None
        return
    ports = query.get("port", "").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    for host, port in zip(hosts, ports, strict=False):
        match = _HOST.fullmatch(host)
        if match is None or not match[1] or len(ports) != len(hosts):
            raise ConfigError("the database URL is not valid: its hosts and ports do not match")
        yield match[1].strip("[]"), int(match[2] or port or 0) or None


def _chosen(
    done: set[asyncio.Task[Connection]], errors: list[BaseException]
) -> "Connection | None":
    """Return the connection of one attempt, and close those of others; collect errors."""
    chosen: Connection | None = None
    for task in done:
        if (error := task.exception()) is not None:
            errors.append(error)
        elif chosen is None:
            chosen = task.result()
        else:
            task.result().terminate()
    return chosen


def _discard(task: asyncio.Task[Connection]) -> None:
    """Close the connection of an attempt that came too late."""
    if not task.cancelled() and task.exception() is None:
        task.result().terminate()
