"""Whose word on a client's certificate is taken, and what it says."""

import hashlib
import ssl
from typing import Any
from urllib.parse import quote

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from auth_service import base64url
from auth_service.authz.certificates import (
    TrustedProxies,
    presented,
    presented_to_proxy,
    thumbprint,
    thumbprint_of_pem,
)
from auth_service.tokens.access import THUMBPRINT

PEM = trustme.CA().issue_cert("orders.internal").cert_chain_pems[0].bytes().decode()
DER = ssl.PEM_cert_to_DER_cert(PEM)
HASH = hashlib.sha256(DER).hexdigest()
OURS = thumbprint(DER)
OTHER = "00" * 32


class Call:
    """What a servicer context tells of a call."""

    def __init__(self, peer: str, pem: bytes = b"", **metadata: str) -> None:
        self._peer = peer
        self._pem = pem
        self._metadata = tuple((k.replace("_", "-"), v) for k, v in metadata.items())

    def peer(self) -> str:
        return self._peer

    def invocation_metadata(self) -> Any:
        return self._metadata

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self._pem]} if self._pem else {}


def test_a_thumbprint_is_the_sha256_of_the_der_in_base64url() -> None:
    """As in RFC 8705 section 3.1: of the certificate, not of its text."""
    assert base64url.decode(OURS).hex() == HASH
    assert THUMBPRINT.fullmatch(OURS)
    assert thumbprint_of_pem(PEM) == OURS
    assert thumbprint_of_pem(PEM.replace("\n", "\r\n")) == OURS
    assert thumbprint_of_pem(PEM + trustme.CA().cert_pem.bytes().decode()) == OURS


def numbered(_value: object) -> str:
    """Return the id of a test; the values contain a certificate that each process makes."""
    return "value"


@pytest.mark.parametrize(
    "text",
    ["", "x", PEM[:-40], PEM[30:], PEM.replace("A", "é"), PEM.replace("-----END", "")],
    ids=numbered,
)
def test_what_is_no_certificate_has_no_thumbprint(text: str) -> None:
    """It is not that of an empty certificate either."""
    assert thumbprint_of_pem(text) == ""


@pytest.mark.parametrize(
    "value",
    [
        f"Hash={HASH}",
        f"hash={HASH.upper()}",
        f'By=spiffe://mesh/a;Hash={HASH};Subject="CN=a,O=b;c=\\"d\\"";URI=spiffe://mesh/b;DNS=b',
        f"Hash={OTHER};URI=x,By=y;Hash={HASH}",
        f"Hash={OTHER}, Hash={HASH}",
        f'Cert="{quote(PEM)}"',
        f'Cert="{quote(PEM, safe="")}";Subject=""',
        f'Hash={HASH};Cert="{quote(trustme.CA().cert_pem.bytes().decode())}"',
    ],
    ids=numbered,
)
def test_the_last_element_names_the_client(value: str) -> None:
    """The proxy in front wrote it; those before it came from further away."""
    assert presented_to_proxy([value]) == OURS


def test_several_headers_are_one_list() -> None:
    """RFC 9110 section 5.3."""
    assert presented_to_proxy([f"Hash={OTHER}", f"Hash={HASH}"]) == OURS


@pytest.mark.parametrize(
    "value",
    [
        "",
        HASH,
        "Hash=",
        f"Hash={HASH[:-1]}",
        f"Hash={HASH}0",
        f"Hash={HASH};Hash={HASH}",
        f"Hash={OTHER};URI=x;hash={HASH}",
        f"Hash={HASH},",
        f"Hash={HASH},URI=x",
        f'Subject="x;Hash={HASH}',
        f'Subject="";Hash={HASH}"',
        f'Subject=a",Hash={HASH}',
        f"{OURS};Hash={HASH}",
        f'Hash="{HASH[:-1]}\\0"',
        'Cert=""',
        'Cert="%zz"',
    ],
    ids=numbered,
)
def test_a_header_out_of_form_names_nobody(value: str) -> None:
    """Another reader could find another certificate in it."""
    assert presented_to_proxy([value]) == ""


@given(st.lists(st.text(alphabet='Hashcert=;,"\\ 09af%-', max_size=300), max_size=3))
def test_no_header_is_an_error(values: list[str]) -> None:
    """Whatever a client sends, it is a thumbprint or nothing."""
    found = presented_to_proxy(values)
    assert found == "" or THUMBPRINT.fullmatch(found)


def test_the_time_to_read_a_header_grows_with_its_length_only() -> None:
    """A header that fits in a request is read at once, whatever is in it."""
    for text in ('a="', "a=;", "a=,", 'a="\\"', "a=b;" * 3 + '"', "a"):
        assert presented_to_proxy([text * (16_000 // len(text))]) == ""


@pytest.mark.parametrize(
    "peer",
    ["ipv4:10.1.2.3:50", "ipv6:[::1]:50", "ipv6:%5B::1%5D:50", "ipv6:%5B::ffff:10.1.2.3%5D:50"],
)
def test_a_trusted_proxy_speaks_for_its_client(peer: str) -> None:
    """Its own certificate is never taken for the client's, even if it names none."""
    proxies = TrustedProxies(["10.0.0.0/8", "::1"])
    proxy = trustme.CA().cert_pem.bytes()
    assert presented(Call(peer, proxy, x_forwarded_client_cert=f"Hash={HASH}"), proxies) == OURS
    assert presented(Call(peer, proxy), proxies) == ""


@pytest.mark.parametrize(
    "peer",
    ["ipv4:11.1.2.3:50", "ipv6:%5B::2%5D:50", "unix:", "unix:/run/10.0.0.1:5", "10.0.0.1", ""],
)
def test_of_anybody_else_the_connection_alone_counts(peer: str) -> None:
    """The header is ignored, with and without a certificate."""
    for proxies in (TrustedProxies(["10.0.0.0/8", "::1"]), TrustedProxies()):
        call = Call(peer, PEM.encode(), x_forwarded_client_cert=f"Hash={OTHER}")
        assert presented(call, proxies) == OURS
        assert presented(Call(peer, x_forwarded_client_cert=f"Hash={HASH}"), proxies) == ""


def test_a_host_that_is_no_address_is_no_proxy() -> None:
    """Such as that of a Unix socket; with no network, nothing is."""
    assert TrustedProxies(["127.0.0.0/8"]).knows("127.9.9.9")
    for host in (None, "", "localhost", "127.0.0.1:80", "::1"):
        assert not TrustedProxies(["127.0.0.0/8"]).knows(host)
    assert not TrustedProxies().knows("127.0.0.1")


@pytest.mark.parametrize("network", ["", "localhost", "10.0.0.1/8", "10.0.0.0/33"])
def test_what_is_no_network_is_refused(network: str) -> None:
    """A typing error must trust nobody."""
    with pytest.raises(ValueError, match=r"."):
        TrustedProxies([network])
