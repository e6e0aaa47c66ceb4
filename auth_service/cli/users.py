"""users: the commands that manage the accounts of people."""

import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import UUID

import click

from auth_service.cli.database import Backend, run
from auth_service.cli.settings import config_option
from auth_service.cli.terminal import examples, json_option, read_secret, show, table
from auth_service.cli.user_import import import_users
from auth_service.models import User

__all__ = ["generate_password", "roles_option", "scope_option", "users"]

_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"  # 32 characters, without those that look alike
_PAGE = 500

roles_option = click.option("--role", "roles", multiple=True, help="A role; may be repeated.")
scope_option = click.option("--scope", multiple=True, help="A scope; may be repeated.")
generate_option = click.option(
    "--generate", is_flag=True, help="Generate a password and print it; do not prompt."
)


def generate_password() -> str:
    """Return 100 random bits in four groups of five characters, safe in shells and in JSON."""
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(5)) for _ in range(4))


@click.group(
    epilog=examples(
        "auth-service users create ann@example.com --role admin",
        "auth-service users list --json",
    )
)
def users() -> None:
    """Create, import, list, show and change users.

    USER is an identifier or an id.
    """


@users.command(
    epilog=examples(
        "auth-service users create ann@example.com",
        "auth-service users create bob bob@example.com --role admin --scope orders:read",
        "auth-service users create ci@example.com --generate --json",
    )
)
@click.argument("identifiers", nargs=-1, required=True)
@roles_option
@scope_option
@generate_option
@json_option
@config_option
def create(
    identifiers: tuple[str, ...],
    roles: tuple[str, ...],
    scope: tuple[str, ...],
    generate: bool,
    as_json: bool,
    config_file: Path | None,
) -> None:
    """Create a user with one or more IDENTIFIERS.

    The user can log in with each of them. The password is read from a prompt or standard input.
    """
    password = _password(generate)

    async def work(backend: Backend) -> User:
        return await backend.accounts.create_user(identifiers, password, roles=roles, scope=scope)

    user = run(config_file, work)
    show(_record(user) | ({"password": password} if generate else {}), as_json=as_json)


@users.command("list", epilog=examples("auth-service users list", "auth-service users list --json"))
@json_option
@config_option
def list_(as_json: bool, config_file: Path | None) -> None:
    """List all users."""

    async def work(backend: Backend) -> list[User]:
        found: list[User] = []
        after: UUID | None = None
        while page := await backend.accounts.list_users(_PAGE, after):
            found += page
            after = page[-1].id
        return found

    table([_record(user) for user in run(config_file, work)], as_json=as_json)


@users.command("show", epilog=examples("auth-service users show ann@example.com"))
@click.argument("user")
@json_option
@config_option
def show_(user: str, as_json: bool, config_file: Path | None) -> None:
    """Show one user."""

    async def work(backend: Backend) -> User:
        return await backend.accounts.get_user(user)

    show(_record(run(config_file, work)), as_json=as_json)


@users.command(epilog=examples("auth-service users disable ann@example.com"))
@click.argument("user")
@config_option
def disable(user: str, config_file: Path | None) -> None:
    """Disable a user; end all sessions and tokens."""
    _change(user, config_file, lambda backend, id_: backend.accounts.set_disabled(id_, True))
    click.echo(f"{user} is disabled and logged out", err=True)


@users.command(epilog=examples("auth-service users enable ann@example.com"))
@click.argument("user")
@config_option
def enable(user: str, config_file: Path | None) -> None:
    """Enable a user who was disabled."""
    _change(user, config_file, lambda backend, id_: backend.accounts.set_disabled(id_, False))
    click.echo(f"{user} is enabled", err=True)


@users.command(
    "set-password",
    epilog=examples(
        "auth-service users set-password ann@example.com",
        "auth-service users set-password ann@example.com < password-file",
    ),
)
@click.argument("user")
@generate_option
@config_option
def set_password(user: str, generate: bool, config_file: Path | None) -> None:
    """Set the password; end all sessions and tokens.

    The password is read from a prompt or standard input.
    """
    password = _password(generate)
    _change(user, config_file, lambda backend, id_: backend.accounts.set_password(id_, password))
    click.echo(f"{user} has a new password and is logged out", err=True)
    if generate:
        click.echo(password)


@users.command("reset-factors", epilog=examples("auth-service users reset-factors ann@example.com"))
@click.argument("user")
@config_option
def reset_factors(user: str, config_file: Path | None) -> None:
    """Remove the second factors of a user who lost them.

    The recovery codes leave too. The user's sessions go on.
    """
    _change(user, config_file, lambda backend, id_: backend.accounts.reset_factors(id_))
    click.echo(f"{user} has no second factor now", err=True)


users.add_command(import_users)


def _password(generate: bool) -> str:
    return generate_password() if generate else read_secret("Password", confirm=True)


def _change(
    user: str, config_file: Path | None, change: Callable[[Backend, UUID], Awaitable[None]]
) -> None:
    async def work(backend: Backend) -> None:
        await change(backend, (await backend.accounts.get_user(user)).id)

    run(config_file, work)


def _record(user: User) -> dict[str, object]:
    return {
        "id": user.id,
        "identifiers": user.identifiers,
        "roles": user.roles,
        "scope": user.scope,
        "disabled": user.disabled,
        "created_at": user.created_at,
    }
