"""Fixtures of the tests with a real database: what it contains."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Protocol
from uuid import UUID, uuid4

import pytest

from auth_service.db.sessions import Rotation
from auth_service.db.store import Store
from auth_service.models import Session, User
from auth_service.tokens.refresh import token_id
from tests.clock import FakeClock
from tests.conftest import Outside
from tests.databases import set_clock


class AddUser(Protocol):
    """Adds a user to the database."""

    async def __call__(self, *identifiers: str) -> User: ...


AddSession = Callable[..., Awaitable[Session]]


def rotation(
    session: Session,
    generation: int = 0,
    scope: tuple[str, ...] = (),
    *,
    adopt: bool = False,
    user_id: UUID | None = None,
    idle_ttl: timedelta = timedelta(days=7),
) -> Rotation:
    """Return the step of a session from a generation; `adopt` allows an earlier one too."""
    return Rotation(
        user_id or session.user_id,
        session.id,
        generation,
        0 if adopt else generation,
        scope,
        idle_ttl,
        timedelta(seconds=10),
        None,
        token_id(session.seed, generation),
        (),
        "",
        "",
    )


@pytest.fixture
def clock(outside: Outside, database_url: str) -> FakeClock:
    """A clock that the test moves, and the clock of its database with it."""
    return FakeClock(on_change=lambda now: outside.run(set_clock(database_url, now)))


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
            amr=("pwd", "otp"),
            acr="2fa",
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
