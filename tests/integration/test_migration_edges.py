"""Moving in over gRPC and HTTP, and a whole population at two replicas: nobody is logged out."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import grpc
import httpx
import pytest
import structlog
from authn.v1 import auth_service_pb2 as pb

from auth_service.clock import utc_now
from auth_service.web.browser import CSRF_HEADER
from auth_service.web.cookies import REFRESH_COOKIE
from tests.acceptance.servers import Client
from tests.databases import set_clock
from tests.integration.serving import (
    Refusal,
    address,
    make_settings,
    query,
    refusal,
    running,
    until,
)
from tests.old_issuers import KEYCLOAK, SIMPLEJWT, SUPABASE, SYSTEMS, OldSystem
from tests.workloads import jwks

SESSIONS = int(os.environ.get("MIGRATED_SESSIONS", "200"))
"""Foreign sessions that are traded; 10,000 take two or three minutes."""
TIMEOUT = 60.0  # seconds, which no passing call takes
AT_ONCE = 32
REMAINING = timedelta(days=1)
"""How long the configuration trades tokens."""
REQUEST = "9f2b7c1e-migrate"

USERS = """
    WITH ids AS (
        SELECT i, ('00000000-0000-4000-8000-' || lpad(to_hex(i), 12, '0'))::uuid AS id
        FROM generate_series(0, $1 - 1) i
    ), made AS (
        INSERT INTO users (id, password_hash, roles, scope, disabled, created_at)
        SELECT id, 'imported', '{}', '{read}', i < 0, now() FROM ids
    )
    INSERT INTO user_identifiers (identifier, user_id, position)
    SELECT 'django:' || i, id, 1 FROM ids
"""


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variables, and the logs of a server do not outlive it."""
    for name in [name for name in os.environ if name.startswith("AUTH_")]:
        monkeypatch.delenv(name)
    yield
    structlog.reset_defaults()


def user_id(number: int) -> UUID:
    """Return the id of a user of USERS."""
    return UUID(f"00000000-0000-4000-8000-{number:012x}")


def named(system: OldSystem, number: int) -> UUID | str:
    """Return what the other system calls a user."""
    return user_id(number) if system.prefix is None else str(number)


def configuration(folder: Path, end: datetime) -> Path:
    """Write the file of the three systems."""
    (folder / "realm.json").write_text(jwks(KEYCLOAK.key.jwk(use="sig")))
    for name, system in (("supabase", SUPABASE), ("django", SIMPLEJWT)):
        (folder / name).write_bytes(system.key.private)
        (folder / name).chmod(0o600)
    path = folder / "migrate.toml"
    path.write_text(
        f"""
        [[migrate_from]]
        issuer = "{KEYCLOAK.name}"
        jwks_file = "{folder}/realm.json"
        audience = "account"
        claims = {{ typ = ["Bearer", "ID"], azp = ["shop-web", "shop-app"] }}
        user = "id"
        until = {end.isoformat()}

        [[migrate_from]]
        issuer = "{SUPABASE.name}"
        secret_file = "{folder}/supabase"
        audience = "authenticated"
        claims = {{ role = "authenticated", is_anonymous = false }}
        user = "id"
        until = {end.isoformat()}

        [[migrate_from]]
        issuer = "django"
        without_iss = true
        secret_file = "{folder}/django"
        claims = {{ token_type = "refresh" }}
        user_claim = "user_id"
        user = "identifier"
        prefix = "django:"
        until = {end.isoformat()}
        """
    )
    return path


class Replicas(NamedTuple):
    """Two servers on one database, what calls them, and when nothing is traded any more."""

    clients: tuple[Client, Client]
    http: httpx.AsyncClient
    end: datetime

    async def login(self, token: str, replica: int = 0, **fields: Any) -> pb.TokenPair:
        """Trade a token."""
        request = pb.LoginRequest(migrate=pb.MigrateCredentials(token=token), **fields)
        reply: pb.LoginResponse = await self.clients[replica].auth.Login(request, timeout=TIMEOUT)
        return reply.tokens


