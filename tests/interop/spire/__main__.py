"""Logs a workload in by a real SPIRE: its server and its agent, built by run.sh from their Go module.

A trust domain is started on this machine. The service takes its bundle from the agent's Workload
API, and its TLS certificate is an X.509-SVID. A workload then logs in by a JWT-SVID, and by its
X.509-SVID over mTLS.
"""

# ruff: noqa: T201 - printing is what this program is for
import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc as rpc

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from check import BIN, ROOT, START_SECONDS, MismatchError, Tally, free_port, run, settings, stop

from auth_service.client import InvalidCredentials, SyncWorkloadTokens

TRUST_DOMAIN = "example.org"
AGENT = f"spiffe://{TRUST_DOMAIN}/agent"
WORKLOAD = f"spiffe://{TRUST_DOMAIN}/ns/shop/sa/orders"
ISSUER = "https://auth.internal"
PATIENCE = 60.0  # seconds, for what SPIRE synchronizes every few seconds
POLL = 0.2

SERVER_CONF = """
server {{
    bind_address = "127.0.0.1"
    bind_port = "{port}"
    socket_path = "{directory}/server.sock"
    trust_domain = "{trust_domain}"
    data_dir = "{directory}"
    log_level = "INFO"
    ca_key_type = "ec-p256"
    default_jwt_svid_ttl = "15s"
}}
plugins {{
    DataStore "sql" {{
        plugin_data {{
            database_type = "sqlite3"
            connection_string = "{directory}/datastore.sqlite3"
        }}
    }}
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    KeyManager "memory" {{ plugin_data {{}} }}
}}
"""
AGENT_CONF = """
agent {{
    data_dir = "{directory}/agent"
    log_level = "INFO"
    server_address = "127.0.0.1"
    server_port = "{port}"
    socket_path = "{directory}/agent.sock"
    trust_domain = "{trust_domain}"
    insecure_bootstrap = true
}}
plugins {{
    NodeAttestor "join_token" {{ plugin_data {{}} }}
    KeyManager "memory" {{ plugin_data {{}} }}
    WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"""
ISSUERS = """
[[issuer]]
kind = "spiffe"
trust_domain = "{trust_domain}"
workload_api = "{directory}/agent.sock"
refresh_interval = "1s"
mtls = true

[[issuer.account]]
subject = "{workload}"
client_id = "orders"
"""


def must(*command: str | Path, given: str = "", env: dict[str, str] | None = None) -> str:
    """Run a command that has to succeed, and return its output."""
    done = run(*command, given=given, env=env)
    if done.returncode:
        raise MismatchError(f"{' '.join(map(str, command[:3]))}\n  seen: {done.stdout}{done.stderr}")
    return done.stdout


def until(what: str, *command: str | Path) -> str:
    """Return the output of a command as soon as it succeeds."""
    deadline = time.monotonic() + PATIENCE
    while (done := run(*command)).returncode:
        if time.monotonic() > deadline:
            raise MismatchError(f"{what}\n  seen: {done.stdout}{done.stderr}")
        time.sleep(POLL)
    return done.stdout


@contextmanager
def process(log: Path, *command: str | Path, env: dict[str, str] | None = None) -> Iterator[None]:
    """Run a process for the length of a block; shows the end of its log where it fails."""
    with log.open("wb") as output:
        started = subprocess.Popen(
            [str(part) for part in command],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    except BaseException:
        print(f"--- {log.name}\n{log.read_text(errors='replace')[-4000:]}", file=sys.stderr)
        raise
    finally:
        stop(started)


@contextmanager
def trust_domain(directory: Path) -> Iterator[None]:
    """Run a SPIRE server and an agent, with an entry for the processes of this user."""
    values = {"directory": directory, "port": free_port(), "trust_domain": TRUST_DOMAIN}
    for name, text in (("server", SERVER_CONF), ("agent", AGENT_CONF)):
        (directory / f"{name}.conf").write_text(text.format(**values))
    (directory / "agent").mkdir()
    server, at = BIN / "spire-server", ("-socketPath", str(directory / "server.sock"))
    with ExitStack() as stack:
        run_server = (server, "run", "-config", directory / "server.conf")
        stack.enter_context(process(directory / "spire-server.log", *run_server))
        until("the SPIRE server is healthy", server, "healthcheck", *at)
        made = must(server, "token", "generate", *at, "-spiffeID", AGENT, "-output", "json")
        must(
            *(server, "entry", "create", *at, "-parentID", AGENT, "-spiffeID", WORKLOAD),
            *("-selector", f"unix:uid:{os.geteuid()}", "-dns", "localhost"),
        )
        run_agent = (BIN / "spire-agent", "run", "-config", directory / "agent.conf")
        joining = ("-joinToken", json.loads(made)["value"])
        stack.enter_context(process(directory / "spire-agent.log", *run_agent, *joining))
        yield


def jwt_svid(directory: Path, audience: str) -> str:
    """Return a JWT-SVID of the workload from the agent's Workload API."""
    socket = ("-socketPath", str(directory / "agent.sock"))
    fetch = (BIN / "spire-agent", "api", "fetch", "jwt", *socket, "-audience", audience)
    answers = json.loads(until("the agent issues a JWT-SVID", *fetch, "-output", "json"))
    token: str = answers[0]["svids"][0]["svid"]
    return token


def kid_of(token: str) -> str:
    """Return the id of the key that signed a token."""
    segment = token.partition(".")[0]
    kid: str = json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))["kid"]
    return kid


