"""Registers the audiences of tests; `internal` is registered in every database of tests."""

from datetime import UTC, datetime
from uuid import uuid4

from auth_service.db import pool as pools
from auth_service.db.store import Store
from auth_service.models import ANY_SCOPE, Audience

__all__ = ["new_audience", "register", "register_in"]


def new_audience(name: str, *scope: str, open_: bool = True, bound: bool = False) -> Audience:
    """Return an audience, of any scope unless some are given."""
    made = datetime(2024, 1, 1, tzinfo=UTC)
    return Audience(uuid4(), name, scope or (ANY_SCOPE,), open_, bound, (), made)


async def register(
    store: Store, name: str, *scope: str, open_: bool = True, bound: bool = False
) -> Audience:
    """Register an audience as `new_audience` makes it."""
    audience = new_audience(name, *scope, open_=open_, bound=bound)
    await store.create_audience(audience)
    return audience


async def register_in(database_url: str, *names: str, bound: bool = False) -> None:
    """Register audiences, open to all and with any scope, in the database of a server."""
    pool = await pools.connect(database_url, min_size=1, max_size=1)
    try:
        for name in names:
            await register(Store(pool), name, bound=bound)
    finally:
        await pool.close()
