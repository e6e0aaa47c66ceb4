"""Local verification with real replicas, interrupted connections, and keys that change."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import jwt
import pytest
from authn.v1 import auth_service_pb2 as pb

from auth_service.client import LocalVerifier, SyncLocalVerifier
from auth_service.db import pool as pools
from auth_service.db.store import Store
from auth_service.errors import InactiveReason, InvalidToken, RevocationsStale
from auth_service.models import Revocation, RevocationKind
from auth_service.tokens.revocation import whole_second_after
from tests.acceptance.conftest import MakeClient, MakeProxy, StartServer
from tests.acceptance.servers import (
    PROJECT,
    Client,
    Proxy,
    ServerProcess,
    database_target,
    environment,
    eventually,
    make_user,
    through,
)
from tests.integration.serving import SERVICE, make_service_account

ISSUER = "https://auth.internal"
EDDSA = {"AUTH_SIGNING_ALGORITHM": "EdDSA"}  # public keys: a verifier needs no token
LIMIT = timedelta(seconds=5)
NOTHING_FAILS = "good"
STALE = "stale"
CUTS = int(os.environ.get("AUTH_TEST_CUTS", "6"))  # rounds, each with at least four cuts
WORKERS = 3


def utc_now() -> datetime:
    return datetime.now(UTC)


class Clock:
    """The current time, or the time at which a test has stopped it."""

    def __init__(self) -> None:
        self.stopped_at: datetime | None = None

    def __call__(self) -> datetime:
        return self.stopped_at or utc_now()


async def started(start_server: StartServer, **settings: Any) -> ServerProcess:
    return await asyncio.to_thread(start_server, **settings)


async def pair_of_replicas(
    start_server: StartServer, **settings: str
) -> tuple[ServerProcess, ServerProcess]:
    return await asyncio.gather(
        started(start_server, **settings), started(start_server, **settings)
    )


def port_of(server: ServerProcess) -> tuple[str, int]:
    host, _, port = server.address.rpartition(":")
    return host, int(port)


def at(between: Proxy) -> str:
    return f"127.0.0.1:{between.port}"


def verdict(verifier: LocalVerifier | SyncLocalVerifier, token: str, **asked: Any) -> str:
    """Return "good", "stale", or the reason of the refusal."""
    try:
        verifier.verify(token, **asked)
    except RevocationsStale:
        return STALE
    except InvalidToken as error:
        return str(error.inactive_reason)
    return NOTHING_FAILS


async def until_verdict(
    verifier: LocalVerifier | SyncLocalVerifier, token: str, *expected: str
) -> None:
    async def reached() -> bool:
        return verdict(verifier, token) in expected

    await eventually(reached, what=f"the verdict is {' or '.join(expected)}")


async def until_known_since(verifier: LocalVerifier, moment: datetime) -> None:
    """Return when the verifier reports all revocations before a time as known."""

    async def known() -> bool:
        as_of = verifier.revocations_as_of
        return as_of is not None and as_of >= moment

    await eventually(known, what="revocations are known up to the moment")


async def revoke(client: Client, tokens: pb.TokenPair) -> datetime:
    """End a session; return a time at which it has ended."""
    request = pb.RevokeRequest(refresh_token=tokens.refresh_token)
    await client.auth.Revoke(request, timeout=60)
    return utc_now()


async def revoke_everything(database_url: str) -> None:
    """Revoke all tokens issued up to now, as an operator in an emergency."""
    now = utc_now()
    pool = await pools.connect(database_url, min_size=1, max_size=1)
    try:
        revocation = Revocation(
            RevocationKind.ALL, "", now + timedelta(hours=1), whole_second_after(now)
        )
        await Store(pool).add_revocation(revocation, now)
    finally:
        await pool.close()


async def keys(database_url: str, *arguments: str, **settings: str) -> Any:
    """Run `auth-service keys …` and return its output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "auth_service", "keys", *arguments, "--json",
        env=environment(database_url, **settings),
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)


def kid_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


async def service_tokens(client: Client, database_url: str) -> Callable[[], Awaitable[str]]:
    """Return a token source of a service account with the role `verifier`."""
    secret = await make_service_account(database_url)
    credentials = pb.ClientCredentials(client_id=SERVICE, client_secret=secret)

    async def token() -> str:
        reply = await client.auth.Login(pb.LoginRequest(client=credentials), timeout=30)
        return str(reply.tokens.access_token)

    return token


# Revocations


