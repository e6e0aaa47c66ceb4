"""Who may call what: every RPC times every kind of caller.

The RPCs come from the descriptors. One without a rule fails, and the rule of AdminService is the
same for all of its methods: nobody but an admin.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
import structlog
from authn.v1 import auth_service_pb2 as pb
from google.protobuf.descriptor import MethodDescriptor

from tests.acceptance.servers import PASSWORD, USER, Client, make_user
from tests.audiences import register_in
from tests.channels import connected
from tests.integration.doors import Building
from tests.integration.serving import (
    Refusal,
    make_service_account,
    make_settings,
    query,
    running,
)
from tests.integration.test_api_audience import (
    NO_TOKEN,
    NO_TOKEN_ROUTES,
    OWN_TOKEN,
    OWN_TOKEN_ROUTES,
    Api,
    methods,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT, OTHER = "root@example.com", "other@example.com"
SERVICE, VERIFIER = "orders-service", "verifier-service"

USERS = frozenset({"user", "other user", "admin"})
SERVICES = frozenset({"service account", "verifier"})
NOBODY = frozenset({"nobody", "certificate"})
"""Callers without an access token."""
CALLERS = (
    "nobody",
    "forger",
    "user",
    "other user",
    *sorted(SERVICES),
    "admin",
    "elsewhere",
    "certificate",
)
"""Elsewhere is an admin with a token for another audience, and a certificate is all that it has."""

RULES = {
    "AccountService": USERS,
    "AdminService": frozenset({"admin"}),
    "AuthService.Revoke": USERS | SERVICES,
    "AuthService.Exchange": SERVICES,
    "AuthService.BatchExchange": SERVICES,
    "VerifierService.Watch": USERS | SERVICES | NOBODY,
}
"""Who is let in, by service or by method."""
ROUTES = {
    ("GET", "/v1/session"): USERS | SERVICES,
    ("POST", "/v1/logout"): USERS | SERVICES | {"nobody", "forger"},  # with nothing to end
    ("POST", "/v1/passkeys/begin"): USERS,
    ("POST", "/v1/passkeys/login"): frozenset(CALLERS),  # the first of two steps
    ("*", "/auth"): USERS | SERVICES | {"elsewhere"},
}
"""The same of routes; those that are not here let in nobody by an access token."""
REFUSED = {400, 401, 403, 415}
REFUSALS = {
    "nobody": "INVALID_TOKEN",
    "forger": "INVALID_TOKEN",
    "elsewhere": "INVALID_TOKEN",
    "certificate": "INVALID_TOKEN",
}
"""Reasons; any other caller is refused with PERMISSION_DENIED."""
ANSWERED = {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION"}
"""Statuses of a caller that is let in, and asks for what cannot be."""


@dataclass
class House:
    """Two servers, one of which asks for certificates, and the tokens of the callers."""

    api: Api
    mutual: Api
    database_url: str
    tokens: dict[str, str]
    session_id: str
    """Of the user."""

    async def call(self, caller: str, name: str, request: dict[str, Any]) -> Refusal | None:
        """Call a method; return how it is refused, if it is."""
        api = self.mutual if caller == "certificate" else self.api
        return await api.call(name, self.tokens.get(caller, ""), request)


@pytest.fixture(autouse=True, scope="module")
def _own_logging() -> Iterator[None]:
    """A server sets up the logs of its process: leave nothing of that behind."""
    yield
    structlog.reset_defaults()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(
    module_database_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    """The servers, with one account of each kind."""
    url = module_database_url
    await make_user(url)
    await make_user(url, OTHER)
    await make_user(url, ROOT, roles=("admin",))
    secrets = {name: await make_service_account(url, name) for name in (SERVICE, VERIFIER)}
    await query(
        url,
        f"UPDATE service_accounts SET roles = '{{}}' WHERE client_id = '{SERVICE}'",  # noqa: S608
    )
    await register_in(url, "orders")
    building = Building(url, tmp_path_factory.mktemp("tls"))
    async with (
        running(make_settings(url)) as server,
        running(make_settings(url, **building.tls_files())) as mutual,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        http.base_url = httpx.URL(f"http://127.0.0.1:{server.http_port}")
        api, behind = Api(server, [], http), Api(mutual, [], http)
        holder = building.holder.credentials(building.servers)
        async with grpc.aio.secure_channel(f"127.0.0.1:{mutual.port}", holder) as channel:
            await behind.client.channel.close()
            behind.client.channel = await connected(channel)
            tokens, session_id = await _tokens(api.client, secrets)
            yield House(api, behind, url, tokens, session_id)
        await api.client.channel.close()


async def _tokens(client: Client, secrets: dict[str, str]) -> tuple[dict[str, str], str]:
    async def user(identifier: str, *audience: str) -> pb.TokenPair:
        credentials = pb.PasswordCredentials(identifier=identifier, password=PASSWORD)
        request = pb.LoginRequest(password=credentials, audience=audience)
        tokens: pb.TokenPair = (await client.auth.Login(request)).tokens
        return tokens

    async def service(client_id: str) -> str:
        credentials = pb.ClientCredentials(client_id=client_id, client_secret=secrets[client_id])
        answer = await client.auth.Login(pb.LoginRequest(client=credentials))
        token: str = answer.tokens.access_token
        return token

    mine, root = await user(USER), (await user(ROOT)).access_token
    head, _, signature = root.rpartition(".")
    return {
        "forger": f"{head}.{signature[::-1]}",
        "user": mine.access_token,
        "other user": (await user(OTHER)).access_token,
        "service account": await service(SERVICE),
        "verifier": await service(VERIFIER),
        "admin": root,
        "elsewhere": (await user(ROOT, "orders")).access_token,
    }, mine.session_id


def rule_of(method: MethodDescriptor) -> frozenset[str] | None:
    """Return who may call a method; None if no rule says so."""
    service = method.containing_service.name
    return RULES.get(f"{service}.{method.name}", RULES.get(service))


async def test_every_rpc_has_a_rule() -> None:
    """Or takes no access token of its caller's."""
    without = {name for name, method in methods().items() if rule_of(method) is None}
    assert without == NO_TOKEN.keys() - {"envoy.service.auth.v3.Authorization.Check"}


