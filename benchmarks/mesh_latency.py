"""What Check through Envoy adds to a request, beside Envoy without it and with its own jwt_authn.

One request after the other over kept connections, each round asking every side once. Envoy runs
with the files of deploy/envoy as they are, and so at their fixed addresses; keys are EdDSA.
"""

import asyncio
import secrets
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.figures import spread

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "tests" / "interop"), str(ROOT / "tests" / "interop" / "mesh")]

import processes  # noqa: E402 - what `make interop` starts is started here too
from cases import CLERK, Users  # noqa: E402
from check import settings  # noqa: E402

ROUNDS = 3000
WARM_UP = 300
ADDRESSES = (
    *(processes.SERVICE, processes.EDGE, processes.HTTP_UPSTREAM),
    *(processes.EXT_AUTHZ, processes.JWT_AUTHN),
)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def main() -> None:
    """Print the spread of each side, and what each adds."""
    if not processes.ENVOY.exists():
        print("left out: Envoy is missing; `make interop` puts it below .interop/")
        return
    processes.require_free(ADDRESSES)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="auth-bench-")))
        directory.chmod(0o711)
        token = _start(stack, directory)
        for address in (processes.EXT_AUTHZ, processes.JWT_AUTHN):
            _require_checked(address)
        _measure(
            {
                "Envoy alone": _request(processes.EXT_AUTHZ, "/assets/", token),
                "the same Envoy with Check": _request(processes.EXT_AUTHZ, "/orders/", token),
                "another Envoy alone": _request(processes.JWT_AUTHN, "/assets/", token),
                "that with jwt_authn": _request(processes.JWT_AUTHN, "/orders/", token),
            }
        )


def _start(stack: ExitStack, directory: Path) -> str:
    """Start everything, and return a token that both Envoys let in."""
    env = settings(directory) | {
        "AUTH_DATABASE_URL": stack.enter_context(processes.database(directory)),
        "AUTH_GRPC_ADDRESS": processes.SERVICE,
        "AUTH_HTTP_ADDRESS": processes.EDGE,
        "AUTH_SIGNING_ALGORITHM": "EdDSA",
        "AUTH_LOG_LEVEL": "error",
    }
    for name in ("AUTH_EMBEDDED_DIR", "AUTH_SHARED_KEY"):
        del env[name]
    users = Users.create(env)
    stack.enter_context(processes.Service(directory, env).serving())
    stack.enter_context(_upstream())
    stack.enter_context(processes.envoy(directory, "ext-authz", processes.EXT_AUTHZ))
    stack.enter_context(processes.envoy(directory, "jwt-authn", processes.JWT_AUTHN))
    return str(users.tokens(CLERK).access_token)


class _Upstream(asyncio.Protocol):
    """Answers as little as can be, as soon as a request's headers end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"\r\n\r\n"):
            self._transport.write(ANSWER)


@contextmanager
def _upstream() -> Iterator[None]:
    loop = asyncio.new_event_loop()
    host, _, port = processes.HTTP_UPSTREAM.rpartition(":")
    server = loop.run_until_complete(loop.create_server(_Upstream, host, int(port)))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _request(address: str, path: str, token: str) -> tuple[str, bytes]:
    lines = (
        f"GET {path}{secrets.token_hex(4)} HTTP/1.1",
        f"host: {address}",
        f"authorization: Bearer {token}",
    )
    return address, "\r\n".join((*lines, "", "")).encode()


def _measure(sides: dict[str, tuple[str, bytes]]) -> None:
    connections = {name: _connected(address) for name, (address, _) in sides.items()}
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(WARM_UP + ROUNDS):
        for name, (_, request) in sides.items():
            seen[name].append(_seconds(connections[name], request))
    for connection in connections.values():
        connection.close()
    seen = {name: values[WARM_UP:] for name, values in seen.items()}
    for name, values in seen.items():
        print(f"{name:26} {spread(values)}")
    names = list(seen)
    for alone, checked in (names[:2], names[2:]):
        added = [b - a for a, b in zip(seen[alone], seen[checked], strict=True)]
        ratio = statistics.median(seen[checked]) / statistics.median(seen[alone])
        median = statistics.median(added) * 1000
        print(f"{checked} adds: median {median:.2f} ms, {ratio:.2f} times")


def _require_checked(address: str) -> None:
    """See that a request with a bad token is refused: the premise of what checking adds."""
    _, request = _request(address, "/orders/", "not.a.token")
    with _connected(address) as connection:
        connection.sendall(request)
        assert connection.recv(65536).startswith(b"HTTP/1.1 401"), address


def _connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _seconds(connection: socket.socket, request: bytes) -> float:
    started = time.perf_counter()
    connection.sendall(request)
    answer = connection.recv(65536)
    while not answer.endswith(b"ok"):
        more = connection.recv(65536)
        if not more or not answer.startswith(b"HTTP/1.1 200"):
            raise AssertionError(answer)
        answer += more
    return time.perf_counter() - started
