"""make compat: the client's tests beside each set of versions, and a table of the results.

The wheel of this project is installed without an extra. The tests run from a copy that holds the
client's tests alone, so they can import neither the working tree nor a package of the server.
The service that they call runs from .venv. "Newest" is what the package index has at the moment.
"""

import asyncio
import dataclasses
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from auth_service.db.migrate import migrate
from tests.audiences import register_in
from tests.compat.live import VARIABLE, Live
from tests.compat.service import serving
from tests.folders import open_folder
from tests.postgres import new_postgres

PROJECT = Path(__file__).resolve().parents[2]
HOME = PROJECT / ".tools" / "compat"
TREE = HOME / "tree"

OLDEST = ("googleapis-common-protos==1.63.1", "pyjwt==2.8.0", "cryptography==42.0.0")
"""The lower bounds of pyproject.toml, besides those of grpcio and protobuf."""

TOOLS = (
    *("fastapi", "httpx", "hypothesis", "pytest", "pytest-asyncio", "pytest-timeout"),
    *("pytest-xdist", "trustme"),
)
HEALTH = "grpcio-health-checking==1.63.0"
"""The tests guard this service. Its dependencies are not installed: they are an older protobuf."""

TOKEN_TESTS = (
    "tests/unit/test_access.py",
    "tests/unit/test_identity_headers.py",
    "tests/unit/test_jws.py",
    "tests/unit/test_keys.py",
    "tests/unit/test_revocation.py",
    "tests/unit/test_rules.py",
)
"""They import neither gRPC nor protobuf, so two sets of versions are enough for them."""

TESTS = (
    "tests/unit/test_client_*.py",
    "tests/unit/test_step_up.py",
    "tests/unit/test_token_life.py",
    "tests/integration/test_client_asgi.py",
    "tests/integration/test_client_interceptors.py",
    "tests/integration/test_client_watch.py",
    "tests/compat/test_live.py",
)
"""The other tests of the client that need no package of the server."""

SHARED = ("__init__", "channels", "clock", "watch_events", "compat/__init__", "compat/live")

# gRPC 1.63 itself loses the thread of a handler that ends a stream by `abort`, if the handler is
# not a coroutine and the server is one of asyncio. Nothing else fails there.
LOSES_THREADS = (
    "tests/integration/test_client_interceptors.py"
    "::test_errors_of_a_handler_pass[threads under aio-unary_stream]"
)


class Versions(NamedTuple):
    """An environment: what is installed, and what its versions must begin with."""

    name: str
    grpcio: str
    protobuf: str
    requirements: tuple[str, ...] = ()
    deselected: tuple[str, ...] = ()
    tokens: bool = False
    """Whether PyJWT and cryptography have versions of this environment's own."""


class Outcome(NamedTuple):
    """How the tests went, and the versions that they found."""

    name: str
    versions: dict[str, str]
    summary: str
    seconds: float
    passed: bool


ENVIRONMENTS = (
    Versions("oldest", "==1.63.0", "==5.26.0", OLDEST, (LOSES_THREADS,), tokens=True),
    Versions("grpcio-1.63-protobuf-6", "==1.63.0", ">=6,<7", (), (LOSES_THREADS,)),
    Versions("grpcio-1.63-protobuf-7", "==1.63.0", ">=7,<8", (), (LOSES_THREADS,)),
    Versions("newest-protobuf-5.26", ">=1.85", "==5.26.0"),
    Versions("newest-protobuf-6", ">=1.85", ">=6,<7"),
    Versions("newest", ">=1.85", ">=7,<8", tokens=True),
)
SHOWN = ("grpcio", "protobuf", "googleapis-common-protos", "pyjwt", "cryptography")


