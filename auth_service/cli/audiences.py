"""audiences: the commands that manage what tokens can be for, and who may have them."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import click

from auth_service.cli.database import Backend, run
from auth_service.cli.settings import config_option
from auth_service.cli.terminal import Exit, examples, fail, json_option, show, table
from auth_service.core.audience_registry import AudienceRegistry
from auth_service.models import Audience

__all__ = ["audiences"]

Result = TypeVar("Result")

_PAGE = 500

scope_option = click.option(
    "--scope", multiple=True, help='A scope that belongs to it; may be repeated. "*": any scope.'
)
open_option = click.option(
    "--open/--restricted",
    "open_",
    default=None,
    help="Whether anybody who can log in may have tokens for it, or only those to whom it is "
    "granted.",
)
bound_option = click.option(
    "--bound/--unbound",
    default=None,
    help="Whether its tokens are bound to a client certificate (RFC 8705).",
)


@click.group(
    epilog=examples(
        "auth-service audiences create orders --scope orders:read --scope orders:write --open",
        "auth-service audiences create ledger --scope '*'",
        "auth-service audiences grant ledger --service-account billing",
        "auth-service audiences allow-exchange ledger billing",
    )
)
def audiences() -> None:
    """Register audiences, and say who may have tokens for them.

    An audience is what a token is for: its NAME stands in the claim `aud`.
    """


@audiences.command(
    epilog=examples(
        "auth-service audiences create orders --scope orders:read --open",
        "auth-service audiences create ledger --scope '*'",
    )
)
@click.argument("name")
@scope_option
@open_option
@bound_option
@json_option
@config_option
def create(
    name: str,
    scope: tuple[str, ...],
    open_: bool | None,
    bound: bool | None,
    as_json: bool,
    config_file: Path | None,
) -> None:
    """Register an audience.

    It is restricted to those to whom it is granted, unless --open is given.
    """
    made = _run(
        config_file,
        lambda all_: all_.create(name, scope=scope, open_=bool(open_), bound=bool(bound)),
    )
    show(_record(made), as_json=as_json)


@audiences.command(
    "list", epilog=examples("auth-service audiences list", "auth-service audiences list --json")
)
@json_option
@config_option
def list_(as_json: bool, config_file: Path | None) -> None:
    """List all audiences."""

    async def work(registry: AudienceRegistry) -> list[Audience]:
        found: list[Audience] = []
        after: str | None = None
        while page := await registry.list(_PAGE, after):
            found += page
            after = page[-1].name
        return found

    table([_record(audience) for audience in _run(config_file, work)], as_json=as_json)


@audiences.command("show", epilog=examples("auth-service audiences show orders"))
@click.argument("name")
@json_option
@config_option
def show_(name: str, as_json: bool, config_file: Path | None) -> None:
    """Show an audience, and who may exchange tokens for it."""
    _show(_run(config_file, lambda all_: all_.get(name)), as_json)


@audiences.command(
    epilog=examples(
        "auth-service audiences update orders --scope orders:read --scope orders:write",
        "auth-service audiences update orders --restricted",
    )
)
@click.argument("name")
@scope_option
@click.option("--no-scope", is_flag=True, help="Take all scopes away.")
@open_option
@bound_option
@json_option
@config_option
def update(
    name: str,
    scope: tuple[str, ...],
    no_scope: bool,
    open_: bool | None,
    bound: bool | None,
    as_json: bool,
    config_file: Path | None,
) -> None:
    """Replace the scopes, or who may have tokens.

    Tokens that were issued before keep what they have until they expire.
    """
    if scope and no_scope:
        fail(Exit.USAGE, "give either the new scopes or --no-scope")
    if not (scope or no_scope) and open_ is None and bound is None:
        fail(Exit.USAGE, "nothing to update", "give --scope, --no-scope, --open or --restricted")
    _show(
        _run(
            config_file,
            lambda all_: all_.update(
                name, scope=scope if scope or no_scope else None, open_=open_, bound=bound
            ),
        ),
        as_json,
    )


@audiences.command(epilog=examples("auth-service audiences delete orders"))
@click.argument("name")
@config_option
def delete(name: str, config_file: Path | None) -> None:
    """Delete an audience with its grants.

    Tokens that were issued before are valid until they expire.
    """
    _run(config_file, lambda all_: all_.delete(name))
    click.echo(f"{name} is deleted", err=True)


def _account_options(command: Callable[..., Any]) -> Callable[..., Any]:
    user = click.option("--user", help="A user, by identifier or id.")
    service = click.option("--service-account", "client_id", help="A service account, by id.")
    return user(service(command))


@audiences.command(
    epilog=examples(
        "auth-service audiences grant ledger --service-account billing",
        "auth-service audiences grant ledger --user ann@example.com",
    )
)
@click.argument("name")
@_account_options
@config_option
def grant(name: str, user: str | None, client_id: str | None, config_file: Path | None) -> None:
    """Let an account have tokens for an audience."""

    async def work(backend: Backend) -> None:
        await _registry(backend).grant(name, await _account(backend, user, client_id))

    _require_one(user, client_id)
    run(config_file, work)
    click.echo(f"{name} is granted to {user or client_id}", err=True)


@audiences.command(
    epilog=examples("auth-service audiences withdraw ledger --service-account billing")
)
@click.argument("name")
@_account_options
@config_option
def withdraw(name: str, user: str | None, client_id: str | None, config_file: Path | None) -> None:
    """Take a grant back.

    The next login or refresh of the account for this audience is refused. Tokens that were issued
    before are valid until they expire.
    """

    async def work(backend: Backend) -> None:
        await _registry(backend).withdraw(name, await _account(backend, user, client_id))

    _require_one(user, client_id)
    run(config_file, work)
    click.echo(f"{name} is no longer granted to {user or client_id}", err=True)


@audiences.command(
    "allow-exchange",
    epilog=examples(
        "auth-service audiences allow-exchange ledger billing",
        "auth-service audiences allow-exchange ledger billing --subject-role staff",
    ),
)
@click.argument("name")
@click.argument("client_id")
@click.option(
    "--subject-role",
    multiple=True,
    help="Only for subjects with this role; may be repeated (default: for all subjects).",
)
@json_option
@config_option
def allow_exchange(
    name: str,
    client_id: str,
    subject_role: tuple[str, ...],
    as_json: bool,
    config_file: Path | None,
) -> None:
    """Let a service account exchange the tokens of others for tokens for an audience."""
    changed = _run(config_file, lambda all_: all_.set_actor(name, client_id, subject_role))
    _show(changed, as_json)


@audiences.command(
    "deny-exchange", epilog=examples("auth-service audiences deny-exchange ledger billing")
)
@click.argument("name")
@click.argument("client_id")
@json_option
@config_option
def deny_exchange(name: str, client_id: str, as_json: bool, config_file: Path | None) -> None:
    """Take that back.

    Tokens that were exchanged before are valid until they expire.
    """
    _show(_run(config_file, lambda all_: all_.remove_actor(name, client_id)), as_json)


def _run(config_file: Path | None, work: Callable[[AudienceRegistry], Awaitable[Result]]) -> Result:
    return run(config_file, lambda backend: work(_registry(backend)))


def _registry(backend: Backend) -> AudienceRegistry:
    return AudienceRegistry(backend.database.store, backend.database.clock)


def _require_one(user: str | None, client_id: str | None) -> None:
    if (user is None) == (client_id is None):
        fail(Exit.USAGE, "give either --user or --service-account", "one account at a time")


async def _account(backend: Backend, user: str | None, client_id: str | None) -> UUID | str:
    if user is not None:
        return (await backend.accounts.get_user(user)).id
    return (await backend.accounts.services.get(client_id or "")).client_id


def _show(audience: Audience, as_json: bool) -> None:
    actors = [
        {"client_id": actor.client_id, "subject_roles": actor.subject_roles}
        for actor in audience.actors
    ]
    if as_json:
        show(_record(audience) | {"actors": actors}, as_json=True)
        return
    show(_record(audience), as_json=False)
    click.echo()
    table(actors, as_json=False)


def _record(audience: Audience) -> dict[str, object]:
    return {
        "name": audience.name,
        "scope": audience.scope,
        "open": audience.open,
        "bound": audience.bound,
        "created_at": audience.created_at,
    }
