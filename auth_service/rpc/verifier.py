"""VerifierService: keys and revocations for services that verify tokens themselves."""

from collections.abc import AsyncIterator, Collection

from authn.v1 import verifier_service_pb2 as pb
from authn.v1 import verifier_service_pb2_grpc

from auth_service.rpc.callers import Callers
from auth_service.rpc.dispatcher import Context, encodes
from auth_service.rpc.watch import WatchHub
from auth_service.tokens.keys import KeyRing

__all__ = ["VERIFIER_ROLE", "VerifierServicer"]

VERIFIER_ROLE = "verifier"
"""The role whose holders are sent shared secrets, with which they could also sign tokens."""


class VerifierServicer(verifier_service_pb2_grpc.VerifierServiceServicer):
    """GetJwks and Watch."""

    def __init__(
        self,
        ring: KeyRing,
        hub: WatchHub,
        callers: Callers,
        certificates: Collection[str] = (),
    ) -> None:
        """A client certificate with one of the names in `certificates` has the verifier role."""
        self._ring = ring
        self._hub = hub
        self._callers = callers
        self._certificates = frozenset(certificates)

    async def GetJwks(self, request: pb.GetJwksRequest, context: Context) -> pb.GetJwksResponse:
        """Return the public keys."""
        return pb.GetJwksResponse(jwks_json=self._ring.jwks())

    @encodes
    def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[bytes]:
        """Send the keys and the revocations, from where the cursor left off."""
        self._callers.find(context)  # refuses an invalid token before the first event
        return self._hub.watch(
            request.cursor, lambda: self._is_verifier(context), segments=request.accept_segments
        )

    def _is_verifier(self, context: Context) -> bool:
        if not self._certificates.isdisjoint(self._callers.names(context)):
            return True
        caller = self._callers.find(context)
        return caller is not None and VERIFIER_ROLE in caller.roles
