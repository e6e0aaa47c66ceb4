"""Refresh tokens of sessions that stand in a database, made with the server's own keys."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from authn.v1 import auth_service_pb2 as pb

from auth_service.clock import utc_now
from auth_service.core.root_key import root_key
from auth_service.db import pool as pools
from auth_service.db import rows
from auth_service.db.key_store import KeyStore
from auth_service.tokens.keys import MasterKey
from auth_service.tokens.refresh import RefreshTokens
from benchmarks.replicas import ISSUER, Service

REFRESH = "/authn.v1.AuthService/Refresh"


class Refreshing:
    """Requests that step each of some sessions once, from generation to generation."""

    def __init__(self, tokens: RefreshTokens, sessions: Sequence[Any]) -> None:
        self._tokens = tokens
        self._sessions = [rows.session(row) for row in sessions]
        self._generation = 0

    @classmethod
    async def of(cls, service: Service, sessions: Sequence[Any]) -> "Refreshing":
        """Return those of a service whose server has run before, which made the root key."""
        pool = await pools.connect(service.database_url)
        root = await root_key(KeyStore(pool), MasterKey(service.secret))
        await pool.close()
        return cls(RefreshTokens(root, ISSUER), sessions)

    def next_requests(self) -> list[bytes]:
        """Return a request for each session, of the generation after the last ones'."""
        now = utc_now().replace(microsecond=0)
        generation, self._generation = self._generation, self._generation + 1
        current = (
            self._tokens.current(replace(session, generation=generation, refreshed_at=now))
            for session in self._sessions
        )
        return [pb.RefreshRequest(refresh_token=t).SerializeToString() for t in current]
