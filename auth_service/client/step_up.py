"""What a caller does when a service demands another login of its user (RFC 9470).

    try:
        await orders.Refund(request)
    except grpc.RpcError as error:
        demanded = step_up_demand(error)
        if demanded is None:
            raise
        ...  # log the user in again, by a login that satisfies demanded.acr_values

Owns how the demand is read from a refusal.
"""

from collections.abc import Iterable
from typing import Any

import grpc

from auth_service.authz.status import read_details
from auth_service.authz.step_up import of_challenge, of_demands
from auth_service.errors import InsufficientUserAuthentication

__all__ = ["Demands", "step_up_demand"]


Trailers = Iterable[tuple[str, Any]] | None


def step_up_demand(refusal: grpc.RpcError | str) -> InsufficientUserAuthentication | None:
    """Return what a refusal demands of the login of the user; None for any other refusal.

    `refusal` is the error of a gRPC call, or the value of www-authenticate of an HTTP response. The
    user has to log in again: not longer ago than `max_age`, and with one of `acr_values`. If the
    session itself was stepped up, its next refreshed token is enough. The result is an error, to be
    raised if that suits.
    """
    if isinstance(refusal, str):
        return of_challenge(refusal)
    details = read_details(refusal)
    if details.reason != InsufficientUserAuthentication.reason:
        return None
    return of_demands(details.metadata)


class Demands:
    """Tells whether a token that met a demand should be replaced, for one source of tokens.

    A new token tells of the same login, unless the session was stepped up since. So at the first
    demand it would be of no use, and at the second one for the same token it may be what is needed.
    """

    def __init__(self) -> None:
        self._met = ""

    def replace(self, token: str, trailers: Trailers) -> bool:
        """Tell so from the trailing metadata of an UNAUTHENTICATED call; notes a demand."""
        if not _demanded(trailers):
            return True
        before, self._met = self._met, token
        return before == token


def _demanded(trailers: Trailers) -> bool:
    return any(
        name == "www-authenticate" and isinstance(value, str) and of_challenge(value) is not None
        for name, value in trailers or ()
    )
