"""What a gateway's request gets instead of its token: one for the upstream alone.

Owns how a request is refused whose token cannot be exchanged. What makes the token is passed in.
"""

import logging
from typing import Protocol

from auth_service.authz.admission import Refused
from auth_service.errors import (
    AuthError,
    CertificateRequired,
    ConfigError,
    InvalidSubjectToken,
    InvalidTarget,
)
from auth_service.tokens.access import AccessClaims

__all__ = ["Exchange", "exchanged"]

log = logging.getLogger("auth_service.gateway")


class Exchange(Protocol):
    """Makes tokens for upstreams."""

    def token(self, parent: AccessClaims, audience: str) -> str:
        """Return a token for an audience, by the claims of a valid token.

        Raises ConfigError, InvalidTarget, InvalidSubjectToken, CertificateRequired.
        """
        ...


def exchanged(exchange: Exchange, claims: AccessClaims, audience: str, *, trusted: bool) -> str:
    """Return the token for the upstream of an admitted request. Raises Refused.

    `trusted` tells whether a proxy of AUTH_TRUSTED_PROXIES asks. Anybody else could name any
    audience, and turn a token for one service into one for another.
    """
    try:
        if not trusted:
            raise ConfigError("AUTH_TRUSTED_PROXIES does not name the proxy that asks")
        return exchange.token(claims, audience)
    except ConfigError as error:
        log.error("a route exchanges tokens, but %s", error.text)  # noqa: TRY400 - for operators
        raise Refused(
            500, AuthError.reason, "server_error", "internal error; the log has the cause"
        ) from error
    except (InvalidTarget, InvalidSubjectToken, CertificateRequired) as error:
        raise Refused(403, error.reason, "access_denied", error.text) from error
