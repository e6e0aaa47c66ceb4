"""The guard of one gRPC method, for every kind of handler.

Owns reading the metadata, and when the token of a stream is checked again.
"""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from auth_service.authz.admission import Admission, Rule, Verifier, admit
from auth_service.authz.certificates import TrustedProxies, presented

__all__ = ["Guard"]


@dataclass(frozen=True, slots=True)
class Guard:
    """The guard of one method; `recheck_interval` is in seconds, None for no second check."""

    verifier: Verifier
    rule: Rule
    recheck_interval: float | None
    proxies: TrustedProxies

    def admit(self, context: Any) -> Admission:
        """Admit the caller of this call; raises Refused."""
        metadata = context.invocation_metadata() or ()
        return admit(
            self.verifier,
            self.rule,
            [value for key, value in metadata if key == "authorization"],
            partial(presented, context, self.proxies),
        )

    def pause(self, admission: Admission) -> float | None:
        """Return the seconds until the token is checked again; None for never.

        That is at its expiry, or after the interval if that is sooner. This machine's clock only
        sets the time of the check; the verifier decides.
        """
        if self.recheck_interval is None or self.rule.public or admission.claims is None:
            return None
        left = admission.claims.expires_at - time.time()
        return left if 0 < left < self.recheck_interval else self.recheck_interval
