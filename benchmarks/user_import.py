"""A million users imported with their bcrypt hashes, killed on the way, and run again.

Two cores: the command has one, and PostgreSQL the other.
"""

import asyncio
import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg

from auth_service import base64url
from benchmarks.figures import Verdict
from benchmarks.processes import SERVER_CPUS, run_on
from benchmarks.replicas import Service, database

USERS = int(os.environ.get("BENCH_USERS", "1000000"))
KILLED_AT = USERS * 2 // 5  # rows
GOAL_SECONDS = 600
_COUNT = """
SELECT (SELECT count(*) FROM users) AS users, (SELECT count(*) FROM user_identifiers) AS names
"""
_ALPHABET = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def main() -> list[Verdict]:
    """Print how long both runs take together, and what a third one does."""
    return asyncio.run(_main())


async def _main() -> list[Verdict]:
    async with database() as service:
        with tempfile.TemporaryDirectory(prefix="auth-bench-") as folder:
            file = Path(folder) / "users.csv"
            _write(file)
            first = await _killed(service, file)
            cut = await _count(service)
            second, summary = _run(service, file)
            third, again = _run(service, file)
    assert KILLED_AT <= cut < USERS, cut
    assert _made_the_rest(summary, cut), summary
    assert again.startswith(f"0 created, {USERS} existed"), again
    print(f"killed after {first:.1f} s with {cut} users; then {second:.1f} s: {summary}")
    print(f"once more: {third:.1f} s: {again}")
    total = first + second
    return [
        Verdict(
            f"import of {USERS} users, killed and run again", [total], at_most=GOAL_SECONDS,
            unit="s", note=f"{USERS / total:.0f} users a second",
        )
    ]  # fmt: skip


def _made_the_rest(summary: str, cut: int) -> bool:
    """Tell whether the second run made just what the first had not."""
    return summary.startswith(f"{USERS - cut} created, {cut} existed already, 0 refused")


def _write(file: Path) -> None:
    """Write users with two identifiers, a role, and bcrypt hashes of which no two are the same."""
    with file.open("w") as lines:
        lines.write("identifiers,password_hash,roles,created_at\n")
        for number in range(USERS):
            digest = "".join(_ALPHABET[each % 64] for each in secrets.token_bytes(52))
            lines.write(
                f"User.{number}@Example.com;user{number},$2b$10${digest}.,member,"
                "2024-05-01T12:00:00Z\n"
            )


def _start(service: Service, file: Path) -> "subprocess.Popen[str]":
    settings = {
        "AUTH_DATABASE_URL": service.database_url,
        "AUTH_MASTER_KEY": base64url.encode(service.secret),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "auth_service", "users", "import", str(file)],
        env=os.environ | settings, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: run_on(SERVER_CPUS),  # noqa: PLW1509 - a benchmark has one thread
    )  # fmt: skip


async def _killed(service: Service, file: Path) -> float:
    """Import, kill -9 once enough users are there, and return the seconds."""
    started = time.perf_counter()
    process = _start(service, file)
    while await _count(service) < KILLED_AT:
        assert process.poll() is None, "the import ended before it was killed"
        await asyncio.sleep(1)
    process.kill()
    process.communicate()
    return time.perf_counter() - started


def _run(service: Service, file: Path) -> tuple[float, str]:
    """Import, and return the seconds and the summary."""
    started = time.perf_counter()
    process = _start(service, file)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return time.perf_counter() - started, errors.splitlines()[-1]


async def _count(service: Service) -> int:
    connection: Any = await asyncpg.connect(service.database_url)
    try:
        row = await connection.fetchrow(_COUNT)
        assert row["names"] == 2 * row["users"], "a user without identifiers"
        users: int = row["users"]
        return users
    finally:
        await connection.close()
