"""The rules of the throttle: by source, network, identifier, and for who is known."""

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from auth_service.core.throttle import NOWHERE, LoginOrigin, Rate
from auth_service.db.store import Store
from auth_service.errors import InvalidCredentials, InvalidGrant, RateLimited
from auth_service.models import TokenPair
from tests.clock import FakeClock
from tests.integration.core import PASSWORD, Core, make_core, refresh_token, session_key

if TYPE_CHECKING:
    from auth_service.db.pool import Pool

ADA = "ada@example.com"
HOUR = timedelta(hours=1)
SOURCES = int(os.environ.get("AUTH_TEST_SOURCES", "1000"))
"""How many sources fill the table; 100,000 take a minute or two."""


def addresses(pattern: str) -> Iterable[str]:
    """Return addresses without end, `{}` in the pattern counts from 1."""
    return (pattern.format(n) for n in itertools.count(1))


async def guess(
    core: Core, address: str = "", identifier: str = ADA, **shown: Any
) -> type[Exception]:
    """Return how a wrong password is refused."""
    origin = LoginOrigin(address, **shown)
    with pytest.raises((InvalidCredentials, RateLimited)) as caught:
        await core.sessions.login_password(identifier, "wrong", origin=origin)
    return caught.type


async def tried(core: Core, address: str = "", limit: int = 30, **how: Any) -> int:
    """Return how many guesses are tried before one is refused."""
    for count in range(limit):
        if await guess(core, address, **how) is RateLimited:
            return count
    return limit


async def login(core: Core, address: str = "", **shown: Any) -> TokenPair:
    """Log ada in."""
    return await core.sessions.login_password(ADA, PASSWORD, origin=LoginOrigin(address, **shown))


@pytest.fixture
def core(store: Store, clock: FakeClock) -> Core:
    """Three failures for each network, nine for all networks, and no limit by source."""
    return make_core(store, clock, login_burst=3, login_refill=HOUR, networks=3)


@pytest.mark.parametrize(
    ("near", "far"),
    [
        ("198.51.100.{}", "198.51.101.1"),
        ("2001:db8:1:{}::1", "2001:db8:2::1"),
        ("::ffff:198.51.100.{}", "198.51.101.1"),
    ],
)
async def test_a_network_uses_up_its_own_attempts_only(core: Core, near: str, far: str) -> None:
    """A /24 of IPv4 or a /48 of IPv6, in which one may have many addresses."""
    await core.user()
    taken = [await guess(core, address) for address in itertools.islice(addresses(near), 5)]
    assert taken == [*[InvalidCredentials] * 3, *[RateLimited] * 2]
    assert (await login(core, far)).access_token
    with pytest.raises(RateLimited):
        await login(core, near.format(9))


async def test_all_networks_together_have_a_bound(core: Core) -> None:
    """A few times that of one; another identifier has its own."""
    await core.user()
    far = itertools.islice(addresses("198.51.{}.1"), 20)
    assert Counter([await guess(core, address) for address in far]) == {
        InvalidCredentials: 9,
        RateLimited: 11,
    }
    assert await guess(core, "203.0.113.1", "bob@example.com") is InvalidCredentials


@pytest.mark.parametrize(
    ("same", "other"),
    [
        (["198.51.100.1", "::ffff:198.51.100.1"], "198.51.100.2"),
        (["2001:db8::1", "2001:db8::2:1", "2001:db8:0:0:ffff::1"], "2001:db8:0:1::1"),
    ],
)
async def test_a_source_has_a_bound_over_all_identifiers(
    store: Store, clock: FakeClock, same: list[str], other: str
) -> None:
    """An IPv4 address, or an IPv6 /64; a neighbour is another one."""
    core = make_core(store, clock, source=Rate(4, HOUR))
    names = (f"user-{n}@example.com" for n in itertools.count())
    seen = [
        await guess(core, address, name) for address, name in zip(same * 3, names, strict=False)
    ]
    assert seen == [InvalidCredentials] * 4 + [RateLimited] * (len(seen) - 4)
    assert await guess(core, other, next(names)) is InvalidCredentials
    clock.advance(HOUR)
    assert await guess(core, same[0], next(names)) is InvalidCredentials
    assert await guess(core, same[0], next(names)) is RateLimited


