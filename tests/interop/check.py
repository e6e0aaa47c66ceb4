"""Drives a live server with clients that this project did not write: `make interop`.

run.sh has put grpcurl, grpc-health-probe and the Go and Node.js clients below .interop/. Here a
server is started on an embedded PostgreSQL of its own, each client is run against it, and every
promise that is seen kept prints a line. The first that is not ends the run with what was seen.
"""

# ruff: noqa: T201 - printing is what this program is for
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / ".interop"
BIN = BUILD / "bin"
AUTH = "authn.v1.AuthService"
IDENTIFIER = "interop@example.com"
SERVICES = (
    AUTH,
    "authn.v1.VerifierService",
    "envoy.service.auth.v3.Authorization",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)
CODES = {3: "INVALID_ARGUMENT", 12: "UNIMPLEMENTED", 16: "UNAUTHENTICATED"}
SHORT_TTL = "2s"
START_SECONDS = 60.0
STOP_SECONDS = 30.0
CALL_SECONDS = 30.0
EXPIRY_SECONDS = 20.0
POLL_SECONDS = 0.1

Json = dict[str, Any]


class MismatchError(Exception):
    """Something else was seen than what was promised."""


@dataclass(slots=True)
class Tally:
    """Counts the promises seen kept, and prints each."""

    passed: int = 0

    def check(self, kept: bool, promise: str, seen: object) -> None:
        """Print the promise if it was kept. Raises MismatchError with what was seen if not."""
        if not kept:
            raise MismatchError(f"{promise}\n  seen: {seen}")
        print(f"ok - {promise}", flush=True)
        self.passed += 1

    def adopt(self, output: str) -> int:
        """Print and count the `ok - …` lines of a client that checks for itself."""
        lines = [line for line in output.splitlines() if line.startswith("ok - ")]
        for line in lines:
            print(line, flush=True)
        self.passed += len(lines)
        return len(lines)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call gave: a response, or a status with its details."""

    response: Json
    code: str = "OK"
    message: str = ""
    details: tuple[Json, ...] = ()

    def detail(self, name: str) -> Json:
        """Return the detail `google.rpc.<name>`, or an empty one."""
        kind = f"type.googleapis.com/google.rpc.{name}"
        return next((item for item in self.details if item.get("@type") == kind), {})

    @property
    def reason(self) -> str:
        """`ErrorInfo.reason` of this service's domain, or an empty text."""
        info = self.detail("ErrorInfo")
        return str(info.get("reason", "")) if info.get("domain") == "authn" else ""


def run(
    *command: str | Path, given: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command from the project's root within a bounded time."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        input=given,
        env=None if env is None else dict(env),
        capture_output=True,
        text=True,
        timeout=CALL_SECONDS,
        check=False,
    )


@dataclass(frozen=True, slots=True)
class Server:
    """A running server as its clients see it."""

    address: str
    password: str

    def grpcurl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run grpcurl with the server's reflection as its only source of descriptors."""
        return run(BIN / "grpcurl", "-plaintext", "-max-time", "10", *arguments)

    def call(self, method: str, request: Json, *options: str) -> Answer:
        """Call a method. Raises MismatchError if grpcurl prints neither response nor status."""
        given = json.dumps(request)  # by standard input: arguments are seen by every user
        called = run(
            *(BIN / "grpcurl", "-plaintext", "-max-time", "10", "-format-error"),
            *(*options, "-d", "@", self.address, method),
            given=given,
        )
        try:
            if called.returncode == 0:
                return Answer(decoded(called.stdout))
            status = decoded(called.stderr)
        except json.JSONDecodeError:
            raise MismatchError(
                f"grpcurl {method}\n  seen: {called.stdout}{called.stderr}"
            ) from None
        code = CODES.get(status["code"], str(status["code"]))
        return Answer({}, code, status.get("message", ""), tuple(status.get("details", ())))

    def login(self, password: str | None = None) -> Answer:
        """Log the user in, with its own password if none is given."""
        given = self.password if password is None else password
        return self.call(
            f"{AUTH}/Login",
            {"password": {"identifier": IDENTIFIER, "password": given}, "client_id": "interop"},
        )

    def tokens(self) -> Json:
        """Log in and return the tokens. Raises MismatchError where that fails."""
        answer = self.login()
        if answer.code != "OK":
            raise MismatchError(f"Login\n  seen: {answer}")
        tokens: Json = answer.response["tokens"]
        return tokens

    def validate(self, tokens: Json) -> Json:
        """Return the verdict on the access token."""
        answer = self.call(f"{AUTH}/Validate", {"access_token": tokens["access_token"]})
        if answer.code != "OK":
            raise MismatchError(f"Validate\n  seen: {answer}")
        return answer.response


