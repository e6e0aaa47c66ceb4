"""keys: the commands that list, rotate and hand out signing keys."""

import base64
from datetime import UTC, datetime
from pathlib import Path

import click

from auth_service.cli.database import Backend, run
from auth_service.cli.settings import config_option
from auth_service.cli.terminal import Exit, examples, fail, json_option, show, table
from auth_service.keys import ALGORITHMS, MasterKey, generate_key, open_key, seal_key, shared_key
from auth_service.models import KeyState, StoredKey

__all__ = ["keys"]


@click.group(
    epilog=examples("auth-service keys list", "auth-service keys export --shared > shared.key")
)
def keys() -> None:
    """List, rotate and hand out the keys that sign access tokens."""


@keys.command("list", epilog=examples("auth-service keys list --json"))
@json_option
@config_option
def list_(as_json: bool, config_file: Path | None) -> None:
    """List the signing keys; a configured shared key comes first."""

    async def work(backend: Backend) -> list[dict[str, object]]:
        stored = [_record(key) for key in await backend.store.load_keys()]
        configured = backend.settings.shared_key_bytes()
        if configured is None:
            return stored
        kid = shared_key(configured).kid
        first: dict[str, object] = {
            "kid": kid,
            "algorithm": "HS256",
            "state": "configured",
            "created_at": None,
        }
        return [first, *stored]

    table(run(config_file, work), as_json=as_json)


@keys.command(
    epilog=examples("auth-service keys rotate", "auth-service keys rotate --algorithm EdDSA")
)
@click.option(
    "--algorithm",
    type=click.Choice(ALGORITHMS),
    help="What the new key is for (default: AUTH_SIGNING_ALGORITHM).",
)
@json_option
@config_option
def rotate(algorithm: str | None, as_json: bool, config_file: Path | None) -> None:
    """Make a new key and sign with it; tokens signed with the old one stay good until they expire.

    Servers that run take it up at their next start.
    """

    async def work(backend: Backend) -> StoredKey:
        settings = backend.settings
        wanted = algorithm or settings.signing_algorithm
        if wanted == "HS256" and settings.shared_key_bytes() is not None:
            fail(
                Exit.REFUSED,
                "the HS256 key is AUTH_SHARED_KEY and not the database's",
                "set AUTH_SHARED_KEY anew here and in the services that verify, or unset it",
            )
        master_key = MasterKey(settings.master_key_bytes())
        key = generate_key(wanted)
        stored = seal_key(key, master_key, KeyState.ACTIVE, datetime.now(UTC))
        await backend.store.rotate_key(stored)
        return stored

    show(_record(run(config_file, work)), as_json=as_json)


@keys.command(
    epilog=examples(
        "auth-service keys export --shared",
        "(umask 077; auth-service keys export --shared > shared.key)",
    )
)
@click.option("--shared", is_flag=True, required=True, help="The HS256 key; the only kind so far.")
@json_option
@config_option
def export(shared: bool, as_json: bool, config_file: Path | None) -> None:
    """Print the shared key as other services take it: base64url, for their AUTH_SHARED_KEY.

    Who holds it can sign access tokens as well as verify them.
    """

    async def work(backend: Backend) -> bytes:
        configured = backend.settings.shared_key_bytes()
        if configured is not None:
            return configured
        stored = await backend.store.load_keys()
        active = [k for k in stored if k.algorithm == "HS256" and k.state is KeyState.ACTIVE]
        if not active:
            fail(
                Exit.REFUSED,
                "there is no shared key yet",
                "start the server once with AUTH_SIGNING_ALGORITHM=HS256, or run keys rotate",
            )
        opened = open_key(active[0], MasterKey(backend.settings.master_key_bytes()))
        return bytes(opened.signing)

    secret = run(config_file, work)
    text = base64.urlsafe_b64encode(secret).rstrip(b"=").decode()
    if as_json:
        show({"kid": shared_key(secret).kid, "algorithm": "HS256", "key": text}, as_json=True)
    else:
        click.echo(text)


def _record(key: StoredKey) -> dict[str, object]:
    return {
        "kid": key.kid,
        "algorithm": key.algorithm,
        "state": key.state.value,
        "created_at": key.created_at,
    }
