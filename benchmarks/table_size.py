"""Refresh, Login and ListSessions with a million sessions against ten thousand, and how they grow.

The million stand for 200,000 users, the ten thousand for 2,000: five sessions a user in both.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg

from benchmarks.figures import Verdict, in_turn, medians, ratios, show
from benchmarks.jobs import Job
from benchmarks.load import Generator
from benchmarks.login import LOGIN, argon2, login_requests
from benchmarks.processes import OTHER_CPUS, Serving
from benchmarks.refreshing import REFRESH, Refreshing
from benchmarks.replicas import Service, another_database, database
from benchmarks.tables import PASSWORD, fill, rotate_statement, rotation, session_rows

LIST_SESSIONS = "/authn.v1.AccountService/ListSessions"
FEW, MANY = 10_000, 1_000_000
SAMPLE = 1500  # sessions, from all over the table, that a round of Refresh steps
USERS = 2000
REFRESHES = 10
CONNECTIONS = 8
ROUNDS = 5


def main() -> list[Verdict]:
    """Print the rates of both sizes, and what ten refreshes of each session do to the table."""
    return asyncio.run(_main())


async def _main() -> list[Verdict]:
    hashed = argon2().hash(PASSWORD)
    async with database() as few:
        many = await another_database(few, "many")
        await fill(few.database_url, sessions=FEW, argon2_hash=hashed)
        await fill(many.database_url, sessions=MANY, argon2_hash=hashed)
        verdicts = []
        async with few.server() as small, many.server() as large:
            with Generator(OTHER_CPUS) as generator:
                sides = [await _Side.of(few, small), await _Side.of(many, large)]
                for name, call in _QUESTIONS.items():
                    verdicts.append(await _compare(name, call, sides, generator))
        return [*verdicts, *await _growth(few.database_url)]


class _Side:
    """A server on a table of some size, and what to ask it."""

    def __init__(self, server: Serving, refreshing: Refreshing, bearers: Sequence[str]) -> None:
        self.server = server
        self.refreshing = refreshing
        self.bearers = bearers

    @classmethod
    async def of(cls, service: Service, server: Serving) -> "_Side":
        rows = await session_rows(service.database_url, SAMPLE)
        bearers = [service.token(str(row["user_id"]), str(row["id"])) for row in rows]
        return cls(server, await Refreshing.of(service, rows), bearers)


def _refresh(side: _Side) -> Job:
    bodies = side.refreshing.next_requests()
    return Job(side.server.address, REFRESH, bodies, calls=len(bodies), expect=b"\x0a")


def _login(side: _Side) -> Job:
    return Job(
        side.server.address, LOGIN, login_requests(USERS), seconds=1.5, connections=1, in_flight=8
    )


def _list_sessions(side: _Side) -> Job:
    bodies = [b""] * len(side.bearers)
    return Job(
        side.server.address, LIST_SESSIONS, bodies, side.bearers, seconds=1.0, expect=b"\x0a"
    )


_QUESTIONS: dict[str, Callable[[_Side], Job]] = {
    "Refresh": _refresh,
    "Login": _login,
    "ListSessions": _list_sessions,
}


async def _compare(
    name: str, job: Callable[[_Side], Job], sides: Sequence[_Side], generator: Generator
) -> Verdict:
    def run(side: _Side) -> Callable[[], Awaitable[float]]:
        async def rate() -> float:
            return (await generator.run_async(job(side))).rate

        return rate

    names = f"{name}, {FEW:,} sessions", f"{name}, {MANY:,} sessions"
    rates = await in_turn(dict(zip(names, map(run, sides), strict=True)), ROUNDS)
    show(rates, "/s", 1)
    slower = ratios(rates[names[0]], rates[names[1]])
    question = f"{name} with {MANY:,} sessions, slower than with {FEW:,}"
    return Verdict(question, slower, at_most=1.2, sides=medians(rates))


async def _growth(url: str) -> list[Verdict]:
    """Refresh each session ten times by the service's own statement, and look at the table."""
    connection: Any = await asyncpg.connect(url, timeout=60, command_timeout=None)
    await connection.execute("SELECT pg_stat_reset()")
    before = await connection.fetchval("SELECT pg_relation_size('sessions')")
    for _ in range(REFRESHES):
        rows = await session_rows(url, FEW)
        live = [(row["user_id"], row["id"], row["generation"], row["seed"]) for row in rows]
        turns = [live[start::CONNECTIONS] for start in range(CONNECTIONS)]
        await asyncio.gather(*(_rotate(url, turn) for turn in turns))
    after = await connection.fetchval("SELECT pg_relation_size('sessions')")
    stepped, hot = await connection.fetchrow(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'sessions'"
    )
    await connection.close()
    print(f"  {before:,} bytes before, {after:,} after; {hot:,} of {stepped:,} updates were HOT")
    question = f"growth of the table when each session is refreshed {REFRESHES} times"
    sides = {"bytes before": before, "bytes after": after, "updates": stepped, "HOT": hot}
    share = 100 * (after - before) / before
    return [Verdict(question, [share], at_most=10, unit="%", sides=sides)]


async def _rotate(url: str, sessions: Sequence[tuple[Any, Any, int, bytes]]) -> None:
    connection: Any = await asyncpg.connect(url)
    statement = await connection.prepare(rotate_statement())
    for session in sessions:
        await statement.fetchrow(*rotation(*session))
    # Counts reach the statistics when a connection ends, or is idle for a while.
    await connection.close()
