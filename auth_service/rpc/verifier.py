"""VerifierService: what services that verify tokens themselves need."""

from collections.abc import Callable
from typing import Any, NoReturn

from authn.v1 import verifier_service_pb2 as pb
from authn.v1 import verifier_service_pb2_grpc

from auth_service.errors import Unsupported

__all__ = ["VerifierServicer"]


class VerifierServicer(verifier_service_pb2_grpc.VerifierServiceServicer):
    """GetJwks; Watch is for a later version."""

    def __init__(self, jwks: Callable[[], str]) -> None:
        self._jwks = jwks

    async def GetJwks(self, request: Any, context: Any) -> Any:
        """Return the public keys."""
        return pb.GetJwksResponse(jwks_json=self._jwks())

    async def Watch(self, request: Any, context: Any) -> NoReturn:
        """Refuse, for now."""
        raise Unsupported("Watch is not implemented by this version; call Validate")
