"""keys: the commands that list, rotate, import and export signing keys."""

import re
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path

import click

from auth_service import base64url
from auth_service.cli.database import Backend, run
from auth_service.cli.settings import config_option
from auth_service.cli.terminal import Exit, duration, examples, fail, json_option, show, table
from auth_service.config.key_files import read_key as read_key_file
from auth_service.core.root_key import replace_master_key
from auth_service.core.signing_keys import SigningKeys
from auth_service.models import StoredKey
from auth_service.serving.wiring import key_policy, master_key, signing_keys
from auth_service.tokens.keys import ALGORITHMS, MasterKey, SigningKey, read_key

__all__ = ["keys"]


activate_in_option = click.option(
    "--activate-in",
    callback=duration,
    help="Time until the key signs (default: AUTH_KEY_PUBLISH_LEAD); 0s: at once.",
)


_KID_LIKE_OPTION = re.compile(r"-[A-Za-z0-9_-]{42}")  # base64url of a SHA-256 (RFC 7638)


class _TakesKid(click.Command):
    """A command whose KID may begin with "-", as one in 64 does, without being an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        kids = [arg for arg in args if _KID_LIKE_OPTION.fullmatch(arg)]
        if kids and "--" not in args:
            args = [*(arg for arg in args if arg not in kids), "--", *kids]
        return super().parse_args(ctx, args)


_COLUMNS = ("kid", "algorithm", "state", "created_at", "activate_at", "retire_at", "remove_at")


@click.group(
    epilog=examples("auth-service keys list", "auth-service keys export --shared > shared.key")
)
def keys() -> None:
    """Manage the keys that sign access tokens."""


@keys.command("list", epilog=examples("auth-service keys list --json"))
@json_option
@config_option
def list_(as_json: bool, config_file: Path | None) -> None:
    """List the signing keys.

    A configured shared key (AUTH_SHARED_KEY) comes first.
    """

    async def work(backend: Backend) -> list[dict[str, object]]:
        stored = [
            _record(key, backend.database.clock())
            for key in await backend.database.key_store.load()
        ]
        policy = key_policy(backend.settings)
        if policy.configured is None or policy.configured.kid in [key["kid"] for key in stored]:
            return stored
        first = dict.fromkeys(
            ("kid", "algorithm", "state", "created_at", "activate_at", "retire_at", "remove_at")
        )
        kid = policy.configured.kid
        return [first | {"kid": kid, "algorithm": "HS256", "state": "configured"}, *stored]

    table(run(config_file, work), as_json=as_json)


@keys.command(
    epilog=examples("auth-service keys rotate", "auth-service keys rotate --algorithm EdDSA")
)
@click.option(
    "--algorithm",
    type=click.Choice(ALGORITHMS),
    help="Algorithm of the new key (default: that of the previous key).",
)
@activate_in_option
@json_option
@config_option
def rotate(
    algorithm: str | None, activate_in: timedelta | None, as_json: bool, config_file: Path | None
) -> None:
    """Publish a new key, which signs after --activate-in.

    Running servers and Watch streams receive it without a restart. Tokens of the previous key stay
    valid until they expire.
    """

    async def work(keys: SigningKeys) -> StoredKey:
        return await keys.rotate(algorithm, activate_in)

    show(_change(config_file, work), as_json=as_json)


@keys.command(
    "import",
    epilog=examples(
        "auth-service keys import < ed25519.pem", "auth-service keys import < shared.key"
    ),
)
@activate_in_option
@json_option
@config_option
def import_(activate_in: timedelta | None, as_json: bool, config_file: Path | None) -> None:
    """Publish a key that is read from standard input.

    It is a private key in PEM, or a shared key in base64url.
    """
    content = sys.stdin.buffer.read()

    async def work(keys: SigningKeys) -> StoredKey:
        return await keys.add(read_key(content), activate_in)

    show(_change(config_file, work), as_json=as_json)


@keys.command(cls=_TakesKid, epilog=examples("auth-service keys retire KID"))
@click.argument("kid")
@json_option
@config_option
def retire(kid: str, as_json: bool, config_file: Path | None) -> None:
    """Stop signing with the key KID.

    Its tokens stay valid until they expire.
    """
    show(_change(config_file, lambda keys: keys.retire(kid)), as_json=as_json)


@keys.command(cls=_TakesKid, epilog=examples("auth-service keys compromise KID"))
@click.argument("kid")
@json_option
@config_option
def compromise(kid: str, as_json: bool, config_file: Path | None) -> None:
    """Emergency: withdraw trust in the key KID at once.

    Its access tokens are refused by every verifier. Sessions continue: the next refresh returns a
    token that another key has signed.
    """
    show(_change(config_file, lambda keys: keys.compromise(kid)), as_json=as_json)


@keys.command(
    "replace-master-key",
    epilog=examples("auth-service keys replace-master-key --new-file /etc/auth/master.new"),
)
@click.option(
    "--new-file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="File (mode 0600) with the new master key: at least 32 bytes, in base64url.",
)
@config_option
def replace_master(new_file: Path, config_file: Path | None) -> None:
    """Encrypt all keys with the master key of --new-file.

    Then set AUTH_MASTER_KEY or AUTH_MASTER_KEY_FILE to the new master key and restart the servers.
    Until then, running servers use the keys that they have loaded. No session ends.
    """

    async def work(backend: Backend) -> int:
        new = MasterKey(read_key_file(new_file, "--new-file"))
        old = master_key(backend.settings)
        return await replace_master_key(backend.database.key_store, old, new)

    count = run(config_file, work)
    click.echo(f"Encrypted {count} signing keys and the root key of refresh tokens.")
    click.echo(f"Now configure {new_file} as the master key of the servers, and restart them.")


@keys.command("export-public", epilog=examples("auth-service keys export-public > jwks.json"))
@config_option
def export_public(config_file: Path | None) -> None:
    """Print the public keys as a JWK Set (RFC 7517)."""

    async def work(backend: Backend) -> str:
        return (await signing_keys(backend.settings, backend.database)).ring.jwks()

    click.echo(run(config_file, work))


@keys.command(
    epilog=examples(
        "auth-service keys export --shared",
        "(umask 077; auth-service keys export --shared > shared.key)",
    )
)
@click.option("--shared", is_flag=True, required=True, help="Export the HS256 key; required.")
@json_option
@config_option
def export(shared: bool, as_json: bool, config_file: Path | None) -> None:
    """Print the shared key in base64url.

    Other services verify tokens with it. Everyone who has it can also sign access tokens.
    """

    async def work(backend: Backend) -> SigningKey:
        ring = (await signing_keys(backend.settings, backend.database)).ring
        found = [key for key in ring if key.is_secret]
        active = [key for key in found if key.kid == ring.active_kid]
        if not found:
            fail(
                Exit.REFUSED,
                "there is no shared key",
                "run keys rotate --algorithm HS256, or verify with keys export-public",
            )
        return (active or found)[0]

    key = run(config_file, work)
    text = base64url.encode(key.secret)
    if as_json:
        show({"kid": key.kid, "algorithm": "HS256", "key": text}, as_json=True)
    else:
        click.echo(text)


def _change(
    config_file: Path | None, change: Callable[[SigningKeys], Awaitable[StoredKey]]
) -> dict[str, object]:
    async def work(backend: Backend) -> dict[str, object]:
        changed = await change(await signing_keys(backend.settings, backend.database))
        await backend.database.store.notify_revocations()  # wakes the feeds, which read keys too
        return _record(changed, backend.database.clock())

    return run(config_file, work)


def _record(key: StoredKey, now: datetime) -> dict[str, object]:
    return {
        "kid": key.kid,
        "algorithm": key.algorithm,
        "state": key.state(now).value,
        "created_at": key.created_at,
        "activate_at": key.activate_at,
        "retire_at": key.retire_at,
        "remove_at": key.remove_at,
    }
