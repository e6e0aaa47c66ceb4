"""TLS: certificates from files, client certificates, and their renewal under way."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
import trustme
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc
from cryptography.hazmat.primitives import serialization
from structlog.testing import capture_logs

from auth_service.config.loading import Settings
from auth_service.errors import ConfigError
from auth_service.serving.server import Server
from tests.acceptance.servers import eventually
from tests.integration.serving import address, make_settings, refusal, running

CONNECT_TIMEOUT = 30.0  # seconds, which no passing test takes


class Files:
    """The PEM files of a server: its chain, its key, and the authority of its clients."""

    def __init__(self, directory: Path) -> None:
        self.chain = directory / "tls.crt"
        self.key = directory / "tls.key"
        self.clients = directory / "clients.crt"
        self.authority = trustme.CA()
        self.client_authority = trustme.CA()
        self.renew(self.authority)
        self.trust(self.client_authority)

    def renew(self, authority: trustme.CA) -> None:
        """Replace chain and key by new ones of an authority."""
        self.authority = authority
        issued = authority.issue_cert("127.0.0.1")
        write(self.chain, b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        write(self.key, issued.private_key_pem.bytes())

    def trust(self, authority: trustme.CA) -> None:
        """Replace the authority of client certificates."""
        self.client_authority = authority
        write(self.clients, authority.cert_pem.bytes())

    @property
    def leaf(self) -> str:
        """The server's own certificate, as `ssl` writes it."""
        first = self.chain.read_text().partition("-----END CERTIFICATE-----")
        return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert("".join(first[:2])))


def write(path: Path, data: bytes) -> None:
    """Replace a file atomically, as a renewal of certificates should."""
    draft = path.with_suffix(".draft")
    draft.write_bytes(data)
    draft.chmod(0o600)
    draft.replace(path)


