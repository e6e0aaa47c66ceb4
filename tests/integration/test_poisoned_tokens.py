"""Tokens that a holder of the shared key made to break the service, its database or its clients."""

import base64
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import structlog
from authn.v1 import auth_service_pb2 as pb
from google.protobuf.json_format import MessageToJson

from auth_service.client import LocalVerifier
from auth_service.tokens import jws
from auth_service.tokens.access import ACCESS_TOKEN_TYPE
from auth_service.tokens.keys import shared_key
from tests.acceptance.servers import Client, make_user
from tests.integration.serving import SHARED_KEY, address, make_settings, query, running

ISSUER = "https://auth.internal"
KEY = shared_key(base64.urlsafe_b64decode(SHARED_KEY + "="))
END_OF_9999 = 253_402_300_799

POISON: dict[str, dict[str, Any]] = {
    "the end of 9999": {"exp": END_OF_9999},
    "after 9999": {"exp": END_OF_9999 + 1},
    "the largest time of before": {"exp": (1 << 40) - 1},
    "issued after 2106": {"iat": 1 << 32},
    "an empty jti": {"jti": ""},
    "an empty sub": {"sub": "", "sid": None},
    "an empty sid": {"sid": ""},
    "an empty client": {"client_id": ""},
    "a long jti": {"jti": "j" * 2700},
    "a long sub": {"sub": "s" * 2700, "sid": None},
    "a long client": {"client_id": "c" * 2700},
}


def token(**changes: Any) -> str:
    """Sign the claims of a login with the shared key, some of them changed, or absent if None."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "sub": str(uuid4()),
        "aud": ["internal", ISSUER],
        "exp": now + 900,
        "iat": now,
        "jti": uuid4().hex,
        "sid": str(uuid4()),
        "client_id": "mallory",
        "roles": ["admin"],
    }
    kept = {name: value for name, value in (claims | changes).items() if value is not None}
    return jws.sign(kept, KEY, ACCESS_TOKEN_TYPE)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """A server configures the logs of its process: restore the defaults."""
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("changes", POISON.values(), ids=POISON.keys())
async def test_a_poisoned_token_is_malformed_and_revokes_nothing(
    database_url: str, changes: dict[str, Any]
) -> None:
    """Validate answers what JSON can express, and Revoke writes no row."""
    await make_user(database_url)
    async with running(make_settings(database_url)) as server:
        client = Client(address(server))
        assert (await client.validate(token())).active  # the key is the service's
        poisoned = token(**changes)
        verdict = await client.validate(poisoned)
        assert verdict.inactive_reason == pb.INACTIVE_REASON_MALFORMED
        assert not json.loads(MessageToJson(verdict)).get("active", False)
        await client.auth.Revoke(pb.RevokeRequest(access_token=poisoned))
        assert await query(database_url, "SELECT count(*) FROM revocations") == 0
        await client.channel.close()


async def test_rows_of_poisoned_tokens_harm_no_verifier(database_url: str) -> None:
    """An earlier version wrote them; a server and a local verifier start with them all the same."""
    await make_user(database_url)
    end = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    rows = [
        ("token", "late", None),
        ("token", "", None),
        ("session", "", None),
        ("user", "", end),
        ("token", "\u00e9" * 1000, None),
    ]
    settings = make_settings(database_url)
    connection = await asyncpg.connect(database_url)
    await connection.executemany(
        "INSERT INTO revocations (kind, target, issued_before, expires_at, created_at)"
        " VALUES ($1, $2, $3, $4, now())",
        [(*row, end) for row in rows],
    )
    await connection.close()
    async with running(settings) as server:
        client = Client(address(server))
        good, late = (await client.login()).access_token, token(jti="late")
        assert (await client.validate(good)).active
        assert (await client.validate(late)).inactive_reason == pb.INACTIVE_REASON_TOKEN_REVOKED
        verifier = LocalVerifier(issuer=ISSUER, addresses=[address(server)], shared_key=SHARED_KEY)
        await verifier.start(timedelta(seconds=20))
        assert verifier.verify(good).issuer == ISSUER
        with pytest.raises(Exception, match="not valid") as refused:
            verifier.verify(late)
        assert getattr(refused.value, "inactive_reason", None) == "token_revoked"
        await verifier.close()
        await client.channel.close()
