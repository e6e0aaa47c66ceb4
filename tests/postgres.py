"""The PostgreSQL servers of tests: the embedded version, or the one that a variable names."""

import os
from pathlib import Path

from auth_service.db.embedded import EmbeddedPostgres

__all__ = ["BINARIES", "new_postgres"]

BINARIES = "AUTH_TEST_POSTGRES_BIN"


def new_postgres(directory: Path) -> EmbeddedPostgres:
    """Return a server that is not started, and not durable, which makes it fast.

    AUTH_TEST_POSTGRES_BIN is the directory of another version's `postgres` and `initdb`.
    """
    other = os.environ.get(BINARIES)
    return EmbeddedPostgres(directory, durable=False, binaries=Path(other) if other else None)