@pytest.mark.parametrize("caller", CALLERS)
async def test_a_caller_is_let_in_where_a_rule_says_so(house: House, caller: str) -> None:
    """And is refused everywhere else, in the same way."""
    wrong = []
    for name, request in OWN_TOKEN.items():
        answer = await house.call(caller, name, request)
        allowed = rule_of(methods()[name])
        assert allowed is not None
        if caller in allowed:
            good = (
                answer is None or answer.code.name in ANSWERED or answer.reason == "INVALID_TARGET"
            )
        else:
            reason = REFUSALS.get(caller, "PERMISSION_DENIED")
            good = answer is not None and answer.reason == reason
        if not good:
            wrong.append((name, answer and (answer.code.name, answer.reason)))
    assert not wrong


@pytest.mark.parametrize("caller", sorted(set(CALLERS) - {"certificate"}))
async def test_a_route_lets_in_whom_a_rule_names(house: House, caller: str) -> None:
    """The token of an account opens none of the routes that take other credentials."""
    token, wrong = house.tokens.get(caller, ""), []
    for method, path in sorted(OWN_TOKEN_ROUTES | NO_TOKEN_ROUTES.keys()):
        allowed = ROUTES.get((method, path), frozenset())
        if path == "/v1/logout" and caller in allowed:
            continue  # other tests still need the session
        if NO_TOKEN_ROUTES.get((method, path)) == "answers everybody":
            allowed = frozenset(CALLERS)
        status = (await house.api.send(method.replace("*", "GET"), path, token)).status_code
        if status >= 500 or (status in REFUSED) is (caller in allowed):
            wrong.append((method, path, status))
    assert not wrong


@pytest.mark.parametrize("caller", ["other user", "service account", "verifier", "elsewhere"])
@pytest.mark.parametrize("target", ["session_id", "all_sessions"])
async def test_nobody_but_an_admin_ends_what_belongs_to_a_user(
    house: House, caller: str, target: str
) -> None:
    """By the id of a session, or of the user; the user stays logged in."""
    user_id = await query(
        house.database_url,
        f"SELECT user_id FROM sessions WHERE id = '{house.session_id}'",  # noqa: S608
    )
    request: dict[str, Any] = {"session_id": house.session_id}
    if target == "all_sessions":
        request = {"all_sessions": {"user_id": str(user_id)}}
    await house.call(caller, "authn.v1.AuthService.Revoke", request)
    assert (await house.api.client.validate(house.tokens["user"])).active


async def test_what_a_caller_is_told_of_itself_is_its_own() -> None:
    """An account is that of the token, and no field of a request names another."""
    for name, method in methods().items():
        if method.containing_service.name == "AccountService":
            fields = {field.name for field in method.input_type.fields}
            assert not fields & {"user_id", "identifier", "subject"}, name
