"""Whose word on a client's address is taken, and what it says."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth_service.authz.certificates import TrustedProxies
from auth_service.authz.sources import FORWARDED, FORWARDED_FOR, Sources

PROXIES = TrustedProxies(["10.0.0.0/8", "::1"])
PLAIN, RFC_7239 = Sources(PROXIES), Sources(PROXIES, FORWARDED)


class Call:
    """What a servicer context tells of a call."""

    def __init__(self, peer: str, *metadata: tuple[str, str]) -> None:
        self._peer = peer
        self._metadata = metadata

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> Any:
        return self._metadata


@pytest.mark.parametrize(
    ("values", "address"),
    [
        (["203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7:4711"], "203.0.113.7"),
        (["2001:db8::7"], "2001:db8::7"),
        (["[2001:DB8::7]"], "2001:db8::7"),
        (["[2001:db8::7]:4711"], "2001:db8::7"),
        (["::ffff:203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1", "203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1,203.0.113.7 ,\t10.0.0.2, ::1"], "203.0.113.7"),
        (["10.9.9.9, 10.0.0.2"], "10.9.9.9"),
        (["x, 203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7, x"], "10.0.0.1"),
        (["203.0.113.7, unknown, 10.0.0.2"], "10.0.0.2"),
        (["203.0.113.7,"], "10.0.0.1"),
        ([""], "10.0.0.1"),
        ([], ""),
    ],
    ids=str,
)
def test_the_last_address_that_is_no_proxys_is_the_clients(values: list[str], address: str) -> None:
    """What stands before it came from the client; what is no address counts as who wrote it."""
    assert PLAIN.of_host("10.0.0.1", values) == address
    metadata = [(FORWARDED_FOR, value) for value in values]
    call = Call("ipv4:10.0.0.1:50", (FORWARDED, "for=6.6.6.6"), *metadata)
    assert PLAIN.of_call(call) == address


@pytest.mark.parametrize(
    ("values", "address"),
    [
        (["for=203.0.113.7"], "203.0.113.7"),
        (["For=203.0.113.7;proto=https;by=10.0.0.1"], "203.0.113.7"),
        (['for="203.0.113.7:4711"'], "203.0.113.7"),
        (['for="[2001:db8::7]"'], "2001:db8::7"),
        (['proto=http ; for="[2001:db8::7]:4711"'], "2001:db8::7"),
        (["for=198.51.100.1, for=203.0.113.7;host=a, for=10.0.0.2"], "203.0.113.7"),
        (["for=198.51.100.1", "for=203.0.113.7"], "203.0.113.7"),
        (['for="x, for=203.0.113.7'], "203.0.113.7"),
        (["for=203.0.113.7, for=unknown"], "10.0.0.1"),
        (["for=203.0.113.7, for=_hidden"], "10.0.0.1"),
        (["for=2001:db8::7"], "10.0.0.1"),
        (["for=203.0.113.7;for=6.6.6.6"], "10.0.0.1"),
        (['for=203.0.113.7;host="x,for=6.6.6.6;y=z"'], "10.0.0.1"),
        (["proto=https"], "10.0.0.1"),
        (["203.0.113.7"], "10.0.0.1"),
        ([], ""),
    ],
    ids=str,
)
def test_forwarded_is_read_where_the_proxies_write_it(values: list[str], address: str) -> None:
    """RFC 7239; the header that the proxies do not write may be the client's invention."""
    assert RFC_7239.of_host("10.0.0.1", values) == address
    metadata = [(FORWARDED, value) for value in values]
    call = Call("ipv6:%5B::1%5D:50", (FORWARDED_FOR, "6.6.6.6"), *metadata)
    assert RFC_7239.of_call(call) == address.replace("10.0.0.1", "::1")


@pytest.mark.parametrize("sources", [PLAIN, RFC_7239], ids=["plain", "forwarded"])
@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:203.0.113.9:50", "203.0.113.9"),
        ("ipv6:%5B2001:db8::9%5D:50", "2001:db8::9"),
        ("ipv6:%5Bfe80::9%25eth0%5D:50", "fe80::9"),
        ("ipv6:%5B::ffff:203.0.113.9%5D:50", "203.0.113.9"),
        ("unix:/run/10.0.0.1:5", ""),
        ("unix:", ""),
        ("", ""),
    ],
)
def test_anybody_else_speaks_for_itself_only(sources: Sources, peer: str, address: str) -> None:
    """Whatever headers it sends."""
    spoofed = [(FORWARDED_FOR, "6.6.6.6"), (FORWARDED, "for=6.6.6.6")]
    assert sources.of_call(Call(peer, *spoofed)) == address


def test_without_proxies_no_header_counts() -> None:
    """As by default; an HTTP server without a client, as in tests, knows no address."""
    sources = Sources(TrustedProxies())
    assert sources.of_host("127.0.0.1", ["6.6.6.6"]) == "127.0.0.1"
    assert sources.of_host(None, ["6.6.6.6"]) == ""
    assert sources.of_host("testclient", ["6.6.6.6"]) == ""


@given(st.lists(st.text(alphabet='for=_;,."\\ 0129af:[]%', max_size=300), max_size=3))
def test_no_header_is_an_error(values: list[str]) -> None:
    """Whatever a client sends."""
    for sources in (PLAIN, RFC_7239):
        assert "," not in sources.of_host("10.0.0.1", values)


def test_the_time_to_read_a_header_grows_with_its_length_only() -> None:
    """A header that fits in a request is read at once, whatever is in it."""
    for text in ('for="', "for=;", ",", 'for="\\"', "for=a;", "[1", "10.0.0.1,", "for=10.0.0.1,"):
        for sources in (PLAIN, RFC_7239):
            assert sources.of_host("10.0.0.1", [text * (16_000 // len(text))])
