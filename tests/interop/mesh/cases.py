"""The users of the checks, and the tokens that must and must not pass."""

import base64
import json
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from authn.v1 import auth_service_pb2 as pb
from calls import auth, login
from check import MismatchError, run

ADMIN, CLERK, PATRON = "admin@example.com", "clerk@example.com", "patron@example.com"
GATEWAY = "gateway"
AUDIENCES, SCOPE = ("orders", "billing", "internal"), "orders:read"


@dataclass(frozen=True, slots=True)
class Users:
    """An admin, a clerk who may read orders but holds no role, and a patron with a passkey."""

    env: Mapping[str, str]
    passwords: dict[str, str]

    @classmethod
    def create(cls, env: Mapping[str, str]) -> "Users":
        """Create them with the command line, and register the audiences of their tokens."""
        users = cls(env, {name: secrets.token_urlsafe(24) for name in (ADMIN, CLERK, PATRON)})
        for name in users.passwords:
            roles = ("--role", "admin") if name == ADMIN else ()
            command = (sys.executable, "-m", "auth_service", "users", "create", name, *roles)
            scope = ("--scope", SCOPE, "--scope", "profile")
            created = run(*command, *scope, given=users.passwords[name] + "\n", env=env)
            if created.returncode:
                raise MismatchError(f"users create\n  seen: {created.stdout}{created.stderr}")
        users.run("service-accounts", "create", GATEWAY)
        for name in AUDIENCES:
            scope = ("--scope", SCOPE, "--scope", "profile")
            users.run("audiences", "create", name, "--open", *scope)
            users.run("audiences", "allow-exchange", name, GATEWAY)
        return users

    def run(self, *arguments: str) -> None:
        """Run a command of the service."""
        done = run(sys.executable, "-m", "auth_service", *arguments, given="", env=self.env)
        if done.returncode:
            raise MismatchError(f"{' '.join(arguments)}\n  seen: {done.stdout}{done.stderr}")

    def tokens(self, name: str = CLERK, audience: str = AUDIENCES[0], scope: str = SCOPE) -> Any:
        """Log in and return the tokens."""
        return login(name, self.passwords[name], audience=[audience], scope=scope.split())

    def revoked(self) -> str:
        """Return an access token whose session was ended a moment ago."""
        tokens = self.tokens()
        auth("Revoke", pb.RevokeRequest(refresh_token=tokens.refresh_token))
        return str(tokens.access_token)


def claims(token: str, part: int = 1) -> dict[str, Any]:
    """Return the claims of a token, or its header (part 0), unchecked."""
    text = token.split(".")[part]
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return decoded


def wait_until_expired(token: str, leeway: float = 1.0) -> None:
    """Return once the token's time is over, a verifier's leeway in seconds included."""
    time.sleep(max(0.0, claims(token)["exp"] + leeway - time.time()))
