"""A grpc.server service on threads that verifies access tokens locally.

AUTH_ADDRESSES=127.0.0.1:50051 AUTH_SHARED_KEY=… python examples/orders_sync.py 127.0.0.1:50062
"""

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc

from auth_service.client import Rule, Rules, SyncAuthInterceptor, SyncLocalVerifier, principal

RULES = Rules(
    {
        "/orders.v1.Orders/List": Rule(audience="internal"),
        "/orders.v1.Orders/Delete": Rule(audience="internal", roles=("admin",)),
    }
)


def list_orders(request: bytes, context: grpc.ServicerContext) -> bytes:
    """Return the name of the caller."""
    return f"orders of {principal().subject}".encode()


def delete_order(request: bytes, context: grpc.ServicerContext) -> bytes:
    """Delete an order; the rules admit admins only."""
    return b"deleted"


def main(address: str) -> None:
    """Serve until SIGTERM."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with SyncLocalVerifier(
        issuer="https://auth.internal",
        addresses=os.environ["AUTH_ADDRESSES"].split(","),
        shared_key=os.environ["AUTH_SHARED_KEY"],
    ) as verifier:
        server = grpc.server(
            ThreadPoolExecutor(4), interceptors=[SyncAuthInterceptor(verifier, RULES)]
        )
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "List": grpc.unary_unary_rpc_method_handler(list_orders),
            "Delete": grpc.unary_unary_rpc_method_handler(delete_order),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("orders.v1.Orders", methods),)
        )
        server.add_insecure_port(address)
        server.start()
        print("serving", address, flush=True)
        stopped.wait()
        server.stop(5).wait()


if __name__ == "__main__":
    main(sys.argv[1])
