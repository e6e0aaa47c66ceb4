"""Users of another system move in, with the hashes of their passwords.

Owns which users are taken, and that one who is given again gets no second account: an import that
was interrupted is simply run again. Nothing changes an account that exists.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID, uuid4

from auth_service.clock import Clock
from auth_service.core import fields, foreign_hashes
from auth_service.core.identifiers import new_identifiers
from auth_service.db.confusables import skeleton
from auth_service.db.store import Store
from auth_service.errors import AlreadyExists, InvalidArgument, Unavailable
from auth_service.models import User

__all__ = ["MAX_BATCH", "ImportResult", "ImportedUser", "Refusal", "UserImport"]

MAX_BATCH = 1000
"""Users of one transaction."""
_TRIES = 5  # of a batch whose identifiers somebody else takes in the meantime


@dataclass(frozen=True, slots=True)
class ImportedUser:
    """A user as given. `position` is what a refusal names: a line, or a place in a stream."""

    position: int
    identifiers: Sequence[str] = ()
    password_hash: str = field(default="", repr=False)
    """In a form of `foreign_hashes`; empty if the user has no password."""
    user_id: str = ""
    """The UUID that the user keeps; a new one if empty."""
    roles: Sequence[str] = ()
    scope: Sequence[str] = ()
    disabled: bool = False
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a user is not taken; quotes neither passwords nor hashes."""

    position: int
    field: str
    problem: str


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What became of a batch. `existing` are those that were there already."""

    created: int
    existing: int
    refusals: tuple[Refusal, ...]


class UserImport:
    """Imports users batch by batch."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def add(self, batch: Sequence[ImportedUser], *, dry_run: bool = False) -> ImportResult:
        """Make the accounts of at most MAX_BATCH users in one transaction, those that are valid.

        With `dry_run` nothing is written. Raises Unavailable, and then nothing was written, or the
        same batch may be given again.
        """
        rows = [_checked(each, self._clock()) for each in batch]
        refused = [row for row in rows if isinstance(row, Refusal)]
        valid = [row for row in rows if isinstance(row, _Row)]
        for _ in range(_TRIES):
            sorting = await self._sorted(valid)
            if sorting.new and not dry_run:
                try:
                    await self._store.import_users(sorting.new, self._clock())
                except AlreadyExists:  # made by somebody else since
                    continue
            refusals = sorted((*refused, *sorting.refused), key=lambda each: each.position)
            return ImportResult(len(sorting.new), sorting.existing, tuple(refusals))
        raise Unavailable("others create the same users; try again")

    async def _sorted(self, rows: Sequence["_Row"]) -> "_Sorting":
        """Tell the users that are new from those that exist and those that clash."""
        identifiers = [each for row in rows for each in row.user.identifiers]
        owners = await self._store.find_owners(identifiers)
        ids = await self._store.find_user_ids([row.user.id for row in rows if row.keeps_id])
        sorting = _Sorting(owners, ids, await self._store.find_looks(identifiers))
        for row in rows:
            sorting.add(row)
        return sorting


@dataclass(frozen=True, slots=True)
class _Row:
    position: int
    user: User
    keeps_id: bool


class _Sorting:
    """What is known of identifiers and ids, and of the rows by that."""

    def __init__(self, owners: dict[str, UUID], ids: set[UUID], looks: dict[str, str]) -> None:
        self._owners = owners
        self._looks = looks
        self._ids = ids
        self.new: list[User] = []
        self.existing = 0
        self.refused: list[Refusal] = []

    def add(self, row: _Row) -> None:
        """Sort one row; it counts as existing for those that follow."""
        user = row.user
        owned_by = [self._owners.get(each) for each in user.identifiers]
        others = {owner for owner in owned_by if owner is not None} - {user.id}
        if row.keeps_id:
            if others:
                self._clash(row, "belong to a user with another id")
            elif user.id in self._ids:
                self.existing += 1
            else:
                self._take(row)
        elif not others:
            self._take(row)
        elif len(others) == 1 and None not in owned_by:
            self.existing += 1
        else:
            self._clash(row, "belong partly to another user")

    def _take(self, row: _Row) -> None:
        user = row.user
        looks = {skeleton(each) or each: each for each in user.identifiers}
        twins = any(self._looks.get(look, each) != each for look, each in looks.items())
        if twins or len(looks) < len(user.identifiers):
            self._clash(row, "look like those of another user, or like each other")
            return
        self._looks.update(looks)
        self.new.append(user)
        self._ids.add(user.id)
        self._owners.update(dict.fromkeys(user.identifiers, user.id))

    def _clash(self, row: _Row, problem: str) -> None:
        self.refused.append(Refusal(row.position, "identifiers", problem))


def _checked(given: ImportedUser, now: datetime) -> _Row | Refusal:
    try:
        return _Row(given.position, _user(given, now), bool(given.user_id))
    except InvalidArgument as error:
        violation = error.violations[0]
        return Refusal(given.position, violation.field, violation.description)


def _user(given: ImportedUser, now: datetime) -> User:
    if given.created_at is not None and given.created_at > now:
        raise InvalidArgument("created_at", "must not be in the future")
    return User(
        id=fields.uuid(given.user_id, "id") if given.user_id else uuid4(),
        identifiers=new_identifiers(given.identifiers),
        password_hash=_accepted(given.password_hash),
        roles=fields.labels(given.roles, "roles"),
        scope=fields.scope(given.scope),
        disabled=given.disabled,
        created_at=given.created_at or now,
    )


def _accepted(password_hash: str) -> str:
    if not password_hash:
        return ""
    try:
        return foreign_hashes.accept(password_hash)
    except ValueError as error:
        raise InvalidArgument("password_hash", str(error)) from error
