"""Calls in the name of the caller at hand: from a user through two real services."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from authn.v1 import auth_service_pb2 as pb

from auth_service.authz.admission import Rule
from auth_service.client import (
    AuthInterceptor,
    LocalVerifier,
    NoAccessToken,
    Rules,
    ServiceAccountTokens,
    SyncBearerInterceptor,
    SyncServiceAccountTokens,
    Unauthenticated,
    bearer_interceptors,
    principal,
)
from auth_service.client.exchange import ExchangedTokens, SyncExchangedTokens
from auth_service.client.principal import acting_as, received_token
from auth_service.core.audience_registry import AudienceRegistry
from auth_service.db import pool as pools
from auth_service.db.store import Store
from tests.acceptance.servers import KEYS, PASSWORD, USER, eventually
from tests.audiences import register
from tests.channels import open_channel, open_sync_channel
from tests.clock import FakeClock
from tests.integration.client_side import ACCOUNT, Service

TIMEOUT = 30.0  # seconds; no passing test takes as long
METHOD = "/test.Service/Call"


@pytest.fixture
async def service(database_url: str) -> AsyncIterator[Service]:
    """The service, where ACCOUNT may exchange tokens for `ledger`."""
    async with Service(database_url).running() as service:
        pool = await pools.connect(database_url, min_size=1, max_size=1)
        store = Store(pool)
        await register(store, "ledger")
        await AudienceRegistry(store, FakeClock()).set_actor("ledger", ACCOUNT)
        await pool.close()
        yield service


@pytest.fixture
async def own(service: Service) -> AsyncIterator[ServiceAccountTokens]:
    """The own tokens of the service in the middle."""
    tokens = ServiceAccountTokens(service.channel, ACCOUNT, service.secret)
    await tokens.access_token()
    yield tokens
    await tokens.aclose()


async def login(service: Service) -> pb.TokenPair:
    """Begin a session of a user's."""
    credentials = pb.PasswordCredentials(identifier=USER, password=PASSWORD)
    reply = await service.stub.Login(pb.LoginRequest(password=credentials), timeout=TIMEOUT)
    pair: pb.TokenPair = reply.tokens
    return pair


async def until_allowed(tokens: ExchangedTokens, received: str) -> str:
    """Return the first token, once the service has heard of the audience."""

    async def ask() -> str:
        with acting_as(None, received):
            try:
                return await tokens.access_token(TIMEOUT)
            except Unauthenticated:
                raise
            except Exception:  # noqa: BLE001 - the audience is not known yet
                return ""

    return await eventually(ask)


def handlers(behavior: Any) -> grpc.GenericRpcHandler:
    """Return the handlers of a service with one method."""
    method: Any = grpc.unary_unary_rpc_method_handler(behavior)
    return grpc.method_handlers_generic_handler("test.Service", {"Call": method})


def serve(behavior: Any, verifier: LocalVerifier, audience: str) -> tuple[grpc.aio.Server, str]:
    """Return a server with one method, for callers with a token for an audience."""
    server = grpc.aio.server(
        interceptors=[AuthInterceptor(verifier, Rules({}, default=Rule(audience)))],
        options=[("grpc.so_reuseport", 0)],
    )
    server.add_generic_rpc_handlers((handlers(behavior),))
    return server, f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"


async def test_a_call_reaches_the_next_service_in_the_name_of_its_user(
    service: Service, own: ServiceAccountTokens
) -> None:
    """The next service sees the user and the service that acts, and never the user's token."""
    seen: list[str] = []
    verifier = LocalVerifier(
        issuer="https://auth.internal",
        addresses=[service.address],
        shared_key=KEYS["AUTH_SHARED_KEY"],
    )

    async def ledger(_: bytes, context: Any) -> bytes:
        seen.append(dict(context.invocation_metadata())["authorization"])
        return f"{principal().subject} by {','.join(principal().actors)}".encode()

    last, ledger_address = serve(ledger, verifier, "ledger")
    await last.start()
    interceptors = bearer_interceptors(own, exchange_for="ledger", channel=service.channel)
    async with verifier, open_channel(ledger_address, None, interceptors) as onward:
        call: Any = onward.unary_unary(METHOD)

        async def orders(request: bytes, _: Any) -> bytes:
            answer: bytes = await call(request, timeout=TIMEOUT)
            return answer

        middle, orders_address = serve(orders, verifier, "internal")
        await middle.start()
        pair = await login(service)
        first = await until_allowed(
            ExchangedTokens(service.channel, own, "ledger"), pair.access_token
        )
        assert first
        async with open_channel(orders_address) as user:
            metadata = (("authorization", f"Bearer {pair.access_token}"),)
            ask: Any = user.unary_unary(METHOD)
            before = service.calls.made
            answers = await asyncio.gather(
                *(ask(b"", metadata=metadata, timeout=TIMEOUT) for _ in range(20))
            )
            claims = verifier.verify(pair.access_token)
            assert set(answers) == {f"{claims.subject} by {ACCOUNT}".encode()}
            assert service.calls.made == before + 1, "concurrent needs make one exchange"
            assert await ask(b"", metadata=metadata, timeout=TIMEOUT) == answers[0]
            assert service.calls.made == before + 1, "a result is kept"
            assert len(set(seen)) == 1
            assert pair.access_token not in seen[0]
            # A refused token is exchanged again, and not if the caller's has ended.
            await service.revoke(pair.refresh_token)

            async def ended() -> bool:
                try:
                    await ask(b"", metadata=metadata, timeout=TIMEOUT)
                except grpc.aio.AioRpcError as error:
                    return error.code() is grpc.StatusCode.UNAUTHENTICATED
                return False

            await eventually(ended)
        await middle.stop(None)
        await last.stop(None)