@pytest.mark.parametrize(
    ("target", "reasons"),
    [
        ("refresh_token", (InactiveReason.SESSION_REVOKED,)),
        ("session_id", (InactiveReason.SESSION_REVOKED,)),
        ("access_token", (InactiveReason.TOKEN_REVOKED,)),
        ("all_sessions", (InactiveReason.USER_REVOKED, InactiveReason.SESSION_REVOKED)),
        ("everything", (InactiveReason.USER_REVOKED,)),
    ],
)
async def test_a_revocation_at_one_replica_reaches_a_verifier_at_another(
    start_server: StartServer,
    client: MakeClient,
    database_url: str,
    target: str,
    reasons: tuple[InactiveReason, ...],
) -> None:
    """For each kind of revocation, with and without an event loop in the program."""
    await make_user(database_url)
    a, b = await pair_of_replicas(start_server, **EDDSA)
    there = await client(a.address)
    tokens = await there.login()
    access = tokens.access_token
    requests = {
        "refresh_token": pb.RevokeRequest(refresh_token=tokens.refresh_token),
        "access_token": pb.RevokeRequest(access_token=access),
        "session_id": pb.RevokeRequest(session_id=tokens.session_id),
        "all_sessions": pb.RevokeRequest(all_sessions=pb.AllSessions()),
    }
    blocking = SyncLocalVerifier(issuer=ISSUER, addresses=[b.address])
    await asyncio.to_thread(blocking.start)
    try:
        async with LocalVerifier(issuer=ISSUER, addresses=[b.address]) as verifier:
            assert verdict(verifier, access) == verdict(blocking, access) == NOTHING_FAILS
            if target == "everything":
                await revoke_everything(database_url)
            else:
                metadata = (("authorization", f"Bearer {access}"),)
                await there.auth.Revoke(requests[target], metadata=metadata, timeout=60)
            await until_verdict(verifier, access, *map(str, reasons))
            await until_verdict(blocking, access, *map(str, reasons))
    finally:
        await asyncio.to_thread(blocking.close)


async def test_a_verifier_that_starts_later_knows_earlier_revocations(
    start_server: StartServer, client: MakeClient, database_url: str
) -> None:
    """It has started only when it knows them."""
    await make_user(database_url)
    a, b = await pair_of_replicas(start_server, **EDDSA)
    there = await client(a.address)
    revoked, kept = await there.login(), await there.login()
    await revoke(there, revoked)
    here = await client(b.address)

    async def known_at_b() -> bool:
        return not (await here.validate(revoked.access_token)).active

    await eventually(known_at_b, what="the revocation has arrived at B")
    async with LocalVerifier(issuer=ISSUER, addresses=[b.address]) as verifier:
        assert verdict(verifier, revoked.access_token) == InactiveReason.SESSION_REVOKED
        assert verdict(verifier, kept.access_token) == NOTHING_FAILS


# Staleness


async def test_an_interrupted_feed_is_tolerated_for_exactly_max_staleness(
    start_server: StartServer, client: MakeClient, proxy: MakeProxy, database_url: str
) -> None:
    """Then `deny` refuses and `allow` uses the known revocations; afterwards nothing is missing."""
    await make_user(database_url)
    server = await started(start_server, **EDDSA)
    there = await client(server.address)
    kept, known, missed = [await there.login() for _ in range(3)]
    between, clock = await proxy(port_of(server)), Clock()
    async with LocalVerifier(
        issuer=ISSUER, addresses=[at(between)], max_staleness=LIMIT, clock=clock
    ) as verifier:
        await until_known_since(verifier, await revoke(there, known))
        assert verdict(verifier, known.access_token) == InactiveReason.SESSION_REVOKED
        await between.cut()
        revoked_at = await revoke(there, missed)
        assert (
            verdict(verifier, missed.access_token) == NOTHING_FAILS
        )  # it cannot know, and must not claim to

        as_of = verifier.revocations_as_of
        assert as_of is not None
        clock.stopped_at = as_of + LIMIT
        assert verdict(verifier, kept.access_token) == NOTHING_FAILS
        clock.stopped_at += timedelta(microseconds=1)
        for tokens in (kept, known, missed):
            assert verdict(verifier, tokens.access_token) == STALE
            wide: dict[str, Any] = {"max_staleness": 2 * LIMIT}
            assert verdict(verifier, tokens.access_token, **wide) != STALE
        assert verdict(verifier, "nonsense") == STALE  # before it parses the token
        for asked in ({"on_stale": "allow"}, {"max_staleness": None}):
            assert verdict(verifier, kept.access_token, **asked) == NOTHING_FAILS
            assert verdict(verifier, missed.access_token, **asked) == NOTHING_FAILS
            assert verdict(verifier, known.access_token, **asked) == InactiveReason.SESSION_REVOKED
        assert verifier.revocations_as_of == as_of

        clock.stopped_at = None
        await between.open()
        await until_known_since(verifier, revoked_at)
        assert verdict(verifier, missed.access_token) == InactiveReason.SESSION_REVOKED
        assert verdict(verifier, known.access_token) == InactiveReason.SESSION_REVOKED
        assert verdict(verifier, kept.access_token) == NOTHING_FAILS


