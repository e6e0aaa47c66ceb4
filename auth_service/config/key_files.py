"""Keys of the configuration: base64url text, or a file that only its owner can read."""

import os
import secrets
import stat
from pathlib import Path

from auth_service.base64url import MAKE_A_SECRET, SECRET_BYTES, decode_secret
from auth_service.errors import ConfigError


def refuse_open_file(path: Path, what: str, forbidden: int) -> None:
    """Raise ConfigError for a file that cannot be read, or has a mode bit of `forbidden`.

    A file of another owner may be readable by its group: systemd's LoadCredential (whose ACL shows
    as the group's bits) and Kubernetes' fsGroup pass secrets to services without root in this way.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
    except OSError as error:
        raise ConfigError(
            f"{what}: {path} cannot be read: {error.strerror}; name a file that this user can read"
        ) from error
    mode = status.st_mode
    if status.st_uid != os.geteuid():
        forbidden &= ~stat.S_IRGRP
    if mode & forbidden:
        raise ConfigError(
            f"{what}: {path} has mode {stat.S_IMODE(mode):04o}, so that other users can read it; "
            f"chmod 600 '{path}'"
        )


def read_key(path: Path, variable: str) -> bytes:
    """Return the key in a file that only its owner can read. Raises ConfigError."""
    refuse_open_file(path, variable, 0o077)
    try:
        return decode_secret(path.read_text(encoding="ascii"))
    except UnicodeDecodeError:
        raise ConfigError(f"{variable}: {path} is not text; make one: {MAKE_A_SECRET}") from None
    except ValueError as error:
        raise ConfigError(f"{variable}: the key in {path} {error}") from None


def generated_key(path: Path) -> bytes:
    """Return the key of the file, which is generated and fsynced at the first use.

    Processes that do so at the same time agree on one key.
    """
    if not path.exists():
        # The mode is that of EmbeddedPostgres: under root, its account must be able to enter.
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
            path.parent.chmod(0o711 if os.geteuid() == 0 else 0o700)
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(SECRET_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # fails if another process was first; its key is used then
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return read_key(path, "the generated master key")