def refused(channel: grpc.Channel, token: str) -> bool:
    """Tell whether a token is refused like any wrong credential."""
    try:
        SyncWorkloadTokens(channel, token=lambda: token).access_token(START_SECONDS)
    except InvalidCredentials:
        return True
    return False


def check_logins(tally: Tally, directory: Path, channel: grpc.Channel) -> None:
    """Log in by both kinds of SVID, and by what is wrong."""
    stub = rpc.AuthServiceStub(channel)

    def subject(source: SyncWorkloadTokens) -> str:
        token = source.access_token(START_SECONDS)
        verdict = stub.Validate(pb.ValidateRequest(access_token=token), timeout=START_SECONDS)
        return str(verdict.claims.subject)

    seen = subject(SyncWorkloadTokens(channel))
    tally.check(seen == "orders", "SPIRE: an X.509-SVID logs its workload in over mTLS", seen)
    token = jwt_svid(directory, ISSUER)
    seen = subject(SyncWorkloadTokens(channel, token=lambda: token, client_id="orders"))
    tally.check(seen == "orders", "SPIRE: a JWT-SVID logs its workload in", seen)
    other = jwt_svid(directory, "https://other.internal")
    tally.check(refused(channel, other), "SPIRE: a JWT-SVID for another audience does not", other)
    header, payload, signature = token.split(".")
    forged = f"{header}.{payload}.{signature[::-1]}"
    tally.check(refused(channel, forged), "SPIRE: a forged JWT-SVID does not", forged)


def check_rotation(tally: Tally, directory: Path, channel: grpc.Channel) -> None:
    """Let SPIRE sign with another key: its tokens log in, with no restart and no fetch by a kid."""
    server, at = BIN / "spire-server", ("-socketPath", str(directory / "server.sock"))
    before = kid_of(jwt_svid(directory, ISSUER))
    prepared = json.loads(must(server, "localauthority", "jwt", "prepare", *at, "-output", "json"))
    authority = prepared["prepared_authority"]["authority_id"]
    must(server, "localauthority", "jwt", "activate", *at, "-authorityID", authority)
    deadline = time.monotonic() + PATIENCE
    # The agent keeps a token for half of its life, and the service reads the bundle every second.
    while kid_of(token := jwt_svid(directory, ISSUER)) == before or refused(channel, token):
        if time.monotonic() > deadline:
            raise MismatchError(f"a JWT-SVID of {authority} logs in\n  seen: {kid_of(token)}")
        time.sleep(POLL)
    tally.check(True, "SPIRE: after a rotation of its key, new JWT-SVIDs log in", token)


def check_all(tally: Tally, directory: Path) -> None:
    """Start everything, and log in."""
    with trust_domain(directory), ExitStack() as stack:
        svid = directory / "svid"
        svid.mkdir()
        socket = ("-socketPath", str(directory / "agent.sock"))
        fetch = (BIN / "spire-agent", "api", "fetch", "x509", *socket, "-write", str(svid))
        until("the agent issues an X.509-SVID", *fetch)
        chain, key, bundle = (svid / name for name in ("svid.0.pem", "svid.0.key", "bundle.0.pem"))
        issuers = directory / "issuers.toml"
        values = {"directory": directory, "trust_domain": TRUST_DOMAIN, "workload": WORKLOAD}
        issuers.write_text(ISSUERS.format(**values))
        port = free_port()
        env = settings(directory) | {
            "AUTH_GRPC_ADDRESS": f"127.0.0.1:{port}",
            "AUTH_TLS_CERT_FILE": str(chain),
            "AUTH_TLS_KEY_FILE": str(key),
            "AUTH_TLS_CLIENT_CA_FILE": str(bundle),
            "AUTH_WORKLOAD_ISSUERS_FILE": str(issuers),
        }
        command = (sys.executable, "-m", "auth_service")
        must(*command, "service-accounts", "create", "orders", "--no-secret", env=env)
        stack.enter_context(process(directory / "server.log", *command, "serve", env=env))
        credentials = grpc.ssl_channel_credentials(
            bundle.read_bytes(), key.read_bytes(), chain.read_bytes()
        )
        channel = stack.enter_context(grpc.secure_channel(f"localhost:{port}", credentials))
        grpc.channel_ready_future(channel).result(START_SECONDS)
        check_logins(tally, directory, channel)
        check_rotation(tally, directory, channel)


def main() -> int:
    """Run the checks in a directory of their own, and print the tally."""
    tally, failed = Tally(), 0
    directory = Path(tempfile.mkdtemp(prefix="spire-"))
    if os.geteuid() == 0:
        directory.chmod(0o711)  # as root PostgreSQL runs as another user, which needs access
    try:
        check_all(tally, directory)
    except (MismatchError, subprocess.TimeoutExpired, grpc.FutureTimeoutError) as error:
        failed = 1
        print(f"not ok - {error}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(f"{tally.passed} passed, {failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(main())
