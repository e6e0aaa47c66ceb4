"""Guesses at one account from many sources, on two replicas, and its owner meanwhile.

AUTH_TEST_GUESSES is their number: 500, or 10,000 for a run by hand.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import pytest_asyncio
import structlog
from authn.v1 import auth_service_pb2 as pb

from auth_service.serving.server import Server
from tests.acceptance.servers import PASSWORD, USER, Client, make_user, open_accounts
from tests.integration.serving import address, make_settings, refusal, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

GUESSES = int(os.environ.get("AUTH_TEST_GUESSES", "500"))
SOURCES = 200
PARALLEL = 100
CONNECTIONS = 2  # to each replica, which takes 100 calls at a time on each
BURST, NETWORKS = 5, 4
TIMEOUT = 60.0  # seconds, which no passing test takes


@pytest.fixture(scope="module", autouse=True)
def _process() -> Iterator[None]:
    """Clear the AUTH_* variables of this process, and reset the logs that a server sets up."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AUTH_")]:
            patch.delenv(name)
        yield
    structlog.reset_defaults()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replicas(module_database_url: str) -> AsyncIterator[list[Server]]:
    """Two servers behind a proxy on loopback, which never regain an attempt, and the user."""
    await make_user(module_database_url)
    settings = make_settings(
        module_database_url,
        trusted_proxies="127.0.0.0/8",
        login_burst=BURST,
        login_networks=NETWORKS,
        login_refill="1h",
    )
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(running(settings)) for _ in range(2)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clients(replicas: list[Server]) -> AsyncIterator[list[Client]]:
    """Clients of the two replicas, in turn."""
    clients = [await Client(address(server)).ready() for server in replicas * CONNECTIONS]
    yield clients
    for client in clients:
        await client.channel.close()


def login(
    client: Client, source: str, password: str, identifier: str = USER, token: str = "", **more: Any
) -> Any:
    """Log in from a source, as the proxy names it, with an access token or without."""
    credentials = pb.PasswordCredentials(identifier=identifier, password=password)
    metadata = [("x-forwarded-for", source)]
    metadata += [("authorization", f"Bearer {token}")] if token else []
    request = pb.LoginRequest(password=credentials, **more)
    return client.auth.Login(request, metadata=metadata, timeout=TIMEOUT)


async def test_the_owner_logs_in_while_two_replicas_are_flooded_with_guesses(
    clients: list[Client],
) -> None:
    """No more passwords are hashed than the policy allows, and strangers share what it allows."""
    home = "203.0.113.1"
    first = await login(clients[0], home, PASSWORD)
    answers: Counter[tuple[str, bool]] = Counter()
    numbers, refused, done = iter(range(10**9)), asyncio.Event(), asyncio.Event()

    async def attack() -> None:
        for n in numbers:
            if n >= GUESSES and done.is_set():
                return
            source = f"198.18.{n % SOURCES}.1"
            seen = await refusal(login(clients[n % len(clients)], source, f"guess {n}"))
            answers[seen.reason, seen.retry] += 1
            if seen.retry:
                refused.set()

    sessions: set[str] = set()

    async def owner() -> None:
        await refused.wait()
        tokens = first.tokens
        shown = (
            {"token": tokens.access_token},
            {"device_token": tokens.refresh_token},
            {"device_token": first.device_token},
        )
        try:
            # The attackers may hold the last attempts that strangers have, but not these.
            for each, client, source in zip(
                shown, clients, (home, "198.18.1.1", home), strict=False
            ):
                pair = await login(client, source, PASSWORD, **each)
                sessions.add(pair.tokens.session_id)
            assert (await refusal(login(clients[0], home, PASSWORD))).reason == "RATE_LIMITED"
        finally:
            done.set()

    await asyncio.gather(owner(), *(attack() for _ in range(PARALLEL)))
    assert len(sessions) == 3
    assert answers.total() >= GUESSES
    assert answers.pop(("INVALID_CREDENTIALS", False)) == BURST * NETWORKS
    assert answers.keys() == {("RATE_LIMITED", True)}


async def test_no_answer_tells_an_account_from_none(
    clients: list[Client], module_database_url: str
) -> None:
    """A wrong password, a disabled user and no user look the same, also to the throttle."""
    kinds = ("known@example.com", "disabled@example.com", "nobody@example.com")
    for identifier in kinds[:2]:
        await make_user(module_database_url, identifier)
    async with open_accounts(module_database_url) as accounts:
        await accounts.set_disabled((await accounts.get_user(kinds[1])).id, True)
    answers = []
    for identifier in kinds:
        password = PASSWORD if identifier == kinds[1] else "wrong"
        answers.append(
            [
                await refusal(login(clients[n % 2], "192.0.2.1", password, identifier))
                for n in range(BURST + 2)
            ]
        )
    for same in zip(*answers, strict=True):
        assert len({(seen.code, seen.text, seen.reason, seen.retry) for seen in same}) == 1
        if not same[0].retry:  # which holds a time to wait
            assert len({repr(sorted(seen.trailers.items())) for seen in same}) == 1
    assert [seen.reason for seen in answers[0]] == (
        ["INVALID_CREDENTIALS"] * BURST + ["RATE_LIMITED"] * 2
    )


async def test_an_untrusted_peer_cannot_choose_its_source(module_database_url: str) -> None:
    """However many addresses it makes up, in either header."""
    settings = make_settings(module_database_url, login_burst=BURST, login_refill="1h")
    async with running(settings) as server:
        client = await Client(address(server)).ready()
        seen = []
        for n in range(BURST + 3):
            source = f"198.18.{n}.1"
            metadata = [("x-forwarded-for", source), ("forwarded", f"for={source}")]
            credentials = pb.PasswordCredentials(identifier="eve@example.com", password="wrong")
            request = pb.LoginRequest(password=credentials)
            call = client.auth.Login(request, metadata=metadata, timeout=TIMEOUT)
            seen.append((await refusal(call)).reason)
        await client.channel.close()
    assert seen == ["INVALID_CREDENTIALS"] * BURST + ["RATE_LIMITED"] * 3