async def test_a_verifier_continues_at_another_replica_when_its_own_is_killed(
    start_server: StartServer, client: MakeClient, proxy: MakeProxy, database_url: str
) -> None:
    """It misses no revocation before, during or after the change."""
    await make_user(database_url)
    a, b = await pair_of_replicas(start_server, **EDDSA)
    to_a, to_b = await proxy(port_of(a)), await proxy(port_of(b))
    there = await client(b.address)
    before, between, after, kept = [await there.login() for _ in range(4)]
    await to_b.cut()  # so that the verifier follows A
    async with LocalVerifier(issuer=ISSUER, addresses=[at(to_a), at(to_b)]) as verifier:
        await until_known_since(verifier, await revoke(there, before))
        await asyncio.to_thread(a.kill)
        moment = await revoke(there, between)
        await to_b.open()
        await until_known_since(verifier, moment)
        for tokens in (before, between):
            assert verdict(verifier, tokens.access_token) == InactiveReason.SESSION_REVOKED
        await until_known_since(verifier, await revoke(there, after))
        assert verdict(verifier, after.access_token) == InactiveReason.SESSION_REVOKED
        assert verdict(verifier, kept.access_token) == NOTHING_FAILS


async def test_the_verifiers_of_a_replica_without_its_database_become_stale(
    start_server: StartServer, client: MakeClient, proxy: MakeProxy, database_url: str
) -> None:
    """Its heartbeats continue without a newer time; after it reconnects, nothing is missing."""
    await make_user(database_url)
    between = await proxy(database_target(database_url))
    a, b = await asyncio.gather(
        started(start_server, **EDDSA),
        started(start_server, url=through(database_url, between), **EDDSA),
    )
    there = await client(a.address)
    revoked, kept = await there.login(), await there.login()
    async with LocalVerifier(
        issuer=ISSUER, addresses=[b.address], max_staleness=timedelta(seconds=3)
    ) as verifier:
        assert verdict(verifier, revoked.access_token) == NOTHING_FAILS
        await between.cut()
        moment = await revoke(there, revoked)
        await until_verdict(verifier, kept.access_token, STALE)
        as_of = verifier.revocations_as_of
        assert as_of is not None
        assert as_of < moment
        await between.open()
        await until_known_since(verifier, moment)
        assert verdict(verifier, revoked.access_token) == InactiveReason.SESSION_REVOKED
        await until_verdict(verifier, kept.access_token, NOTHING_FAILS)


@pytest.mark.timeout(120 + CUTS)
async def test_no_revocation_is_lost_when_the_feed_is_interrupted(
    start_server: StartServer,
    client: MakeClient,
    proxy: MakeProxy,
    database_url: str,
) -> None:
    """When `revocations_as_of` passes a revocation, its token is refused at the same time."""
    random = Random(CUTS)
    await make_user(database_url)
    a, b = await pair_of_replicas(start_server, **EDDSA)
    clients = await client(a.address), await client(b.address)
    proxies = [await proxy(port_of(server)) for server in (a, b)]
    kept = await clients[0].login()
    revoked: list[pb.TokenPair] = []

    async def cut() -> None:
        await asyncio.sleep(random.uniform(0, 0.03))
        for between in proxies:
            await between.cut()

    async def end_some() -> datetime:
        moment = utc_now()
        for _ in range(random.randint(1, 4)):
            tokens = await random.choice(clients).login()
            moment = await revoke(random.choice(clients), tokens)
            revoked.append(tokens)
        return moment

    addresses = [at(between) for between in proxies]
    async with LocalVerifier(issuer=ISSUER, addresses=addresses) as verifier:
        for _ in range(CUTS):
            moment, _nothing = await asyncio.gather(end_some(), cut())
            for between in random.sample(proxies, random.randint(1, 2)):
                await between.open()
            await until_known_since(verifier, moment)
            for tokens in revoked:
                assert verdict(verifier, tokens.access_token) == InactiveReason.SESSION_REVOKED
            assert verdict(verifier, kept.access_token) == NOTHING_FAILS
            for between in proxies:
                await between.cut()
                await between.open()


