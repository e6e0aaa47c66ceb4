"""The audiences that a process knows: who may have tokens for them, and with which scopes.

Kept in memory, so that a login needs no query for them. Each poll of the revocation feed asks
whether they have changed. The service's own audience is always known and open.
"""

import asyncio
from collections.abc import Collection, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from auth_service.clock import Clock
from auth_service.db.store import Store
from auth_service.errors import InvalidScope, InvalidTarget
from auth_service.models import ANY_SCOPE, Audience

if TYPE_CHECKING:
    from auth_service.db.pool import Connection

__all__ = ["Audiences", "confined", "granted_scope", "require_confined"]


class Audiences:
    """The registered audiences; `own` is the name of the service's own one.

    Unless it is registered, no scope belongs to the own audience.
    """

    def __init__(self, store: Store, own: str, clock: Clock) -> None:
        self.own = own
        self.read_at = datetime.min.replace(tzinfo=UTC)
        """Every change that was committed before this moment is taken in."""
        self._clock = clock
        self._store = store
        self._known: dict[str, Audience] = {}
        self._version: UUID | None = None
        self._looking: asyncio.Task[None] | None = None
        self._looks = self._taken = 0  # how many began, and which is the last that was taken in

    def find(self, name: str) -> Audience | None:
        """Return a registered audience, as far as this process knows."""
        return self._known.get(name)

    def open_to(self, granted: Collection[UUID]) -> frozenset[str]:
        """Return the names of the audiences for which an account may have tokens."""
        known = self._known.values()
        return frozenset(each.name for each in known if each.open or each.id in granted)

    def any_bound(self, names: Iterable[str]) -> bool:
        """Tell whether tokens for one of these audiences are bound to a client certificate."""
        return any(name in self._known and self._known[name].bound for name in names)

    def scope_of(self, names: Iterable[str]) -> frozenset[str]:
        """Return the scopes that belong to any of these audiences; see ANY_SCOPE."""
        known = (self._known[name] for name in names if name in self._known)
        return frozenset(scope for audience in known for scope in audience.scope)

    async def admit(self, names: Collection[str], granted: Collection[UUID]) -> frozenset[str]:
        """Return the scopes of audiences for which an account wants tokens.

        `granted` are the ids of the restricted audiences that it may have. To be called only once
        the account has proved who it is: an audience that is not known is looked for in the
        database. Raises InvalidTarget, alike for an audience that is not registered and for one
        that is not granted (RFC 8707 section 2).
        """
        if self._refused(names, granted) is not None:
            await self._look()  # another replica may have registered or opened it just now
        if (refused := self._refused(names, granted)) is not None:
            raise InvalidTarget(refused)
        return self.scope_of(names)

    async def follow(self, connection: "Connection | None" = None) -> None:
        """Take in all changes that are committed. Raises Unavailable."""
        self._looks += 1
        number, began, known = self._looks, self._clock(), self._version
        found = await self._store.all_audiences(known, connection)
        if number < self._taken:  # a look that began later has answered: it knows as much
            return
        if found is None and self._version != known:  # unchanged, but from what was replaced
            found = await self._store.all_audiences(None, connection)
        if number < self._taken:
            return
        self._taken = number
        if found is not None:
            self._version = found.version
            self._known = {audience.name: audience for audience in found.audiences}
        self.read_at = max(began, self.read_at)

    def _refused(self, names: Iterable[str], granted: Collection[UUID]) -> str | None:
        for name in names:
            known = self._known.get(name)
            if name != self.own and (known is None or not (known.open or known.id in granted)):
                return name
        return None

    async def _look(self) -> None:
        """Wait for a look at the database that begins from now on; all who ask share one."""
        earlier = self._looking
        if earlier is not None and not earlier.done():
            await asyncio.wait([earlier])  # it may have begun before the last change
        if self._looking is None or self._looking is earlier:
            self._looking = asyncio.create_task(self.follow(), name="look for audiences")
        await asyncio.shield(self._looking)


def confined(scope: tuple[str, ...], within: Collection[str]) -> tuple[str, ...]:
    """Return those of the scopes that belong to audiences with the scopes `within`."""
    return scope if ANY_SCOPE in within else tuple(each for each in scope if each in within)


def granted_scope(
    grant: tuple[str, ...], wanted: tuple[str, ...], within: Collection[str]
) -> tuple[str, ...]:
    """Return the scopes of an account's tokens for audiences with the scopes `within`.

    They are those that it wants, and without any all that it is granted and that belong to the
    audiences. Raises InvalidScope for others.
    """
    if not set(wanted) <= set(grant):
        raise InvalidScope("scope exceeds what the account was granted")
    require_confined(wanted, within)
    return wanted or confined(grant, within)


def require_confined(scope: tuple[str, ...], within: Collection[str]) -> None:
    """Raise InvalidScope for a scope that does not belong to audiences with the scopes `within`."""
    if confined(scope, within) != scope:
        raise InvalidScope("scope does not belong to the audience")
