"""Password policy, argon2id, and what a flood of logins meets."""

import asyncio
from collections.abc import Iterator

import pytest

from auth_service.core.passwords import (
    Argon2Profile,
    PasswordHasher,
    check_policy,
    normalise_password,
)
from auth_service.errors import InvalidArgument, RateLimited, WeakPassword

CHEAP = Argon2Profile(memory_kib=8, time_cost=1)


@pytest.fixture
def hasher() -> Iterator[PasswordHasher]:
    """One worker, and a queue of one."""
    hasher = PasswordHasher(CHEAP, workers=1, queue=1)
    yield hasher
    hasher.close()


def test_the_default_cost_is_the_owasp_minimum() -> None:
    """19 MiB, two passes, one lane."""
    assert Argon2Profile() == Argon2Profile(memory_kib=19 * 1024, time_cost=2, parallelism=1)


def test_a_short_password_is_weak() -> None:
    """The policy is a length, counted in characters of the normal form."""
    check_policy("fifteen letters", 15)
    with pytest.raises(WeakPassword, match=r"^new_password: must have 15 characters"):
        check_policy("fourteen chars", 15, "new_password")
    with pytest.raises(WeakPassword):
        check_policy("e\u0301" * 8, 15)


def test_composed_and_decomposed_are_one_password() -> None:
    """The same keys on two keyboards give the same password, and case still matters."""
    assert normalise_password("cafe\u0301") == normalise_password("caf\xe9") == "caf\xe9"
    assert normalise_password("A") != normalise_password("a")


@pytest.mark.parametrize("password", ["x" * 1025, "é" * 513, "a\ud800"])
def test_an_impossible_password_is_refused(password: str) -> None:
    """Too long in UTF-8, or not Unicode text: the error names the field, not the password."""
    with pytest.raises(InvalidArgument, match=r"^secret: ") as caught:
        check_policy(password, 1, "secret")
    assert password not in caught.value.text
    assert normalise_password("é" * 512) == "é" * 512


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
