"""The commands, as real processes against a real server and a real PostgreSQL."""

import asyncio
import base64
import hashlib
import json
import os
import re
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import jwt
import pytest
from authn.v1 import account_service_pb2 as account
from authn.v1 import auth_service_pb2 as pb
from authn.v1.account_service_pb2_grpc import AccountServiceStub
from authn.v1.auth_service_pb2_grpc import AuthServiceStub
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from auth_service.cli.app import cli
from auth_service.clock import utc_now
from tests.acceptance.servers import eventually
from tests.folders import open_folder
from tests.integration.authenticator import App
from tests.ports import free_address

COMMAND = [sys.executable, "-m", "auth_service"]
USER = "demo@example.com"
PASSWORD = "a password of some length"
START_SECONDS = 90


def environment(**variables: str) -> dict[str, str]:
    """Return the environment without AUTH_* and COLUMNS, and with these variables."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith("AUTH_") and n != "COLUMNS"}
    return kept | {"PYTHONUNBUFFERED": "1"} | variables


def command(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command; it never prompts, because standard input is not a terminal."""
    return subprocess.run(
        [*COMMAND, *arguments],
        input=stdin,
        env=environment(**variables),
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=START_SECONDS,
        check=False,
    )


@dataclass
class Served:
    """A running `serve --dev`, and commands that use it."""

    directory: Path
    address: str
    process: subprocess.Popen[str] | None = None
    greeting: str = ""
    first_greeting: str = ""
    variables: dict[str, str] = field(default_factory=dict)

    def start(self) -> None:
        variables = {
            "AUTH_EMBEDDED_DIR": str(self.directory),
            "AUTH_GRPC_ADDRESS": self.address,
            "AUTH_HTTP_ADDRESS": "off",
        }
        with (self.directory.parent / "serve.log").open("a") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "serve", "--dev"],
                env=environment(**variables),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self.greeting = self._read_until("# Revoke")
        self.first_greeting = self.first_greeting or self.greeting

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(90)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return command(
            *arguments,
            stdin=stdin,
            AUTH_EMBEDDED_DIR=str(self.directory),
            AUTH_ADDRESS=self.address,
            **self.variables,
        )

    def ok(self, *arguments: str, stdin: str = "") -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def login(self, user: str, password: str = PASSWORD) -> dict[str, str]:
        tokens: dict[str, str] = json.loads(self.ok("login", user, "--json", stdin=password))
        return tokens

    def _read_until(self, mark: str) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        seen, deadline = "", time.monotonic() + START_SECONDS
        while mark not in seen:
            ready, _, _ = select.select([self.process.stdout], [], [], 0.5)
            chunk = os.read(self.process.stdout.fileno(), 65536).decode() if ready else ""
            seen += chunk
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"serve did not start: {seen}\n{self._log()}")
        return seen

    def _log(self) -> str:
        return (self.directory.parent / "serve.log").read_text()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A server for all tests of this module, in a directory with a space in its path."""
    with open_folder("cli tests ") as base:
        server = Served(base / "data", free_address())
        try:
            server.start()
            yield server
        finally:
            server.stop()


def create(served: Served, name: str, *options: str) -> str:
    served.ok("users", "create", name, *options, stdin=PASSWORD)
    return name


def test_first_start_shows_a_password_that_logs_in(served: Served) -> None:
    """The output has the password of the first user and the command that resets it."""
    shown = re.search(r"Password +(\S+)", served.first_greeting)
    assert shown is not None
    assert "users set-password" in served.first_greeting
    assert served.login(USER, shown[1])["access_token"]


def test_greeting_has_a_line_for_each_call(served: Served) -> None:
    """There is a command for each of the four calls."""
    for name in ("Login", "Validate", "Refresh", "Revoke"):
        assert f"{served.address} authn.v1.AuthService/{name}" in served.greeting


def test_login_validate_refresh_revoke(served: Served) -> None:
    """A person can begin, refresh and end a session; scripts go by the exit codes."""
    user = create(served, "life@example.com", "--scope", "orders:read")
    tokens = served.login(user)
    access, refresh = tokens["access_token"], tokens["refresh_token"]
    verdict = json.loads(served.ok("validate", "--scope", "orders:read", "--json", stdin=access))
    assert verdict["active"] is True
    assert verdict["scope"] == ["orders:read"]
    successor = json.loads(served.ok("refresh", "--json", stdin=refresh))
    assert successor["session_id"] == tokens["session_id"]
    served.ok("revoke", stdin=successor["refresh_token"])
    refused = served.run("validate", "--json", stdin=access)
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["inactive_reason"] == "session_revoked"
    assert served.run("refresh", stdin=successor["refresh_token"]).returncode == 1


def test_revoke_access_token_alone(served: Served) -> None:
    """The session of a revoked access token continues."""
    tokens = served.login(create(served, "alone@example.com"))
    served.ok("revoke", stdin=tokens["access_token"])
    assert served.run("validate", stdin=tokens["access_token"]).returncode == 1
    served.ok("refresh", stdin=tokens["refresh_token"])


def test_login_asks_for_the_second_factor_until_it_is_reset(served: Served) -> None:
    """The code is on the line after the password; a code that was used is refused."""
    user = create(served, "factor@example.com")
    metadata = (("authorization", f"Bearer {served.login(user)['access_token']}"),)
    with grpc.insecure_channel(served.address) as channel:
        stub = AccountServiceStub(channel)
        begun = stub.BeginTotpEnrollment(
            account.BeginTotpEnrollmentRequest(), metadata=metadata, timeout=30
        )
        code = App(begun.enrollment.secret).code(utc_now())
        request = account.ConfirmTotpEnrollmentRequest(
            enrollment_token=begun.enrollment_token, totp_code=code
        )
        confirmed = stub.ConfirmTotpEnrollment(request, metadata=metadata, timeout=30)
    used = served.run("login", user, stdin=f"{PASSWORD}\n{code}\n")
    assert (used.returncode, used.stdout) == (1, "")
    answer = served.ok(
        "login", user, "--json", stdin=f"{PASSWORD}\n{confirmed.recovery_codes[0]}\n"
    )
    token = json.loads(answer)["access_token"]
    assert json.loads(served.ok("validate", "--json", stdin=token))["acr"] == "2fa"
    served.ok("users", "reset-factors", user)
    assert served.login(user)["access_token"]


@pytest.mark.parametrize("how", ["--all", "--session"])
def test_revoke_by_the_callers_token(served: Served, how: str) -> None:
    """The caller ends one session by its id, or all."""
    tokens = served.login(create(served, f"own{how}@example.com"))
    target = [how, tokens["session_id"]] if how == "--session" else [how]
    served.ok("revoke", *target, stdin=tokens["access_token"])
    assert served.run("refresh", stdin=tokens["refresh_token"]).returncode == 1


def test_wrong_password_is_refused_in_one_line(served: Served) -> None:
    """The exit code is 1, and stderr has the reason of the server."""
    refused = served.run("login", USER, stdin="not the password at all")
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert "INVALID_CREDENTIALS" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_device_token_is_kept_and_sent(served: Served) -> None:
    """By it the owner is let in when guesses have used up what strangers have."""
    user = create(served, "device@example.com")
    guess = pb.LoginRequest(password=pb.PasswordCredentials(identifier=user, password="wrong"))
    with open_folder() as folder:
        kept = ["--device-token-file", str(folder / "device")]
        served.ok("login", user, *kept, stdin=PASSWORD)
        assert stat.S_IMODE((folder / "device").stat().st_mode) == 0o600
        with grpc.insecure_channel(served.address) as channel:
            stub = AuthServiceStub(channel)
            codes = set()
            while grpc.StatusCode.RESOURCE_EXHAUSTED not in codes:
                with pytest.raises(grpc.RpcError) as caught:
                    stub.Login(guess, timeout=30)
                codes.add(caught.value.code())
        assert "RATE_LIMITED" in served.run("login", user, stdin=PASSWORD).stderr
        served.ok("login", user, *kept, stdin=PASSWORD)
        assert len(list(folder.iterdir())) == 1


def test_only_prints_one_field(served: Served) -> None:
    """A script gets only the token that it needs."""
    user = create(served, "only@example.com")
    token = served.ok("login", user, "--only", "access-token", stdin=PASSWORD)
    assert token.count("\n") == 1
    served.ok("validate", stdin=token)


def test_users_are_shown_listed_disabled_and_enabled(served: Served) -> None:
    """A disabled user is logged out and cannot log in."""
    user = create(served, "Some@Example.com", "--role", "clerk")
    tokens = served.login(user)
    record = json.loads(served.ok("users", "show", user, "--json"))
    assert record["identifiers"] == ["some@example.com"]
    assert record["roles"] == ["clerk"]
    assert record in json.loads(served.ok("users", "list", "--json"))
    assert "some@example.com" in served.ok("users", "list")
    served.ok("users", "disable", record["id"])
    assert served.run("login", user, stdin=PASSWORD).returncode == 1
    assert served.run("refresh", stdin=tokens["refresh_token"]).returncode == 1
    served.ok("users", "enable", user)
    served.login(user)


def test_set_password_replaces_the_old_one(served: Served) -> None:
    """After a reset, only the new password is accepted."""
    user = create(served, "reset@example.com")
    generated = served.ok("users", "set-password", user, "--generate").strip()
    assert served.run("login", user, stdin=PASSWORD).returncode == 1
    served.login(user, generated)
    served.ok("users", "set-password", user, stdin=PASSWORD + "\n")
    served.login(user)


@pytest.mark.parametrize(
    ("arguments", "stdin", "code"),
    [
        (["users", "create", USER], PASSWORD, 1),
        (["users", "create", "short@example.com"], "short", 1),
        (["users", "show", "nobody@example.com"], "", 1),
        (["users", "disable", "nobody@example.com"], "", 1),
        (["users", "create", "x@example.com"], "", 2),
        (["users", "create"], "", 2),
        (["sessions", "revoke"], "", 2),
    ],
)
def test_refusals_are_one_line_and_a_code(
    served: Served, arguments: list[str], stdin: str, code: int
) -> None:
    """Stderr has the error without a traceback."""
    refused = served.run(*arguments, stdin=stdin)
    assert refused.returncode == code
    assert refused.stdout == ""
    assert "Traceback" not in refused.stderr
    assert "rror: " in refused.stderr


def test_sessions_are_listed_and_revoked(served: Served) -> None:
    """An operator lists the sessions of a user and ends one or all of them."""
    user = create(served, "sessions@example.com")
    first, second = served.login(user), served.login(user)
    listed = json.loads(served.ok("sessions", "list", user, "--json"))
    assert {s["id"] for s in listed} == {first["session_id"], second["session_id"]}
    served.ok("sessions", "revoke", first["session_id"])
    assert served.run("refresh", stdin=first["refresh_token"]).returncode == 1
    served.ok("refresh", stdin=second["refresh_token"])
    served.ok("sessions", "revoke", "--user", user)
    assert json.loads(served.ok("sessions", "list", user, "--json")) == []


def test_an_audience_is_managed_by_commands(served: Served) -> None:
    """Registered, granted, updated, withdrawn and deleted; each takes effect at the server."""
    user, name = create(served, "audiences@example.com", "--scope", "read"), "ledger"

    def login() -> subprocess.CompletedProcess[str]:
        return served.run("login", user, "--audience", name, "--json", stdin=PASSWORD)

    refused = login()
    assert (refused.returncode, "not known, or not granted" in refused.stderr) == (1, True)
    made = json.loads(served.ok("audiences", "create", name, "--scope", "write", "--json"))
    assert (made["open"], made["scope"]) == (False, ["write"])
    assert name in [each["name"] for each in json.loads(served.ok("audiences", "list", "--json"))]
    assert login().returncode == 1
    served.ok("audiences", "grant", name, "--user", user)
    assert json.loads(login().stdout)["scope"] == []
    updated = json.loads(served.ok("audiences", "update", name, "--scope", "*", "--json"))
    assert updated["scope"] == ["*"]

    async def may_read() -> bool:
        return bool(json.loads(login().stdout)["scope"] == ["read"])

    asyncio.run(eventually(may_read, what="the server hears of the scopes"))
    served.ok("audiences", "withdraw", name, "--user", user)
    assert login().returncode == 1
    served.ok("service-accounts", "create", "bookkeeper")
    changed = json.loads(
        served.ok(
            "audiences", "allow-exchange", name, "bookkeeper", "--subject-role", "staff", "--json"
        )
    )
    assert changed["actors"] == [{"client_id": "bookkeeper", "subject_roles": ["staff"]}]
    assert "bookkeeper" not in served.ok("audiences", "deny-exchange", name, "bookkeeper")
    served.ok("audiences", "delete", name)
    assert served.run("audiences", "show", name).returncode == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["update", "ledger"],
        ["update", "ledger", "--scope", "read", "--no-scope"],
        ["grant", "ledger"],
        ["grant", "ledger", "--user", "ann", "--service-account", "orders"],
        ["withdraw", "ledger"],
    ],
)
def test_a_command_for_audiences_that_lacks_something_is_refused(arguments: list[str]) -> None:
    """Before the database is opened."""
    assert CliRunner().invoke(cli, ["audiences", *arguments]).exit_code == 2


def test_a_verdict_is_explained(served: Served) -> None:
    """Each check is shown; a token that is not active gives exit code 1, and is not shown."""
    tokens = served.login(create(served, "explained@example.com"))
    token = tokens["access_token"]
    shown = served.ok("token", "explain", stdin=token)
    assert "freshness" in shown
    assert token not in shown
    demand = ("--max-age", "1h", "--acr", "2fa", "--acr", "phr", "--json")
    verdict = json.loads(served.run("validate", *demand, stdin=token).stdout)
    assert verdict["inactive_reason"] == "insufficient_user_authentication"
    assert verdict["unmet"] == ["acr_values"]
    served.ok("sessions", "revoke", tokens["session_id"])
    refused = served.run("token", "explain", "--audience", "orders", *demand, stdin=token)
    explained = json.loads(refused.stdout)
    assert (refused.returncode, explained["active"]) == (1, False)
    failed = [check["check"] for check in explained["checks"] if check["outcome"] == "failed"]
    assert failed == ["audience", "revocation", "acr"]
    assert [each["target"] for each in explained["revocations"]] == [tokens["session_id"]]
    assert served.run("token", "explain", stdin="no token").returncode == 1


def test_service_account_logs_in_with_its_secret(served: Served) -> None:
    """A service account gets an access token and no refresh token."""
    made = json.loads(served.ok("service-accounts", "create", "orders", "--json"))
    listed = json.loads(served.ok("service-accounts", "list", "--json"))
    assert "orders" in [account["client_id"] for account in listed]
    arguments = ["login", "orders", "--service-account", "--json"]
    tokens = json.loads(served.ok(*arguments, stdin=made["client_secret"]))
    assert tokens["refresh_token"] is None
    served.ok("validate", stdin=tokens["access_token"])


def test_a_service_account_is_managed_by_commands(served: Served) -> None:
    """Shown, updated, disabled, enabled, revoked and deleted; each takes effect at the server."""
    name, group = "managed", "service-accounts"
    secret = json.loads(served.ok(group, "create", name, "--json"))["client_secret"]
    updated = json.loads(
        served.ok(group, "update", name, "--role", "staff", "--scope", "a", "--json")
    )
    assert (updated["roles"], updated["scope"]) == (["staff"], ["a"])
    updated = json.loads(served.ok(group, "update", name, "--no-roles", "--json"))
    assert (updated["roles"], updated["scope"]) == ([], ["a"])

    def login(with_secret: str = secret) -> subprocess.CompletedProcess[str]:
        return served.run("login", name, "--service-account", "--json", stdin=with_secret)

    def token() -> str:
        access: str = json.loads(login().stdout)["access_token"]
        served.ok("validate", stdin=access)
        return access

    for end in ("revoke-tokens", "disable"):
        access = token()
        served.ok(group, end, name)
        assert served.run("validate", stdin=access).returncode == 1
    assert json.loads(served.ok(group, "show", name, "--json"))["disabled"]
    assert login().returncode == 1
    served.ok(group, "enable", name)
    access = token()
    served.ok(group, "delete", name)
    assert served.run("validate", stdin=access).returncode == 1
    assert login().returncode == 1
    refused = served.run(group, "show", name)
    assert (refused.returncode, refused.stderr) == (1, "error: no such service account\n")


def test_a_secret_is_rotated_by_commands(served: Served) -> None:
    """Two at most; each is printed once, and no list has them."""
    group = "service-accounts"
    first = json.loads(served.ok(group, "create", "rotated", "--json"))["client_secret"]
    create = (group, "secrets", "create", "rotated", "--expires-in")
    made = json.loads(served.ok(*create, "90d", "--json"))
    assert set(made) == {"client_id", "secret_id", "client_secret", "expires_at"}
    shown = json.loads(served.ok(group, "show", "rotated", "--json"))
    old, new = shown["secrets"]
    assert (new["secret_id"], new["expires_at"]) == (made["secret_id"], made["expires_at"])
    refused = served.run(group, "secrets", "create", "rotated")
    assert refused.returncode == 1
    assert old["secret_id"] in refused.stderr
    for secret in (first, made["client_secret"]):
        served.ok("login", "rotated", "--service-account", stdin=secret)
    served.ok(group, "secrets", "delete", "rotated", old["secret_id"])
    assert served.run("login", "rotated", "--service-account", stdin=first).returncode == 1
    served.ok("login", "rotated", "--service-account", stdin=made["client_secret"])
    text = served.ok(group, "show", "rotated")
    assert "SECRET_ID" in text
    assert made["secret_id"] in text
    for hidden in (first, made["client_secret"]):
        assert hidden not in text + json.dumps(shown) + served.ok(group, "list")
    assert served.run(*create, "9999999d").returncode == 2


def test_workloads_are_mapped_and_keys_registered_by_commands(served: Served) -> None:
    """An account without a secret, the mapping and the key that open it, and their end."""
    made = json.loads(served.ok("service-accounts", "create", "workload", "--no-secret", "--json"))
    assert made == {"client_id": "workload", "client_secret": None}
    subject = "system:serviceaccount:shop:workload"
    mapped = served.run("workloads", "map", "https://cluster.test", subject, "workload", "--json")
    assert mapped.returncode == 0
    assert "is not in AUTH_WORKLOAD_ISSUERS_FILE" in mapped.stderr
    listed = json.loads(served.ok("workloads", "list", "--json"))
    assert [(each["subject"], each["client_id"]) for each in listed] == [(subject, "workload")]
    given = ("https://cluster.test", "a:b", "workload", "--claim", "x")
    assert served.run("workloads", "map", *given).returncode == 2
    served.ok("workloads", "unmap", "https://cluster.test", subject)
    assert served.run("workloads", "unmap", "https://cluster.test", subject).returncode == 1
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    add = ("workloads", "keys", "add", "workload", "--expires-in", "90d", "--json")
    kid = json.loads(served.ok(*add, stdin=pem.decode()))["kid"]
    keys = json.loads(served.ok("workloads", "keys", "list", "workload", "--json"))
    assert [(key["kid"], key["live"]) for key in keys] == [(kid, True)]
    served.ok("workloads", "keys", "delete", "workload", "--", kid)
    assert served.run(*add, stdin="no key").returncode == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("update", "orders"),
        ("update", "orders", "--role", "a", "--no-roles"),
        ("update", "orders", "--scope", "a", "--no-scope"),
        ("secrets", "create", "orders", "--expires-in", "soon"),
        ("secrets", "delete", "orders", "1"),
    ],
)
def test_wrong_usage_of_service_accounts_reaches_no_database(arguments: tuple[str, ...]) -> None:
    """The exit code says so."""
    assert CliRunner().invoke(cli, ["service-accounts", *arguments]).exit_code == 2


def test_exported_shared_key_verifies_tokens(served: Served) -> None:
    """The exported value is the key that signs access tokens."""
    rotate = ("keys", "rotate", "--algorithm", "HS256", "--activate-in", "0s", "--json")
    kid = json.loads(served.ok(*rotate))["kid"]
    key = served.ok("keys", "export", "--shared").strip()
    secret = base64.urlsafe_b64decode(key + "=" * (-len(key) % 4))
    token = signed_by(served, kid)["access_token"]
    claims = jwt.decode(token, secret, algorithms=["HS256"], audience="internal", leeway=10)
    assert claims["iss"] == "https://auth.internal"


def test_keys_are_listed_without_secrets(served: Served) -> None:
    """The list has no key material."""
    listed = json.loads(served.ok("keys", "list", "--json"))
    dates = {"created_at", "activate_at", "retire_at", "remove_at"}
    assert {"kid", "algorithm", "state"} | dates == set(listed[0])
    assert served.ok("keys", "export", "--shared").strip() not in json.dumps(listed)


def keys_of(served: Served) -> dict[str, str]:
    """Return the state of each key."""
    return {key["kid"]: key["state"] for key in json.loads(served.ok("keys", "list", "--json"))}


def signed_by(served: Served, kid: str) -> dict[str, str]:
    """Log in until the running server signs with a key; return the tokens."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        tokens = served.login(create(served, f"{os.urandom(6).hex()}@example.com"))
        if jwt.get_unverified_header(tokens["access_token"])["kid"] == kid:
            return tokens
    pytest.fail(f"the server never signed with {kid}")


