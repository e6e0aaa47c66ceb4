"""AccountService and AdminService, which this version answers with UNIMPLEMENTED.

They are registered all the same, so that reflection shows what is to come and a client gets an
answer with a reason; until then the command line does what they will.
"""

from typing import Any, NoReturn

from authn.v1 import account_service_pb2, admin_service_pb2
from authn.v1.account_service_pb2_grpc import AccountServiceServicer
from authn.v1.admin_service_pb2_grpc import AdminServiceServicer

from auth_service.errors import Unsupported

__all__ = ["AccountServicer", "AdminServicer"]


async def _refuse(_self: Any, _request: Any, _context: Any) -> NoReturn:
    raise Unsupported("not implemented by this version; use the command line (auth-service --help)")


def _methods(file: Any, service: str) -> dict[str, Any]:
    return {m.name: _refuse for m in file.DESCRIPTOR.services_by_name[service].methods}


AccountServicer = type(
    "AccountServicer", (AccountServiceServicer,), _methods(account_service_pb2, "AccountService")
)
AdminServicer = type(
    "AdminServicer", (AdminServiceServicer,), _methods(admin_service_pb2, "AdminService")
)
