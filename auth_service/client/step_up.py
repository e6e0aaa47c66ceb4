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

__all__ = ["demands_login", "step_up_demand"]


def step_up_demand(refusal: grpc.RpcError | str) -> InsufficientUserAuthentication | None:
    """Return what a refusal demands of the login of the user; None for any other refusal.

    `refusal` is the error of a gRPC call, or the value of www-authenticate of an HTTP response. A
    refreshed token tells of the same login, so only a new login helps: not longer ago than
    `max_age`, and with one of `acr_values`. The result is an error, to be raised if that suits.
    """
    if isinstance(refusal, str):
        return of_challenge(refusal)
    details = read_details(refusal)
    if details.reason != InsufficientUserAuthentication.reason:
        return None
    return of_demands(details.metadata)


def demands_login(trailers: Iterable[tuple[str, Any]] | None) -> bool:
    """Tell whether the trailing metadata of a refusal demands another login."""
    return any(
        name == "www-authenticate" and isinstance(value, str) and of_challenge(value) is not None
        for name, value in trailers or ()
    )
