"""Proof of identity: the passwords of users, the secrets of service accounts, and workloads.

Owns that every caller's credentials are proved in the same way, and that a password costs an
attempt before it is hashed.
"""

import contextlib
import hashlib
import hmac
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from auth_service import audit
from auth_service.audit import Actor, ActorKind
from auth_service.clock import Clock
from auth_service.core import fields
from auth_service.core.password_change import PasswordChange
from auth_service.core.passwords import PasswordHasher
from auth_service.core.second_factors import SecondFactors
from auth_service.core.shielded import Shielded
from auth_service.core.throttle import LoginOrigin, Throttle
from auth_service.core.workloads import Workloads
from auth_service.db.store import Store
from auth_service.errors import InvalidCredentials, RateLimited
from auth_service.models import ClientSecret, ServiceAccount, Taken, User
from auth_service.tokens.challenge import LoginTerms

__all__ = ["Credentials", "Proved", "secret_hash"]

USE_PRECISION = timedelta(minutes=1)
"""How often the last use of a secret is written, however often the secret is used."""


class Proved(NamedTuple):
    """A user whose password was right."""

    user: User
    taken: tuple[Taken, ...]
    """What the attempt took from the throttle."""


class Credentials:
    """Checks credentials against the accounts in the database."""

    def __init__(
        self,
        store: Store,
        hasher: PasswordHasher,
        throttle: Throttle,
        shielded: Shielded,
        clock: Clock,
        workloads: Workloads | None = None,
        factors: SecondFactors | None = None,
        password_change: PasswordChange | None = None,
    ) -> None:
        """Without `workloads` none is let in, and without `factors` nobody who has one.

        Without `password_change` no password is replaced by a login.
        """
        self._store = store
        self._hasher = hasher
        self._throttle = throttle
        self._shielded = shielded
        self._clock = clock
        self._workloads = workloads
        self._factors = factors
        self._password_change = password_change
        self._noting: set[UUID] = set()

    async def check_password(self, identifier: str, password: str, origin: LoginOrigin) -> Proved:
        """Return the user with this normalised identifier and this password.

        It takes an attempt, which the caller gives back once it has succeeded. Raises
        InvalidCredentials, and RateLimited if no attempt is left.
        """
        # Most logins of a flood are refused here, without a query and without using an attempt.
        self._hasher.require_room()
        # The attempt is reserved before the hash, so that parallel guesses cannot race past.
        attempt = await self._throttle.reserve(identifier, origin)
        if (user := attempt.user) is not None:
            audit.note(user_id=user.id)
        kept = user.password_hash if user else None
        matches = await self._hasher.verify(kept, password, attempt.decoy)
        if user is None or not matches or user.disabled:
            raise InvalidCredentials
        audit.identify(Actor(ActorKind.USER, str(user.id), "password"))
        return Proved(user, attempt.taken)

    async def give_back(self, taken: Sequence[Taken]) -> None:
        """Give back what an attempt took whose password was right."""
        if taken:
            await self._store.give_login_attempts_back(taken)

    @property
    def factors(self) -> SecondFactors:
        """What proves second factors. Raises InvalidCredentials if there is nothing."""
        if self._factors is None:
            raise InvalidCredentials
        return self._factors

    @property
    def password_change(self) -> PasswordChange:
        """What replaces passwords within a login. Raises InvalidCredentials if there is nothing."""
        if self._password_change is None:
            raise InvalidCredentials
        return self._password_change

    async def require_factor(self, user: User, terms: LoginTerms, amr: tuple[str, ...]) -> None:
        """Raise SecondFactorRequired if the user has to prove more than `amr`."""
        if self._factors is not None or user.second_factor:
            await self.factors.require(user, terms, amr)

    async def renew_hash(self, user: User, password: str) -> None:
        """Hash the password of a user again if its hash has another profile than today's."""
        if self._hasher.needs_rehash(user.password_hash):
            with contextlib.suppress(RateLimited):  # a later login will do it
                renewed = await self._hasher.hash(password)
                await self._store.set_password_hash(user.id, renewed, only_if=user.password_hash)

    async def authenticate_client(self, client_id: str, client_secret: str) -> ServiceAccount:
        """Return the service account with these credentials. Raises InvalidCredentials."""
        client_id = fields.identifier(client_id, "client.client_id")
        account = await self._store.find_service_account(client_id)
        if account is not None:
            audit.note(client_id=account.client_id)
        hashed = secret_hash(client_secret)
        live = [each for each in account.secrets if each.live] if account else []
        matching = [each for each in live if hmac.compare_digest(hashed, each.secret_hash)]
        if account is None or not matching or account.disabled:
            raise InvalidCredentials
        audit.identify(Actor(ActorKind.SERVICE_ACCOUNT, account.client_id, "client_secret"))
        audit.note(secret_id=matching[0].id)
        self._note_use(account.client_id, matching[0])
        return account

    async def authenticate_workload(
        self, token: str, client_id: str = "", certificate: Sequence[str] = ()
    ) -> ServiceAccount:
        """Return the service account of a workload: by its token, or else by its certificate.

        `certificate` are the URIs in the verified certificate of the caller. Raises
        InvalidCredentials, and Unavailable if the keys of the token's issuer were never fetched.
        """
        if self._workloads is None:
            raise InvalidCredentials
        if token:
            account = await self._workloads.authenticate(token, client_id)
        else:
            account = await self._workloads.authenticate_certificate(certificate, client_id)
        credential = "workload" if token else "certificate"
        audit.identify(Actor(ActorKind.SERVICE_ACCOUNT, account.client_id, credential))
        return account

    def _note_use(self, client_id: str, secret: ClientSecret) -> None:
        """Write when a secret was used, at most once a minute; no login waits for it or fails."""
        now = self._clock()
        noted = secret.last_used_at
        if secret.id in self._noting or (noted is not None and now - noted < USE_PRECISION):
            return
        self._noting.add(secret.id)
        self._shielded.start(self._write_use(client_id, secret.id, now))

    async def _write_use(self, client_id: str, secret_id: UUID, now: datetime) -> None:
        try:
            await self._store.note_secret_use(client_id, secret_id, now, USE_PRECISION)
        finally:
            self._noting.discard(secret_id)

    async def require_public_client(self, client_id: str) -> None:
        """Raise InvalidCredentials if the client is a service account: it must send its secret."""
        client_id = fields.identifier(client_id, "client_id")
        if await self._store.find_service_account(client_id) is not None:
            raise InvalidCredentials


def secret_hash(client_secret: str) -> str:
    """Return what is stored of a service account's secret.

    A secret is 256 random bits and cannot be guessed, so a fast hash is as good as a slow one.
    """
    return hashlib.sha256(client_secret.encode(errors="surrogatepass")).hexdigest()