def imported(served: Served, *, first: str = "") -> str:
    """Make the server sign with a key of the test; return its kid."""
    kid = ""
    while not (kid and kid.startswith(first)):
        private = ed25519.Ed25519PrivateKey.generate()
        jwk = jwt.algorithms.OKPAlgorithm.to_jwk(private.public_key(), as_dict=True)
        members = json.dumps(
            {name: jwk[name] for name in ("crv", "kty", "x")}, separators=(",", ":")
        )
        digest = hashlib.sha256(members.encode()).digest()  # RFC 7638
        kid = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    made = json.loads(served.ok("keys", "import", "--activate-in", "0s", "--json", stdin=pem))
    assert (made["kid"], made["algorithm"], made["state"]) == (kid, "EdDSA", "active")
    return kid


def test_a_rotated_key_is_published_before_it_signs(served: Served) -> None:
    """The time is that of --activate-in; a value that is not a duration is wrong usage."""
    made = json.loads(served.ok("keys", "rotate", "--activate-in", "1h", "--json"))
    assert made["state"] == "published"
    assert keys_of(served)[made["kid"]] == "published"
    assert served.run("keys", "rotate", "--activate-in", "soon").returncode == 2
    served.ok("keys", "retire", made["kid"])


def test_an_imported_key_signs_and_its_public_half_verifies(served: Served) -> None:
    """The running server uses it without a restart; input that is not a key is refused."""
    kid = imported(served)
    token = signed_by(served, kid)["access_token"]
    keys = {key.key_id: key for key in jwt.PyJWKSet.from_json(served.ok("keys", "export-public"))}
    jwt.decode(token, keys[kid], algorithms=["EdDSA"], audience="internal", leeway=10)
    for content in ("no key!", "\udcff\udcfe\0"):  # the second is not UTF-8
        refused = served.run("keys", "import", stdin=content)
        assert refused.returncode == 3
        assert refused.stderr.startswith("error: a key is PEM")


