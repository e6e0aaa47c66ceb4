"""The life of a service account: secrets and their rotation, changes, and the end of its tokens."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from auth_service.core.credentials import secret_hash
from auth_service.db.store import Store
from auth_service.errors import (
    AuthError,
    InactiveReason,
    InvalidArgument,
    InvalidCredentials,
    NotFound,
    TooManySecrets,
)
from auth_service.models import ServiceAccount
from tests.clock import FakeClock
from tests.integration.core import Core, make_core

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
BILLING = "billing"
ROTATIONS = 100
CLIENTS = 4
TIMEOUT = 120.0  # seconds, which no passing test takes


@pytest.fixture
async def core(store: Store, clock: FakeClock) -> AsyncIterator[Core]:
    core = make_core(store, clock)
    yield core
    await core.shielded.drain()
    core.hasher.close()


@pytest.fixture
async def secret(core: Core, clock: FakeClock) -> str:
    """The first secret of the account `billing`, which was made a second ago."""
    made = await core.accounts.services.create(BILLING, roles=["verifier"], scope=["read"])
    clock.advance(SECOND)
    return made


async def login(core: Core, secret: str) -> str:
    """Return an access token of the account."""
    return (await core.sessions.login_client(BILLING, secret)).access_token


async def ids(core: Core) -> list[UUID]:
    """Return the ids of the account's secrets, oldest first."""
    return [each.id for each in (await core.accounts.services.get(BILLING)).secrets]


async def audited(pool: Any) -> list[tuple[str, str | None, UUID | None]]:
    """Return what the audit log says of service accounts."""
    rows = await pool.fetch(
        "SELECT event, client_id, secret_id FROM audit_log WHERE event LIKE 'service_account.%' "
        "ORDER BY at"
    )
    return [tuple(row) for row in rows]


class TestSecrets:
    async def test_two_secrets_open_the_account_until_one_is_deleted(
        self, core: Core, secret: str
    ) -> None:
        """This is what makes a rotation possible without a pause."""
        (first,) = await ids(core)
        text, second = await core.accounts.services.create_secret(" Billing ")
        for each in (secret, text):
            assert core.active(await login(core, each))
        await core.accounts.services.delete_secret(BILLING, first)
        with pytest.raises(InvalidCredentials):
            await login(core, secret)
        assert core.active(await login(core, text))
        assert await ids(core) == [second.id]

    async def test_a_third_secret_is_refused_with_the_ids_of_the_two(
        self, core: Core, secret: str, pool: Any
    ) -> None:
        """The error says how to make room."""
        await core.accounts.services.create_secret(BILLING)
        before = await ids(core)
        with pytest.raises(TooManySecrets) as refused:
            await core.accounts.services.create_secret(BILLING)
        assert all(str(each) in refused.value.text for each in before)
        assert "delete" in refused.value.text
        assert await ids(core) == before
        assert len(await audited(pool)) == 2

    @pytest.mark.parametrize("_", range(3))
    async def test_creations_at_the_same_time_never_make_three(
        self, core: Core, secret: str, _: int
    ) -> None:
        """One of them succeeds."""
        made = await asyncio.gather(
            *(core.accounts.services.create_secret(BILLING) for _ in range(8)),
            return_exceptions=True,
        )
        assert sum(isinstance(each, TooManySecrets) for each in made) == 7
        assert len(await ids(core)) == 2

    async def test_the_secrets_of_others_stay(self, core: Core, secret: str) -> None:
        """The id of a secret means nothing at another account."""
        (own,) = await ids(core)
        await core.accounts.services.create("orders")
        with pytest.raises(NotFound):
            await core.accounts.services.delete_secret("orders", own)
        assert core.active(await login(core, secret))

    async def test_no_secret_is_stored_or_shown(self, core: Core, secret: str, pool: Any) -> None:
        """Only its hash is stored, and that is not shown."""
        text, made = await core.accounts.services.create_secret(BILLING)
        rows = str(await pool.fetch("SELECT * FROM service_account_secrets"))
        shown = str(await core.accounts.services.get(BILLING)) + str(made)
        for each in (secret, text):
            assert each not in rows + shown
            assert secret_hash(each) in rows
            assert secret_hash(each) not in shown

    async def test_a_secret_expires_by_the_clock_of_the_database(
        self, store: Store, clock: FakeClock, secret: str
    ) -> None:
        """Whatever the clock of the replica says."""
        own = FakeClock(clock.now)
        core = make_core(store, own)
        text, made = await core.accounts.services.create_secret(BILLING, clock.now + HOUR)
        assert made.expires_at == clock.now + HOUR
        clock.advance(HOUR - SECOND)
        assert await login(core, text)
        clock.advance(SECOND)
        with pytest.raises(InvalidCredentials):
            await login(core, text)
        assert await login(core, secret)
        assert [each.live for each in (await core.accounts.services.get(BILLING)).secrets] == [
            True,
            False,
        ]
        await core.shielded.drain()
        core.hasher.close()

    async def test_an_expired_secret_makes_room(
        self, core: Core, clock: FakeClock, secret: str
    ) -> None:
        """It stays in the list until the next one is made."""
        first, _ = await core.accounts.services.create_secret(BILLING, clock.now + HOUR)
        before = await ids(core)
        clock.advance(HOUR)
        assert await ids(core) == before
        second, made = await core.accounts.services.create_secret(BILLING)
        assert await ids(core) == [before[0], made.id]
        assert await login(core, second)
        with pytest.raises(InvalidCredentials):
            await login(core, first)

    @pytest.mark.parametrize("ago", [timedelta(0), SECOND])
    async def test_a_secret_that_has_expired_already_is_refused(
        self, core: Core, clock: FakeClock, secret: str, ago: timedelta
    ) -> None:
        """The field is named, and nothing is made."""
        with pytest.raises(InvalidArgument) as refused:
            await core.accounts.services.create_secret(BILLING, clock.now - ago)
        assert refused.value.violations[0].field == "expires_at"
        assert len(await ids(core)) == 1

    async def test_without_a_secret_nobody_logs_in(self, core: Core, secret: str) -> None:
        """The last one may be deleted; the next one opens the account again."""
        await core.accounts.services.delete_secret(BILLING, (await ids(core))[0])
        for each in (secret, ""):
            with pytest.raises(InvalidCredentials):
                await login(core, each)
        text, _ = await core.accounts.services.create_secret(BILLING)
        assert core.active(await login(core, text))