async def test_without_a_caller_there_is_no_token(
    service: Service, own: ServiceAccountTokens
) -> None:
    """The call is not made, and says why."""
    interceptors = bearer_interceptors(own, exchange_for="ledger", channel=service.channel)
    async with open_channel(service.address, None, interceptors) as channel:
        call: Any = channel.unary_unary("/test.Service/Call")
        with pytest.raises(NoAccessToken, match="no token to exchange") as caught:
            await call(b"", timeout=TIMEOUT)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_caller_whose_session_has_ended_gets_none(
    service: Service, own: ServiceAccountTokens
) -> None:
    """What was kept is not used again once it is refused."""
    tokens = ExchangedTokens(service.channel, own, "ledger")
    pair = await login(service)
    kept = await until_allowed(tokens, pair.access_token)
    await service.revoke(pair.refresh_token)
    with acting_as(None, pair.access_token):
        assert await tokens.access_token() == kept
        tokens.invalidate("another")
        assert await tokens.access_token() == kept
        tokens.invalidate(kept)
        with pytest.raises(Unauthenticated, match="not active"):
            await tokens.access_token(TIMEOUT)
    assert pair.access_token not in repr(vars(tokens))


async def test_a_service_that_always_refuses_causes_no_exchange_for_each_call(
    service: Service, own: ServiceAccountTokens
) -> None:
    """The first refusal does; those that follow within ten seconds do not."""
    tokens = ExchangedTokens(service.channel, own, "ledger")
    received = (await login(service)).access_token
    first = await until_allowed(tokens, received)
    with acting_as(None, received):
        before = service.calls.made
        tokens.invalidate(first)
        second = await tokens.access_token(TIMEOUT)
        assert service.calls.made == before + 1
        for _ in range(5):
            tokens.invalidate(second)
            assert await tokens.access_token(TIMEOUT) == second
    assert service.calls.made == before + 1


async def test_threads_do_the_same(service: Service, own: ServiceAccountTokens) -> None:
    """Twenty threads at once make one exchange; each acts for its own caller."""
    pair = await login(service)
    await until_allowed(ExchangedTokens(service.channel, own, "ledger"), pair.access_token)

    def work() -> tuple[set[str], int]:
        source = SyncServiceAccountTokens(service.sync_channel, ACCOUNT, service.secret)
        source.access_token()
        tokens = SyncExchangedTokens(service.sync_channel, source, "ledger")
        before = service.sync_calls.made
        together = threading.Barrier(20)

        def ask() -> str:
            with acting_as(None, pair.access_token):
                together.wait()
                return tokens.access_token(TIMEOUT)

        with ThreadPoolExecutor(20) as threads:
            found = {each.result() for each in [threads.submit(ask) for _ in range(20)]}
        with pytest.raises(Unauthenticated):
            tokens.access_token()
        return found, service.sync_calls.made - before

    found, made = await asyncio.to_thread(work)
    assert (len(found), made) == (1, 1)
    assert await service.is_active(found.pop())


async def test_a_channel_of_threads_carries_it(service: Service, own: ServiceAccountTokens) -> None:
    """SyncBearerInterceptor puts the exchanged token into the call."""
    pair = await login(service)
    await until_allowed(ExchangedTokens(service.channel, own, "ledger"), pair.access_token)
    seen: list[str] = []

    async def ledger(_: bytes, context: Any) -> bytes:
        seen.append(dict(context.invocation_metadata())["authorization"])
        return b"done"

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((handlers(ledger),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    def work() -> bytes:
        source = SyncServiceAccountTokens(service.sync_channel, ACCOUNT, service.secret)
        interceptor = SyncBearerInterceptor(
            source, exchange_for="ledger", channel=service.sync_channel
        )
        call: Any = grpc.intercept_channel(channel, interceptor).unary_unary(METHOD)
        with acting_as(None, pair.access_token):
            answer: bytes = call(b"", timeout=TIMEOUT)
        return answer

    async with open_sync_channel(f"127.0.0.1:{port}") as channel:
        assert await asyncio.to_thread(work) == b"done"
    await server.stop(None)
    verdict = await service.stub.Validate(
        pb.ValidateRequest(access_token=seen[0].removeprefix("Bearer "), audience="ledger")
    )
    assert verdict.active


def test_an_exchange_needs_a_channel(service: Service, own: ServiceAccountTokens) -> None:
    """To the authentication service."""
    with pytest.raises(ValueError, match="channel"):
        bearer_interceptors(own, exchange_for="ledger")
    with pytest.raises(ValueError, match="channel"):
        SyncBearerInterceptor(own, exchange_for="ledger")  # type: ignore[arg-type]


def test_the_received_token_is_that_of_the_innermost_call() -> None:
    """It is reset at the end."""
    with acting_as(None, "outer"):
        with acting_as(None, "inner"):
            assert received_token() == ("inner", "")
        assert received_token() == ("outer", "")
    assert received_token() == ("", "")