def decoded(text: str) -> Json:
    """Parse grpcurl's JSON with the field names of the protos.

    Python's generated code leaves `json_name` out of the descriptors that reflection serves, and
    grpcurl then prints session_id; where it is there, sessionId.
    """

    def renamed(pairs: list[tuple[str, Any]]) -> Json:
        return {re.sub(r"[A-Z]", lambda c: f"_{c[0].lower()}", key): item for key, item in pairs}

    parsed: Json = json.loads(text, object_pairs_hook=renamed)
    return parsed


def free_port() -> int:
    """Return a port of the loopback that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def settings(directory: Path) -> dict[str, str]:
    """Return an environment with settings of its own and none of the caller's AUTH_* variables."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith("AUTH_")}
    return bare | {
        "AUTH_EMBEDDED_DIR": str(directory / "data"),
        "AUTH_HTTP_ADDRESS": "off",
        "AUTH_MASTER_KEY": secrets.token_urlsafe(32),
        "AUTH_SHARED_KEY": secrets.token_urlsafe(32),
        # One identifier does all the logins here, and fails on purpose in some.
        "AUTH_LOGIN_BURST": "100",
    }


def create_user(env: Mapping[str, str]) -> str:
    """Create the user with the command line and return its password."""
    password = secrets.token_urlsafe(24)
    created = run(
        *(sys.executable, "-m", "auth_service", "users", "create", IDENTIFIER),
        *("--role", "admin", "--scope", "profile"),
        given=password + "\n",
        env=env,
    )
    if created.returncode:
        raise MismatchError(f"users create\n  seen: {created.stdout}{created.stderr}")
    return password


def wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    """Ask grpc-health-probe until the server serves, within bounds."""
    deadline = time.monotonic() + START_SECONDS
    probe = (BIN / "grpc-health-probe", f"-addr={address}", "-connect-timeout=2s")
    while (probed := run(*probe)).returncode:
        if process.poll() is not None:
            raise MismatchError(f"the server starts\n  seen: exit code {process.returncode}")
        if time.monotonic() > deadline:
            raise MismatchError(
                f"the server gets ready in {START_SECONDS} s\n  seen: {probed.stderr}"
            )
        time.sleep(POLL_SECONDS)


@contextmanager
def serving(
    tally: Tally, directory: Path, env: Mapping[str, str], password: str, *options: str
) -> Iterator[Server]:
    """Serve for the length of a block; the stop is a check too. Shows the log where it fails."""
    address = f"127.0.0.1:{free_port()}"
    log = directory / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "auth_service", "serve", *options],
            cwd=ROOT,
            env=dict(env) | {"AUTH_GRPC_ADDRESS": address},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_ready(address, process)
        yield Server(address, password)
        process.terminate()
        code = process.wait(STOP_SECONDS)
        tally.check(code == 0, "the server stops at SIGTERM with exit code 0", code)
    except BaseException:
        print(f"--- the server's log\n{log.read_text(errors='replace')[-8000:]}", file=sys.stderr)
        raise
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server that is still there, gently first: its PostgreSQL goes with it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def check_discovery(tally: Tally, server: Server) -> None:
    """What a newcomer asks of a server: which services, methods and fields it has."""
    listed = server.grpcurl(server.address, "list")
    for service in SERVICES:
        found = service in listed.stdout.split()
        tally.check(found, f"grpcurl list names {service}", listed.stdout + listed.stderr)
    described = server.grpcurl(server.address, "describe", AUTH)
    for method in ("Login", "Refresh", "Revoke", "Validate", "BatchValidate"):
        found = f"rpc {method} (" in described.stdout
        tally.check(found, f"grpcurl describe {AUTH} shows {method}", described)
    described = server.grpcurl(server.address, "describe", "authn.v1.LoginRequest")
    found = "oneof credentials" in described.stdout
    tally.check(found, "grpcurl describe shows the fields of authn.v1.LoginRequest", described)