def run(*command: str | Path) -> str:
    """Return what a command prints; raises CalledProcessError, and shows its errors."""
    return subprocess.run(
        command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def uv(*arguments: str | Path) -> None:
    run("bash", ".ci/uv", *arguments)


def build_wheel() -> Path:
    """Return the wheel of the working tree."""
    shutil.rmtree(HOME / "dist", ignore_errors=True)
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", HOME / "dist")
    (wheel,) = (HOME / "dist").glob("*.whl")
    return wheel


def matching(patterns: tuple[str, ...]) -> list[Path]:
    """Return the files of these patterns; each must have one."""
    found = {pattern: sorted(PROJECT.glob(pattern)) for pattern in patterns}
    assert all(found.values()), f"no such tests: {found}"
    return [path for files in found.values() for path in files]


def copy_tests() -> None:
    """Copy the client's tests and the modules that they import."""
    shutil.rmtree(TREE, ignore_errors=True)
    for path in (
        *matching(TOKEN_TESTS),
        *matching(TESTS),
        *(PROJECT / "tests" / f"{name}.py" for name in SHARED),
    ):
        copy = TREE / path.relative_to(PROJECT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    shutil.copyfile(
        PROJECT / "tests" / "compat" / "conftest_of_the_client.py", TREE / "tests" / "conftest.py"
    )
    shutil.copyfile(PROJECT / "pyproject.toml", TREE / "pyproject.toml")


def install(versions: Versions, wheel: Path, python: str) -> Path:
    """Make the environment from nothing; return its Python."""
    home = HOME / versions.name
    shutil.rmtree(home, ignore_errors=True)
    uv("venv", "--quiet", "--python", python, home)
    own = home / "bin" / "python"
    pip = ("pip", "install", "--quiet", "--python", own)
    wanted = (f"grpcio{versions.grpcio}", f"protobuf{versions.protobuf}", *versions.requirements)
    uv(*pip, wheel, *wanted, *TOOLS)
    uv(*pip, "--no-deps", HEALTH)
    return own


def installed(python: Path) -> dict[str, str]:
    """Return the versions that an environment has; fails if it has packages of the server."""
    lines = run("bash", ".ci/uv", "pip", "freeze", "--quiet", "--python", python).splitlines()
    versions = dict(line.split("==", 1) for line in lines if "==" in line)
    assert not {"asyncpg", "sqlalchemy", "structlog", "argon2-cffi"} & versions.keys()
    return versions


def test(versions: Versions, python: Path, live: Live) -> Outcome:
    """Run the tests in an environment; their output is in a file beside it."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("AUTH_")}
    own |= {VARIABLE: json.dumps(dataclasses.asdict(live)), "GRPC_ENABLE_FORK_SUPPORT": "0"}
    own.pop("PYTHONPATH", None)
    deselect = [f"--deselect={test}" for test in versions.deselected]
    tests = matching(TOKEN_TESTS + TESTS if versions.tokens else TESTS)
    files = [path.relative_to(PROJECT) for path in tests]
    started = time.monotonic()
    with (HOME / f"{versions.name}.log").open("w") as log:
        code = subprocess.run(
            [python, "-m", "pytest", "-n", "2", "-q", *deselect, *files],
            cwd=TREE, env=own, check=False, stdout=log, stderr=log,
        ).returncode  # fmt: skip
    seconds = time.monotonic() - started
    output = (HOME / f"{versions.name}.log").read_text(errors="replace")
    summaries = re.findall(r"^=*\s*((?:\d+ \w+(?:, )?)+) in ", output, re.MULTILINE)
    summary = summaries[-1] if summaries else "no tests ran"
    passed = code == 0 and re.fullmatch(r"\d+ passed(, \d+ deselected)?", summary) is not None
    if not passed:
        print(output[-6000:])
    return Outcome(versions.name, installed(python), summary, seconds, passed)


@contextmanager
def service() -> Iterator[Live]:
    """Serve on a PostgreSQL of this run's own."""
    with open_folder("auth-compat-") as folder, asyncio.Runner() as runner:
        postgres = new_postgres(folder / "pg")
        runner.run(postgres.start())
        try:
            runner.run(migrate(postgres.dsn))
            runner.run(register_in(postgres.dsn, "internal"))
            with serving(postgres.dsn, HOME / "server.log") as live:
                yield live
        finally:
            runner.run(postgres.stop())


def main() -> int:
    """Return the exit code: 0 if all tests passed beside all versions."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what was started
    HOME.mkdir(parents=True, exist_ok=True)
    lock = (HOME / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)  # two runs would share environments and logs
    python = run("bash", ".ci/old-python").strip()
    wheel = build_wheel()
    copy_tests()
    with service() as live:
        outcomes = [
            test(versions, install(versions, wheel, python), live) for versions in ENVIRONMENTS
        ]
    rows = [
        (o.name, *(o.versions[name] for name in SHOWN), f"{o.seconds:.0f} s", o.summary,
         "ok" if o.passed else "FAILED")
        for o in outcomes
    ]  # fmt: skip
    header = ("environment", *SHOWN, "time", "tests", "result")
    widths = [max(len(row[n]) for row in (header, *rows)) for n in range(len(header))]
    for row in (header, *rows):
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
