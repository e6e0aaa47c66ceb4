"""service-accounts: the commands that manage the accounts of services, and their secrets."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from uuid import UUID

import click

from auth_service.cli.database import Backend, run
from auth_service.cli.settings import config_option
from auth_service.cli.terminal import Exit, duration, examples, fail, json_option, show, table
from auth_service.cli.users import roles_option, scope_option
from auth_service.core.service_accounts import ServiceAccounts
from auth_service.models import ClientSecret, ServiceAccount

__all__ = ["service_accounts"]

Result = TypeVar("Result")

_PAGE = 500

bound_option = click.option(
    "--bound/--unbound",
    default=None,
    help="Whether its tokens are bound to the client certificate of its login (RFC 8705).",
)


@click.group(
    "service-accounts",
    epilog=examples(
        "auth-service service-accounts create orders --role verifier",
        "auth-service service-accounts secrets create orders",
    ),
)
def service_accounts() -> None:
    """Create, list, show and change service accounts.

    A service account logs in with its CLIENT_ID and a secret.
    """


@service_accounts.command(
    epilog=examples(
        "auth-service service-accounts create orders --role verifier",
        "auth-service service-accounts create orders --json | …",
    ),
)
@click.argument("client_id")
@roles_option
@scope_option
@click.option("--no-secret", is_flag=True, help="Make no secret: the service is a workload.")
@bound_option
@json_option
@config_option
def create(
    client_id: str,
    roles: tuple[str, ...],
    scope: tuple[str, ...],
    no_secret: bool,
    bound: bool | None,
    as_json: bool,
    config_file: Path | None,
) -> None:
    """Create a service account and print its secret.

    The secret cannot be shown again. See `workloads` for services that need none.
    """

    async def work(accounts: ServiceAccounts) -> str:
        return await accounts.create(
            client_id, roles=roles, scope=scope, secret=not no_secret, bound=bool(bound)
        )

    secret = _run(config_file, work)
    show({"client_id": client_id, "client_secret": secret or None}, as_json=as_json)


@service_accounts.command(
    "list",
    epilog=examples(
        "auth-service service-accounts list", "auth-service service-accounts list --json"
    ),
)
@json_option
@config_option
def list_(as_json: bool, config_file: Path | None) -> None:
    """List all service accounts, without their secrets."""

    async def work(accounts: ServiceAccounts) -> list[ServiceAccount]:
        found: list[ServiceAccount] = []
        after: str | None = None
        while page := await accounts.list(_PAGE, after):
            found += page
            after = page[-1].client_id
        return found

    table([_record(account) for account in _run(config_file, work)], as_json=as_json)


@service_accounts.command("show", epilog=examples("auth-service service-accounts show orders"))
@click.argument("client_id")
@json_option
@config_option
def show_(client_id: str, as_json: bool, config_file: Path | None) -> None:
    """Show a service account and the dates of its secrets.

    The last use of a secret is up to a minute later than shown.
    """
    _show(_run(config_file, lambda accounts: accounts.get(client_id)), as_json)


@service_accounts.command(
    epilog=examples(
        "auth-service service-accounts update orders --role verifier --role staff",
        "auth-service service-accounts update orders --no-roles --scope orders:read",
    )
)
@click.argument("client_id")
@roles_option
@click.option("--no-roles", is_flag=True, help="Take all roles away.")
@scope_option
@click.option("--no-scope", is_flag=True, help="Take all scopes away.")
@bound_option
@json_option
@config_option
def update(
    client_id: str,
    roles: tuple[str, ...],
    no_roles: bool,
    scope: tuple[str, ...],
    no_scope: bool,
    bound: bool | None,
    as_json: bool,
    config_file: Path | None,
) -> None:
    """Replace the roles or the scopes.

    Tokens that were issued before keep theirs until they expire; revoke-tokens ends them.
    """
    if (roles and no_roles) or (scope and no_scope):
        fail(Exit.USAGE, "give either the new ones or --no-roles, --no-scope")
    if not (roles or no_roles or scope or no_scope) and bound is None:
        fail(Exit.USAGE, "nothing to update", "give --role, --scope, --no-roles or --no-scope")

    async def work(accounts: ServiceAccounts) -> ServiceAccount:
        return await accounts.update(
            client_id,
            roles=roles if roles or no_roles else None,
            scope=scope if scope or no_scope else None,
            bound=bound,
        )

    _show(_run(config_file, work), as_json)


@service_accounts.command(epilog=examples("auth-service service-accounts disable orders"))
@click.argument("client_id")
@config_option
def disable(client_id: str, config_file: Path | None) -> None:
    """Disable a service account; end all tokens."""
    _run(config_file, lambda accounts: accounts.set_disabled(client_id, True))
    click.echo(f"{client_id} is disabled and its tokens have ended", err=True)


@service_accounts.command(epilog=examples("auth-service service-accounts enable orders"))
@click.argument("client_id")
@config_option
def enable(client_id: str, config_file: Path | None) -> None:
    """Enable a service account that was disabled."""
    _run(config_file, lambda accounts: accounts.set_disabled(client_id, False))
    click.echo(f"{client_id} is enabled", err=True)


@service_accounts.command(epilog=examples("auth-service service-accounts delete orders"))
@click.argument("client_id")
@config_option
def delete(client_id: str, config_file: Path | None) -> None:
    """Delete a service account; end all tokens."""
    _run(config_file, lambda accounts: accounts.delete(client_id))
    click.echo(f"{client_id} is deleted and its tokens have ended", err=True)


@service_accounts.command(
    "revoke-tokens", epilog=examples("auth-service service-accounts revoke-tokens orders")
)
@click.argument("client_id")
@config_option
def revoke_tokens(client_id: str, config_file: Path | None) -> None:
    """End all tokens; the service may log in again."""
    _run(config_file, lambda accounts: accounts.revoke_tokens(client_id))
    click.echo(f"the tokens of {client_id} have ended", err=True)


@service_accounts.group(
    epilog=examples(
        "auth-service service-accounts secrets create orders",
        "auth-service service-accounts show orders",
        "auth-service service-accounts secrets delete orders SECRET_ID",
    )
)
def secrets() -> None:
    """Rotate the secrets of a service account.

    Two may be live at once: create the next, hand it to the service, and delete the one before as
    soon as `show` tells that only the next is used.
    """


@secrets.command(
    "create",
    epilog=examples(
        "auth-service service-accounts secrets create orders",
        "auth-service service-accounts secrets create orders --expires-in 90d --json | …",
    ),
)
@click.argument("client_id")
@click.option(
    "--expires-in", callback=duration, help="Time until the secret expires (default: never)."
)
@json_option
@config_option
def create_secret(
    client_id: str, expires_in: timedelta | None, as_json: bool, config_file: Path | None
) -> None:
    """Create a further secret and print it.

    The secret cannot be shown again.
    """

    async def work(backend: Backend) -> tuple[str, ClientSecret]:
        try:
            expires_at = None if expires_in is None else backend.database.clock() + expires_in
        except OverflowError:
            fail(Exit.USAGE, "--expires-in reaches beyond the year 9999", "leave it out: never")
        return await backend.accounts.services.create_secret(client_id, expires_at)

    text, secret = run(config_file, work)
    show(
        {
            "client_id": client_id,
            "secret_id": secret.id,
            "client_secret": text,
            "expires_at": secret.expires_at,
        },
        as_json=as_json,
    )


@secrets.command(
    "delete", epilog=examples("auth-service service-accounts secrets delete orders SECRET_ID")
)
@click.argument("client_id")
@click.argument("secret_id", type=click.UUID)
@config_option
def delete_secret(client_id: str, secret_id: UUID, config_file: Path | None) -> None:
    """Delete a secret by its id, which `show` tells.

    Tokens that were issued for it stay valid until they expire; revoke-tokens ends them.
    """
    _run(config_file, lambda accounts: accounts.delete_secret(client_id, secret_id))
    click.echo(f"the secret {secret_id} of {client_id} is deleted", err=True)


def _run(config_file: Path | None, work: Callable[[ServiceAccounts], Awaitable[Result]]) -> Result:
    return run(config_file, lambda backend: work(backend.accounts.services))


def _show(account: ServiceAccount, as_json: bool) -> None:
    secrets = [_secret_record(secret) for secret in account.secrets]
    if as_json:
        show(_record(account) | {"secrets": secrets}, as_json=True)
        return
    show(_record(account), as_json=False)
    click.echo()
    table(secrets, as_json=False)


def _record(account: ServiceAccount) -> dict[str, object]:
    return {
        "client_id": account.client_id,
        "roles": account.roles,
        "scope": account.scope,
        "disabled": account.disabled,
        "bound": account.bound,
        "created_at": account.created_at,
    }


def _secret_record(secret: ClientSecret) -> dict[str, object]:
    return {
        "secret_id": secret.id,
        "created_at": secret.created_at,
        "expires_at": secret.expires_at,
        "last_used_at": secret.last_used_at,
        "live": secret.live,
    }