def check_health(tally: Tally, server: Server) -> None:
    """What an orchestrator asks, by grpcurl and by the usual probe."""
    for service in ("", AUTH):
        answer = server.call("grpc.health.v1.Health/Check", {"service": service})
        serving_ = answer.response.get("status") == "SERVING"
        tally.check(serving_, f'grpcurl: health of "{service}" is SERVING', answer)
        probed = run(BIN / "grpc-health-probe", f"-addr={server.address}", f"-service={service}")
        seen = probed.stdout + probed.stderr
        healthy = probed.returncode == 0 and "SERVING" in seen
        tally.check(healthy, f'grpc-health-probe: "{service}" is SERVING', seen)
    probed = run(BIN / "grpc-health-probe", f"-addr={server.address}", "-service=no.such.Service")
    tally.check(
        probed.returncode != 0, "grpc-health-probe: an unknown service is not healthy", probed
    )


def check_session(tally: Tally, server: Server) -> None:
    """One session from its login to its end."""
    answer = server.login()
    first = answer.response.get("tokens", {})
    whole = all(first.get(name) for name in ("access_token", "refresh_token", "session_id"))
    tally.check(whole, "grpcurl: Login gives both tokens and a session", answer.code)
    verdict = server.validate(first)
    own = verdict.get("claims", {}).get("session_id") == first.get("session_id")
    tally.check(
        own and verdict.get("active", False),
        "grpcurl: Validate finds the access token active",
        verdict,
    )

    answer = server.call(f"{AUTH}/Refresh", {"refresh_token": first["refresh_token"]})
    second = answer.response.get("tokens", {})
    rotated = second.get("refresh_token") not in (None, first["refresh_token"])
    same = second.get("session_id") == first["session_id"]
    tally.check(rotated and same, "grpcurl: Refresh gives the session's next pair", answer.code)
    verdict = server.validate(second)
    tally.check(
        verdict.get("active", False), "grpcurl: Validate finds the new token active", verdict
    )

    answer = server.call(f"{AUTH}/Revoke", {"refresh_token": second["refresh_token"]})
    tally.check(answer.code == "OK", "grpcurl: Revoke takes the refresh token", answer)
    reason = "INACTIVE_REASON_SESSION_REVOKED"
    for name, tokens in (("first", first), ("refreshed", second)):
        verdict = server.validate(tokens)
        inactive = not verdict.get("active") and verdict.get("inactive_reason") == reason
        tally.check(inactive, f"grpcurl: Validate of the {name} token gives {reason}", verdict)
    refused(
        *(tally, "Refresh in the revoked session", "UNAUTHENTICATED", "INVALID_GRANT"),
        server.call(f"{AUTH}/Refresh", {"refresh_token": second["refresh_token"]}),
    )


def refused(tally: Tally, what: str, code: str, reason: str, answer: Answer) -> None:
    """Check the status and the reason of a refusal."""
    expected = answer.code == code and answer.reason == reason
    tally.check(expected, f"grpcurl: {what} is {code} {reason}", answer)


def check_refusals(tally: Tally, server: Server, directory: Path) -> None:
    """Each way to be refused has its status and its reason."""
    credentials = ("UNAUTHENTICATED", "INVALID_CREDENTIALS")
    refused(tally, "a bad password", *credentials, server.login("not this one, not at all"))
    unknown = {"password": {"identifier": "nobody@example.com", "password": server.password}}
    refused(tally, "an unknown user", *credentials, server.call(f"{AUTH}/Login", unknown))

    for method in ("Login", "Refresh", "Validate", "Revoke"):
        answer = server.call(f"{AUTH}/{method}", {})
        violations = answer.detail("BadRequest").get("field_violations", ())
        fields = ", ".join(violation.get("field", "") for violation in violations)
        kept = (answer.code, answer.reason) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT")
        promise = f"grpcurl: {method} of nothing is INVALID_ARGUMENT and names: {fields}"
        tally.check(kept and bool(fields), promise, answer)

    forged = forge(server.tokens()["refresh_token"])
    answer = server.call(f"{AUTH}/Refresh", {"refresh_token": forged})
    refused(tally, "a forged refresh token", "UNAUTHENTICATED", "INVALID_GRANT", answer)
    check_unknown_method(tally, server, directory)


def forge(token: str) -> str:
    """Change a character in the middle of a token's last part, the one that proves it."""
    at = len(token) - 10
    return token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]


