"""Exchange over the wire: by RPC, at /oauth2/token and at the edge, and what ends the tokens."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio
from authn.envoy.v1 import check_pb2
from authn.v1 import admin_service_pb2 as admin_pb
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import error_reason_pb2
from authn.v1.admin_service_pb2_grpc import AdminServiceStub

from auth_service.client import LocalVerifier
from auth_service.errors import InvalidToken
from tests.acceptance.servers import PASSWORD, USER, eventually, make_user
from tests.audiences import register_in
from tests.integration.http_edge import Edge, assert_error, edge
from tests.integration.serving import SHARED_KEY, address, refusal

ROOT = "root@example.com"
TIMEOUT = 30.0  # seconds, which no passing test takes
GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
CHECK = "/envoy.service.auth.v3.Authorization/Check"

pytestmark = pytest.mark.asyncio(loop_scope="module")


NEAR = ("127.0.0.0/8",)


class Chain:
    """A server where `orders` may exchange for `ledger` and the gateway for `orders`."""

    def __init__(self, made: Edge) -> None:
        self.edge = made
        self.rpc = made.rpc
        self.admin: Any = AdminServiceStub(made.rpc.channel)
        self.root = ""

    async def login(self, identifier: str = USER, audience: str = "") -> pb.TokenPair:
        """Begin a session of a user's, for `internal` and the API unless one is named."""
        credentials = pb.PasswordCredentials(identifier=identifier, password=PASSWORD)
        request = pb.LoginRequest(password=credentials, audience=[audience] if audience else [])
        reply: pb.LoginResponse = await self.rpc.auth.Login(request, timeout=TIMEOUT)
        return reply.tokens

    async def call(self, method: str, request: Any) -> Any:
        """Call AdminService."""
        return await getattr(self.admin, method)(request, metadata=bearer(self.root))

    async def own_token(self, client_id: str) -> str:
        """Return a service account's own token, for its audience and for the API."""
        return await self.edge.service_token(client_id)

    async def exchange(
        self, own: str, subject_token: str, audience: str = "ledger", **fields: Any
    ) -> pb.ExchangeResponse:
        """Exchange by RPC."""
        request = pb.ExchangeRequest(subject_token=subject_token, audience=audience, **fields)
        reply: pb.ExchangeResponse = await self.rpc.auth.Exchange(
            request, metadata=bearer(own), timeout=TIMEOUT
        )
        return reply

    async def claims(self, token: str) -> pb.Claims:
        """Return the claims of an active token."""
        verdict = await self.rpc.validate(token)
        assert verdict.active, verdict
        return verdict.claims

    async def check(self, token: str, **extensions: str) -> check_pb2.CheckResponse:
        """Ask as Envoy does."""
        http = check_pb2.AttributeContext.HttpRequest(headers={"authorization": f"Bearer {token}"})
        request = check_pb2.CheckRequest(
            attributes=check_pb2.AttributeContext(
                request=check_pb2.AttributeContext.Request(http=http),
                context_extensions=extensions,
            )
        )
        call: Any = self.rpc.channel.unary_unary(CHECK)
        answer = await call(request.SerializeToString(), timeout=TIMEOUT)
        return check_pb2.CheckResponse.FromString(answer)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a caller."""
    return (("authorization", f"Bearer {token}"),)


def headers(response: check_pb2.CheckResponse) -> dict[str, str]:
    """Return the headers that an upstream gets."""
    return {each.header.key: each.header.value for each in response.ok_response.headers}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chain(module_database_url: str) -> AsyncIterator[Chain]:
    """The server; each test uses sessions of its own."""
    await make_user(module_database_url, ROOT, roles=("admin",))
    await register_in(module_database_url, "orders", "ledger", "strict")
    async with edge(module_database_url, gateway_account="closed", trusted_proxies=NEAR) as made:
        found = Chain(made)
        found.root = (await found.login(ROOT)).access_token
        for audience, actor in (("ledger", "orders"), ("ledger", "billing"), ("orders", "billing")):
            await found.call(
                "SetAudienceActor",
                admin_pb.SetAudienceActorRequest(
                    name=audience, actor=admin_pb.AudienceActor(client_id=actor)
                ),
            )
        yield found


async def set_gateway(chain: Chain, *, disabled: bool) -> None:
    """Let the gateway's account act, or no longer."""
    request = admin_pb.SetServiceAccountDisabledRequest(client_id="closed", disabled=disabled)
    await chain.call("SetServiceAccountDisabled", request)
    await chain.call(
        "SetAudienceActor",
        admin_pb.SetAudienceActorRequest(
            name="ledger", actor=admin_pb.AudienceActor(client_id="closed")
        ),
    )
    received = (await chain.login()).access_token

    async def acts() -> bool:
        """Tell whether the end of the account before is over, which lies in whole seconds."""
        answer = headers(await chain.check(received, exchange_audience="ledger"))
        token = answer.get("authorization", "").removeprefix("Bearer ")
        return bool(token) and (await chain.rpc.validate(token)).active

    if not disabled:
        await eventually(acts)


