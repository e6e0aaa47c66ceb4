"""The ports that several processes listen on at once (SO_REUSEPORT).

Knows nothing of what is served: it finds the sockets of this process, those of gRPC among them.
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
    """Refuse a port that somebody listens on; workers, which share theirs, would not notice."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except socket.gaierror:
        return  # the first worker tells
    for family, kind, protocol, _, place in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise ConfigError(
                    f"{variable}: cannot serve {address}: it is in use, or not for this user; "
                    "stop what serves there, or choose another"
                ) from error


def prefer_newest(workers: int) -> None:
    """While one process more than `workers` listens, let the newest get every new connection.

    That is so while one is being replaced: the old one then has nothing left to accept when it
    closes its socket, with which the kernel would reset what waits there. The filter names a socket
    by its place in the order of listening; where there is none, the kernel chooses as ever
    (socket(7)). Does nothing where there are no such filters.
    """
    if sys.platform != "linux":
        return
    program = array.array("B", struct.pack("HBBI", BPF_RET, 0, 0, workers))
    attached = struct.pack("HP", 1, program.buffer_info()[0])
    for listener in _listeners():
        with contextlib.suppress(OSError):  # another kernel; connections are spread as ever
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, attached)


def may_have_clients() -> bool:
    """Tell whether a client is connected to a shared port of this process, as far as we can see."""
    if sys.platform != "linux":
        return True
    ports = {listener.getsockname()[1] for listener in _listeners()}
    return any(_client_port(found) in ports for found in _sockets())


def _listeners() -> Iterator[socket.socket]:
    """Give each socket on which this process shares a port, gRPC's own among them."""
    for found in _sockets():
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if listens and found.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
            yield found


def _sockets() -> Iterator[socket.socket]:
    for descriptor in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(OSError):  # closed meanwhile
            if descriptor.is_socket():
                with socket.socket(fileno=os.dup(int(descriptor.name))) as found:
                    yield found


def _client_port(found: socket.socket) -> int | None:
    """Return the port of ours to which a client is connected on this socket."""
    try:
        if found.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        found.getpeername()
        port: int = found.getsockname()[1]
    except OSError:
        return None
    return port