@pytest.mark.parametrize("address", ["", "127.0.0.1", "127.9.9.9", "::1"])
async def test_who_stands_for_many_is_no_source(
    store: Store, clock: FakeClock, address: str
) -> None:
    """An unknown address, and loopback: a proxy whose clients nobody names."""
    core = make_core(store, clock, source=Rate(1, HOUR), login_burst=2, login_refill=HOUR)
    for n in range(3):
        assert await guess(core, address, f"user-{n}@example.com") is InvalidCredentials
    assert await tried(core, address) == 2


async def test_a_login_of_ones_own_gives_no_guesses_at_others(
    store: Store, clock: FakeClock
) -> None:
    """It gives its source and its identifier back one attempt: the one that it took."""
    core = make_core(store, clock, source=Rate(5, HOUR), login_burst=4, networks=1)
    await core.user()
    await core.user("bob@example.com")
    for _ in range(4):
        assert await guess(core, "198.51.100.1", "bob@example.com") is InvalidCredentials
    for _ in range(3):
        await login(core, "198.51.100.1")
    assert await guess(core, "198.51.100.1", "bob@example.com") is RateLimited
    assert await guess(core, "198.51.100.1") is InvalidCredentials
    assert await guess(core, "198.51.100.1") is RateLimited
    for _ in range(3):
        assert await guess(core, "203.0.113.1") is InvalidCredentials
    assert await guess(core, "203.0.113.1") is RateLimited


