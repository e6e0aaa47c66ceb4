"""token: decodes a token, or explains the verdict on it."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from auth_service.cli.database import Backend, run
from auth_service.cli.decoding import decode
from auth_service.cli.settings import config_option
from auth_service.cli.terminal import (
    Exit,
    acr_option,
    examples,
    json_option,
    max_age_option,
    plain,
    read_secret,
    show,
    table,
    thumbprint_option,
)
from auth_service.core.explanations import Explained
from auth_service.serving.wiring import explanations, signing_keys

__all__ = ["token"]

_TIMES = ("iat", "nbf", "exp", "auth_time")


@click.group(
    epilog=examples(
        "auth-service token inspect < token-file",
        "auth-service token explain --audience orders < token-file",
    )
)
def token() -> None:
    """Decode tokens, and explain verdicts."""


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
    header, claims = decode(read_secret("Token"))
    if as_json:
        click.echo(json.dumps({"verified": False, "header": header, "claims": claims}))
        return
    click.echo("not verified: anyone can make such a token", err=True)
    for title, part in (("header", header), ("claims", claims)):
        for name, value in part.items():
            click.echo(f"{title}.{name} = {json.dumps(value)}{_moment(name, value)}")


@token.command(
    epilog=examples(
        "auth-service token explain < token-file",
        "auth-service token explain --audience orders --scope orders:read --json < token-file",
    )
)
@click.option("--audience", default="", help="An audience that the token must have.")
@click.option("--scope", multiple=True, help="A scope that the token must have; may be repeated.")
@click.option("--role", multiple=True, help="A role that the token must have; may be repeated.")
@thumbprint_option
@max_age_option
@acr_option
@json_option
@config_option
def explain(
    audience: str,
    scope: tuple[str, ...],
    role: tuple[str, ...],
    certificate_thumbprint: str,
    max_age: timedelta | None,
    acr: tuple[str, ...],
    as_json: bool,
    config_file: Path | None,
) -> None:
    """Explain why an access token is active or not.

    The exit code is 1 if it is not. The token is read from a prompt or standard input. This command
    reads keys and revocations from the database, so it does not tell whether a replica has heard of
    them yet. The RPC ExplainToken of that replica does. Each use is in the audit log.
    """
    access_token = read_secret("Access token")

    async def work(backend: Backend) -> Explained:
        keys = await signing_keys(backend.settings, backend.database)
        clock = backend.database.clock
        how = explanations(backend.settings, backend.database, keys, None, clock)
        return await how.explain(
            access_token,
            audience=audience,
            required_scope=scope,
            required_roles=role,
            certificate_thumbprint=certificate_thumbprint,
            max_age=max_age,
            acr_values=acr,
        )

    explained = run(config_file, work)
    _show(explained, as_json)
    if not explained.active:
        click.get_current_context().exit(Exit.REFUSED)


def _show(explained: Explained, as_json: bool) -> None:
    verdict = {"active": explained.active, "inactive_reason": explained.inactive_reason}
    checks = [
        {"check": check.name, "outcome": check.outcome.value, "detail": check.detail}
        for check in explained.checks
    ]
    revocations = [
        {
            "revocation": each.revocation.kind.value,
            "target": each.revocation.target,
            "recorded_at": each.recorded_at,
            "issued_before": each.revocation.issued_before,
            "expires_at": each.revocation.expires_at,
        }
        for each in explained.revocations
    ]
    claims = None if explained.claims is None else explained.claims.as_jwt()
    verified = {"claims": claims, "claims_verified": explained.genuine}
    if as_json:
        show(verdict | {"checks": checks, "revocations": revocations} | verified, as_json=True)
        return
    show(verdict, as_json=False)
    table(checks, as_json=False)
    if revocations:
        table(revocations, as_json=False)
    if claims is not None:
        if not explained.genuine:
            click.echo("the claims are not verified: anyone can make such a token", err=True)
        for name, value in claims.items():
            click.echo(f"claims.{name} = {json.dumps(value)}{_moment(name, value)}")


def _moment(name: str, value: object) -> str:
    if name not in _TIMES or not isinstance(value, int):
        return ""
    try:
        return f"  ({plain(datetime.fromtimestamp(value, UTC))})"
    except (OverflowError, ValueError, OSError):
        return "  (not a time)"
