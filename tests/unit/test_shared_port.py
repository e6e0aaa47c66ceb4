"""Ports that several processes share: which socket gets a connection, and connected clients."""

import contextlib
import select
import socket
import sys
from collections.abc import Iterator

import pytest

from auth_service.errors import ConfigError
from auth_service.serving.shared_port import may_have_clients, prefer_newest, require_free

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has filters of shared ports")


@pytest.fixture
def closing() -> Iterator[contextlib.ExitStack]:
    """Closes sockets at the end."""
    with contextlib.ExitStack() as stack:
        yield stack


def listening(stack: contextlib.ExitStack, port: int = 0) -> socket.socket:
    listener = stack.enter_context(socket.socket())
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(200)
    return listener


def spread(listeners: list[socket.socket]) -> list[int]:
    """Return how many of a hundred connections each socket gets."""
    counts = dict.fromkeys(listeners, 0)
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection(listeners[0].getsockname()))
        while sum(counts.values()) < 100:
            for ready in select.select(listeners, [], [])[0]:
                stack.enter_context(ready.accept()[0])
                counts[ready] += 1
    return list(counts.values())


@linux
def test_one_socket_too_many_gets_every_connection(closing: contextlib.ExitStack) -> None:
    """No new connection reaches a worker that is being replaced; otherwise all workers share."""
    old = listening(closing)
    other = listening(closing, old.getsockname()[1])
    prefer_newest(2)
    assert 0 not in spread([old, other])
    new = listening(closing, old.getsockname()[1])
    assert spread([old, other, new]) == [0, 0, 100]
    old.close()
    assert 0 not in spread([new, other])


@linux
def test_clients_are_found_while_they_are_connected(closing: contextlib.ExitStack) -> None:
    """An accepted connection counts until this side has closed it."""
    listener = listening(closing)
    assert not may_have_clients()
    with socket.create_connection(listener.getsockname()), listener.accept()[0]:
        assert may_have_clients()
    assert not may_have_clients()


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "localhost:{}", "0.0.0.0:{}"])
def test_a_port_in_use_is_refused_even_if_it_can_be_shared(
    closing: contextlib.ExitStack, address: str
) -> None:
    """Otherwise a second supervisor would serve half of the clients of the first."""
    port = listening(closing).getsockname()[1]
    with pytest.raises(ConfigError, match=f"AUTH_X: cannot serve .*{port}: it is in use"):
        require_free("AUTH_X", address.format(port))


def test_a_free_port_and_an_unknown_host_pass(closing: contextlib.ExitStack) -> None:
    """The server reports other errors of an address."""
    listener = listening(closing)
    port = listener.getsockname()[1]
    listener.close()
    require_free("AUTH_X", f"127.0.0.1:{port}")
    require_free("AUTH_X", f"nowhere.invalid:{port}")
