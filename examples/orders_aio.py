"""A grpc.aio service that verifies access tokens locally and learns of revocations at once.

AUTH_ADDRESSES=127.0.0.1:50051 AUTH_SHARED_KEY=… python examples/orders_aio.py 127.0.0.1:50061
"""

import asyncio
import os
import signal
import sys

import grpc

from auth_service.client import (
    INFRASTRUCTURE,
    AuthInterceptor,
    LocalVerifier,
    Rule,
    Rules,
    principal,
)

RULES = Rules(
    {
        **INFRASTRUCTURE,
        "/orders.v1.Orders/List": Rule(audience="internal"),
        "/orders.v1.Orders/Delete": Rule(audience="internal", roles=("admin",)),
    }
)


async def list_orders(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """Return the name of the caller."""
    return f"orders of {principal().subject}".encode()


async def delete_order(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """Delete an order; the rules admit admins only."""
    return b"deleted"


async def main(address: str) -> None:
    """Serve until SIGTERM."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with LocalVerifier(
        issuer="https://auth.internal",
        addresses=os.environ["AUTH_ADDRESSES"].split(","),
        shared_key=os.environ["AUTH_SHARED_KEY"],
    ) as verifier:
        server = grpc.aio.server(interceptors=[AuthInterceptor(verifier, RULES)])
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "List": grpc.unary_unary_rpc_method_handler(list_orders),
            "Delete": grpc.unary_unary_rpc_method_handler(delete_order),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("orders.v1.Orders", methods),)
        )
        server.add_insecure_port(address)
        await server.start()
        print("serving", address, flush=True)
        await stopped.wait()
        await server.stop(5)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