class Client:
    """A service that logs in again and again, with the secret that it was given last."""

    def __init__(self, core: Core, secret: str) -> None:
        self._core = core
        self.secret = secret
        self.logins = 0
        self.failures: list[AuthError] = []
        self._proved: dict[str, asyncio.Event] = {}

    def proved(self, secret: str) -> Awaitable[object]:
        """Wait until a login with this secret has ended."""
        return self._proved.setdefault(secret, asyncio.Event()).wait()

    async def run(self) -> None:
        """Log in until cancelled."""
        while True:
            secret = self.secret
            try:
                await login(self._core, secret)
            except AuthError as error:
                self.failures.append(error)
            self.logins += 1
            self._proved.setdefault(secret, asyncio.Event()).set()


async def test_a_rotation_under_load_fails_no_login(core: Core, secret: str, pool: Any) -> None:
    """A hundred rotations: create the next secret, hand it out, delete the one before."""
    clients = [Client(core, secret) for _ in range(CLIENTS)]
    running = [asyncio.create_task(client.run()) for client in clients]
    async with asyncio.timeout(TIMEOUT):
        for _ in range(ROTATIONS):
            (old,) = await ids(core)
            text, _new = await core.accounts.services.create_secret(BILLING)
            for client in clients:
                client.secret = text
            for client in clients:
                await client.proved(text)
            await core.accounts.services.delete_secret(BILLING, old)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert [client.failures for client in clients] == [[]] * CLIENTS
    assert all(client.logins >= ROTATIONS for client in clients)
    events = [event for event, *_ in await audited(pool)]
    assert events.count("service_account.secret_created") == ROTATIONS
    assert events.count("service_account.secret_deleted") == ROTATIONS


