"""Starts what the checks run against: the service, its database, upstreams, Envoy and nginx.

The files of deploy/ are used as they are, so every address is fixed; a port that is taken is said
before anything starts.
"""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from auth_service.db.embedded import EmbeddedPostgres
from auth_service.db.migrate import migrate
from check import BUILD, ROOT, START_SECONDS, MismatchError, stop, wait_until_ready

HERE = Path(__file__).parent
DEPLOY = ROOT / "deploy"
ENVOY = BUILD / "mesh" / "bin" / "envoy"
SERVICE, EDGE = "127.0.0.1:50051", "127.0.0.1:8080"
HTTP_UPSTREAM, GRPC_UPSTREAM, OTHER_ORIGIN = "127.0.0.1:9000", "127.0.0.1:9001", "127.0.0.1:10444"
EXT_AUTHZ, JWT_AUTHN, TRANSCODER = "127.0.0.1:10000", "127.0.0.1:10001", "127.0.0.1:10002"
NGINX, NGINX_TLS = "127.0.0.1:10080", "127.0.0.1:10443"
ALL = (
    *(SERVICE, EDGE, HTTP_UPSTREAM, GRPC_UPSTREAM, OTHER_ORIGIN),
    *(EXT_AUTHZ, JWT_AUTHN, TRANSCODER, NGINX, NGINX_TLS),
)
LOG_CHARACTERS = 8000


def require_free(addresses: tuple[str, ...] = ALL) -> None:
    """Raise MismatchError with the addresses that something listens on."""
    taken = [address for address in addresses if answers(address)]
    if taken:
        raise MismatchError(f"these are free: {', '.join(addresses)}\n  seen: {taken} taken")


def answers(address: str) -> bool:
    """Tell whether something accepts connections there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until_answers(address: str, process: subprocess.Popen[bytes], what: str) -> None:
    """Return once the process accepts connections. Raises MismatchError where it never does."""
    deadline = time.monotonic() + START_SECONDS
    while not answers(address):
        if process.poll() is not None or time.monotonic() > deadline:
            raise MismatchError(f"{what} serves {address}\n  seen: exit {process.poll()}")
        time.sleep(0.02)


@contextmanager
def running(
    directory: Path, name: str, *command: str | Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process for the length of a block; its log is shown where the block fails."""
    log = directory / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    except BaseException:
        tail = log.read_text(errors="replace")[-LOG_CHARACTERS:]
        print(f"--- {log.name}\n{tail}", file=sys.stderr)
        raise
    finally:
        stop(process)


@contextmanager
def envoy(directory: Path, name: str, address: str) -> Iterator[None]:
    """Run Envoy with a file of deploy/envoy, from the project's root as that file says."""
    config = DEPLOY / "envoy" / f"{name}.yaml"
    options = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "warning")
    with running(directory, f"envoy-{name}", ENVOY, "-c", config, *options) as process:
        wait_until_answers(address, process, f"Envoy with {config.name}")
        yield


@contextmanager
def nginx(directory: Path) -> Iterator[None]:
    """Run nginx with deploy/nginx/nginx.conf in a directory that has the certificate."""
    (directory / "nginx.conf").symlink_to(DEPLOY / "nginx" / "nginx.conf")
    command = ("nginx", "-p", directory, "-c", "nginx.conf")
    with running(directory, "nginx", *command) as process:
        for address in (NGINX, NGINX_TLS):
            wait_until_answers(address, process, "nginx")
        yield


@contextmanager
def upstreams(directory: Path, *, tls: bool = False) -> Iterator[None]:
    """Run the upstreams of the proxies, and with TLS the other site of the browser."""
    command = (sys.executable, HERE / "upstreams.py", *((directory,) if tls else ()))
    with running(directory, "upstreams", *command) as process:
        for address in (HTTP_UPSTREAM, GRPC_UPSTREAM, *((OTHER_ORIGIN,) if tls else ())):
            wait_until_answers(address, process, "the upstream")
        yield


def make_certificate(directory: Path) -> None:
    """Write tls.crt and tls.key for localhost and 127.0.0.1, valid for an hour."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = directory / "tls.key"
    secret.touch(mode=0o600)
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


@contextmanager
def database(directory: Path) -> Iterator[str]:
    """Run a PostgreSQL that outlives the service. Gives its URI."""
    with asyncio.Runner() as runner:
        postgres = EmbeddedPostgres(directory / "postgres", durable=False)
        runner.run(postgres.start())
        try:
            runner.run(migrate(postgres.dsn))
            yield postgres.dsn
        finally:
            runner.run(postgres.stop())


@dataclass(slots=True)
class Service:
    """The service at its fixed addresses, which can be killed and started again."""

    directory: Path
    env: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    def start(self) -> None:
        """Start it, and return once it is ready."""
        command = (sys.executable, "-m", "auth_service", "serve")
        self.process = self._stack.enter_context(
            running(self.directory, "service", *command, env=self.env)
        )
        wait_until_ready(SERVICE, self.process)
        if "AUTH_HTTP_ADDRESS" in self.env:
            wait_until_answers(EDGE, self.process, "the HTTP edge")

    def kill(self) -> None:
        """Kill it, so that it cannot clean up."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    @contextmanager
    def serving(self) -> Iterator["Service"]:
        """Serve for the length of a block."""
        with self._stack:
            self.start()
            yield self
