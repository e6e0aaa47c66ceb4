"""A running service, as the tests in an environment without the server's packages see it."""

from dataclasses import dataclass

__all__ = ["ADMIN", "SERVICE_ACCOUNT", "VARIABLE", "Live"]

VARIABLE = "AUTH_COMPAT_SERVICE"
"""The environment variable with a Live in JSON; without it the tests start a service."""

ADMIN = "admin@example.com"
SERVICE_ACCOUNT = "compat"
"""A service account with the role `verifier`."""


@dataclass(frozen=True)
class Live:
    """Where the service is, and the secrets of its accounts."""

    address: str
    password: str
    service_secret: str
