"""The file in which `login` keeps the device token, by which the service knows this device again.

Owns that only this user may read it, and that it is replaced as a whole. Nothing in it is checked:
to the service, a token that is good for nothing is as none.
"""

import contextlib
import os
import secrets
from pathlib import Path

import click

from auth_service.cli.terminal import Exit, fail

__all__ = ["keep_device_token", "kept_device_token"]

_LONGEST = 4096


def kept_device_token(path: Path | None) -> str:
    """Return the token in the file; empty without a file."""
    if path is None or not path.exists():
        return ""
    try:
        return path.read_text("ascii")[:_LONGEST].strip()
    except (OSError, UnicodeDecodeError) as error:
        fail(
            Exit.USAGE, f"--device-token-file: {path} cannot be read: {error}", "name another file"
        )


def keep_device_token(path: Path | None, token: str) -> None:
    """Replace the file; a login that has succeeded does not fail because that fails."""
    if path is None or not token:
        return
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(token + "\n")
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink()
        click.echo(f"the device token is not kept in {path}: {error}", err=True)
