"""users: the commands that change what a user may do and how it logs in, and delete it."""

from pathlib import Path

import click

from auth_service.cli.settings import config_option
from auth_service.cli.terminal import Exit, examples, fail, json_option, show
from auth_service.cli.users import change, record, roles_option, scope_option, users

__all__ = ["users"]


@users.command(
    epilog=examples(
        "auth-service users update ann@example.com --role admin --role staff",
        "auth-service users update ann@example.com --no-roles --keep-tokens",
    )
)
@click.argument("user")
@roles_option
@click.option("--no-roles", is_flag=True, help="Take all roles away.")
@scope_option
@click.option("--no-scope", is_flag=True, help="Take all scopes away.")
@click.option(
    "--keep-tokens", is_flag=True, help="Let access tokens keep theirs until they expire."
)
@json_option
@config_option
def update(
    user: str,
    roles: tuple[str, ...],
    no_roles: bool,
    scope: tuple[str, ...],
    no_scope: bool,
    keep_tokens: bool,
    as_json: bool,
    config_file: Path | None,
) -> None:
    """Replace the roles or the scopes.

    Access tokens that were issued before end at once; sessions go on, and refresh to the new roles.
    """
    if (roles and no_roles) or (scope and no_scope):
        fail(Exit.USAGE, "give either the new ones or --no-roles, --no-scope")
    if not (roles or no_roles or scope or no_scope):
        fail(Exit.USAGE, "nothing to update", "give --role, --scope, --no-roles or --no-scope")
    updated = change(
        user,
        config_file,
        lambda backend, id_: backend.accounts.users.update(
            id_,
            roles=roles if roles or no_roles else None,
            scope=scope if scope or no_scope else None,
            end_tokens=not keep_tokens,
        ),
    )
    show(record(updated), as_json=as_json)


@users.command(
    "add-identifier",
    epilog=examples("auth-service users add-identifier ann@example.com ann"),
)
@click.argument("user")
@click.argument("identifier")
@config_option
def add_identifier(user: str, identifier: str, config_file: Path | None) -> None:
    """Let a user log in with a further identifier."""
    change(user, config_file, lambda b, id_: b.accounts.users.add_identifier(id_, identifier))
    click.echo(f"{user} can log in as {identifier}", err=True)


@users.command(
    "remove-identifier",
    epilog=examples("auth-service users remove-identifier ann@example.com ann"),
)
@click.argument("user")
@click.argument("identifier")
@config_option
def remove_identifier(user: str, identifier: str, config_file: Path | None) -> None:
    """Take an identifier from a user.

    The user must have another one.
    """
    change(user, config_file, lambda b, id_: b.accounts.users.remove_identifier(id_, identifier))
    click.echo(f"{identifier} no longer logs in", err=True)


@users.command(
    "require-password-change",
    epilog=examples(
        "auth-service users require-password-change ann@example.com",
        "auth-service users require-password-change ann@example.com --off",
    ),
)
@click.argument("user")
@click.option("--off", is_flag=True, help="Take it back.")
@config_option
def require_password_change(user: str, off: bool, config_file: Path | None) -> None:
    """Have the password replaced at the next login.

    The user's sessions go on.
    """
    change(user, config_file, lambda b, id_: b.accounts.users.require_password_change(id_, not off))
    click.echo(f"{user} {'need not' if off else 'has to'} change the password", err=True)


@users.command(epilog=examples("auth-service users delete ann@example.com"))
@click.argument("user")
@config_option
def delete(user: str, config_file: Path | None) -> None:
    """Delete a user; end all sessions and tokens.

    The audit log keeps the id.
    """
    change(user, config_file, lambda backend, id_: backend.accounts.users.delete(id_))
    click.echo(f"{user} is deleted and logged out", err=True)
