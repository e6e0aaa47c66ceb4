"""The connection of the client commands to a server, and its errors as text."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click
import grpc

from auth_service.addresses import is_loopback
from auth_service.authz.status import read_details
from auth_service.cli.terminal import Exit, Failure, fail

__all__ = ["Target", "open_stub", "server_options"]

_UNAVAILABLE = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


@dataclass(frozen=True, slots=True)
class Target:
    """The server to call, and how to call it."""

    address: str
    tls: bool
    ca_file: Path | None
    cert_file: Path | None
    key_file: Path | None
    deadline: float
    """Seconds."""


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a connection to a command, as its argument `target`."""

    @click.option(
        "--address",
        envvar="AUTH_ADDRESS",
        default="127.0.0.1:50051",
        show_default=True,
        show_envvar=True,
        help="Address of the server.",
    )
    @click.option(
        "--tls/--plaintext",
        default=None,
        help="Use TLS or plaintext (default: plaintext only if the server is on this machine).",
    )
    @click.option(
        "--ca-file",
        envvar="AUTH_CA_FILE",
        show_envvar=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Certificate authorities to trust, in PEM; implies --tls.",
    )
    @click.option(
        "--cert-file",
        envvar="AUTH_CERT_FILE",
        show_envvar=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Certificate of this client, in PEM, for a server that asks for one.",
    )
    @click.option(
        "--key-file",
        envvar="AUTH_KEY_FILE",
        show_envvar=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Private key of that certificate, in PEM.",
    )
    @click.option(
        "--deadline",
        type=click.FloatRange(min=0, min_open=True),
        default=10.0,
        show_default=True,
        help="Seconds to wait for the response.",
    )
    @wraps(command)
    def wrapper(
        address: str,
        tls: bool | None,
        ca_file: Path | None,
        cert_file: Path | None,
        key_file: Path | None,
        deadline: float,
        **arguments: Any,
    ) -> Any:
        if (cert_file is None) != (key_file is None):
            fail(Exit.USAGE, "--cert-file and --key-file go together", "give both or neither")
        given = ca_file or cert_file
        if tls is False and given is not None:
            option = "--cert-file" if ca_file is None else "--ca-file"
            fail(Exit.USAGE, f"--plaintext and {option} exclude each other", "omit one of them")
        if tls is None:
            tls = given is not None or not is_loopback(address)
        target = Target(address, tls, ca_file, cert_file, key_file, deadline)
        return command(target=target, **arguments)

    return wrapper


@contextmanager
def open_stub(target: Target, stub: Callable[[grpc.Channel], Any]) -> Iterator[Any]:
    """Yield a stub on a channel to the server; an RPC error becomes a Failure."""
    # A proxy of the environment cannot reach the loopback of this machine.
    options = [("grpc.enable_http_proxy", 0)] if is_loopback(target.address) else []
    with _channel(target, options) as channel:
        try:
            yield stub(channel)
        except grpc.RpcError as error:
            raise _failure(error, target) from error


def _channel(target: Target, options: list[tuple[str, int]]) -> grpc.Channel:
    if not target.tls:
        return grpc.insecure_channel(target.address, options)
    try:
        roots, key, chain = (
            None if path is None else path.read_bytes()
            for path in (target.ca_file, target.key_file, target.cert_file)
        )
    except OSError as error:
        fail(Exit.USAGE, f"{error.filename} cannot be read: {error.strerror}")
    credentials = grpc.ssl_channel_credentials(roots, key, chain)
    return grpc.secure_channel(target.address, credentials, options)


def _failure(error: Any, target: Target) -> Failure:
    code, text = error.code(), error.details() or "no details"
    details = read_details(error)
    reason = details.reason
    violations = [f"{each.field}: {each.description}" for each in details.violations]
    shown = f"{text} ({code.name}{', ' + reason if reason else ''})"
    if violations and not all(violation in text for violation in violations):
        shown = f"{shown}: {'; '.join(violations)}"
    if code not in _UNAVAILABLE:
        return Failure(Exit.REFUSED, shown)
    if reason or code is not grpc.StatusCode.UNAVAILABLE:
        return Failure(Exit.UNAVAILABLE, shown, "try again in a moment")
    return Failure(
        Exit.UNAVAILABLE,
        f"no server can be reached at {target.address}: {text}",
        "start one (auth-service serve), or check --address, --tls, --ca-file and --cert-file",
    )
