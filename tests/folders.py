"""Temporary folders for an embedded PostgreSQL."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def open_folder(prefix: str = "auth-test-") -> Iterator[Path]:
    """Yield a folder that the account of PostgreSQL under root can enter, unlike that of pytest."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