def test_the_exported_public_keys_hold_no_secret(served: Served) -> None:
    """The output is a JWK Set."""
    kid = imported(served)
    published = json.loads(served.ok("keys", "export-public"))["keys"]
    assert kid in [key["kid"] for key in published]
    assert not any({"k", "d"} & key.keys() for key in published)


def test_a_retired_key_stops_signing_and_its_tokens_stay_valid(served: Served) -> None:
    """Another key signs, and retiring it again is refused."""
    kid = imported(served)
    token = signed_by(served, kid)["access_token"]
    assert json.loads(served.ok("keys", "retire", kid, "--json"))["state"] == "retired"
    (signs,) = (kid for kid, state in keys_of(served).items() if state == "active")
    signed_by(served, signs)
    served.ok("validate", stdin=token)
    assert served.run("keys", "retire", kid).returncode == 1


@pytest.mark.parametrize("first", ["-", "-t", "-h"])
def test_a_kid_may_begin_as_an_option_does(served: Served, first: str) -> None:
    """A KID is accepted as it was printed, before and after options."""
    kid = imported(served, first=first)
    assert json.loads(served.ok("keys", "retire", kid, "--json"))["state"] == "retired"
    assert json.loads(served.ok("keys", "compromise", "--json", kid))["state"] == "compromised"


