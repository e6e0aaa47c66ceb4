"""The rules of the registry of audiences: what an audience may be, and to whom it is granted.

Owns the changes. The directory in memory, which logins ask, is `core.audiences`.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID, uuid4

from auth_service.clock import Clock
from auth_service.core import fields
from auth_service.db.audiences import Account
from auth_service.db.store import Store
from auth_service.errors import AlreadyExists, InvalidArgument, NotFound
from auth_service.models import ANY_SCOPE, ActorRule, Audience

__all__ = ["AudienceRegistry"]

_NAME = re.compile(r"\S+")


class AudienceRegistry:
    """Changes the registered audiences.

    Each method that takes the name of an audience raises NotFound if it is not registered.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def create(
        self, name: str, *, scope: Sequence[str] = (), open_: bool = False, bound: bool = False
    ) -> Audience:
        """Register an audience. Raises AlreadyExists if the name is taken."""
        audience = Audience(
            id=uuid4(),
            name=_name(name),
            scope=_scope(scope),
            open=open_,
            bound=bound,
            actors=(),
            created_at=self._clock(),
        )
        await self._store.create_audience(audience)
        return audience

    async def create_defaults(self, names: Sequence[str]) -> None:
        """Register those of these audiences that are not, open and for any scope."""
        for name in names:
            if await self._store.find_audience(name) is None:
                with suppress(AlreadyExists):  # by another replica that starts at the same time
                    await self.create(name, scope=[ANY_SCOPE], open_=True)

    async def get(self, name: str) -> Audience:
        """Return an audience."""
        found = await self._store.find_audience(name)
        if found is None:
            raise NotFound("no such audience")
        return found

    async def list(self, limit: int = 100, after: str | None = None) -> list[Audience]:
        """Return at most `limit` audiences in the order of their names, those after `after`."""
        return await self._store.list_audiences(limit, after)

    async def update(
        self,
        name: str,
        *,
        scope: Sequence[str] | None = None,
        open_: bool | None = None,
        bound: bool | None = None,
    ) -> Audience:
        """Replace what is given, and return the audience.

        Tokens that were issued before keep what they have until they expire.
        """
        await self._store.update_audience(
            name,
            self._clock(),
            scope=None if scope is None else _scope(scope),
            open_=open_,
            bound=bound,
        )
        return await self.get(name)

    async def delete(self, name: str) -> None:
        """Delete an audience with its grants and actors; no new token has it.

        Tokens that were issued before are valid until they expire.
        """
        await self._store.delete_audience(name, self._clock())

    async def grant(self, name: str, account: Account) -> None:
        """Let an account have tokens for an audience. Raises NotFound for an unknown account."""
        await self._store.grant_audience(name, _account(account), self._clock())

    async def withdraw(self, name: str, account: Account) -> None:
        """Take that back: the account's next login or refresh for the audience is refused.

        Tokens that were issued before are valid until they expire. Raises NotFound for an unknown
        account.
        """
        await self._store.withdraw_audience(name, _account(account), self._clock())

    async def set_actor(
        self, name: str, client_id: str, subject_roles: Sequence[str] = ()
    ) -> Audience:
        """Let a service account exchange tokens for an audience; it replaces an earlier rule.

        With `subject_roles` it may do so only for subjects with one of these roles. Raises NotFound
        for an unknown account.
        """
        rule = ActorRule(_client_id(client_id), fields.labels(subject_roles, "subject_roles"))
        await self._store.put_actor(name, rule, self._clock())
        return await self.get(name)

    async def remove_actor(self, name: str, client_id: str) -> Audience:
        """Take that back. Raises NotFound if the account has no rule."""
        await self._store.delete_actor(name, _client_id(client_id), self._clock())
        return await self.get(name)


def _name(text: str) -> str:
    if not fields.label(text, "name"):
        raise InvalidArgument("name", "is required")
    if _NAME.fullmatch(text) is None:  # lists of audiences are separated by spaces
        raise InvalidArgument("name", "must not contain spaces")
    return text


def _scope(scope: Sequence[str]) -> tuple[str, ...]:
    given = fields.scope(scope)
    if ANY_SCOPE in given and len(given) > 1:
        raise InvalidArgument("scope", f"must be {ANY_SCOPE} alone (any scope), or not contain it")
    return given


def _account(account: Account) -> Account:
    return account if isinstance(account, UUID) else _client_id(account)


def _client_id(text: str) -> str:
    return fields.identifier(text, "client_id")