@pytest.fixture
async def replicas(database_url: str, tmp_path: Path) -> AsyncIterator[Replicas]:
    """Two replicas, on a database with users who have moved."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(USERS, SESSIONS)
    await connection.close()
    end = utc_now() + REMAINING
    settings = make_settings(
        database_url,
        migrate_from_file=configuration(tmp_path, end),
        refresh_grace="10m",  # a busy machine may take any time between two calls
    )
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(running(settings)) for _ in range(2)]
        base = f"http://127.0.0.1:{servers[0].http_port}"
        headers = {CSRF_HEADER: "1", "origin": base}
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=base, headers=headers, timeout=TIMEOUT, trust_env=False)
        )
        first, second = [await Client(address(server)).ready() for server in servers]
        yield Replicas((first, second), http, end)
        for client in (first, second):
            await client.channel.close()


async def test_each_refusal_looks_the_same(replicas: Replicas) -> None:
    """Unknown user, forged, replayed or disabled: the bytes of the answer are equal."""
    now = utc_now()
    used = KEYCLOAK.token(user_id(0), now)
    await replicas.login(used, request_id=REQUEST)
    await replicas.clients[0].auth.Refresh(
        pb.RefreshRequest(refresh_token=(await replicas.login(used)).refresh_token)
    )
    tokens = [
        used,
        "x",
        KEYCLOAK.token(uuid4(), now),
        KEYCLOAK.token(user_id(1), now, iss="https://other.test"),
        KEYCLOAK.token(user_id(1), now, typ="Offline"),
    ]
    answers = [await refusal(replicas.login(token)) for token in tokens]
    assert answers[0].reason == "INVALID_CREDENTIALS"
    assert len({(each.code, each.text, str(each.trailers)) for each in answers}) == 1
    missing = await refusal(replicas.login(""))
    assert (missing.reason, missing.fields) == ("INVALID_ARGUMENT", ["migrate.token"])


async def test_a_page_trades_its_token_for_a_cookie(replicas: Replicas) -> None:
    """At /v1/login, in place of identifier and password; two tabs at once share the session."""
    token = SUPABASE.token(user_id(0), utc_now())
    given = {"migrate_token": token, "request_id": REQUEST}
    one, other = await asyncio.gather(
        *(replicas.http.post("/v1/login", json=given) for _ in range(2))
    )
    assert one.status_code == 200
    assert one.json()["session_id"] == other.json()["session_id"]
    assert one.cookies[REFRESH_COOKIE] == other.cookies[REFRESH_COOKIE]
    cookie = {"cookie": f"{REFRESH_COOKIE}={one.cookies[REFRESH_COOKIE]}"}  # httpx: it is Secure
    assert (await replicas.http.post("/v1/refresh", headers=cookie)).status_code == 200
    replayed = await replicas.http.post("/v1/login", json=given)
    assert (replayed.status_code, replayed.json()["reason"]) == (401, "INVALID_CREDENTIALS")
    for wrong, field in (
        (given | {"password": "x"}, "password"),
        (given | {"migrate_token": ""}, "migrate_token"),
    ):
        answer = await replicas.http.post("/v1/login", json=wrong)
        assert (answer.status_code, field in answer.text) == (400, True)


async def test_each_trade_and_each_refusal_leaves_one_row(
    replicas: Replicas, database_url: str
) -> None:
    """With the issuer, the kind of credential, and why a genuine token was refused."""
    good, unknown = (KEYCLOAK.token(user, utc_now()) for user in (user_id(0), uuid4()))
    pair = await replicas.login(good)
    await refusal(replicas.login(unknown))
    rows_of = "FROM audit_log WHERE credential = 'migrated_token'"
    await until(database_url, f"SELECT count(*) >= 2 {rows_of}", what="both rows are there")
    connection = await asyncpg.connect(database_url)
    rows = await connection.fetch(f"SELECT * {rows_of} ORDER BY event DESC")
    await connection.close()
    traded, refused = rows
    assert (traded["event"], traded["outcome"]) == ("session.created", "OK")
    assert (traded["actor"], str(traded["session_id"])) == (str(user_id(0)), pair.session_id)
    assert (refused["event"], refused["outcome"]) == ("login.failed", "INVALID_CREDENTIALS")
    assert "no_account" in refused["details"]
    assert {row["issuer"] for row in rows} == {KEYCLOAK.name}
    assert not [part for part in (*good.split("."), *unknown.split(".")) if part in str(rows)]


async def test_a_population_moves_without_a_logout_until_the_end(
    replicas: Replicas, database_url: str
) -> None:
    """Of all foreign sessions each becomes one of ours, also where answers are lost or calls race.

    From the end on, by the database's clock, tokens that are good in all else get nothing.
    """
    now, systems = utc_now(), list(SYSTEMS.values())
    life: dict[str, Any] = {"exp": int((replicas.end + timedelta(days=1)).timestamp())}

    def token(number: int) -> str:
        system = systems[number % len(systems)]
        return system.token(named(system, number), now, **life)

    async def move(number: int) -> pb.TokenPair:
        old, request = token(number), f"request-{number}"
        first = await replicas.login(old, number % 2, request_id=request)
        match number % 5:
            case 0:  # the answer was lost, and the retry goes to another replica
                again = await replicas.login(old, 1 - number % 2, request_id=request)
            case 1:  # two tabs of one browser
                again, _ = await asyncio.gather(replicas.login(old, 0), replicas.login(old, 1))
            case _:
                again = first
        assert again == first
        return first

    moved = await bounded(move)
    assert len({pair.session_id for pair in moved}) == SESSIONS
    assert await query(database_url, "SELECT count(*) FROM sessions") == SESSIONS
    assert await query(database_url, "SELECT count(DISTINCT user_id) FROM sessions") == SESSIONS

    async def is_logged_in(number: int) -> bool:
        client, pair = replicas.clients[number % 2], moved[number]
        claims = (await client.validate(pair.access_token)).claims
        try:
            return claims.subject == str(user_id(number)) and bool(
                (await client.refresh(pair.refresh_token)).access_token
            )
        except grpc.aio.AioRpcError:
            return False

    logouts = (await bounded(is_logged_in)).count(False)

    late = [token(number) for number in range(SESSIONS)]
    assert (await replicas.login(late[0])).access_token  # good in all but what comes next
    await set_clock(database_url, replicas.end)

    async def is_too_late(number: int) -> bool:
        try:
            await replicas.login(late[number], number % 2)
        except grpc.aio.AioRpcError as error:
            return Refusal(error).reason == "INVALID_CREDENTIALS"
        return False

    accepted = (await bounded(is_too_late)).count(False)
    traded = await query(database_url, "SELECT count(*) FROM sessions") - 1
    assert (traded, logouts, accepted) == (SESSIONS, 0, 0)


async def bounded(work: Callable[[int], Awaitable[Any]]) -> list[Any]:
    """Return the results of the work for each session, of which some run at once."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> Any:
        async with places:
            return await work(number)

    return await asyncio.gather(*(one(number) for number in range(SESSIONS)))