@pytest.mark.parametrize("name", ["retire", "compromise"])
@pytest.mark.parametrize("option", ["--jsn", "-t", "-tuR9b8HON94"])
def test_a_misspelt_option_is_not_a_kid(name: str, option: str) -> None:
    """The error names the option."""
    done = CliRunner().invoke(cli, ["keys", name, "a-kid", option])
    assert done.exit_code == 2
    assert "No such option" in done.output


def test_tokens_of_a_compromised_key_are_refused_and_sessions_continue(served: Served) -> None:
    """The running server refuses them at once."""
    kid = imported(served)
    tokens = signed_by(served, kid)
    assert json.loads(served.ok("keys", "compromise", kid, "--json"))["state"] == "compromised"
    (signs,) = (kid for kid, state in keys_of(served).items() if state == "active")
    signed_by(served, signs)
    assert served.run("validate", stdin=tokens["access_token"]).returncode == 1
    again = json.loads(served.ok("refresh", "--json", stdin=tokens["refresh_token"]))
    served.ok("validate", stdin=again["access_token"])


def test_a_replaced_master_key_ends_no_session(served: Served) -> None:
    """The server continues, and a restart with the new master key changes nothing."""
    tokens, keys = served.login(create(served, "master@example.com")), keys_of(served)
    new = served.directory.parent / "master.new"
    new.write_text(base64.urlsafe_b64encode(os.urandom(32)).decode())
    new.chmod(0o600)
    told = served.ok("keys", "replace-master-key", "--new-file", str(new))
    assert f"{len(keys)} signing keys" in told
    served.ok("validate", stdin=tokens["access_token"])
    refused = served.run("keys", "export-public")
    assert refused.returncode == 3
    assert "AUTH_MASTER_KEY" in refused.stderr
    assert served.stop() == 0
    new.replace(served.directory / "master.key")
    served.start()
    served.ok("validate", stdin=tokens["access_token"])
    served.ok("refresh", "--json", stdin=tokens["refresh_token"])
    assert keys_of(served) == keys


