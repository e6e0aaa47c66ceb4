"""login, refresh, validate, revoke: the RPCs of the service for people and scripts."""

import socket
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
from authn.v1 import auth_service_pb2 as pb
from authn.v1.auth_service_pb2_grpc import AuthServiceStub

from auth_service.cli.channel import Target, open_stub, server_options
from auth_service.cli.decoding import header_of
from auth_service.cli.device_file import keep_device_token, kept_device_token
from auth_service.cli.terminal import (
    Exit,
    acr_option,
    examples,
    fail,
    json_option,
    max_age_option,
    read_secret,
    show,
    thumbprint_option,
)
from auth_service.config.durations import parse_duration

__all__ = ["login", "refresh", "revoke", "validate"]

FIELDS = ("access-token", "refresh-token", "session-id")

scope_option = click.option("--scope", multiple=True, help="A scope to request; may be repeated.")
audience_option = click.option(
    "--audience", multiple=True, help="An audience of the tokens; may be repeated."
)
only_option = click.option("--only", type=click.Choice(FIELDS), help="Print only this field.")


@click.command(
    epilog=examples(
        "auth-service login ann@example.com",
        "auth-service login ann@example.com --json < password-file",
        "auth-service login ann@example.com --device-token-file ~/.auth-service-device",
        "auth-service login orders --service-account --only access-token < secret-file",
    )
)
@click.argument("identifier")
@click.option("--service-account", is_flag=True, help="IDENTIFIER is the id of a service account.")
@audience_option
@scope_option
@click.option(
    "--client-id", default="auth-service-cli", show_default=True, help="Name of the application."
)
@click.option("--device-label", help="Name of the device (default: the host name).")
@click.option(
    "--device-token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep the device token here, and send it with the next login, so that guesses of others "
    "cannot delay it.",
)
@click.option(
    "--change-password", is_flag=True, help="Replace the password, if the server asks for that."
)
@only_option
@json_option
@server_options
def login(  # noqa: PLR0917 - click passes the options by name
    target: Target,
    identifier: str,
    service_account: bool,
    audience: tuple[str, ...],
    scope: tuple[str, ...],
    client_id: str,
    device_label: str | None,
    device_token_file: Path | None,
    change_password: bool,
    only: str | None,
    as_json: bool,
) -> None:
    """Log in as IDENTIFIER and print the tokens.

    The password or secret is read from a prompt or standard input. So is the new password, with
    --change-password, and the code of a user who has a second factor: each from the next line. A
    recovery code does as well.
    """
    request = pb.LoginRequest(audience=audience, scope=scope)
    if service_account:
        request.client.client_id = identifier
        request.client.client_secret = read_secret("Secret")
    else:
        request.password.identifier = identifier
        request.password.password = read_secret("Password")
        if change_password:
            request.password.new_password = read_secret("New password", confirm=True)
        request.client_id = client_id
        request.device_label = socket.gethostname() if device_label is None else device_label
        request.request_id = str(uuid4())
        request.device_token = kept_device_token(device_token_file)
    with open_stub(target, AuthServiceStub) as stub:
        response = stub.Login(request, timeout=target.deadline)
        if response.HasField("challenge"):
            answer = pb.LoginRequest(factor=_factor(response.challenge))
            answer.factor.new_password = request.password.new_password
            response = stub.Login(answer, timeout=target.deadline)
    keep_device_token(device_token_file, response.device_token)
    _show_tokens(response.tokens, only, as_json)


def _factor(challenge: pb.LoginChallenge) -> pb.FactorCredentials:
    """Ask for a code: six digits of an authenticator app, or else a recovery code."""
    if challenge.HasField("enrollment"):
        click.echo(
            "This account needs a second factor. Add it to an authenticator app, and type the code "
            f"that the app shows:\n  {challenge.enrollment.uri}",
            err=True,
        )
    code = read_secret("Code")
    name = "totp_code" if len("".join(code.split())) == 6 else "recovery_code"
    return pb.FactorCredentials(challenge_token=challenge.challenge_token, **{name: code})


@click.command(
    epilog=examples(
        "auth-service refresh < refresh-token-file",
        "auth-service login ann --only refresh-token | auth-service refresh --json",
    )
)
@audience_option
@scope_option
@only_option
@json_option
@server_options
def refresh(
    target: Target,
    audience: tuple[str, ...],
    scope: tuple[str, ...],
    only: str | None,
    as_json: bool,
) -> None:
    """Exchange a refresh token for new tokens.

    The refresh token is read from a prompt or standard input.
    """
    request = pb.RefreshRequest(
        refresh_token=read_secret("Refresh token"), audience=audience, scope=scope
    )
    with open_stub(target, AuthServiceStub) as stub:
        response = stub.Refresh(request, timeout=target.deadline)
    _show_tokens(response.tokens, only, as_json)