async def test_a_received_token_becomes_one_for_the_next_service(chain: Chain) -> None:
    """It names the user and the service that acts, and is good nowhere else."""
    received = (await chain.login()).access_token
    own = await chain.own_token("orders")
    answer = await chain.exchange(own, received)
    claims, parent = await chain.claims(answer.access_token), await chain.claims(received)
    assert (claims.subject, claims.session_id) == (parent.subject, parent.session_id)
    assert (list(claims.audience), claims.actor.subject) == (["ledger"], "orders")
    assert list(claims.scope) == list(answer.scope) == ["read", "write"]
    assert answer.expires_at.seconds == claims.expires_at.seconds <= parent.expires_at.seconds
    assert answer.token_type == "Bearer"
    narrow = await chain.exchange(own, received, scope=["read"], lifetime={"seconds": 30})
    assert list((await chain.claims(narrow.access_token)).scope) == ["read"]
    assert narrow.expires_at.seconds <= parent.issued_at.seconds + 32


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"subject_token": ""}, "INVALID_ARGUMENT", "subject_token"),
        ({"audience": ""}, "INVALID_ARGUMENT", "audience"),
        ({"audience": "a\0"}, "INVALID_ARGUMENT", "audience"),
        ({"lifetime": {"seconds": 0}}, "INVALID_ARGUMENT", "lifetime"),
        ({"lifetime": {"seconds": -1}}, "INVALID_ARGUMENT", "lifetime"),
        ({"subject_token": "garbage"}, "INVALID_SUBJECT_TOKEN", ""),
        ({"audience": "nowhere"}, "INVALID_TARGET", ""),
        ({"audience": "strict"}, "INVALID_TARGET", ""),
        ({"scope": ["root"]}, "INVALID_SCOPE", ""),
    ],
)
async def test_what_is_wrong_is_told(
    chain: Chain, fields: dict[str, Any], reason: str, field: str
) -> None:
    """One by one, and in a batch for each member."""
    own = await chain.own_token("orders")
    given = {"subject_token": (await chain.login()).access_token, "audience": "ledger"} | fields
    request = pb.ExchangeRequest(**given)
    seen = await refusal(chain.rpc.auth.Exchange(request, metadata=bearer(own), timeout=TIMEOUT))
    assert (seen.code, seen.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert seen.fields == ([field] if field else [])
    good = pb.ExchangeRequest(subject_token=(await chain.login()).access_token, audience="ledger")
    batch = pb.BatchExchangeRequest(requests=[good, request, good])
    reply = await chain.rpc.auth.BatchExchange(batch, metadata=bearer(own), timeout=TIMEOUT)
    kinds = [each.WhichOneof("result") for each in reply.results]
    assert kinds == ["token", "error", "token"]
    error = reply.results[1].error
    assert error_reason_pb2.ErrorReason.Name(error.reason) == f"ERROR_REASON_{reason}"
    assert error.message


async def test_only_a_service_account_exchanges(chain: Chain) -> None:
    """Not a stranger, a user, or the holder of an exchanged token; nor with a batch."""
    received = (await chain.login()).access_token
    exchanged = (await chain.exchange(await chain.own_token("orders"), received)).access_token
    request = pb.ExchangeRequest(subject_token=received, audience="ledger")
    batch = pb.BatchExchangeRequest(requests=[request])
    for token, code in (
        ("", grpc.StatusCode.UNAUTHENTICATED),
        (exchanged, grpc.StatusCode.UNAUTHENTICATED),
        (received, grpc.StatusCode.PERMISSION_DENIED),
    ):
        metadata = bearer(token) if token else ()
        for call, given in (
            (chain.rpc.auth.Exchange, request),
            (chain.rpc.auth.BatchExchange, batch),
        ):
            seen = await refusal(call(given, metadata=metadata, timeout=TIMEOUT))
            assert seen.code is code
    own = await chain.own_token("orders")
    for size in (0, 1001):
        given = pb.BatchExchangeRequest(requests=[request] * size)
        seen = await refusal(
            chain.rpc.auth.BatchExchange(given, metadata=bearer(own), timeout=TIMEOUT)
        )
        assert seen.fields == ["requests"]


@pytest.mark.parametrize("end", ["token", "session", "user", "actor"])
async def test_an_exchanged_token_ends_with_what_it_came_from(chain: Chain, end: str) -> None:
    """At the service and at a remote local verifier, which never saw the parent."""
    user = await make_user(chain.edge.database_url, f"{end}@example.com")
    pair = await chain.login(f"{end}@example.com")
    token = (await chain.exchange(await chain.own_token("orders"), pair.access_token)).access_token
    verifier = LocalVerifier(
        issuer="https://auth.internal",
        addresses=[address(chain.edge.server)],
        shared_key=SHARED_KEY,
    )
    async with verifier:
        assert verifier.verify(token, audience="ledger").actors == ("orders",)
        match end:
            case "token":
                await chain.rpc.auth.Revoke(pb.RevokeRequest(access_token=pair.access_token))
            case "session":
                await chain.rpc.auth.Revoke(pb.RevokeRequest(refresh_token=pair.refresh_token))
            case "user":
                disable = admin_pb.SetUserDisabledRequest(user_id=str(user.id), disabled=True)
                await chain.call("SetUserDisabled", disable)
            case "actor":
                ended = admin_pb.RevokeServiceAccountTokensRequest(client_id="orders")
                await chain.call("RevokeServiceAccountTokens", ended)
        assert not (await chain.rpc.validate(token)).active

        async def refused() -> bool:
            try:
                verifier.verify(token, audience="ledger")
            except InvalidToken:
                return True
            return False

        await eventually(refused)


class TestOAuth:
    async def test_the_grant_of_rfc_8693(self, chain: Chain) -> None:
        """By the client's secret, or by its own access token, without a query."""
        received = (await chain.login()).access_token
        form = {"grant_type": GRANT, "subject_token": received, "audience": "ledger"}
        form |= {"subject_token_type": ACCESS_TOKEN, "scope": "read"}
        own = await chain.own_token("orders")
        by_secret = await chain.edge.post("token", "orders", **form)
        by_token = await chain.edge.post(
            "token", **form, actor_token=own, actor_token_type=ACCESS_TOKEN
        )
        for answer in (by_secret, by_token):
            assert answer.status_code == 200, answer.text
            assert answer.headers["cache-control"] == "no-store"
            content = answer.json()
            assert content.keys() == {
                *("access_token", "issued_token_type", "token_type", "expires_in", "scope")
            }
            assert content["issued_token_type"] == ACCESS_TOKEN
            assert (content["scope"], content["token_type"]) == ("read", "Bearer")
            assert 0 < content["expires_in"] <= 900
            assert (await chain.claims(content["access_token"])).actor.subject == "orders"
        introspected = await chain.edge.post(
            "introspect", "orders", token=by_token.json()["access_token"]
        )
        assert introspected.json()["act"] == {"sub": "orders"}

    @pytest.mark.parametrize(
        ("changes", "status", "error"),
        [
            ({"subject_token": "garbage"}, 400, "invalid_request"),
            ({"subject_token_type": "urn:x"}, 400, "invalid_request"),
            ({"requested_token_type": "urn:x"}, 400, "invalid_request"),
            ({"audience": "ledger orders"}, 400, "invalid_request"),
            ({"audience": "nowhere"}, 400, "invalid_target"),
            ({"scope": "root"}, 400, "invalid_scope"),
            ({"actor_token": "garbage"}, 400, "invalid_request"),  # beside the secret
        ],
    )
    async def test_what_is_wrong_is_told(
        self, chain: Chain, changes: dict[str, str], status: int, error: str
    ) -> None:
        """RFC 8693 section 2.2.2."""
        form = {"grant_type": GRANT, "subject_token": (await chain.login()).access_token}
        form |= {"audience": "ledger"} | changes
        answer = await chain.edge.post("token", "orders", **form)
        assert (answer.status_code, answer.json()["error"]) == (status, error)

    async def test_an_actor_token_must_be_valid(self, chain: Chain) -> None:
        """And for this service."""
        form = {"grant_type": GRANT, "subject_token": (await chain.login()).access_token}
        form |= {"audience": "ledger", "actor_token": "garbage"}
        answer = await chain.edge.post("token", **form)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token")

    @pytest.mark.parametrize(
        "proof", ["client_secret", "client_assertion", "client_assertion_type"]
    )
    async def test_an_actor_token_is_the_only_proof(self, chain: Chain, proof: str) -> None:
        """A second one would not be checked (RFC 6749 section 2.3)."""
        form = {"grant_type": GRANT, "subject_token": (await chain.login()).access_token}
        form |= {"audience": "ledger", "actor_token": await chain.own_token("orders")}
        answer = await chain.edge.post("token", **form, **{proof: "garbage"})
        assert_error(answer, 400, "invalid_request", "INVALID_ARGUMENT")

    async def test_an_account_whose_tokens_ended_exchanges_at_once(self, chain: Chain) -> None:
        """The end covers what it exchanged before, in the same second, and not what comes after."""
        form = {"grant_type": GRANT, "subject_token": (await chain.login()).access_token}
        form |= {"audience": "ledger"}
        old = (await chain.edge.post("token", "orders", **form)).json()["access_token"]
        ended = admin_pb.RevokeServiceAccountTokensRequest(client_id="orders")
        await chain.call("RevokeServiceAccountTokens", ended)
        new = (await chain.edge.post("token", "orders", **form)).json()["access_token"]
        assert not (await chain.rpc.validate(old)).active
        await chain.claims(new)

    async def test_a_client_must_authenticate(self, chain: Chain) -> None:
        """With the right secret."""
        form = {"grant_type": GRANT, "subject_token": (await chain.login()).access_token}
        form |= {"audience": "ledger", "client_id": "orders", "client_secret": "wrong"}
        answer = await chain.edge.post("token", **form)
        assert_error(answer, 401, "invalid_client", "INVALID_CREDENTIALS")


class TestGateway:
    async def test_the_upstream_sees_a_token_for_itself_alone(self, chain: Chain) -> None:
        """At ext_authz and at forward-auth; the next request gets the same one."""
        await set_gateway(chain, disabled=False)
        received = (await chain.login()).access_token
        rule = {"audience": "internal", "exchange_audience": "ledger"}

        async def by_envoy() -> str:
            return headers(await chain.check(received, **rule)).get("authorization", "")

        async def by_nginx() -> str:
            answer = await chain.edge.http.get(
                "/auth", params=rule, headers={"authorization": f"Bearer {received}"}
            )
            assert answer.status_code == 200
            return str(answer.headers["authorization"])

        first = await by_envoy()
        assert first == await by_envoy() == await by_nginx()
        claims = await chain.claims(first.removeprefix("Bearer "))
        assert list(claims.audience) == ["ledger"]
        assert claims.actor.subject == "closed"
        assert received not in first

    async def test_a_caller_without_a_token_brings_none(self, chain: Chain) -> None:
        """A public route removes what it does not replace, as it may be good elsewhere."""
        await set_gateway(chain, disabled=False)
        other = (await chain.login(audience="orders")).access_token
        rule = {"audience": "internal", "public": "true", "exchange_audience": "ledger"}
        response = await chain.check(other, **rule)
        assert "authorization" not in headers(response)
        assert "authorization" in response.ok_response.headers_to_remove

    async def test_a_gateway_without_a_rule_is_refused(self, chain: Chain) -> None:
        """403, or 500 for a route that contradicts itself."""
        await set_gateway(chain, disabled=False)
        received = (await chain.login()).access_token
        denied = (await chain.check(received, exchange_audience="strict")).denied_response
        assert (denied.status.code, "INVALID_TARGET" in denied.body) == (403, False)
        assert "access_denied" in denied.body
        both = {"exchange_audience": "ledger", "remove_authorization": "true"}
        denied = (await chain.check(received, **both)).denied_response
        assert denied.status.code == 500
        query = {"exchange_audience": "strict"}
        answer = await chain.edge.http.get(
            "/auth", params=query, headers={"authorization": f"Bearer {received}"}
        )
        assert (answer.status_code, answer.json()["error"]) == (403, "access_denied")

    async def test_a_disabled_account_acts_for_nobody(self, chain: Chain) -> None:
        """The gateway's tokens end, and it gets no new ones."""
        await set_gateway(chain, disabled=False)
        received = (await chain.login()).access_token
        rule = {"exchange_audience": "ledger"}
        token = headers(await chain.check(received, **rule))["authorization"]
        disable = admin_pb.SetServiceAccountDisabledRequest(client_id="closed", disabled=True)
        await chain.call("SetServiceAccountDisabled", disable)
        assert not (await chain.rpc.validate(token.removeprefix("Bearer "))).active

        async def refused() -> bool:
            return (await chain.check(received, **rule)).denied_response.status.code == 403

        await eventually(refused)

    async def test_the_end_of_the_session_ends_the_exchanged_token(self, chain: Chain) -> None:
        """A kept one is not handed out again, and the upstream's verifier refuses it."""
        await set_gateway(chain, disabled=False)
        pair = await chain.login()
        rule = {"exchange_audience": "ledger"}
        token = headers(await chain.check(pair.access_token, **rule))["authorization"]
        await chain.rpc.auth.Revoke(pb.RevokeRequest(refresh_token=pair.refresh_token))
        denied = (await chain.check(pair.access_token, **rule)).denied_response
        assert denied.status.code == 401
        assert not (await chain.rpc.validate(token.removeprefix("Bearer "))).active


async def test_a_client_that_calls_in_parallel_gets_one_token(chain: Chain) -> None:
    """As it would from one call whose result it keeps; another parent's has an id of its own."""
    received, own = (await chain.login()).access_token, await chain.own_token("orders")
    answers = await asyncio.gather(*(chain.exchange(own, received) for _ in range(20)))
    assert len({answer.access_token for answer in answers}) == 1
    other = await chain.exchange(own, (await chain.login()).access_token)
    claims = [await chain.claims(each.access_token) for each in (answers[0], other)]
    assert claims[0].token_id != claims[1].token_id


async def test_only_a_trusted_proxy_exchanges(database_url: str) -> None:
    """Who reaches the port could turn a token for one service into one for any other."""
    async with edge(database_url, gateway_account="closed") as made:
        found = Chain(made)
        received = (await found.login()).access_token
        denied = (await found.check(received, exchange_audience="internal")).denied_response
        assert denied.status.code == 500
        answer = await made.http.get(
            "/auth",
            params={"exchange_audience": "internal"},
            headers={"authorization": f"Bearer {received}"},
        )
        assert answer.status_code == 500
        assert "authorization" not in answer.headers
