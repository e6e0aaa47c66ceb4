"""Passkeys: added after a recent login, as second factor and alone, on a real PostgreSQL."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from auth_service.core.second_factors import FactorProof
from auth_service.db.store import Store
from auth_service.errors import AlreadyExists, AuthError, InvalidArgument, InvalidCredentials
from auth_service.models import FactorKind
from tests.clock import FakeClock
from tests.integration.core import Core, make_core
from tests.integration.passkey import Passkey
from tests.integration.test_second_factors import challenged

ORIGIN = "https://auth.test"


@dataclass
class Device:
    """A device of ada's with a passkey."""

    core: Core
    key: Passkey

    async def add(self, name: str = "") -> list[str]:
        """Add the passkey after a login by password; return the recovery codes."""
        claims = self.core.claims((await self.core.login()).access_token)
        options, token, _ = await self.core.factors.begin_passkey(claims)
        made = self.key.create(options)
        return (await self.core.factors.confirm_passkey(claims, token, made, name))[1]

    def answer(self, options: str, **changes: bytes) -> FactorProof:
        """Return what completes a login."""
        return FactorProof(FactorKind.PASSKEY, self.key.get(options, **changes))

    async def logged_in(self) -> Any:
        """Log in with password and passkey; return the claims."""
        challenge = await challenged(self.core.login())
        proof = self.answer(challenge.passkey_options)
        pair = await self.core.sessions.login_factor(challenge.token, proof)
        return self.core.claims(pair.access_token)


@pytest.fixture
async def core(store: Store, clock: FakeClock) -> AsyncIterator[Core]:
    """The rules, with a user ada."""
    core = make_core(store, clock)
    await core.user()
    yield core
    core.hasher.close()


@pytest.fixture
async def device(core: Core) -> Device:
    """A device whose passkey was added."""
    device = Device(core, Passkey(ORIGIN))
    await device.add("laptop")
    return device


async def test_a_passkey_is_the_second_factor_of_a_password(core: Core, device: Device) -> None:
    """Which cannot be phished: `acr` tells."""
    challenge = await challenged(core.login())
    assert challenge.factors == (FactorKind.RECOVERY_CODE, FactorKind.PASSKEY)
    asked = json.loads(challenge.passkey_options)
    assert (asked["rpId"], len(asked["allowCredentials"])) == ("auth.test", 1)
    claims = await device.logged_in()
    assert (claims.amr, claims.acr) == (("pwd", "pop", "mfa"), "phr")
    (factor,), codes = await core.factors.owned(claims)
    assert (factor.kind, factor.name, codes) == (FactorKind.PASSKEY, "laptop", 10)
    assert factor.last_used_at is not None


async def test_a_passkey_alone_logs_its_user_in(core: Core, device: Device) -> None:
    """On the terms of the request, where it has verified its user."""
    issued = core.sessions.begin_passkey_login(scope=["read"], client_id="browser")
    asked = json.loads(issued.passkey_options)
    assert (asked.get("allowCredentials", []), asked["userVerification"]) == ([], "required")
    pair = await core.sessions.login_factor(issued.token, device.answer(issued.passkey_options))
    claims = core.claims(pair.access_token)
    assert claims.subject == str((await core.accounts.get_user("ada@example.com")).id)
    assert (claims.amr, claims.acr, claims.scope) == (("pop", "mfa"), "phr", ("read",))


async def test_without_verification_of_its_user_a_passkey_is_one_factor(core: Core) -> None:
    """It is good after a password, and not alone."""
    device = Device(core, Passkey(ORIGIN, verifies=False))
    await device.add()
    assert (await device.logged_in()).acr == "phr"
    issued = core.sessions.begin_passkey_login()
    with pytest.raises(InvalidCredentials):
        await core.sessions.login_factor(issued.token, device.answer(issued.passkey_options))


@pytest.mark.parametrize("counts", [True, False], ids=["counter", "no-counter"])
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "second"])
async def test_of_many_calls_with_one_answer_one_succeeds(
    core: Core, counts: bool, alone: bool
) -> None:
    """Many passkeys have no counter, so the challenge is used up."""
    device = Device(core, Passkey(ORIGIN, counts=counts))
    await device.add()
    begun = core.sessions.begin_passkey_login() if alone else await challenged(core.login())
    proof = device.answer(begun.passkey_options)
    answers = await asyncio.gather(
        *(core.sessions.login_factor(begun.token, proof) for _ in range(4)),
        return_exceptions=True,
    )
    assert [type(a) for a in answers if isinstance(a, Exception)] == [InvalidCredentials] * 3