def test_a_second_server_on_the_directory_is_refused(served: Served) -> None:
    """Two servers never share one embedded PostgreSQL; the second one exits with an error."""
    refused = command(
        "serve", AUTH_EMBEDDED_DIR=str(served.directory), AUTH_GRPC_ADDRESS=free_address()
    )
    assert refused.returncode == 3
    assert "in use by another server" in refused.stderr


def test_commands_work_without_a_server_and_data_survives() -> None:
    """The commands start the embedded PostgreSQL; a later server has their data."""
    with open_folder() as base:
        served = Served(base / "data", free_address())
        served.ok("migrate")
        create(served, USER)
        served.ok("keys", "rotate")
        key = served.ok("keys", "export", "--shared")
        served.start()
        try:
            assert "with the password of the first start" in served.greeting
            served.login(USER)
            assert served.ok("keys", "export", "--shared") == key
        finally:
            assert served.stop() == 0
        assert served.run("validate", stdin="x").returncode == 4


def start_development(log: Path, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    with log.open("w") as stderr:
        return subprocess.Popen(
            [*COMMAND, "serve", "--dev"],
            env=environment(**variables),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )


async def test_a_signal_during_the_start_stops_the_server_cleanly() -> None:
    """The server already accepts calls, and `serve --dev` has not created its user yet."""
    with open_folder() as base:
        log = base / "serve.log"
        variables = {
            "AUTH_EMBEDDED_DIR": str(base / "data"),
            "AUTH_GRPC_ADDRESS": free_address(),
            "AUTH_HTTP_ADDRESS": "off",
        }
        process = start_development(log, variables)

        async def serving() -> bool:
            assert process.poll() is None, log.read_text()
            return " serving " in log.read_text()

        try:
            await eventually(serving, what="the server accepts calls")
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 60) == 0
        finally:
            process.kill()
        assert log.read_text().endswith(" stopped\n")


