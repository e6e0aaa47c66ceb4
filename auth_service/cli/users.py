"""users: the commands that manage the accounts of people."""

import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import click

from auth_service.cli.database import Backend, run
from auth_service.cli.settings import config_option
from auth_service.cli.terminal import examples, json_option, read_secret, show, table
from auth_service.cli.user_import import import_users
from auth_service.models import User

__all__ = ["change", "generate_password", "record", "roles_option", "scope_option", "users"]

Result = TypeVar("Result")

_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"  # 32 characters, without those that look alike
_PAGE = 500

roles_option = click.option("--role", "roles", multiple=True, help="A role; may be repeated.")
scope_option = click.option("--scope", multiple=True, help="A scope; may be repeated.")
generate_option = click.option(
    "--generate", is_flag=True, help="Generate a password and print it; do not prompt."
)


change_required_option = click.option(
    "--change-required", is_flag=True, help="Have the password replaced at the next login."
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
@change_required_option
@click.option("--request-id", default="", help="Makes a retry return the same user.")
@json_option
@config_option
def create(
    identifiers: tuple[str, ...],
    roles: tuple[str, ...],
    scope: tuple[str, ...],
    generate: bool,
    change_required: bool,
    request_id: str,
    as_json: bool,
    config_file: Path | None,
) -> None:
    """Create a user with one or more IDENTIFIERS.

    The user can log in with each of them. The password is read from a prompt or standard input.
    """
    password = _password(generate)

    async def work(backend: Backend) -> User:
        return await backend.accounts.create_user(
            identifiers,
            password,
            roles=roles,
            scope=scope,
            password_change_required=change_required,
            request_id=request_id,
        )

    user = run(config_file, work)
    show(record(user) | ({"password": password} if generate else {}), as_json=as_json)


@users.command(
    "list",
    epilog=examples(
        "auth-service users list --json",
        "auth-service users list --prefix ann --role admin --state enabled",
    ),
)
@click.option("--prefix", default="", help="Only users with an identifier that begins so.")
@click.option("--role", default="", help="Only users with this role.")
@click.option("--state", type=click.Choice(["enabled", "disabled"]), help="Only users in it.")
@json_option
@config_option
def list_(
    prefix: str, role: str, state: str | None, as_json: bool, config_file: Path | None
) -> None:
    """List users.

    All of them, or those to whom all options apply.
    """
    disabled = None if state is None else state == "disabled"

    async def work(backend: Backend) -> list[User]:
        found: list[User] = []
        after: UUID | None = None
        while page := await backend.accounts.users.list(
            _PAGE, after, identifier_prefix=prefix, role=role, disabled=disabled
        ):
            found += page
            after = page[-1].id
        return found

    table([record(user) for user in run(config_file, work)], as_json=as_json)


@users.command("show", epilog=examples("auth-service users show ann@example.com"))
@click.argument("user")
@json_option
@config_option
def show_(user: str, as_json: bool, config_file: Path | None) -> None:
    """Show one user."""

    async def work(backend: Backend) -> User:
        return await backend.accounts.get_user(user)

    show(record(run(config_file, work)), as_json=as_json)


@users.command(epilog=examples("auth-service users disable ann@example.com"))
@click.argument("user")
@config_option
def disable(user: str, config_file: Path | None) -> None:
    """Disable a user; end all sessions and tokens."""
    change(user, config_file, lambda backend, id_: backend.accounts.set_disabled(id_, True))
    click.echo(f"{user} is disabled and logged out", err=True)


@users.command(epilog=examples("auth-service users enable ann@example.com"))
@click.argument("user")
@config_option
def enable(user: str, config_file: Path | None) -> None:
    """Enable a user who was disabled."""
    change(user, config_file, lambda backend, id_: backend.accounts.set_disabled(id_, False))
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
@change_required_option
@config_option
def set_password(
    user: str, generate: bool, change_required: bool, config_file: Path | None
) -> None:
    """Set the password; end all sessions and tokens.

    The password is read from a prompt or standard input.
    """
    password = _password(generate)
    change(
        user,
        config_file,
        lambda backend, id_: backend.accounts.set_password(
            id_, password, change_required=change_required
        ),
    )
    click.echo(f"{user} has a new password and is logged out", err=True)
    if generate:
        click.echo(password)


@users.command("reset-factors", epilog=examples("auth-service users reset-factors ann@example.com"))
@click.argument("user")
@config_option
def reset_factors(user: str, config_file: Path | None) -> None:
    """Remove the second factors of a user.

    This is for a user who has lost them. The recovery codes leave too. The user's sessions go on.
    """
    change(user, config_file, lambda backend, id_: backend.accounts.reset_factors(id_))
    click.echo(f"{user} has no second factor now", err=True)


users.add_command(import_users)


def _password(generate: bool) -> str:
    return generate_password() if generate else read_secret("Password", confirm=True)


def change(
    user: str, config_file: Path | None, work: Callable[[Backend, UUID], Awaitable[Result]]
) -> Result:
    """Return what `work` does with the user of this identifier or id."""

    async def on_user(backend: Backend) -> Result:
        return await work(backend, (await backend.accounts.get_user(user)).id)

    return run(config_file, on_user)


def record(user: User) -> dict[str, object]:
    """Return what is printed of a user."""
    return {
        "id": user.id,
        "identifiers": user.identifiers,
        "roles": user.roles,
        "scope": user.scope,
        "disabled": user.disabled,
        "password_change_required": user.password_change_required,
        "created_at": user.created_at,
    }
