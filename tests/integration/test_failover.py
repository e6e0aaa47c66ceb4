"""A failover that loses the last commits: what was revoked stays revoked, everywhere.

Servers of this process on a primary whose asynchronous standby is promoted without its last
commits. Each test first shows that the new primary lacks what it is about.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import Any

import grpc
import pytest
import structlog
from authn.v1 import admin_service_pb2
from authn.v1 import auth_service_pb2 as pb
from authn.v1.admin_service_pb2_grpc import AdminServiceStub

from auth_service.db.feed import SETTLE
from auth_service.models import User
from auth_service.serving.server import Server
from tests.acceptance.servers import USER, Client, eventually, make_user
from tests.integration.serving import address, make_settings, refusal, running
from tests.standby import Pair, execute, open_pair

ROOT = "root@example.com"


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """A server sets up the logs of its process: leave nothing of that behind."""
    yield
    structlog.reset_defaults()


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """A primary and its standby."""
    async with open_pair() as pair:
        yield pair


@pytest.fixture
async def ada(pair: Pair) -> User:
    """A user of the primary's."""
    return await make_user(pair.url)


class Replicas:
    """Servers on the pair's address, and a client of each."""

    def __init__(self, pair: Pair, **settings: Any) -> None:
        self.pair = pair
        self.clients: list[Client] = []
        self._settings = settings
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Replicas":
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self.clients:
            await client.channel.close()
        await self._stack.aclose()

    async def start(self, url: str = "") -> Client:
        """Start one more, on the pair's address unless another URL is given."""
        settings = make_settings(url or self.pair.url, http_address="off", **self._settings)
        server: Server = await self._stack.enter_async_context(running(settings))
        self.clients.append(Client(address(server)))
        return self.clients[-1]

    async def fail_over(self) -> None:
        """Fail over, and return once all replicas count as fresh by the new primary."""
        await self.pair.fail_over()
        await self.fresh(await execute(self.pair.url, "SELECT now()"))

    async def fresh(self, since: datetime) -> None:
        """Return once all replicas know what was revoked until a moment."""

        async def probe() -> bool:
            for client in self.clients:
                try:
                    verdict = await client.validate("x")
                except grpc.aio.AioRpcError:
                    return False
                if verdict.revocations_as_of.ToDatetime(since.tzinfo) <= since:
                    return False
            return True

        await eventually(probe, what="fresh replicas")

    async def inactive(self, token: str) -> bool:
        """Return once no replica accepts a token."""

        async def probe() -> bool:
            return not any([(await each.validate(token)).active for each in self.clients])

        return await eventually(probe, what="an inactive token")


async def standby_count(pair: Pair, table: str) -> int:
    sql = f"SELECT count(*) FROM {table}"  # noqa: S608 - the tests' own
    count: int = await execute(pair.standby.dsn, sql)
    return count


@pytest.mark.parametrize("hosts", [False, True])
async def test_revocations_of_lost_commits_hold(pair: Pair, ada: User, hosts: bool) -> None:
    """A session, an access token and a sign-out everywhere, at old replicas and at new ones."""
    eve = await make_user(pair.url, "eve@example.com")
    url = pair.urls if hosts else pair.url
    async with Replicas(pair) as replicas:
        a, b = await replicas.start(url), await replicas.start(url)
        ended, loose, kept = [await a.login() for _ in range(3)]
        everywhere = [await login(a, "eve@example.com") for _ in range(2)]
        await pair.cut()
        await a.auth.Revoke(pb.RevokeRequest(refresh_token=ended.refresh_token))
        await b.auth.Revoke(pb.RevokeRequest(access_token=loose.access_token))
        await a.auth.Revoke(
            pb.RevokeRequest(all_sessions=pb.AllSessions()),
            metadata=(("authorization", f"Bearer {everywhere[0].access_token}"),),
        )
        for gone in (ended, loose, *everywhere):
            await replicas.inactive(gone.access_token)
        assert await standby_count(pair, "revocations") == 0
        assert await standby_count(pair, "sessions WHERE revoked_at IS NOT NULL") == 0

        await replicas.fail_over()
        assert await standby_count(pair, "revocations") > 0
        await replicas.start(url)
        for client in replicas.clients:
            for gone in (ended, loose, *everywhere):
                assert not (await client.validate(gone.access_token)).active
            for gone in (ended, *everywhere):
                assert (await refusal(client.refresh(gone.refresh_token))).reason == "INVALID_GRANT"
            assert (await client.validate(kept.access_token)).active
        for good in (kept, loose):
            assert (await a.validate((await b.refresh(good.refresh_token)).access_token)).active
        assert (await a.validate((await login(b, "eve@example.com")).access_token)).active
        audited = f"audit_log WHERE user_id = '{eve.id}' AND event = 'user.sessions_revoked'"
        assert await standby_count(pair, audited) >= 1