def test_unreachable_server_is_exit_code_four() -> None:
    """A script can tell an unreachable server from an invalid token."""
    away = command("validate", "--address", free_address(), stdin="x.y.z")
    assert away.returncode == 4
    assert "hint: start one" in away.stderr


@pytest.mark.parametrize(
    ("arguments", "variables", "code"),
    [
        (["serve"], {"AUTH_SHARED_KEY": "c2hvcnQ"}, 3),
        (["serve"], {"AUTH_GRPC_ADDRESS": "0.0.0.0:50051"}, 3),
        (["config", "check"], {"AUTH_DATABASE_URL": "postgresql://h/d"}, 3),
        (["config", "show", "--config", "/nowhere.toml"], {}, 3),
        (["validate", "--max-staleness", "soon"], {}, 2),
        (["validate", "--deadline", "0"], {}, 2),
        (["revoke", "--all", "--session", "x"], {}, 2),
        (["revoke", "--user", "x"], {}, 2),
        (["login"], {}, 2),
        (["nonsense"], {}, 2),
    ],
)
def test_wrong_usage_and_configuration_have_exit_codes(
    arguments: list[str], variables: dict[str, str], code: int
) -> None:
    """Wrong usage is 2 and a wrong configuration is 3, without a traceback."""
    done = command(*arguments, **variables)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_config_show_masks_secrets() -> None:
    """No secret is printed."""
    key = base64.urlsafe_b64encode(os.urandom(32)).decode()
    for option in ([], ["--json"]):
        done = command("config", "show", *option, AUTH_SHARED_KEY=key)
        assert done.returncode == 0
        assert key.rstrip("=") not in done.stdout + done.stderr
        assert "**********" in done.stdout


