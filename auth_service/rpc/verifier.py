"""VerifierService: what services that verify tokens themselves need."""

from collections.abc import AsyncIterator, Collection
from typing import Any

from authn.v1 import verifier_service_pb2 as pb
from authn.v1 import verifier_service_pb2_grpc

from auth_service.rpc.callers import Callers, certificate_names
from auth_service.rpc.watch import WatchHub
from auth_service.tokens.keys import KeyRing

__all__ = ["VERIFIER_ROLE", "VerifierServicer"]

VERIFIER_ROLE = "verifier"
"""Who holds it is sent shared secrets, with which it could also sign."""


class VerifierServicer(verifier_service_pb2_grpc.VerifierServiceServicer):
    """GetJwks and Watch."""

    def __init__(
        self,
        ring: KeyRing,
        hub: WatchHub,
        callers: Callers,
        certificates: Collection[str] = (),
    ) -> None:
        """`certificates` are the names in client certificates that hold the verifier role."""
        self._ring = ring
        self._hub = hub
        self._callers = callers
        self._certificates = frozenset(certificates)

    async def GetJwks(self, request: Any, context: Any) -> Any:
        """Return the public keys."""
        return pb.GetJwksResponse(jwks_json=self._ring.jwks())

    async def Watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Send the keys and the revocations, from where the cursor left off."""
        self._callers.find(context)  # a token that is no good is told at once
        async for event in self._hub.watch(request.cursor, lambda: self._is_verifier(context)):
            yield event

    def _is_verifier(self, context: Any) -> bool:
        if not self._certificates.isdisjoint(certificate_names(context)):
            return True
        caller = self._callers.find(context)
        return caller is not None and VERIFIER_ROLE in caller.roles