def check_unknown_method(tally: Tally, server: Server, directory: Path) -> None:
    """With a proto that promises too much the call leaves grpcurl and the server has to answer."""
    proto = directory / "unknown.proto"
    proto.write_text(
        'syntax = "proto3";\npackage authn.v1;\nmessage Nothing {}\n'
        "service AuthService { rpc NoSuchMethod(Nothing) returns (Nothing); }\n"
    )
    details = (str(ROOT / "tests/interop/node/protos"), "google/rpc/status.proto")
    options = [
        argument
        for path, name in ((str(directory), proto.name), details)
        for argument in ("-import-path", path, "-proto", name)
    ]
    answer = server.call(f"{AUTH}/NoSuchMethod", {}, *options)
    refused(tally, "an unknown method", "UNIMPLEMENTED", "UNIMPLEMENTED", answer)


def check_expiry(tally: Tally, server: Server) -> None:
    """Tokens that ran out, on a server that gives them a short life."""
    tokens = server.tokens()
    verdict = server.validate(tokens)
    deadline = time.monotonic() + EXPIRY_SECONDS
    while verdict.get("active") and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        verdict = server.validate(tokens)
    reason = "INACTIVE_REASON_EXPIRED"
    expired = not verdict.get("active") and verdict.get("inactive_reason") == reason
    tally.check(expired, f"grpcurl: Validate of an expired token gives {reason}", verdict)
    answer = server.call(f"{AUTH}/Refresh", {"refresh_token": tokens["refresh_token"]})
    refused(tally, "an expired refresh token", "UNAUTHENTICATED", "INVALID_GRANT", answer)


def check_greeting(tally: Tally, directory: Path) -> None:
    """Paste what `serve --dev` prints at its first start into a shell."""
    directory.mkdir()
    directory.chmod(0o711)
    with serving(tally, directory, settings(directory), "", "--dev"):
        deadline, mark = time.monotonic() + START_SECONDS, "# Login"
        while not (text := (directory / "server.log").read_text().partition(mark)[2]).endswith("\n\n"):
            if time.monotonic() > deadline:
                raise MismatchError(f"serve --dev prints lines to paste\n  seen: {text}")
            time.sleep(POLL_SECONDS)
        env = dict(os.environ) | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        pasted = run("bash", "-e", given=mark + text, env=env)
        seen = [word in pasted.stdout for word in ('"active": true', "INACTIVE_REASON_SESSION_REVOKED")]
        tally.check(
            pasted.returncode == 0 and all(seen) and pasted.stdout.count("refresh_token") == 2,
            "the lines that `serve --dev` prints run in a shell as they are",
            pasted.stderr or pasted.stdout,
        )


def check_client(tally: Tally, server: Server, name: str, *command: str | Path) -> None:
    """Run a client that checks for itself."""
    env = dict(os.environ) | {
        "AUTHN_ADDRESS": server.address,
        "AUTHN_IDENTIFIER": IDENTIFIER,
        "AUTHN_PASSWORD": server.password,
        "AUTHN_PROTOS": str(ROOT / "protos"),
    }
    ran = run(*command, env=env)
    lines = tally.adopt(ran.stdout)
    if ran.returncode or not lines:
        raise MismatchError(f"the {name} client\n  seen: exit {ran.returncode}: {ran.stderr}")


def check_all(tally: Tally, directory: Path) -> None:
    """Run every check, on two servers one after the other with the same database."""
    env = settings(directory)
    password = create_user(env)
    with serving(tally, directory, env, password) as server:
        check_discovery(tally, server)
        check_health(tally, server)
        check_session(tally, server)
        check_refusals(tally, server, directory)
        check_client(tally, server, "Go", BIN / "interop-go")
        check_client(tally, server, "Node.js", "node", BUILD / "node" / "client.mjs")
    short = {"AUTH_ACCESS_TOKEN_TTL": SHORT_TTL, "AUTH_REFRESH_TOKEN_IDLE_TTL": SHORT_TTL}
    with serving(tally, directory, env | short, password) as server:
        check_expiry(tally, server)
    check_greeting(tally, directory / "first start")


def main() -> int:
    """Run the checks in a directory of their own, and print the tally."""
    tally = Tally()
    directory = Path(tempfile.mkdtemp(prefix="authn-interop-"))
    if os.geteuid() == 0:
        directory.chmod(0o711)  # as root PostgreSQL runs as another user, which needs access
    failed = 0
    try:
        check_all(tally, directory)
    except (MismatchError, subprocess.TimeoutExpired) as error:
        failed = 1
        print(f"not ok - {error}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(f"{tally.passed} passed, {failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(main())
