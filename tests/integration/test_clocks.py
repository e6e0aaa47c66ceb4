"""The database's clock is the clock of every replica."""

from datetime import timedelta

import httpx
import pytest

from auth_service.clock import utc_now
from auth_service.serving.server import Server
from tests.acceptance.servers import Client, eventually, make_user
from tests.databases import set_clock
from tests.integration.core import payload
from tests.integration.serving import address, make_settings, query, running


async def test_a_server_on_a_machine_with_a_wrong_clock_never_says_that_it_serves(
    database_url: str,
) -> None:
    """Not even until the first of the periodic checks: none has run when `start` returns."""
    await set_clock(database_url, utc_now() - timedelta(seconds=30))
    server = Server(make_settings(database_url))
    await server.start()
    serving = server._health.serving
    await server.stop()
    assert not serving


@pytest.mark.parametrize("off", [timedelta(seconds=30), timedelta(hours=-1)])
async def test_a_server_on_a_machine_with_a_wrong_clock_says_so(
    database_url: str, off: timedelta
) -> None:
    """It is not ready, its metric tells by how much, and its tokens bear the database's time."""
    await make_user(database_url)
    database_now = utc_now() - off  # as if this machine's clock were ahead by that much
    await set_clock(database_url, database_now)
    async with running(make_settings(database_url)) as server:
        client = await Client(address(server)).ready()
        http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.http_port}")

        async def refuses() -> bool:
            return not await client.serving()

        await eventually(refuses, what="NOT_SERVING")
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/healthz")).status_code == 200
        metrics = (await http.get("/metrics")).text.splitlines()
        (ahead,) = [row for row in metrics if row.startswith("auth_clock_ahead_seconds ")]
        assert float(ahead.split()[1]) == pytest.approx(off.total_seconds(), abs=10)
        tokens = await client.login()
        issued_at = payload(tokens.access_token)["iat"]
        assert issued_at == pytest.approx(database_now.timestamp(), abs=10)

        await query(database_url, "DELETE FROM test_clock")
        await eventually(client.serving, what="SERVING, as the clocks agree again")
        assert (await http.get("/readyz")).status_code == 200
        await http.aclose()
        await client.channel.close()
