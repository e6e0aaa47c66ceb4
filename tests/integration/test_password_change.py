"""A password that has to be replaced, and is replaced by a login, on a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from auth_service.core.second_factors import SecondFactorRequired
from auth_service.db.store import Store
from auth_service.errors import (
    InvalidArgument,
    InvalidCredentials,
    InvalidGrant,
    PasswordChangeRequired,
    WeakPassword,
)
from auth_service.models import TokenPair, User
from tests.clock import FakeClock
from tests.integration.authenticator import STEP, enroll
from tests.integration.core import PASSWORD, Core, make_core

ADA = "ada@example.com"
NEW_PASSWORD = "an even better battery staple"


@pytest.fixture
async def core(store: Store, clock: FakeClock) -> AsyncIterator[Core]:
    core = make_core(store, clock)
    yield core
    core.hasher.close()


@pytest.fixture
async def ada(core: Core) -> User:
    """A user who has a session, and has to change the password at the next login."""
    user = await core.user()
    await core.login()
    await core.accounts.users.require_password_change(user.id)
    return user


async def change(core: Core, new: str = NEW_PASSWORD, password: str = PASSWORD) -> TokenPair:
    """Log in with a password and a new one."""
    return await core.sessions.login_password(ADA, password, new_password=new)


async def test_only_the_right_password_learns_of_it(core: Core, ada: User) -> None:
    """However often it is tried, without using up attempts."""
    for _ in range(12):
        with pytest.raises(PasswordChangeRequired):
            await core.login()
    for new in ("", NEW_PASSWORD):
        with pytest.raises(InvalidCredentials):
            await change(core, new, "a wrong password of some length")


async def test_the_login_with_a_new_password_replaces_it(core: Core, ada: User, pool: Any) -> None:
    """Once; other sessions end, the new one is good, and the old password is not."""
    (other,) = await core.accounts.list_sessions(ada.id)
    pair = await change(core)
    assert core.active((await core.sessions.refresh(pair.refresh_token)).access_token)
    (own,) = await core.accounts.list_sessions(ada.id)
    assert own.id != other.id
    assert not (await core.accounts.get_user(ADA)).password_change_required
    for new in ("", "yet another battery staple"):
        with pytest.raises(InvalidCredentials):
            await change(core, new)
    assert core.active((await change(core, "", NEW_PASSWORD)).access_token)
    changed = "SELECT count(*) FROM audit_log WHERE event = 'user.password_changed'"
    assert await pool.fetchval(changed) == 1


@pytest.mark.parametrize("new", ["short", PASSWORD, ADA * 3])
async def test_a_weak_new_password_changes_nothing(core: Core, ada: User, new: str) -> None:
    """Nor does the present one; the field is named."""
    with pytest.raises(WeakPassword) as refused:
        await change(core, new)
    assert refused.value.violations[0].field == "new_password"
    assert core.active((await change(core)).access_token)


async def test_nobody_else_changes_a_password_by_a_login(core: Core) -> None:
    """A stolen password does not lock its owner out."""
    await core.user()
    with pytest.raises(InvalidArgument):
        await change(core)
    assert core.active((await core.login()).access_token)


async def test_of_parallel_changes_one_wins(store: Store, clock: FakeClock) -> None:
    """The password is that of the one whose session is alive."""
    core = make_core(store, clock, login_burst=100)
    user = await core.user()
    await core.accounts.users.require_password_change(user.id)
    passwords = [f"battery staple number {n}" for n in range(6)]
    answers = await asyncio.gather(
        *(change(core, new) for new in passwords), return_exceptions=True
    )
    (winner,) = [n for n, each in enumerate(answers) if isinstance(each, TokenPair)]
    assert core.active((await change(core, "", passwords[winner])).access_token)
    core.hasher.close()


async def test_a_second_factor_comes_before_the_change(core: Core, clock: FakeClock) -> None:
    """The password alone changes nothing, however both steps are called."""
    user = await core.user()
    app = await enroll(core, clock)
    await core.accounts.users.require_password_change(user.id)
    with pytest.raises(PasswordChangeRequired):
        await core.login()
    with pytest.raises(SecondFactorRequired) as asked:
        await change(core)
    token = asked.value.challenge.token
    assert (await core.accounts.get_user(ADA)).password_change_required
    with pytest.raises(PasswordChangeRequired):
        await core.sessions.login_factor(token, app.proof(clock.now))
    clock.advance(STEP)
    pair = await core.sessions.login_factor(token, app.proof(clock.now), new_password=NEW_PASSWORD)
    assert core.claims(pair.access_token).acr == "2fa"
    with pytest.raises(InvalidCredentials):
        await core.login()


async def test_a_sign_out_ends_a_challenge_before_the_change(core: Core, clock: FakeClock) -> None:
    """The new password of an administrator is not replaced by who had proved the old one."""
    user = await core.user()
    app = await enroll(core, clock)
    await core.accounts.users.require_password_change(user.id)
    with pytest.raises(SecondFactorRequired) as asked:
        await change(core)
    await core.accounts.set_password(
        user.id, "the password of the administrator", change_required=True
    )
    token = asked.value.challenge.token
    with pytest.raises(InvalidCredentials):
        await core.sessions.login_factor(token, app.proof(clock.now), new_password=NEW_PASSWORD)
    assert (await core.accounts.get_user(ADA)).password_change_required


async def test_the_demand_ends_no_session_and_is_met_within_one(core: Core, ada: User) -> None:
    """AccountService.ChangePassword meets it, and it can be taken back."""
    await core.accounts.users.require_password_change(ada.id, required=False)
    pair = await core.login()
    await core.accounts.users.require_password_change(ada.id)
    refreshed = await core.sessions.refresh(pair.refresh_token)
    claims = core.claims(refreshed.access_token)
    await core.accounts.change_password(claims, PASSWORD, NEW_PASSWORD)
    assert core.active((await change(core, "", NEW_PASSWORD)).access_token)


async def test_a_password_of_the_administrator_may_be_for_once(core: Core) -> None:
    """And one without that demand takes an earlier demand back."""
    user = await core.user()
    pair = await core.login()
    await core.accounts.set_password(user.id, NEW_PASSWORD, change_required=True)
    with pytest.raises(InvalidGrant):
        await core.sessions.refresh(pair.refresh_token)
    with pytest.raises(PasswordChangeRequired):
        await change(core, "", NEW_PASSWORD)
    await core.accounts.set_password(user.id, PASSWORD)
    assert core.active((await core.login()).access_token)