class TestLastUse:
    async def used(self, core: Core) -> list[Any]:
        await core.shielded.drain()
        return [each.last_used_at for each in (await core.accounts.services.get(BILLING)).secrets]

    async def test_each_secret_tells_when_it_was_last_used(
        self, core: Core, clock: FakeClock, secret: str
    ) -> None:
        """Before the old one is deleted, its last use shows that nobody has it any more."""
        text, _ = await core.accounts.services.create_secret(BILLING)
        assert await self.used(core) == [None, None]
        await login(core, secret)
        first = clock.now
        assert await self.used(core) == [first, None]
        clock.advance(HOUR)
        await core.credentials.authenticate_client(BILLING, text)
        assert await self.used(core) == [first, clock.now]

    async def test_it_is_written_once_a_minute(
        self, core: Core, clock: FakeClock, secret: str, pool: Any
    ) -> None:
        """However often the secret is used, and by however many at once."""
        versions = set()
        for _ in range(3):
            for _ in range(4):
                await asyncio.gather(*(login(core, secret) for _ in range(5)))
                await core.shielded.drain()
                versions.add(await pool.fetchval("SELECT xmin FROM service_account_secrets"))
                clock.advance(MINUTE / 5)
            clock.advance(MINUTE / 5)
        assert len(versions) == 3

    async def test_no_login_waits_for_it(self, core: Core, secret: str, database_url: str) -> None:
        """Nor fails, if it cannot be written."""
        holder = await asyncpg.connect(database_url)
        async with holder.transaction():
            await holder.execute("LOCK TABLE service_account_secrets IN SHARE MODE")
            assert core.active(await login(core, secret))
            assert core.active(await login(core, secret))
        await holder.close()
        assert (await self.used(core))[0] is not None

    async def test_within_the_minute_nothing_is_sent(
        self, core: Core, secret: str, database_url: str
    ) -> None:
        """A write that is sent would wait for the lock."""
        await login(core, secret)
        await core.shielded.drain()
        holder = await asyncpg.connect(database_url)
        async with asyncio.timeout(TIMEOUT), holder.transaction():
            await holder.execute("LOCK TABLE service_account_secrets IN SHARE MODE")
            await login(core, secret)
            async with asyncio.timeout(1):  # nothing is under way, so this does not even wait
                await core.shielded.drain()
        await holder.close()

    async def test_a_refused_login_is_no_use(self, core: Core, secret: str) -> None:
        """A wrong secret, or a disabled account."""
        with pytest.raises(InvalidCredentials):
            await login(core, secret + "x")
        await core.accounts.services.set_disabled(BILLING, True)
        with pytest.raises(InvalidCredentials):
            await login(core, secret)
        assert await self.used(core) == [None]