def test_an_unknown_variable_causes_a_warning() -> None:
    """The warning has the most similar name."""
    done = command("config", "check", AUTH_ISUER="x")
    assert done.returncode == 0
    assert "did you mean AUTH_ISSUER?" in done.stderr


def test_config_docs_is_the_committed_page() -> None:
    """The reference in docs/ is the output of the command."""
    page = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
    assert command("config", "docs").stdout == page.read_text()


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_token_inspect_decodes_and_states_that_it_does_not_verify() -> None:
    """The output has the header and the claims with readable times."""
    token = f"{part({'alg': 'none'})}.{part({'exp': 0, 'nbf': 10**30, 'sub': 'x'})}."
    shown = command("token", "inspect", stdin=token)
    assert shown.returncode == 0
    assert "1970-01-01T00:00:00Z" in shown.stdout
    assert "not verified" in shown.stderr
    assert json.loads(command("token", "inspect", "--json", stdin=token).stdout) == {
        "verified": False,
        "header": {"alg": "none"},
        "claims": {"exp": 0, "nbf": 10**30, "sub": "x"},
    }


@pytest.mark.parametrize("token", ["x", "a.b.c", "W10.W10.", "é.é.é", "[" * 99999])
def test_token_inspect_refuses_other_text(token: str) -> None:
    """The error is one line."""
    refused = command("token", "inspect", stdin=token)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: this is not a JWT")


