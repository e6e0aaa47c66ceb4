"""argon2id, and what a flood of logins meets."""

import asyncio
from collections.abc import Iterator

import pytest
from argon2 import Parameters, profiles

from auth_service.core.passwords import DEFAULT_PROFILE, PROFILES, Argon2Profile, PasswordHasher
from auth_service.errors import InvalidArgument, RateLimited

CHEAP = Argon2Profile(memory_kib=8, time_cost=1)


@pytest.fixture
def hasher() -> Iterator[PasswordHasher]:
    """One worker, and a queue of one."""
    hasher = PasswordHasher(CHEAP, workers=1, queue=1)
    yield hasher
    hasher.close()


def test_the_profiles_are_those_of_their_sources() -> None:
    """RFC 9106 section 4, OWASP's Password Storage Cheat Sheet, and argon2-cffi's own constants."""
    first, second = profiles.RFC_9106_HIGH_MEMORY, profiles.RFC_9106_LOW_MEMORY
    assert PROFILES["rfc9106-first"] == _as_profile(first) == Argon2Profile(2**21, 1, 4)
    assert PROFILES["rfc9106-second"] == _as_profile(second) == Argon2Profile(2**16, 3, 4)
    owasp = {name: profile for name, profile in PROFILES.items() if name.startswith("owasp")}
    costs = [(each.memory_kib, each.time_cost, each.parallelism) for each in owasp.values()]
    assert costs == [(47104, 1, 1), (19456, 2, 1), (12288, 3, 1), (9216, 4, 1), (7168, 5, 1)]
    mebibytes = [f"owasp-{profile.memory_kib // 1024}mib" for profile in owasp.values()]
    assert mebibytes == list(owasp)
    assert PROFILES[DEFAULT_PROFILE] == Argon2Profile(19 * 1024, 2, 1)


def _as_profile(parameters: Parameters) -> Argon2Profile:
    return Argon2Profile(parameters.memory_cost, parameters.time_cost, parameters.parallelism)


async def test_a_hash_verifies_its_password_alone(hasher: PasswordHasher) -> None:
    """In either Unicode form."""
    hashed = await hasher.hash("caf\xe9 au lait")
    assert hashed.startswith("$argon2id$")
    assert await hasher.verify(hashed, "cafe\u0301 au lait")
    assert not await hasher.verify(hashed, "Caf\xe9 au lait")
    assert not await hasher.verify(hashed, "")


async def test_two_hashes_of_one_password_differ(hasher: PasswordHasher) -> None:
    """Each has its own salt."""
    assert await hasher.hash("same") != await hasher.hash("same")


@pytest.mark.parametrize("password", ["x", "no account has this password"])
async def test_no_account_never_matches(hasher: PasswordHasher, password: str) -> None:
    """Not even the password of the dummy hash."""
    assert not await hasher.verify(None, password)


async def test_a_damaged_hash_never_matches(hasher: PasswordHasher) -> None:
    """It is a failed login, not a crash."""
    assert not await hasher.verify("$argon2id$damaged", "x")


async def test_an_impossible_password_is_refused_and_frees_its_place(
    hasher: PasswordHasher,
) -> None:
    """After any number of attempts."""
    for _ in range(5):
        with pytest.raises(InvalidArgument):
            await hasher.verify(None, "x" * 1025)
    assert await hasher.hash("x")


async def test_a_hash_of_another_cost_needs_a_rehash(hasher: PasswordHasher) -> None:
    """Accounts move to the present profile as they log in."""
    dearer = PasswordHasher(Argon2Profile(memory_kib=16, time_cost=1), workers=1)
    hashed = await hasher.hash("x")
    assert not hasher.needs_rehash(hashed)
    assert dearer.needs_rehash(hashed)
    dearer.close()


async def test_a_flood_is_refused_at_once_and_passes(hasher: PasswordHasher) -> None:
    """Calls beyond worker and queue are refused; later calls are served again."""
    answers = await asyncio.gather(*[hasher.hash("x") for _ in range(5)], return_exceptions=True)
    assert [type(answer) for answer in answers] == [str, str, *[RateLimited] * 3]
    assert await hasher.hash("x")


async def test_a_cancelled_caller_keeps_its_place_until_the_work_is_done() -> None:
    """Cancelled calls let no flood past the bound, and their places become free again."""
    hasher = PasswordHasher(CHEAP, workers=1, queue=0)
    caller = asyncio.create_task(hasher.hash("x"))
    await asyncio.sleep(0)  # it takes its place
    caller.cancel()
    with pytest.raises(RateLimited):
        await hasher.hash("y")
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert await asyncio.wait_for(_once_free(hasher), timeout=30)
    hasher.close()


async def _once_free(hasher: PasswordHasher) -> str:
    while True:
        try:
            return await hasher.hash("y")
        except RateLimited:
            await asyncio.sleep(0)


async def test_closing_finishes_what_runs_and_drops_what_waits() -> None:
    """Shutting down does not wait for the queue."""
    hasher = PasswordHasher(Argon2Profile(memory_kib=8192, time_cost=4), workers=1)
    callers = [asyncio.create_task(hasher.hash("x")) for _ in range(20)]
    await asyncio.sleep(0)
    hasher.close()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(answers[-1], asyncio.CancelledError)


def test_without_a_number_of_workers_there_is_one_for_each_core() -> None:
    """The default profile applies if none is given."""
    PasswordHasher().close()