async def test_a_copy_of_a_passkey_is_refused(core: Core, device: Device) -> None:
    """Its counter is behind that of the original."""
    await device.logged_in()
    device.key.counter = 0
    challenge = await challenged(core.login())
    with pytest.raises(InvalidCredentials):
        await core.sessions.login_factor(challenge.token, device.answer(challenge.passkey_options))


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "second"])
async def test_an_answer_that_is_not_good_is_refused(
    core: Core, device: Device, alone: bool
) -> None:
    """Another page's, another challenge's, another signature, another user or an unknown key."""

    async def begin() -> Any:
        return core.sessions.begin_passkey_login() if alone else await challenged(core.login())

    other = await begin()
    stranger = Passkey(ORIGIN)
    stranger.create(json.dumps({"challenge": "", "rp": {"id": "auth.test"}, "user": {"id": ""}}))
    device.key.origin = "https://evil.test"
    phished = device.answer((begun := await begin()).passkey_options)
    device.key.origin = ORIGIN
    wrong = [
        phished,
        device.answer(other.passkey_options),
        device.answer(begun.passkey_options, signature=b"0" * 70),
        device.answer(begun.passkey_options, authenticatorData=b"short"),
        device.answer(begun.passkey_options, clientDataJSON=b"\xff{"),
        device.answer(begun.passkey_options, userHandle=bytes(16)),
        FactorProof(FactorKind.PASSKEY, stranger.get(begun.passkey_options)),
    ]
    for proof in wrong[:4] if not alone else wrong:
        with pytest.raises(InvalidCredentials):
            await core.sessions.login_factor(begun.token, proof)
    await core.sessions.login_factor(begun.token, device.answer(begun.passkey_options))


@pytest.mark.parametrize(
    "response",
    ["", "{", "[]", '{"id": 1}', "9" * 20_000, '{"id": "a", "rawId": "a", "response": {}}'],
    ids=["empty", "broken", "list", "number", "long", "bare"],
)
async def test_what_is_no_answer_of_a_browser_is_told(
    core: Core, device: Device, response: str
) -> None:
    """At a login and at the enrollment."""
    claims = await device.logged_in()
    issued = core.sessions.begin_passkey_login()
    _, token, _ = await core.factors.begin_passkey(claims)
    calls = [
        core.sessions.login_factor(issued.token, FactorProof(FactorKind.PASSKEY, response)),
        core.factors.confirm_passkey(claims, token, response),
    ]
    for call in calls:
        with pytest.raises(InvalidArgument) as caught:
            await call
        assert caught.value.violations[0].field == "passkey_response"


async def test_a_passkey_is_added_once_for_its_own_challenge_and_page(
    core: Core, device: Device
) -> None:
    """The browser is told which ones it need not make again."""
    claims = await device.logged_in()
    options, token, _ = await core.factors.begin_passkey(claims)
    assert len(json.loads(options)["excludeCredentials"]) == 1
    again = device.key.create(options)
    other = Passkey("https://evil.test")
    foreign, replayed = other.create(options), Passkey(ORIGIN).create(options)
    _, second, _ = await core.factors.begin_passkey(claims)
    cases: list[tuple[str, str, type[AuthError]]] = [
        (token, again, AlreadyExists),
        (token, foreign, InvalidArgument),
        (second, replayed, InvalidArgument),
    ]
    for of, response, error in cases:
        with pytest.raises(error):
            await core.factors.confirm_passkey(claims, of, response)
    _, codes = await core.factors.confirm_passkey(claims, token, replayed)
    assert codes == []  # there are some already


@pytest.mark.parametrize("kind", [FactorKind.TOTP, FactorKind.RECOVERY_CODE])
async def test_no_code_answers_a_challenge_that_names_nobody(
    core: Core, device: Device, kind: FactorKind
) -> None:
    """Only a passkey tells whose it is."""
    issued = core.sessions.begin_passkey_login()
    value = "123456" if kind is FactorKind.TOTP else "a" * 24
    with pytest.raises(InvalidCredentials):
        await core.sessions.login_factor(issued.token, FactorProof(kind, value))


async def test_a_disabled_user_and_a_deleted_passkey_log_in_no_more(
    core: Core, device: Device
) -> None:
    """Though the answer is good."""
    claims = await device.logged_in()
    user = await core.accounts.get_user("ada@example.com")
    await core.accounts.set_disabled(user.id, True)
    issued = core.sessions.begin_passkey_login()
    with pytest.raises(InvalidCredentials):
        await core.sessions.login_factor(issued.token, device.answer(issued.passkey_options))
    await core.accounts.set_disabled(user.id, False)
    (factor,), _ = await core.factors.owned(claims)
    await core.factors.delete(claims, factor.id)
    issued = core.sessions.begin_passkey_login()
    with pytest.raises(InvalidCredentials):
        await core.sessions.login_factor(issued.token, device.answer(issued.passkey_options))
