"""The PostgreSQL servers of tests: the embedded version, or the one that a variable names."""

import os
from pathlib import Path

from auth_service.db.embedded import EmbeddedPostgres

__all__ = ["new_postgres"]


def new_postgres(directory: Path) -> EmbeddedPostgres:
    """Return a server that is not started, and not durable, which makes it fast.

    AUTH_TEST_POSTGRES_BIN is the directory of another version's `postgres` and `initdb`.
    """
    other = os.environ.get("AUTH_TEST_POSTGRES_BIN")
    return EmbeddedPostgres(directory, durable=False, binaries=Path(other) if other else None)
