"""Temporary folders that an embedded PostgreSQL can use."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def open_folder(prefix: str = "auth-test-") -> Iterator[Path]:
    """A folder that may be passed through; pytest's own is closed to root's PostgreSQL account."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
