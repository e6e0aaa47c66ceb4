"""fastapi-users: JWTStrategy behind a bearer transport, and the current active user."""

import os
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from fastapi import Depends, FastAPI
from fastapi_users import BaseUserManager, FastAPIUsers, UUIDIDMixin
from fastapi_users.authentication import AuthenticationBackend, BearerTransport, JWTStrategy
from fastapi_users.db import BaseUserDatabase

SECRET = os.environ["RIVAL_SECRET"]


@dataclass
class User:
    """The one user, in memory."""

    id: UUID
    email: str = "user@example.com"
    hashed_password: str = ""
    is_active: bool = True
    is_superuser: bool = False
    is_verified: bool = True


USER = User(UUID(int=1))


class Users(BaseUserDatabase[Any, UUID]):
    """Users in memory."""

    async def get(self, id: UUID) -> User | None:  # noqa: A002 - fastapi-users' own name
        """Return the user."""
        return USER if id == USER.id else None


class Manager(UUIDIDMixin, BaseUserManager[Any, UUID]):
    """The manager that fastapi-users asks for."""


async def get_manager() -> Any:
    """Return the manager."""
    return Manager(Users())


def get_strategy() -> Any:
    """Return the strategy."""
    return JWTStrategy(secret=SECRET, lifetime_seconds=900)


backend = AuthenticationBackend("jwt", BearerTransport(tokenUrl="login"), get_strategy)
users = FastAPIUsers[Any, UUID](get_manager, [backend])
app = FastAPI()


@app.get("/me")
async def me(user: Any = Depends(users.current_user(active=True))) -> dict[str, str]:  # noqa: B008
    """Answer with the user of the token."""
    return {"sub": str(user.id)}
