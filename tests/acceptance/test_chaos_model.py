"""The workload of `make chaos` notices what a service forgets."""

import asyncio
import time
from collections.abc import AsyncIterator

import asyncpg
import pytest

from auth_service.client import LocalVerifier
from tests.acceptance.conftest import StartServer
from tests.acceptance.servers import KEYS, eventually
from tests.chaos.audit import audit
from tests.chaos.fleet import USERS, create_users
from tests.chaos.model import STALENESS, Model
from tests.chaos.row import Row, table
from tests.chaos.verifiers import ISSUER, Asker

SABOTAGE = {
    "DELETE FROM sessions WHERE revoked_at IS NULL": {"lost", "logged_out"},
    "UPDATE sessions SET revoked_at = NULL": {"came_back"},
}


@pytest.fixture
async def model(start_server: StartServer, database_url: str) -> AsyncIterator[Model]:
    """A model whose clients have logged in, refreshed, validated and revoked, and have ended."""
    await create_users(database_url)
    server = await asyncio.to_thread(start_server)
    model = Model(Row("nothing", times=1), [server.address], USERS[:4])

    async def enough() -> bool:
        sessions = [each for each in model.revoked if not each.token_only]
        return len(sessions) >= 2 and any(each.parent for each in model.live)

    async with model.running():
        await eventually(enough, what="sessions are refreshed and revoked")
    yield model
    await model.client.close()


async def test_a_service_that_keeps_its_promises_breaks_none(
    model: Model, database_url: str
) -> None:
    """Nothing is lost, forked, wrong or logged out."""
    await audit(model, database_url)
    assert model.row.broken() == []
    assert model.row.calls > len(model.live) + len(model.revoked)
    assert table([model.row]).splitlines()[-1].endswith("| yes |")


@pytest.mark.parametrize(("sabotage", "found"), SABOTAGE.items(), ids=["forgets", "revives"])
async def test_a_service_that_forgets_is_found_out(
    model: Model, database_url: str, sabotage: str, found: set[str]
) -> None:
    """Sessions that vanished are lost, and revoked ones that work again came back."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(sabotage)
    await connection.close()
    await audit(model, database_url)
    counts = ("lost", "forked", "logged_out", "wrong", "came_back")
    broken = {name for name in counts if getattr(model.row, name)}
    assert broken
    assert broken <= found
    assert model.row.broken()


async def test_a_verifier_that_hears_of_no_revocation_is_found_out(model: Model) -> None:
    """A token that it still takes after the stated staleness is a wrong verdict."""
    row = Row("nothing")
    asker = Asker(row, LocalVerifier(issuer=ISSUER, shared_key=KEYS["AUTH_SHARED_KEY"]))
    session = model.revoked[0]
    assert session.revoked_at is not None
    session.revoked_at = time.monotonic() - STALENESS + 1
    asker.ask(session)
    assert row.wrong == 0
    session.revoked_at -= 1
    asker.ask(session)
    assert row.wrong == 1


async def test_a_verifier_that_refuses_a_live_token_is_found_out(model: Model) -> None:
    """No fault makes the token of a session that nobody has ended invalid."""
    row = Row("nothing")
    asker = Asker(row, LocalVerifier(issuer="https://another", shared_key=KEYS["AUTH_SHARED_KEY"]))
    asker.ask(model.live[0])
    assert row.wrong == 1


async def test_a_verifier_that_forgets_a_revocation_is_found_out(
    model: Model, start_server: StartServer
) -> None:
    """A token that it has refused as revoked must stay so."""
    row, key = Row("nothing"), KEYS["AUTH_SHARED_KEY"]
    server = await asyncio.to_thread(start_server)
    async with LocalVerifier(issuer=ISSUER, addresses=[server.address], shared_key=key) as verifier:
        asker = Asker(row, verifier)
        asker.ask(model.revoked[0])
    assert row.broken() == ["nothing was injected"]
    asker.verifier = LocalVerifier(issuer=ISSUER, shared_key=key)  # it has no address to hear from
    asker.ask(model.revoked[0])
    assert row.came_back == 1


def test_an_experiment_that_injects_nothing_fails() -> None:
    """A fault that did not take place proves nothing."""
    assert Row("nothing").broken() == ["nothing was injected"]
    assert Row("a fault", times=1).broken() == []


def test_an_internal_error_breaks_a_promise() -> None:
    """Whatever fails, clients see an error that they can retry."""
    row = Row("a fault", times=1)
    row.errors.update(["UNAVAILABLE", "UNKNOWN"])
    assert row.broken() == ["1 UNKNOWN"]