class TestWhoIsKnown:
    """A session or a device token of the account opens a bucket that strangers cannot use up."""

    @pytest.fixture
    async def pair(self, core: Core) -> TokenPair:
        """The tokens of ada, whose identifier strangers have used up."""
        await core.user()
        pair = await login(core, "203.0.113.1")
        for address in itertools.islice(addresses("198.51.{}.1"), 10):
            await guess(core, address)
        with pytest.raises(RateLimited):
            await login(core, "203.0.113.1")
        return pair

    @pytest.fixture(params=["refresh token", "device token", "access token"])
    def shown(self, request: pytest.FixtureRequest, pair: TokenPair) -> dict[str, Any]:
        """What the owner shows of the session."""
        if request.param == "access token":
            return {"session": session_key(pair)}
        name = request.param.replace(" ", "_")
        return {"shown": ("x", getattr(pair, name))}

    async def test_the_owner_logs_in(self, core: Core, shown: dict[str, Any]) -> None:
        """From wherever; a right password forgives the owner's own errors."""
        for address in ("203.0.113.1", "198.51.1.1", ""):
            assert await guess(core, address, **shown) is InvalidCredentials
            assert (await login(core, address, **shown)).access_token
        assert await tried(core, **shown) == 3

    async def test_a_thief_of_one_has_its_attempts_only(
        self, core: Core, pair: TokenPair, shown: dict[str, Any]
    ) -> None:
        """Another session of the owner has its own."""
        other = await login(core, **shown)
        assert await tried(core, **shown) == 3
        with pytest.raises(RateLimited):
            await login(core, **shown)
        assert (await login(core, shown=(other.device_token,))).access_token

    async def test_another_account_is_strange_to_it(
        self, core: Core, shown: dict[str, Any]
    ) -> None:
        """With the tokens of ada, bob is guessed at as by anybody."""
        assert await tried(core, "192.0.2.1", identifier="bob@example.com", **shown) == 3
        assert (await login(core, **shown)).access_token

    async def test_a_session_that_ended_is_known_by_its_device_only(
        self, core: Core, pair: TokenPair
    ) -> None:
        """A logout is no reason to be kept out."""
        await core.revoker.revoke_refresh_token(pair.refresh_token)
        for shown in ({"session": session_key(pair)}, {"shown": (pair.refresh_token,)}):
            with pytest.raises(RateLimited):
                await login(core, **shown)
        assert (await login(core, shown=(pair.refresh_token, pair.device_token))).access_token

    @pytest.mark.parametrize("how", ["signed out", "password", "own password", "disabled"])
    async def test_a_device_token_ends_with_all_that_the_user_had(
        self, core: Core, clock: FakeClock, pair: TokenPair, how: str
    ) -> None:
        """At once; the next login leaves a new one."""
        user = (await core.accounts.get_user(ADA)).id
        clock.advance(timedelta(seconds=1))
        password = PASSWORD
        if how == "signed out":
            await core.accounts.end_sessions(user)
        elif how == "password":
            await core.accounts.set_password(user, password := PASSWORD + "!")
        elif how == "own password":
            claims = core.claims(pair.access_token)
            await core.accounts.change_password(claims, PASSWORD, password := PASSWORD + "!")
        else:
            await core.accounts.set_disabled(user, True)
            await core.accounts.set_disabled(user, False)
        shown = LoginOrigin(shown=(pair.device_token,))
        with pytest.raises(RateLimited):
            await core.sessions.login_password(ADA, password, origin=shown)
        clock.advance(9 * HOUR)
        renewed = await core.sessions.login_password(ADA, password, origin=NOWHERE)
        assert await tried(core) == 3
        assert (
            await core.sessions.login_password(
                ADA, password, origin=LoginOrigin(shown=(renewed.device_token,))
            )
        ).access_token

    async def test_both_kinds_expire(self, core: Core, clock: FakeClock, pair: TokenPair) -> None:
        """A refresh token with its session, a device token half a year after the login."""
        clock.advance(timedelta(days=179))
        for address in itertools.islice(addresses("198.51.{}.1"), 10):
            await guess(core, address)
        with pytest.raises(RateLimited):
            await login(core, shown=(pair.refresh_token,))
        assert (await login(core, shown=(pair.device_token,))).access_token
        clock.advance(timedelta(days=1))
        for address in itertools.islice(addresses("198.51.{}.1"), 10):
            await guess(core, address)
        with pytest.raises(RateLimited):
            await login(core, shown=(pair.device_token,))

    async def test_a_token_of_another_key_or_user_opens_nothing(
        self, core: Core, pair: TokenPair
    ) -> None:
        """Nor does one that is used up, or too many to look at."""
        await core.user("bob@example.com")
        bob = await core.login("bob@example.com")
        body, _, signature = pair.device_token.rpartition(".")
        spoiled = f"{body}.{signature[::-1]}"
        used = refresh_token(pair.refresh_token, gen=7)
        for shown in (
            (bob.device_token, bob.refresh_token, spoiled, pair.access_token),
            (*["x"] * 4, pair.device_token),
        ):
            with pytest.raises(RateLimited):
                await login(core, shown=shown)
        with pytest.raises(InvalidGrant):
            await core.sessions.refresh(used)

    async def test_an_expired_session_is_no_reason(self, core: Core, pair: TokenPair) -> None:
        """Nor is one of a session that never was."""
        with pytest.raises(RateLimited):
            await login(core, session=(session_key(pair)[0], UUID(int=1)))


async def test_the_table_stays_bounded_whoever_tries_from_wherever(
    store: Store, clock: FakeClock, pool: "Pool"
) -> None:
    """By the number of slots, however many sources there are."""
    core = make_core(store, clock, login_refill=HOUR, source=Rate(10, HOUR), slots=64)
    numbers = iter(range(SOURCES))

    async def reserve() -> None:
        for n in numbers:
            address = str(IPv6Address((0x2001 << 112) + (n << 64)))
            with suppress(RateLimited):
                await core.throttle.reserve(f"user-{n}@example.com", LoginOrigin(address))

    await asyncio.gather(*(reserve() for _ in range(10)))
    rows = await pool.fetch("SELECT slot / 64 AS kind, count(*) FROM login_buckets GROUP BY 1")
    assert {row["kind"]: row["count"] for row in rows} == {0: 64, 1: 64, 2: 64}


def test_an_origin_shows_no_token() -> None:
    """Neither device tokens nor refresh tokens, wherever it is printed."""
    assert "secret" not in repr(LoginOrigin("198.51.100.1", ("secret",)))
