"""The root command, and the conversion of errors to a line on stderr and an exit code."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from auth_service.cli.terminal import EXIT_CODES, Exit, Failure
from auth_service.errors import AuthError, ConfigError, Retryable

__all__ = ["cli", "main"]


_COMMANDS = {
    "serve": "serve:serve",
    "migrate": "serve:migrate",
    "users": "user_changes:users",
    "service-accounts": "service_accounts:service_accounts",
    "audiences": "audiences:audiences",
    "workloads": "workloads:workloads",
    "sessions": "sessions:sessions",
    "keys": "keys:keys",
    "audit": "audit:audit",
    "config": "configuration:config",
    "login": "client:login",
    "refresh": "client:refresh",
    "validate": "client:validate",
    "revoke": "client:revoke",
    "token": "token:token",
}


class _Commands(click.Group):
    """Imports a command at its first use, so that `validate` does not load the database driver."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(
            importlib.import_module(f"auth_service.cli.{module}"), attribute
        )
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.version_option(package_name="auth-service")
def cli() -> None:
    """Run, manage and call the authentication service.

    serve, migrate, users, service-accounts, workloads, audiences, sessions, keys, audit, config and
    token explain use the database and the settings of the service (AUTH_* variables, --config).
    login, refresh, validate and revoke call a running server (--address). Passwords and tokens are
    read from a prompt or standard input.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its exit code."""
    try:
        code = cli.main(arguments, prog_name="auth-service", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("aborted", err=True)
        code = 130  # the exit code of a shell for SIGINT
    except BrokenPipeError:
        # The reader has closed the pipe, as `head` does. Without this, Python's flush fails again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.OK
    except AuthError as error:
        code = _report(error)
    sys.exit(code if isinstance(code, int) else Exit.OK)


def _report(error: AuthError) -> Exit:
    match error:
        case ConfigError():
            failure = Failure(Exit.CONFIG, error.text)
        case Retryable():
            failure = Failure(Exit.UNAVAILABLE, error.text, "try again; see the server's log")
        case _:
            failure = Failure(Exit.REFUSED, error.text)
    failure.show()
    return Exit(failure.exit_code)
