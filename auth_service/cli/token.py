"""token: decodes a token without verifying it."""

import base64
import binascii
import json
from datetime import UTC, datetime

import click

from auth_service.cli.terminal import Exit, examples, fail, json_option, plain, read_secret

__all__ = ["header_of", "token"]

_TIMES = ("iat", "nbf", "exp", "auth_time")


@click.group(epilog=examples("auth-service token inspect < token-file"))
def token() -> None:
    """Decode tokens."""


@token.command(
    epilog=examples(
        "auth-service login ann --only access-token | auth-service token inspect",
        "auth-service token inspect --json < token-file",
    )
)
@json_option
def inspect(as_json: bool) -> None:
    """Decode a token WITHOUT verifying it.

    The token is read from a prompt or standard input. Use validate to verify it.
    """
    header, claims = _decode(read_secret("Token"))
    if as_json:
        click.echo(json.dumps({"verified": False, "header": header, "claims": claims}))
        return
    click.echo("not verified: anyone can make such a token", err=True)
    for title, part in (("header", header), ("claims", claims)):
        for name, value in part.items():
            click.echo(f"{title}.{name} = {json.dumps(value)}{_moment(name, value)}")


def header_of(encoded: str) -> dict[str, object]:
    """Return the header of a token, which is not verified."""
    return _decode(encoded)[0]


def _decode(encoded: str) -> tuple[dict[str, object], dict[str, object]]:
    parts = encoded.strip().split(".")
    if len(parts) != 3:
        fail(Exit.REFUSED, "this is not a JWT", "a JWT is three base64url parts separated by dots")
    return _part(parts[0], "header"), _part(parts[1], "claims")


def _part(text: str, what: str) -> dict[str, object]:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        decoded = json.loads(raw)
    except (binascii.Error, ValueError, RecursionError):
        decoded = None
    if not isinstance(decoded, dict):
        fail(Exit.REFUSED, f"this is not a JWT: its {what} is not a JSON object in base64url")
    return decoded


def _moment(name: str, value: object) -> str:
    if name not in _TIMES or not isinstance(value, int):
        return ""
    try:
        return f"  ({plain(datetime.fromtimestamp(value, UTC))})"
    except (OverflowError, ValueError, OSError):
        return "  (not a time)"
