"""workloads: the commands for services that log in without a secret."""

import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import click

from auth_service.cli.database import Backend, run
from auth_service.cli.settings import config_option, settings_of
from auth_service.cli.terminal import Exit, duration, examples, fail, json_option, show, table
from auth_service.core.workload_registry import WorkloadRegistry
from auth_service.models import ClientKey, WorkloadMapping
from auth_service.serving.workloads import configured_mappings

__all__ = ["workloads"]

Result = TypeVar("Result")

_PAGE = 200


@click.group(
    epilog=examples(
        "auth-service service-accounts create orders --no-secret",
        "auth-service workloads map https://kubernetes.default.svc.cluster.local \\",
        "  system:serviceaccount:shop:orders orders",
    )
)
def workloads() -> None:
    """Map workloads to accounts; register public keys.

    The issuers of their tokens are in the file of AUTH_WORKLOAD_ISSUERS_FILE.
    """


@workloads.command(
    "map",
    epilog=examples(
        "auth-service workloads map spiffe://example.org spiffe://example.org/orders orders",
        "auth-service workloads map https://ci.example.com repo:acme/orders deployer \\",
        "  --claim environment=production",
    ),
)
@click.argument("issuer")
@click.argument("subject")
@click.argument("client_id")
@click.option("--claim", multiple=True, help="NAME=VALUE that the token must have; repeatable.")
@click.option(
    "--allow-default-account",
    is_flag=True,
    help="The subject is the default account of a Kubernetes namespace.",
)
@json_option
@config_option
def map_(
    issuer: str,
    subject: str,
    client_id: str,
    claim: tuple[str, ...],
    allow_default_account: bool,
    as_json: bool,
    config_file: Path | None,
) -> None:
    """Let SUBJECT of ISSUER log in as the service account CLIENT_ID.

    ISSUER is the `iss` of the tokens, or spiffe:// and the trust domain. SUBJECT is their `sub`,
    exactly as it is in them.
    """
    claims = dict(_pair(each) for each in claim)
    known = [each.name for each in settings_of(config_file).workload_issuers()]
    if issuer not in known:
        click.echo(f"warning: {issuer} is not in AUTH_WORKLOAD_ISSUERS_FILE", err=True)

    async def work(registry: WorkloadRegistry) -> WorkloadMapping:
        return await registry.map(
            issuer,
            subject,
            client_id,
            claims=claims,
            allow_default_account=allow_default_account,
        )

    show(_mapping(_run(config_file, work)), as_json=as_json)


@workloads.command(
    epilog=examples("auth-service workloads unmap spiffe://example.org spiffe://example.org/orders")
)
@click.argument("issuer")
@click.argument("subject")
@config_option
def unmap(issuer: str, subject: str, config_file: Path | None) -> None:
    """Delete the mapping of SUBJECT of ISSUER.

    Tokens that were issued by it stay valid until they expire; `service-accounts revoke-tokens`
    ends them.
    """
    _run(config_file, lambda registry: registry.unmap(issuer, subject))
    click.echo(f"{subject} logs in no more", err=True)


@workloads.command("list", epilog=examples("auth-service workloads list --json"))
@json_option
@config_option
def list_(as_json: bool, config_file: Path | None) -> None:
    """List all mappings, those of the configuration first."""

    async def work(backend: Backend) -> list[WorkloadMapping]:
        registry, found = backend.accounts.workloads, list[WorkloadMapping]()
        after: tuple[str, str] | None = None
        while page := await registry.mappings(_PAGE, after):
            found += page
            after = (page[-1].issuer, page[-1].subject)
        return [*configured_mappings(backend.settings), *found]

    table([_mapping(each) for each in run(config_file, work)], as_json=as_json)


@workloads.group(
    epilog=examples(
        "auth-service workloads keys add orders < orders-public.pem",
        "auth-service workloads keys delete orders KID",
    )
)
def keys() -> None:
    """Register public keys for assertions (RFC 7523)."""


@keys.command("add", epilog=examples("auth-service workloads keys add orders < public.pem"))
@click.argument("client_id")
@click.option("--expires-in", callback=duration, help="Time until the key expires.")
@json_option
@config_option
def add(
    client_id: str, expires_in: timedelta | None, as_json: bool, config_file: Path | None
) -> None:
    """Register a public key from standard input.

    It is a JWK or PEM. The account signs its assertions with the private key.
    """
    public_key = sys.stdin.read()

    async def work(backend: Backend) -> ClientKey:
        try:
            expires_at = None if expires_in is None else backend.database.clock() + expires_in
        except OverflowError:
            fail(Exit.USAGE, "--expires-in reaches beyond the year 9999", "leave it out: never")
        return await backend.accounts.workloads.add_key(client_id, public_key, expires_at)

    show(_key(run(config_file, work)), as_json=as_json)


@keys.command("list", epilog=examples("auth-service workloads keys list orders"))
@click.argument("client_id")
@json_option
@config_option
def list_keys(client_id: str, as_json: bool, config_file: Path | None) -> None:
    """List the public keys of a service account."""
    found = _run(config_file, lambda registry: registry.keys(client_id))
    table([_key(each) for each in found], as_json=as_json)


@keys.command("delete", epilog=examples("auth-service workloads keys delete orders KID"))
@click.argument("client_id")
@click.argument("kid")
@config_option
def delete(client_id: str, kid: str, config_file: Path | None) -> None:
    """Delete the public key KID.

    Put -- before one that begins with a dash.
    """
    _run(config_file, lambda registry: registry.delete_key(client_id, kid))
    click.echo(f"the key {kid} of {client_id} is deleted", err=True)


def _run(config_file: Path | None, work: Callable[[WorkloadRegistry], Awaitable[Result]]) -> Result:
    return run(config_file, lambda backend: work(backend.accounts.workloads))


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        fail(Exit.USAGE, f"--claim {text} is not NAME=VALUE", "for example --claim ref=main")
    return name, value


def _mapping(mapping: WorkloadMapping) -> dict[str, object]:
    return {
        "issuer": mapping.issuer,
        "subject": mapping.subject,
        "client_id": mapping.client_id,
        "claims": tuple(f"{name}={value}" for name, value in mapping.claims.items()),
        "created_at": mapping.created_at,
    }


def _key(key: ClientKey) -> dict[str, object]:
    return {
        "client_id": key.client_id,
        "kid": key.kid,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "live": key.live,
    }