async def test_a_session_that_was_refreshed_before_the_replicas_wrote_again_ends(
    pair: Pair, ada: User
) -> None:
    """With the access tokens that it got meanwhile, although they are newer than the sign-out."""
    async with Replicas(pair) as replicas:
        a = await replicas.start()
        first, second = await a.login(), await a.login()
        await pair.cut()
        await a.auth.Revoke(
            pb.RevokeRequest(all_sessions=pb.AllSessions()),
            metadata=(("authorization", f"Bearer {first.access_token}"),),
        )
        pair.hide()
        pair.kill_primary()
        await pair.promote()
        other = await replicas.start(pair.standby.dsn)  # knows nothing, and meets nobody who does
        fresh = await other.refresh(second.refresh_token)
        assert (await other.validate(fresh.access_token)).active
        pair.lead_to(pair.standby)
        await replicas.fresh(await execute(pair.url, "SELECT now()"))
        await replicas.inactive(fresh.access_token)
        for client in replicas.clients:
            for gone in (second, fresh):
                assert (await refusal(client.refresh(gone.refresh_token))).reason == "INVALID_GRANT"


@pytest.mark.parametrize("again", [False, True])
async def test_a_disabled_user_of_a_lost_commit_stays_disabled(
    pair: Pair, ada: User, again: bool
) -> None:
    """Also a login that succeeded meanwhile ends. A user who was enabled again may log in."""
    await make_user(pair.url, ROOT, roles=("admin",))
    async with Replicas(pair) as replicas:
        a, b = await replicas.start(), await replicas.start()
        before, token = await a.login(), (await login(a, ROOT)).access_token
        await pair.cut()
        for disabled in (True, False) if again else (True,):
            await AdminServiceStub(a.channel).SetUserDisabled(
                admin_service_pb2.SetUserDisabledRequest(user_id=str(ada.id), disabled=disabled),
                metadata=(("authorization", f"Bearer {token}"),),
            )
        await replicas.inactive(before.access_token)
        await replicas.fresh(await execute(pair.url, "SELECT now()"))
        assert not await execute(pair.standby.dsn, "SELECT bool_or(disabled) FROM users")

        pair.hide()
        pair.kill_primary()
        await pair.promote()
        other = await replicas.start(pair.standby.dsn)
        meanwhile = await other.login()
        pair.lead_to(pair.standby)
        await replicas.fresh(await execute(pair.url, "SELECT now()"))
        await replicas.inactive(before.access_token)
        if again:
            assert (await a.validate((await b.login()).access_token)).active
            return
        await replicas.inactive(meanwhile.access_token)
        for client in replicas.clients:
            assert (await refusal(client.login())).reason == "INVALID_CREDENTIALS"
            for gone in (before, meanwhile):
                assert (await refusal(client.refresh(gone.refresh_token))).reason == "INVALID_GRANT"


async def test_a_key_of_a_lost_commit_is_in_the_database_again(pair: Pair, ada: User) -> None:
    """Every replica verifies what it signed, also one that starts later."""
    await make_user(pair.url, ROOT, roles=("admin",))
    async with Replicas(pair, shared_key=None, key_publish_lead="0s") as replicas:
        a = await replicas.start()
        b = await replicas.start()
        token = (await login(a, ROOT)).access_token
        await pair.cut()
        reply = await AdminServiceStub(a.channel).RotateKeys(
            admin_service_pb2.RotateKeysRequest(algorithm="EdDSA"),
            metadata=(("authorization", f"Bearer {token}"),),
        )
        assert await standby_count(pair, "signing_keys") == 1
        await replicas.fail_over()
        assert await standby_count(pair, "signing_keys") == 2
        retired = "signing_keys WHERE retire_at IS NOT NULL"
        assert await standby_count(pair, retired) == 1
        c = await replicas.start()
        for signer in (a, b, c):
            signed = (await signer.login()).access_token
            for verifier in replicas.clients:
                assert (await verifier.validate(signed)).active
        assert reply.key.kid in await execute(
            pair.url, "SELECT array_agg(kid ORDER BY kid)::text FROM signing_keys"
        )


async def test_a_replica_that_starts_after_a_failover_waits_for_the_others(
    pair: Pair, ada: User
) -> None:
    """It is the first to see the new timeline, and yet it never accepts what was revoked."""
    async with Replicas(pair) as replicas:
        a = await replicas.start()
        gone = await a.login()
        await pair.cut()
        await a.auth.Revoke(pb.RevokeRequest(access_token=gone.access_token))
        pair.hide()
        pair.kill_primary()
        await pair.promote()
        seen = asyncio.ensure_future(replicas.start(pair.standby.dsn))
        await eventually(lambda: marked(pair), what="the mark of the new timeline")
        assert not seen.done()
        began = await execute(pair.standby.dsn, "SELECT max(seen_at) FROM feed_epochs")
        pair.lead_to(pair.standby)
        late = await seen
        assert await execute(pair.url, "SELECT now()") - began > SETTLE - timedelta(
            milliseconds=100
        )
        assert not (await late.validate(gone.access_token)).active


async def marked(pair: Pair) -> bool:
    return bool(await standby_count(pair, "feed_epochs WHERE seen_at > '2000-01-01'"))


async def login(client: Client, identifier: str = USER) -> pb.TokenPair:
    credentials = pb.PasswordCredentials(
        identifier=identifier, password="correct horse battery staple"
    )
    reply: pb.LoginResponse = await client.auth.Login(pb.LoginRequest(password=credentials))
    return reply.tokens
