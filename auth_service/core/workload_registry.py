"""The rules of what service accounts log in with instead of a secret: mappings and public keys.

Owns what may be registered. How a login uses it is in `workloads`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from auth_service.clock import Clock
from auth_service.core import fields
from auth_service.db.store import Store
from auth_service.errors import InvalidArgument, NotFound
from auth_service.models import ClientKey, WorkloadMapping
from auth_service.tokens.foreign_keys import foreign_key, public_jwk

__all__ = ["WorkloadRegistry", "workload_mapping"]

MAX_ISSUER_BYTES = 512
MAX_SUBJECT_BYTES = 1024
MAX_CLAIMS = 8

_DEFAULT_ACCOUNT = re.compile(r"system:serviceaccount:[^:]*:default")


class WorkloadRegistry:
    """Changes the mappings of workloads, and the keys of service accounts."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def map(
        self,
        issuer: str,
        subject: str,
        client_id: str,
        *,
        claims: Mapping[str, str] | None = None,
        allow_default_account: bool = False,
    ) -> WorkloadMapping:
        """Let a subject of an issuer log in as a service account, and return the mapping.

        Raises AlreadyExists if the subject is mapped, and NotFound without such an account.
        """
        mapping = workload_mapping(
            issuer,
            subject,
            client_id,
            claims=claims or {},
            allow_default_account=allow_default_account,
            created_at=self._clock(),
        )
        await self._store.add_workload_mapping(mapping)
        return mapping

    async def unmap(self, issuer: str, subject: str) -> None:
        """Delete a mapping. Tokens stay valid until they expire. Raises NotFound."""
        await self._store.delete_workload_mapping(
            _name(issuer, "issuer", MAX_ISSUER_BYTES), _name(subject, "subject"), self._clock()
        )

    async def mappings(
        self, limit: int = 100, after: tuple[str, str] | None = None
    ) -> list[WorkloadMapping]:
        """Return at most `limit` mappings by issuer and subject, those after `after`."""
        return await self._store.list_workload_mappings(limit, after)

    async def add_key(
        self, client_id: str, public_key: str, expires_at: datetime | None = None
    ) -> ClientKey:
        """Register a public key, in JWK or PEM, with which an account signs its assertions.

        A JWK without `kid` gets its thumbprint (RFC 7638). Raises NotFound, AlreadyExists, and
        InvalidArgument for a key that cannot be used.
        """
        try:
            jwk = public_jwk(public_key)
            kid = foreign_key(jwk).kid
        except ValueError as error:
            raise InvalidArgument(
                "public_key", f"is no public key in JWK or PEM: {error}"
            ) from error
        key = ClientKey(_client_id(client_id), kid, json.dumps(jwk), self._clock(), expires_at)
        await self._store.add_client_key(key)
        return key

    async def keys(self, client_id: str) -> Sequence[ClientKey]:
        """Return the keys of an account, oldest first. Raises NotFound without such an account."""
        client_id = _client_id(client_id)
        if await self._store.find_service_account(client_id) is None:
            raise NotFound("no such service account")
        return await self._store.list_client_keys(client_id)

    async def delete_key(self, client_id: str, kid: str) -> None:
        """Delete a key: it signs for nobody from now on. Raises NotFound."""
        await self._store.delete_client_key(
            _client_id(client_id), fields.label(kid, "kid"), self._clock()
        )


def workload_mapping(
    issuer: str,
    subject: str,
    client_id: str,
    *,
    claims: Mapping[str, str],
    allow_default_account: bool = False,
    created_at: datetime | None = None,
) -> WorkloadMapping:
    """Return a mapping, checked. Raises InvalidArgument."""
    if _DEFAULT_ACCOUNT.fullmatch(subject) and not allow_default_account:
        raise InvalidArgument(
            "subject",
            "is the default account of a namespace, as which every pod runs that names no other; "
            "give the workload an account of its own, or set allow_default_account",
        )
    if len(claims) > MAX_CLAIMS:
        raise InvalidArgument("claims", f"must have at most {MAX_CLAIMS} items")
    for name, value in claims.items():
        if not fields.label(name, "claims") or not fields.label(value, f"claims[{name}]"):
            raise InvalidArgument("claims", "must have names and values that are not empty")
    return WorkloadMapping(
        _name(issuer, "issuer", MAX_ISSUER_BYTES),
        _name(subject, "subject"),
        _client_id(client_id),
        dict(claims),
        created_at,
    )


def _name(value: str, field: str, longest: int = MAX_SUBJECT_BYTES) -> str:
    """Return a name that is compared as it is: no form of it is the same."""
    if not value or len(value.encode(errors="replace")) > longest:
        raise InvalidArgument(field, f"must have 1 to {longest} bytes")
    if not value.isprintable():
        raise InvalidArgument(field, "must not contain control or other unprintable characters")
    return value


def _client_id(text: str) -> str:
    return fields.identifier(text, "client_id")
