"""Addresses that only this machine can reach, and names that merely look like them."""

import pytest

from auth_service.addresses import is_loopback, is_loopback_host


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:50051",
        "127.8.9.10:1",
        "[::1]:50051",
        "localhost:50051",
        "LocalHost:50051",
        "unix:/run/auth.sock",
        "unix:///run/auth.sock",
        "unix-abstract:auth",
        "ipv4:127.0.0.1:50051",
        "ipv4:127.0.0.1:1,127.0.0.2:2",
        "ipv6:[::1]:50051",
        "ipv6:%5B::1%5D:50051",
        "dns:localhost:50051",
        "dns:///localhost:50051",
    ],
)
def test_an_address_of_this_machine_is_loopback(address: str) -> None:
    """In every form that gRPC listens on or dials."""
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        ":50051",
        "0.0.0.0:50051",
        "[::]:50051",
        "10.0.0.1:50051",
        "auth.example:50051",
        "127.evil.example:50051",
        "localhost.example:50051",
        "127.0.0.1]x:50051",
        "ipv4:127.0.0.1:1,10.0.0.1:1",
        "dns:///auth.example:50051",
        "xds:///localhost",
    ],
)
def test_an_address_that_others_can_reach_is_not_loopback(address: str) -> None:
    """A name that begins like a loopback address is not one."""
    assert not is_loopback(address)


def test_a_host_is_loopback_by_name_or_by_ip_address() -> None:
    """Without brackets and without a port."""
    assert all(map(is_loopback_host, ("localhost", "127.0.0.1", "::1")))
    assert not any(map(is_loopback_host, ("", "[::1]", "127.0.0.1:80", "unix:x", "example.com")))