class TestLife:
    async def test_an_update_replaces_what_it_names(self, core: Core, secret: str) -> None:
        """Tokens from before keep theirs."""
        before = core.claims(await login(core, secret))
        services = core.accounts.services
        account = await services.update(BILLING, roles=["staff", "staff"])
        assert (account.roles, account.scope) == (("staff",), ("read",))
        account = await services.update("BILLING", scope=[])
        assert (account.roles, account.scope) == (("staff",), ())
        assert (before.roles, before.scope) == (("verifier",), ("read",))
        claims = core.claims(await login(core, secret))
        assert (claims.roles, claims.scope) == (("staff",), ())

    async def test_a_disabled_account_has_nothing_until_enabled(
        self, core: Core, secret: str
    ) -> None:
        """Its tokens end; once it is enabled again, it logs in at once."""
        token = await login(core, secret)
        for _ in range(2):  # twice is no mistake
            await core.accounts.services.set_disabled(BILLING, True)
        assert core.verdict(token).inactive_reason is InactiveReason.USER_REVOKED
        assert (await core.accounts.services.get(BILLING)).disabled
        with pytest.raises(InvalidCredentials):
            await login(core, secret)
        await core.accounts.services.set_disabled(BILLING, False)
        assert core.active(await login(core, secret))
        assert not core.active(token)

    async def test_a_deleted_account_leaves_nothing(
        self, core: Core, secret: str, pool: Any
    ) -> None:
        """Its tokens end, and so do its secrets; another may take its id within the second."""
        token = await login(core, secret)
        await core.accounts.services.delete(BILLING)
        assert core.verdict(token).inactive_reason is InactiveReason.USER_REVOKED
        assert await pool.fetchval("SELECT count(*) FROM service_account_secrets") == 0
        with pytest.raises(InvalidCredentials):
            await login(core, secret)
        other = await core.accounts.services.create(BILLING)
        with pytest.raises(InvalidCredentials):
            await login(core, secret)
        assert core.active(await login(core, other))
        assert not core.active(token)
        assert not await pool.fetchval("SELECT disables FROM revocations")

    async def test_its_tokens_end_at_once_and_it_logs_in_at_once(
        self, core: Core, secret: str
    ) -> None:
        """Again and again within a second: each time everything from before ends."""
        ended: list[str] = []
        for _ in range(3):
            ended.append(await login(core, secret))
            assert core.active(ended[-1])
            await core.accounts.services.revoke_tokens(BILLING)
            assert not any(map(core.active, ended))
        assert core.active(await login(core, secret))

    @pytest.mark.parametrize("change", ["disable", "delete", "revoke_tokens"])
    async def test_a_login_while_the_change_waits_does_not_outlive_it(
        self, core: Core, clock: FakeClock, secret: str, database_url: str, change: str
    ) -> None:
        """The login read the account before the commit, which comes seconds after the bound."""
        services = core.accounts.services
        changes: dict[str, Callable[[], Awaitable[None]]] = {
            "disable": lambda: services.set_disabled(BILLING, True),
            "delete": lambda: services.delete(BILLING),
            "revoke_tokens": lambda: services.revoke_tokens(BILLING),
        }
        await login(core, secret)
        await core.shielded.drain()
        holder = await asyncpg.connect(database_url)
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        async with asyncio.timeout(TIMEOUT), holder.transaction():
            await holder.execute("SELECT FROM service_accounts FOR UPDATE")
            changing = asyncio.ensure_future(changes[change]())
            while not await holder.fetchval(waiting):
                await asyncio.sleep(0)
            clock.advance(3 * SECOND)
            token = await login(core, secret)
            assert core.active(token)
        await changing
        await holder.close()
        assert core.verdict(token).inactive_reason is InactiveReason.USER_REVOKED

    async def test_accounts_are_listed_in_pages(self, core: Core) -> None:
        """By id, with their secrets."""
        names = sorted(f"service-{number}" for number in range(5))
        for name in names:
            await core.accounts.services.create(name)
        found: list[ServiceAccount] = []
        while page := await core.accounts.services.list(2, found[-1].client_id if found else None):
            found += page
        assert [account.client_id for account in found] == names
        assert [len(account.secrets) for account in found] == [1] * 5

    async def test_an_unknown_account_is_not_found(self, core: Core, pool: Any) -> None:
        """And nothing is written."""
        services = core.accounts.services
        calls = (
            services.get("nobody"),
            services.update("nobody", roles=[]),
            services.set_disabled("nobody", True),
            services.set_disabled("nobody", False),
            services.delete("nobody"),
            services.create_secret("nobody"),
            services.delete_secret("nobody", uuid4()),
            services.revoke_tokens("nobody"),
        )
        for call in calls:
            with pytest.raises(NotFound):
                await call
        assert await audited(pool) == []
        assert await pool.fetchval("SELECT count(*) FROM revocations") == 0

    async def test_each_change_is_audited_once(
        self, core: Core, clock: FakeClock, secret: str, pool: Any
    ) -> None:
        """With the account, and the secret if it is about one."""
        services = core.accounts.services
        (first,) = await ids(core)
        _, second = await services.create_secret(BILLING)
        changes = (
            services.update(BILLING, roles=["staff"]),
            services.set_disabled(BILLING, True),
            services.set_disabled(BILLING, False),
            services.revoke_tokens(BILLING),
            services.delete_secret(BILLING, first),
            services.delete(BILLING),
        )
        for change in changes:
            clock.advance(SECOND)
            await change
        assert await audited(pool) == [
            ("service_account.created", BILLING, None),
            ("service_account.secret_created", BILLING, second.id),
            ("service_account.updated", BILLING, None),
            ("service_account.disabled", BILLING, None),
            ("service_account.enabled", BILLING, None),
            ("service_account.tokens_revoked", BILLING, None),
            ("service_account.secret_deleted", BILLING, first),
            ("service_account.deleted", BILLING, None),
        ]
        assert await pool.fetchval("SELECT count(*) FROM audit_log") == 8


class TestReleaseBefore:
    """Replicas of the release before run on the new schema during a rolling update."""

    async def test_an_account_that_they_add_opens(self, core: Core, pool: Any) -> None:
        """They know one secret, in a column of the account."""
        await pool.execute(
            "INSERT INTO service_accounts (client_id, secret_hash, roles, scope, disabled, "
            "created_at) VALUES ($1, $2, '{}', '{}', false, now())",
            BILLING,
            secret_hash("old"),
        )
        assert core.active(await login(core, "old"))

    async def test_they_accept_the_oldest_secret_that_does_not_expire(
        self, core: Core, clock: FakeClock, secret: str, pool: Any
    ) -> None:
        """And none that is deleted: they know no expiry."""
        known = "SELECT secret_hash FROM service_accounts"
        services = core.accounts.services
        assert await pool.fetchval(known) == secret_hash(secret)
        (first,) = await ids(core)
        text, second = await services.create_secret(BILLING)
        assert await pool.fetchval(known) == secret_hash(secret)
        clock.advance(SECOND)
        await services.delete_secret(BILLING, first)
        assert await pool.fetchval(known) == secret_hash(text)
        await services.create_secret(BILLING, clock.now + HOUR)
        await services.delete_secret(BILLING, second.id)
        assert await pool.fetchval(known) == ""