def garbled_chain(files: Files) -> None:
    write(files.chain, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")


def empty_chain(files: Files) -> None:
    write(files.chain, b"")


def missing_chain(files: Files) -> None:
    files.chain.unlink()


def missing_key(files: Files) -> None:
    files.key.unlink()


def garbled_key(files: Files) -> None:
    write(files.key, b"no key")


def key_of_another(files: Files) -> None:
    write(files.key, trustme.CA().issue_cert("127.0.0.1").private_key_pem.bytes())


def encrypted_key(files: Files) -> None:
    key: Any = serialization.load_pem_private_key(files.key.read_bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    write(files.key, encrypted)


def garbled_authority(files: Files) -> None:
    write(files.clients, b"no certificate")


Breakage = Callable[[Files], None]
BREAKAGES: list[Breakage] = [
    garbled_chain,
    empty_chain,
    missing_chain,
    missing_key,
    garbled_key,
    key_of_another,
    encrypted_key,
    garbled_authority,
]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch, database_url: str) -> None:
    for name in [name for name in os.environ if name.startswith("AUTH_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Reset the logs, which a server sets up for its process."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """The files of the test."""
    return Files(tmp_path)


@pytest.fixture
def tls(database_url: str, files: Files) -> Settings:
    """A server with a certificate."""
    return make_settings(database_url, tls_cert_file=files.chain, tls_key_file=files.key)


@pytest.fixture
def mutual_tls(database_url: str, files: Files) -> Settings:
    """A server with a certificate that asks its clients for theirs."""
    return make_settings(
        database_url,
        tls_cert_file=files.chain,
        tls_key_file=files.key,
        tls_client_ca_file=files.clients,
    )


@asynccontextmanager
async def connect(
    server: Server, authority: trustme.CA, certificate: trustme.LeafCert | None = None
) -> AsyncIterator[Any]:
    """A client that trusts an authority, and may have a certificate of its own."""
    key = chain = None
    if certificate is not None:
        key = certificate.private_key_pem.bytes()
        chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes(), key, chain)
    # Pools of subchannels are shared in a process: a connection of its own for each client.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(address(server), credentials, options=options) as channel:
        yield auth_service_pb2_grpc.AuthServiceStub(channel)


async def ask(client: Any) -> pb.ValidateResponse:
    """Make a call that any client may make."""
    request = pb.ValidateRequest(access_token="x")
    response: pb.ValidateResponse = await client.Validate(request, timeout=CONNECT_TIMEOUT)
    return response


async def is_served(
    server: Server, authority: trustme.CA, certificate: trustme.LeafCert | None = None
) -> bool:
    """Tell whether a new connection of such a client is answered; a refusal is UNAVAILABLE."""
    async with connect(server, authority, certificate) as client:
        try:
            await ask(client)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                return False
            raise
        return True


async def presented(server: Server) -> str:
    """Return the certificate that a new connection is shown."""
    return await asyncio.to_thread(
        ssl.get_server_certificate, ("127.0.0.1", server.port), timeout=CONNECT_TIMEOUT
    )


async def test_a_client_that_trusts_the_authority_is_served(tls: Settings, files: Files) -> None:
    """And a client that trusts another is not: it is the certificate that was asked for."""
    async with running(tls) as server:
        assert await is_served(server, files.authority)
        assert not await is_served(server, trustme.CA())
        assert await presented(server) == files.leaf


async def test_a_client_in_plaintext_is_refused(tls: Settings) -> None:
    """Nothing is answered in the clear on a port with TLS."""
    async with running(tls) as server, grpc.aio.insecure_channel(address(server)) as channel:
        seen = await refusal(ask(auth_service_pb2_grpc.AuthServiceStub(channel)))
        assert seen.code is grpc.StatusCode.UNAVAILABLE


async def test_under_mutual_tls_a_client_needs_a_certificate_of_the_authority(
    mutual_tls: Settings, files: Files
) -> None:
    """Without one, or with one of another authority, no call gets through."""
    good = files.client_authority.issue_cert("billing.internal")
    foreign = trustme.CA().issue_cert("billing.internal")
    async with running(mutual_tls) as server:
        assert await is_served(server, files.authority, good)
        assert not await is_served(server, files.authority)
        assert not await is_served(server, files.authority, foreign)


async def test_the_servers_own_authority_makes_no_clients(
    mutual_tls: Settings, files: Files
) -> None:
    """An authority for servers is none for clients, unless the setting says so."""
    certificate = files.authority.issue_cert("billing.internal")
    async with running(mutual_tls) as server:
        assert not await is_served(server, files.authority, certificate)


async def test_a_renewed_certificate_is_shown_and_standing_connections_stay(
    tls: Settings, files: Files
) -> None:
    """The old client trusts only the old authority, so it must keep its connection."""
    before, after = files.authority, trustme.CA()
    async with running(tls) as server, connect(server, before) as standing:
        await ask(standing)
        old = await presented(server)
        files.renew(after)
        assert await presented(server) == files.leaf != old
        assert await is_served(server, after)
        assert not await is_served(server, before)
        await ask(standing)


async def test_a_certificate_may_be_renewed_more_than_once(tls: Settings, files: Files) -> None:
    """Each renewal is noticed, as is one that goes back to the files of before."""
    async with running(tls) as server:
        first = files.chain.read_bytes(), files.key.read_bytes()
        for _ in range(2):
            files.renew(files.authority)
            assert await presented(server) == files.leaf
        write(files.chain, first[0])
        write(files.key, first[1])
        assert await presented(server) == files.leaf


async def test_another_authority_of_clients_is_taken_up(mutual_tls: Settings, files: Files) -> None:
    """Clients of the old authority are refused from the next connection on."""
    before, after = files.client_authority, trustme.CA()
    async with running(mutual_tls) as server:
        old, new = before.issue_cert("billing.internal"), after.issue_cert("billing.internal")
        assert await is_served(server, files.authority, old)
        files.trust(after)
        assert await is_served(server, files.authority, new)
        assert not await is_served(server, files.authority, old)


@pytest.mark.parametrize("breakage", BREAKAGES)
async def test_with_broken_files_the_certificate_before_them_stays(
    mutual_tls: Settings, files: Files, breakage: Breakage
) -> None:
    """The error is logged, nobody is turned away, and mended files are taken up."""
    authority = files.authority
    certificate = files.client_authority.issue_cert("billing.internal")
    async with running(mutual_tls) as server:
        leaf, key = files.leaf, files.key.read_text()
        with capture_logs() as logs:
            breakage(files)
            assert await presented(server) == leaf
            assert await is_served(server, authority, certificate)

            async def reported() -> list[Any]:
                return [entry for entry in logs if entry["event"] == "certificate_reload_failed"]

            entries = await eventually(reported, what="the broken files are logged")
        assert entries[0]["log_level"] == "error"
        assert not any(line in str(entries) for line in key.splitlines()[1:-1])
        files.renew(trustme.CA())
        files.trust(files.client_authority)
        assert await presented(server) == files.leaf


async def test_a_renewal_that_is_half_done_is_taken_up_once_it_is_complete(
    tls: Settings, files: Files
) -> None:
    """Until both files are replaced, the old pair is used."""
    issued = files.authority.issue_cert("127.0.0.1")
    async with running(tls) as server:
        old = files.leaf
        write(files.chain, b"".join(pem.bytes() for pem in issued.cert_chain_pems))
        assert await presented(server) == old
        write(files.key, issued.private_key_pem.bytes())
        assert await presented(server) == files.leaf != old


@pytest.mark.parametrize("breakage", BREAKAGES)
async def test_a_server_does_not_start_with_broken_files(
    mutual_tls: Settings, files: Files, breakage: Breakage
) -> None:
    """The error names the settings, and shows nothing of the key."""
    key = files.key.read_text()
    breakage(files)
    with pytest.raises(ConfigError) as caught:
        await Server(mutual_tls).start()
    assert "TLS" in caught.value.text
    assert "AUTH_TLS_" in caught.value.text
    assert not any(line in caught.value.text for line in key.splitlines()[1:-1])


@pytest.mark.parametrize("name", ["tls_cert_file", "tls_key_file", "tls_client_ca_file"])
async def test_a_file_that_is_not_there_is_named_when_the_settings_are_read(
    database_url: str, files: Files, name: str
) -> None:
    """Before anything is started, the variable and the path say what is missing."""
    given = {
        "tls_cert_file": files.chain,
        "tls_key_file": files.key,
        "tls_client_ca_file": files.clients,
    }
    given[name].unlink()
    with pytest.raises(ConfigError) as caught:
        make_settings(database_url, **given)
    assert f"AUTH_{name.upper()}" in caught.value.text
    assert str(given[name]) in caught.value.text
