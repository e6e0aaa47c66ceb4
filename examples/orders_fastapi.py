"""A FastAPI service that verifies access tokens locally and learns of revocations at once.

AUTH_ADDRESSES=127.0.0.1:50051 AUTH_SHARED_KEY=… python examples/orders_fastapi.py 127.0.0.1:50063
"""

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI

from auth_service.client import AccessClaims, LocalVerifier, require

verifier = LocalVerifier(
    issuer="https://auth.internal",
    addresses=os.environ["AUTH_ADDRESSES"].split(","),
    shared_key=os.environ["AUTH_SHARED_KEY"],
)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Follow the authentication service while the application runs."""
    async with verifier:
        yield


app = FastAPI(lifespan=lifespan)
Caller = Annotated[AccessClaims, Depends(require(verifier, audience="internal"))]
Admin = Annotated[AccessClaims, Depends(require(verifier, audience="internal", roles=["admin"]))]


@app.get("/orders")
async def list_orders(caller: Caller) -> str:
    """Return the name of the caller."""
    return f"orders of {caller.subject}"


@app.delete("/orders/{order}")
async def delete_order(order: int, caller: Admin) -> str:
    """Delete an order; only admins are admitted."""
    return "deleted"


if __name__ == "__main__":
    host, _, port = sys.argv[1].rpartition(":")
    uvicorn.run(app, host=host, port=int(port), log_level="warning")
