"""The rules of service accounts: their life, and the rotation of their secrets.

Owns how a secret is made, and which changes end the tokens of an account.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID, uuid4

from auth_service.clock import Clock
from auth_service.core import fields
from auth_service.core.credentials import secret_hash
from auth_service.core.revocation import Revocations
from auth_service.db.store import Store
from auth_service.errors import NotFound
from auth_service.models import ClientSecret, ServiceAccount

__all__ = ["ServiceAccounts"]

_SECRET_BYTES = 32


class ServiceAccounts:
    """Changes the accounts of services. An id is normalised wherever it is taken.

    Each method that takes the id of an account raises NotFound if there is no such account.
    """

    def __init__(self, store: Store, revocations: Revocations, clock: Clock) -> None:
        self._store = store
        self._revocations = revocations
        self._clock = clock

    async def create(
        self,
        client_id: str,
        *,
        roles: Sequence[str] = (),
        scope: Sequence[str] = (),
        secret: bool = True,
        bound: bool = False,
    ) -> str:
        """Make an account and return its secret, which cannot be read later.

        Without a `secret` the account is for workloads and keys, and the text is empty. Raises
        AlreadyExists if the id is taken.
        """
        text, made = self._new_secret(None)
        await self._store.create_service_account(
            ServiceAccount(
                client_id=_client_id(client_id),
                secrets=(made,) if secret else (),
                roles=fields.labels(roles, "roles"),
                scope=fields.scope(scope),
                disabled=False,
                created_at=made.created_at,
                bound=bound,
            )
        )
        return text if secret else ""

    async def get(self, client_id: str) -> ServiceAccount:
        """Return an account, with the secrets that have expired since the last was made."""
        found = await self._store.find_service_account(_client_id(client_id))
        if found is None:
            raise NotFound("no such service account")
        return found

    async def list(self, limit: int = 100, after: str | None = None) -> list[ServiceAccount]:
        """Return at most `limit` accounts in the order of their ids, those after `after`."""
        return await self._store.list_service_accounts(limit, after)

    async def update(
        self,
        client_id: str,
        *,
        roles: Sequence[str] | None = None,
        scope: Sequence[str] | None = None,
        bound: bool | None = None,
    ) -> ServiceAccount:
        """Replace what is given, and return the account.

        Tokens that were issued before keep theirs until they expire.
        """
        client_id = _client_id(client_id)
        await self._store.update_service_account(
            client_id,
            None if roles is None else fields.labels(roles, "roles"),
            None if scope is None else fields.scope(scope),
            bound,
            self._clock(),
        )
        return await self.get(client_id)

    async def set_disabled(self, client_id: str, disabled: bool) -> None:
        """Disable an account and end its tokens, or enable it."""
        client_id = _client_id(client_id)
        if disabled:
            await self._revocations.end_service(client_id, self._store.disable_service_account)
        else:
            await self._store.enable_service_account(client_id, self._clock())

    async def delete(self, client_id: str) -> None:
        """Delete an account with its secrets, and end its tokens."""
        await self._revocations.end_service(
            _client_id(client_id), self._store.delete_service_account
        )

    async def create_secret(
        self, client_id: str, expires_at: datetime | None = None
    ) -> tuple[str, ClientSecret]:
        """Make a further secret; return its text, which cannot be read later, and its record.

        Raises TooManySecrets if the account has two live ones, and InvalidArgument if `expires_at`
        is not in the future.
        """
        client_id = _client_id(client_id)
        text, secret = self._new_secret(expires_at)
        await self._store.add_secret(client_id, secret)
        return text, secret

    async def delete_secret(self, client_id: str, secret_id: UUID) -> None:
        """Delete a secret: it opens nothing from now on. Tokens stay valid until they expire.

        Raises NotFound if the account has no such secret.
        """
        await self._store.delete_secret(_client_id(client_id), secret_id, self._clock())

    async def revoke_tokens(self, client_id: str) -> None:
        """End every access token of an account."""
        await self._revocations.end_service_tokens(_client_id(client_id))

    def _new_secret(self, expires_at: datetime | None) -> tuple[str, ClientSecret]:
        text = secrets.token_urlsafe(_SECRET_BYTES)
        return text, ClientSecret(uuid4(), secret_hash(text), self._clock(), expires_at)


def _client_id(text: str) -> str:
    return fields.identifier(text, "client_id")
