"""The workload of `make chaos` notices what a service forgets."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.acceptance.conftest import StartServer
from tests.acceptance.servers import eventually
from tests.chaos.audit import audit
from tests.chaos.fleet import USERS, create_users
from tests.chaos.model import Model
from tests.chaos.row import Row, table

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


def test_an_experiment_that_injects_nothing_fails() -> None:
    """A fault that did not take place proves nothing."""
    assert Row("nothing").broken() == ["nothing was injected"]
    assert Row("a fault", times=1).broken() == []


def test_an_internal_error_breaks_a_promise() -> None:
    """Whatever fails, clients see an error that they can retry."""
    row = Row("a fault", times=1)
    row.errors.update(["UNAVAILABLE", "UNKNOWN"])
    assert row.broken() == ["1 UNKNOWN"]
