"""A network that delays, drops and half-closes, before the service and behind it."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tests.chaos.audit import audit
from tests.chaos.fleet import USERS, Fleet, open_fleet
from tests.chaos.kills import audited
from tests.chaos.link import Link
from tests.chaos.model import Model
from tests.chaos.row import Row

__all__ = ["cuts", "database_link", "service_links"]

FAULT_SECONDS = 2.0


async def database_link(times: int) -> list[Row]:
    """Break the connections between the service and PostgreSQL in each way."""
    rows = []
    async with open_fleet() as fleet:
        links = [fleet.database.link]
        for fault in FAULTS:
            row = Row(f"between service and PostgreSQL: {fault}")
            async with audited(row, fleet) as model:
                await _break(row, model, links, fault, times)
            rows.append(row)
    return rows


async def service_links(times: int) -> list[Row]:
    """Break the connections between the clients and the service in each way."""
    rows = []
    async with open_fleet() as fleet:
        for fault in FAULTS:
            row = Row(f"between client and service: {fault}")
            async with _links(fleet) as links:
                addresses = [f"127.0.0.1:{link.port}" for link in links]
                model = Model(row, addresses, USERS)
                async with model.running():
                    await _break(row, model, links, fault, times)
                await audit(model, fleet.database.direct_url)
            rows.append(row)
    return rows


async def cuts(times: int, seconds: float) -> Row:
    """Reset random connections of the feed and of all others to PostgreSQL, at random moments."""
    row = Row("the feed and all other connections to PostgreSQL cut")
    async with open_fleet() as fleet, audited(row, fleet) as model:
        deadline = time.monotonic() + seconds
        while row.times < times and time.monotonic() < deadline:
            assert await fleet.database.link.drop(), "no connection was there to cut"
            row.recovered(await model.write())
            await asyncio.sleep(random.uniform(0, 0.1))
    return row


async def _break(row: Row, model: Model, links: Sequence[Link], fault: str, times: int) -> None:
    for _ in range(times):
        await FAULTS[fault](links)
        for link in links:
            link.delay = 0.0
            await link.restore()
        row.recovered(await model.write())
        await asyncio.sleep(0.5)


async def _delayed(links: Sequence[Link]) -> None:
    for link in links:
        link.delay = 0.1
    await asyncio.sleep(FAULT_SECONDS)
    assert sum(link.delayed for link in links) > 0, "no data was late"


async def _hanging(links: Sequence[Link]) -> None:
    for link in links:
        link.hang()
    await asyncio.sleep(FAULT_SECONDS)
    assert sum(link.held for link in links) > 0, "no data was withheld"


async def _refused(links: Sequence[Link]) -> None:
    assert sum([await link.cut() for link in links]) > 0, "no connection was there"
    await asyncio.sleep(FAULT_SECONDS)


async def _reset(links: Sequence[Link]) -> None:
    assert sum([await link.drop() for link in links]) > 0, "no connection was there"


async def _half_closed(links: Sequence[Link]) -> None:
    assert sum(link.half_close() for link in links) > 0, "no connection was there"
    await asyncio.sleep(FAULT_SECONDS)


FAULTS = {
    "delayed by 100 ms": _delayed,
    "all data withheld for 2 s": _hanging,
    "cut and refused for 2 s": _refused,
    "reset": _reset,
    "half-closed": _half_closed,
}


@asynccontextmanager
async def _links(fleet: Fleet) -> AsyncIterator[list[Link]]:
    links = []
    try:
        for address in fleet.addresses:
            host, port = address.split(":")
            links.append(Link((host, int(port))))
            await links[-1].open()
        yield links
    finally:
        for link in links:
            with contextlib.suppress(OSError):
                await link.close()
