"""Tokens that are bound to a client certificate are of no use to anybody else (RFC 8705)."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.doors import Building, building

REPLAYS = int(os.environ.get("AUTH_TEST_REPLAYS", "10"))  # tokens, each at every door
DOORS = [name.removeprefix("door_") for name in vars(Building) if name.startswith("door_")]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Building]:
    """All doors; no test changes anything behind them."""
    directory: Path = tmp_path_factory.mktemp("house")
    async with building(module_database_url, directory) as made:
        yield made


@pytest.mark.parametrize("door", DOORS)
async def test_the_holder_passes(house: Building, door: str) -> None:
    """With the certificate, at the first sight of the token and once it is remembered."""
    token = house.token(house.holder)
    for _ in range(4):
        assert await house.doors[door](token, house.holder) == ""


@pytest.mark.parametrize("door", DOORS)
async def test_a_bearer_token_passes_with_any_certificate(house: Building, door: str) -> None:
    """And with none: nothing changes for tokens that are not bound."""
    token = house.token(None)
    for presenter in (None, house.thief, house.holder):
        assert await house.doors[door](token, presenter) == ""


@pytest.mark.parametrize("door", DOORS)
async def test_a_stolen_token_is_refused_at_every_door(house: Building, door: str) -> None:
    """With another certificate and with none, before and after the holder has used it."""
    passed, replays = 0, 0
    for number in range(REPLAYS):
        token = house.token(house.holder)
        if number % 2:
            for _ in range(3):
                assert await house.doors[door](token, house.holder) == ""
        for presenter in (house.thief, None, house.thief):
            refused = await house.doors[door](token, presenter)
            passed += refused == ""
            replays += 1
            assert "certificate" in refused
        assert await house.doors[door](token, house.holder) == ""
    assert (passed, replays) == (0, 3 * REPLAYS)