@click.command(
    epilog=examples(
        "auth-service validate < token-file && echo active",
        "auth-service validate --audience orders --scope orders:read --json < token-file",
    )
)
@click.option("--audience", default="", help="An audience that the token must have.")
@click.option("--scope", multiple=True, help="A scope that the token must have; may be repeated.")
@click.option("--role", multiple=True, help="A role that the token must have; may be repeated.")
@click.option("--max-staleness", help="Maximum age of the known revocations, for example 2s.")
@thumbprint_option
@max_age_option
@acr_option
@json_option
@server_options
def validate(  # noqa: PLR0917 - click passes the options by name
    target: Target,
    audience: str,
    scope: tuple[str, ...],
    role: tuple[str, ...],
    max_staleness: str | None,
    certificate_thumbprint: str,
    max_age: timedelta | None,
    acr: tuple[str, ...],
    as_json: bool,
) -> None:
    """Check an access token; exit with 1 if it is not active.

    The access token is read from a prompt or standard input.
    """
    request = pb.ValidateRequest(
        audience=audience,
        required_scope=scope,
        required_roles=role,
        certificate_thumbprint=certificate_thumbprint,
        acr_values=acr,
    )
    if max_age is not None:
        request.max_age.FromTimedelta(max_age)
    if max_staleness is not None:
        try:
            request.max_staleness.FromTimedelta(parse_duration(max_staleness))
        except ValueError as error:
            fail(Exit.USAGE, f"--max-staleness: {max_staleness!r} {error}", "for example 2s")
    request.access_token = read_secret("Access token")
    with open_stub(target, AuthServiceStub) as stub:
        verdict = stub.Validate(request, timeout=target.deadline)
    show(_verdict(verdict), as_json=as_json)
    if not verdict.active:
        click.get_current_context().exit(Exit.REFUSED)


@click.command(
    epilog=examples(
        "auth-service revoke < refresh-token-file          # ends its session",
        "auth-service revoke < access-token-file           # ends this token alone",
        "auth-service revoke --all < access-token-file     # ends all sessions of its user",
        "auth-service revoke --session ID < access-token-file",
    )
)
@click.option("--session", "session_id", help="End this session; the token is that of the caller.")
@click.option("--all", "all_sessions", is_flag=True, help="End all sessions of the caller.")
@click.option(
    "--user",
    "user_id",
    default="",
    help="With --all: end the sessions of this user id (needs the role admin).",
)
@server_options
def revoke(target: Target, session_id: str | None, all_sessions: bool, user_id: str) -> None:
    """Revoke a token, a session, or all sessions of a user.

    The token is read from a prompt or standard input. A refresh token ends its session, and an
    access token is revoked, unless --session or --all is given.
    """
    if session_id is not None and all_sessions:
        fail(Exit.USAGE, "--session and --all exclude each other", "omit one of them")
    if user_id and not all_sessions:
        fail(Exit.USAGE, "--user requires --all", "add --all")
    token = read_secret("Token").strip()
    metadata: tuple[tuple[str, str], ...] = ()
    if session_id is not None or all_sessions:
        metadata = (("authorization", f"Bearer {_ascii(token)}"),)
        request = pb.RevokeRequest(session_id=session_id)
        if all_sessions:
            request.all_sessions.user_id = user_id
    elif header_of(token).get("typ") == "rt+jwt":
        request = pb.RevokeRequest(refresh_token=token)
    else:
        request = pb.RevokeRequest(access_token=token)
    with open_stub(target, AuthServiceStub) as stub:
        stub.Revoke(request, timeout=target.deadline, metadata=metadata)
    click.echo("revoked", err=True)


def _ascii(token: str) -> str:
    if not token.isascii() or not token.isprintable():
        fail(Exit.REFUSED, "this is not an access token")
    return token


def _show_tokens(tokens: Any, only: str | None, as_json: bool) -> None:
    if only is not None:
        click.echo(getattr(tokens, only.replace("-", "_")))
        return
    record = {
        "access_token": tokens.access_token,
        "token_type": tokens.token_type,
        "access_expires_at": _time(tokens, "access_expires_at"),
        "refresh_token": tokens.refresh_token or None,
        "refresh_expires_at": _time(tokens, "refresh_expires_at"),
        "scope": list(tokens.scope),
        "session_id": tokens.session_id or None,
    }
    show(record, as_json=as_json)


def _verdict(verdict: Any) -> dict[str, object]:
    record: dict[str, object] = {"active": verdict.active}
    if verdict.active:
        claims = verdict.claims
        record |= {
            "issuer": claims.issuer,
            "subject": claims.subject,
            "audience": list(claims.audience),
            "expires_at": _time(claims, "expires_at"),
            "issued_at": _time(claims, "issued_at"),
            "token_id": claims.token_id,
            "session_id": claims.session_id or None,
            "client_id": claims.client_id or None,
            "scope": list(claims.scope),
            "roles": list(claims.roles),
            "auth_time": _time(claims, "auth_time"),
            "authentication_methods": list(claims.authentication_methods),
            "acr": claims.acr or None,
            "certificate_thumbprint": claims.certificate_thumbprint or None,
        }
    else:
        name = pb.InactiveReason.Name(verdict.inactive_reason)
        record["inactive_reason"] = name.removeprefix("INACTIVE_REASON_").lower()
        if verdict.unmet:
            record["unmet"] = list(verdict.unmet)
    return record | {"revocations_as_of": _time(verdict, "revocations_as_of")}


def _time(message: Any, field: str) -> object:
    return getattr(message, field).ToJsonString() if message.HasField(field) else None