# Keys


@asynccontextmanager
async def under_load(
    clients: tuple[Client, Client], verifiers: list[LocalVerifier]
) -> AsyncIterator[dict[str, int]]:
    """Log in, refresh, validate and verify all the while; gives the `iat` of each kid's first.

    The first failure of any of it fails the test.
    """
    kids: dict[str, int] = {}
    stopping = asyncio.Event()

    async def check(tokens: pb.TokenPair) -> None:
        claims = jwt.decode(tokens.access_token, options={"verify_signature": False})
        kid = kid_of(tokens.access_token)
        kids[kid] = min(claims["iat"], kids.get(kid, claims["iat"]))
        for verifier in verifiers:
            assert verdict(verifier, tokens.access_token) == NOTHING_FAILS
        for client in clients:
            answer = await client.validate(tokens.access_token)
            assert answer.active, answer

    async def work(number: int) -> None:
        while not stopping.is_set():
            tokens = first = await clients[number % 2].login()
            for turn in range(6):
                await check(tokens)
                tokens = await clients[turn % 2].refresh(tokens.refresh_token)
            await check(first)

    async with asyncio.TaskGroup() as group:
        for number in range(WORKERS):
            group.create_task(work(number))
        yield kids
        stopping.set()


async def until_signing(kids: dict[str, int], kid: str) -> None:
    async def signs() -> bool:
        return kid in kids

    await eventually(signs, what="the new key signs")


async def test_keys_rotate_and_migrate_under_load_without_a_failure(
    start_server: StartServer, client: MakeClient, database_url: str
) -> None:
    """From the shared key to EdDSA and to another EdDSA key: every token is valid everywhere."""
    await make_user(database_url)
    a, b = await pair_of_replicas(start_server)
    clients = await client(a.address), await client(b.address)
    token = await service_tokens(clients[0], database_url)
    async with (
        LocalVerifier(issuer=ISSUER, addresses=[a.address], access_token=token) as one,
        LocalVerifier(issuer=ISSUER, addresses=[b.address], access_token=token) as other,
        under_load(clients, [one, other]) as kids,
    ):
        oldest = await clients[0].login()
        for algorithm in (["--algorithm", "EdDSA"], []):
            new = await keys(database_url, "rotate", "--activate-in", "1s", *algorithm)
            assert new["algorithm"] == "EdDSA"
            await until_signing(kids, new["kid"])
            activate_at = datetime.fromisoformat(new["activate_at"])
            assert kids[new["kid"]] >= int(activate_at.timestamp())  # not earlier
        assert len(kids) == 3
        for verifier in (one, other):
            assert verdict(verifier, oldest.access_token) == NOTHING_FAILS


async def test_a_compromised_key_is_refused_everywhere_and_sessions_continue(
    start_server: StartServer, client: MakeClient, database_url: str
) -> None:
    """Both replicas and local verifiers refuse its tokens; a refresh returns a valid one."""
    await make_user(database_url)
    a, b = await pair_of_replicas(start_server)
    clients = await client(a.address), await client(b.address)
    token = await service_tokens(clients[0], database_url)
    async with (
        LocalVerifier(issuer=ISSUER, addresses=[a.address], access_token=token) as one,
        LocalVerifier(issuer=ISSUER, addresses=[b.address], access_token=token) as other,
    ):
        new = await keys(database_url, "rotate", "--algorithm", "EdDSA", "--activate-in", "0s")

        async def signed() -> pb.TokenPair | None:
            tokens = await clients[0].login()
            return tokens if kid_of(tokens.access_token) == new["kid"] else None

        tokens = await eventually(signed, what="the EdDSA key signs")
        for verifier in (one, other):
            await until_verdict(verifier, tokens.access_token, NOTHING_FAILS)
        await keys(database_url, "compromise", new["kid"])
        for verifier in (one, other):
            await until_verdict(verifier, tokens.access_token, InactiveReason.UNKNOWN_KEY)
        for replica in clients:

            async def refused(replica: Client = replica) -> bool:
                answer = await replica.validate(tokens.access_token)
                return answer.inactive_reason == pb.INACTIVE_REASON_UNKNOWN_KEY

            await eventually(refused, what="the replica refuses the old token")
        fresh = await clients[1].refresh(tokens.refresh_token)
        assert kid_of(fresh.access_token) != new["kid"]
        for verifier in (one, other):
            await until_verdict(verifier, fresh.access_token, NOTHING_FAILS)
        assert fresh.session_id == tokens.session_id
