"""Fixtures of the tests with a real database: things to keep in it."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Protocol
from uuid import UUID, uuid4

import pytest

from auth_service.db.store import Store
from auth_service.models import Session, User
from tests.clock import FakeClock


class AddUser(Protocol):
    """Adds a user to the database."""

    async def __call__(self, *identifiers: str) -> User: ...


AddSession = Callable[..., Awaitable[Session]]


@pytest.fixture
def add_user(store: Store, clock: FakeClock) -> AddUser:
    """Adds users."""

    async def add(*identifiers: str) -> User:
        user = User(
            id=uuid4(),
            identifiers=identifiers or (f"{uuid4().hex}@example.org",),
            password_hash="$argon2id$old",
            roles=("staff", "admin"),
            scope=("read", "write"),
            disabled=False,
            created_at=clock.now,
        )
        await store.create_user(user)
        return user

    return add


@pytest.fixture
def new_session(clock: FakeClock) -> Callable[[UUID], Session]:
    """Makes sessions that are not stored yet."""

    def new(user_id: UUID) -> Session:
        return Session(
            user_id=user_id,
            id=uuid4(),
            generation=0,
            seed=bytes(range(32)),
            client_id="web",
            device_label="Firefox on Linux",
            audience=("internal",),
            scope=("read", "write"),
            amr=("pwd",),
            auth_time=clock.now,
            created_at=clock.now,
            refreshed_at=clock.now,
            refresh_expires_at=clock.now + timedelta(days=7),
            expires_at=clock.now + timedelta(days=30),
        )

    return new


@pytest.fixture
def add_session(store: Store, new_session: Callable[[UUID], Session]) -> AddSession:
    """Adds sessions of a user."""

    async def add(user: User, request_id: str | None = None) -> Session:
        return await store.create_session(new_session(user.id), request_id)

    return add
