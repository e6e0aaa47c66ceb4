"""sessions: the commands that list and end sessions."""

from datetime import datetime
from pathlib import Path
from uuid import UUID

import click

from auth_service.cli.database import Backend, run
from auth_service.cli.settings import config_option
from auth_service.cli.terminal import Exit, examples, fail, json_option, moment, table
from auth_service.models import Session

__all__ = ["sessions"]


@click.group(
    epilog=examples(
        "auth-service sessions list ann@example.com",
        "auth-service sessions revoke --user ann@example.com",
    )
)
def sessions() -> None:
    """List and end the sessions of users. USER is an identifier or an id."""


@sessions.command("list", epilog=examples("auth-service sessions list ann@example.com --json"))
@click.argument("user")
@json_option
@config_option
def list_(user: str, as_json: bool, config_file: Path | None) -> None:
    """List the active sessions of a user, newest first."""

    async def work(backend: Backend) -> list[Session]:
        found = await backend.accounts.get_user(user)
        return await backend.accounts.list_sessions(found.id)

    table([_record(session) for session in run(config_file, work)], as_json=as_json)


@sessions.command(
    epilog=examples(
        "auth-service sessions revoke 0192f0c1-7f2e-4c1b-9c57-0d7b2f1f4a10",
        "auth-service sessions revoke --user ann@example.com",
        "auth-service sessions revoke --user ann@example.com --begun-before 2026-11-01T09:00:00Z",
    )
)
@click.argument("session_id", type=click.UUID, required=False)
@click.option("--user", help="End all sessions of this user.")
@click.option("--begun-before", callback=moment, help="Only those begun before it (UTC, RFC 3339).")
@config_option
def revoke(
    session_id: UUID | None,
    user: str | None,
    begun_before: datetime | None,
    config_file: Path | None,
) -> None:
    """End a session, or all sessions of a user.

    A session that has already ended is not an error.
    """
    if (session_id is None) == (user is None):
        fail(
            Exit.USAGE,
            "give either a session or --user",
            "see the examples of sessions revoke --help",
        )
    if begun_before is not None and user is None:
        fail(Exit.USAGE, "--begun-before needs --user")

    async def work(backend: Backend) -> None:
        if user is not None:
            found = await backend.accounts.get_user(user)
            await backend.accounts.users.end_sessions(found.id, begun_before)
        elif session_id is not None:
            await backend.accounts.end_session(session_id)

    run(config_file, work)
    click.echo("revoked", err=True)


def _record(session: Session) -> dict[str, object]:
    return {
        "id": session.id,
        "client_id": session.client_id,
        "device_label": session.device_label,
        "created_at": session.created_at,
        "refreshed_at": session.refreshed_at,
        "expires_at": session.refresh_expires_at,
    }