def test_a_reader_that_closes_the_pipe_is_not_an_error() -> None:
    """`… | head` ends without an error."""
    line = f'"{sys.executable}" -m auth_service config docs | head -n 1'
    done = subprocess.run(
        ["/bin/sh", "-c", line], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


KEYS = (
    *("list", "rotate", "import", "retire", "compromise"),
    *("replace-master-key", "export-public", "export"),
)
SERVICE_ACCOUNTS = (
    *("create", "list", "show", "update", "disable", "enable", "delete", "revoke-tokens"),
    "secrets",
)
GROUPS = ("users", "service-accounts", "workloads", "sessions", "keys", "config", "token")
HELP = (
    *(["serve"], ["migrate"], ["users"], ["service-accounts"], ["sessions"], ["keys"], ["config"]),
    *(["login"], ["refresh"], ["validate"], ["revoke"], ["token"], ["token", "inspect"]),
    *(["users", n] for n in ("create", "list", "show", "disable", "enable", "set-password")),
    *(["service-accounts", n] for n in SERVICE_ACCOUNTS),
    *(["service-accounts", "secrets", n] for n in ("create", "delete")),
    *(["workloads", n] for n in ("map", "unmap", "list", "keys")),
    *(["workloads", "keys", n] for n in ("add", "list", "delete")),
    *(["sessions", n] for n in ("list", "revoke")),
    *(["keys", n] for n in KEYS),
    *(["config", n] for n in ("show", "check", "docs")),
)


def test_every_help_has_examples_and_exit_codes() -> None:
    """The help of a command is sufficient to use it."""
    assert "Exit codes: 0" in command("keys", "list", "--help").stdout
    for arguments in HELP:  # in this process, because a process for each is slow
        done = CliRunner().invoke(cli, [*arguments, "--help"])
        assert done.exit_code == 0, (arguments, done.output)
        assert "Examples:\n" in done.output, arguments
        assert "Exit codes: 0" in done.output, arguments


def test_no_help_is_cut_off() -> None:
    """Each command's line in the help of its group is complete on a terminal of 80 columns."""
    for group in ([], ["service-accounts", "secrets"], *([name] for name in GROUPS)):
        lines = CliRunner().invoke(cli, [*group, "--help"], terminal_width=80).output.splitlines()
        assert [line for line in lines[1:] if line.endswith("...")] == [], group
