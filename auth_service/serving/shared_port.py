"""The ports that several processes listen on at the same time (SO_REUSEPORT).

Finds the sockets of this process, including those of gRPC. Does not know what is served on them.
"""

import array
import contextlib
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

from auth_service.errors import ConfigError

__all__ = ["may_have_clients", "prefer_newest", "require_free"]

SO_ATTACH_REUSEPORT_CBPF = 51  # Linux 4.5; the socket module has no name for it
BPF_RET = 0x06  # with BPF_K, a constant


def require_free(variable: str, address: str) -> None:
    """Raise ConfigError for a port in use, which workers with shared ports do not notice."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except socket.gaierror:
        return  # the first worker reports it
    for family, kind, protocol, _, place in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise ConfigError(
                    f"{variable}: cannot serve {address}: it is in use, or not permitted; "
                    "stop the other server, or choose another address"
                ) from error


def prefer_newest(workers: int) -> None:
    """Direct new connections to the newest process while more than `workers` processes listen.

    This is the case while a worker is being replaced. The kernel resets connections that wait on a
    socket when it closes, so the old worker must have none left to accept. The filter selects a
    socket by its position in the order of listening; if there is no such socket, the kernel chooses
    as usual (socket(7)). Does nothing on systems without such filters.
    """
    if sys.platform != "linux":
        return
    program = array.array("B", struct.pack("HBBI", BPF_RET, 0, 0, workers))
    attached = struct.pack("HP", 1, program.buffer_info()[0])
    for listener in _listeners():
        with contextlib.suppress(OSError):  # an older kernel, which spreads connections as usual
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, attached)


def may_have_clients() -> bool:
    """Return whether a client is connected to a shared port; True if the system cannot tell."""
    if sys.platform != "linux":
        return True
    ports = {listener.getsockname()[1] for listener in _listeners()}
    return any(_client_port(found) in ports for found in _sockets())


def _listeners() -> Iterator[socket.socket]:
    """Yield each listening socket with a shared port, including those of gRPC."""
    for found in _sockets():
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if listens and found.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
            yield found


def _sockets() -> Iterator[socket.socket]:
    for descriptor in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):  # closed in the meantime
            if descriptor.is_socket():
                with socket.socket(fileno=os.dup(int(descriptor.name))) as found:
                    yield found


def _client_port(found: socket.socket) -> int | None:
    """Return the local port of a socket that is connected to a client."""
    try:
        if found.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        found.getpeername()
        port: int = found.getsockname()[1]
    except OSError:
        return None
    return port
