"""The OAuth endpoints: token, introspection and revocation, as other teams' libraries call them."""

import base64
from collections.abc import AsyncIterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote_plus

import httpx
import jwt
import pytest
import pytest_asyncio
from authn.v1 import auth_service_pb2 as pb

from auth_service.authz.certificates import TrustedProxies
from auth_service.core.auditing import Auditor
from auth_service.core.exchange import TokenExchange
from auth_service.core.shielded import Shielded
from auth_service.core.validation import Validation
from auth_service.db.pool import connect
from auth_service.db.store import Store
from auth_service.tokens.revocation import RevocationList
from auth_service.web.app import create_app
from auth_service.web.certificates import certificate_of
from auth_service.web.oauth import oauth_routes
from tests.acceptance.servers import Proxy, database_target, eventually, through
from tests.audiences import register_in
from tests.clock import FakeClock
from tests.integration.core import make_core
from tests.integration.http_edge import (
    BILLING,
    CLOSED,
    ORDERS,
    Edge,
    assert_error,
    edge,
    serving,
)
from tests.integration.serving import query

FORM = "application/x-www-form-urlencoded"
ENDPOINTS = ["token", "introspect", "revoke"]
GARBAGE = ["garbage", "a.b.c", "\0", "é", "x" * 20_000]

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(module_database_url: str) -> AsyncIterator[Edge]:
    """A server; each test uses sessions of its own."""
    async with edge(module_database_url) as made:
        yield made


def assert_invalid_client(answer: httpx.Response) -> None:
    """The one answer to every failure of client authentication (RFC 6749 section 5.2)."""
    text = assert_error(answer, 401, "invalid_client", "INVALID_CREDENTIALS")
    assert text == "client authentication failed"
    assert answer.headers["www-authenticate"] == 'Basic realm="oauth2"'


def claims_of(token: str) -> dict[str, object]:
    """Return what a token says, unchecked."""
    claims: dict[str, object] = jwt.decode(token, options={"verify_signature": False})
    return claims


def jwt_audience(pair: pb.TokenPair) -> list[str]:
    """Return the audiences of a pair's access token."""
    found = claims_of(pair.access_token)["aud"]
    assert isinstance(found, list)
    return found


# The grant client_credentials


async def test_a_secret_is_traded_for_an_access_token(shared: Edge) -> None:
    """RFC 6749 sections 4.4 and 5.1: no refresh token, and no cache keeps the answer."""
    answer = await shared.post("token", BILLING, grant_type="client_credentials")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"
    content = answer.json()
    assert content.keys() == {"access_token", "token_type", "expires_in", "scope"}
    assert (content["token_type"], content["scope"]) == ("Bearer", "read")
    assert 0 < content["expires_in"] <= 900
    assert claims_of(content["access_token"])["client_id"] == BILLING
    assert await shared.active(content["access_token"])


async def test_the_secret_may_be_in_the_body(shared: Edge) -> None:
    """client_secret_post, and an audience for each time that one is named."""
    await register_in(shared.database_url, "orders", "shipping")
    body = {
        "grant_type": "client_credentials",
        "client_id": BILLING,
        "client_secret": shared.secrets[BILLING],
        "scope": "read",
        "audience": ["orders", "shipping"],
    }
    answer = await shared.http.post("/oauth2/token", data=body)
    assert answer.status_code == 200
    assert claims_of(answer.json()["access_token"])["aud"] == ["orders", "shipping"]


async def test_an_audience_that_is_not_registered_is_refused(shared: Edge) -> None:
    """RFC 8707 section 2, by either name of the parameter; only once the secret is proved."""
    for name in ("audience", "resource"):
        form = {"grant_type": "client_credentials", name: "nowhere"}
        answer = await shared.post("token", BILLING, **form)
        assert_error(answer, 400, "invalid_target", "INVALID_TARGET")
    wrong = {"client_id": BILLING, "client_secret": "wrong", "audience": "nowhere"}
    answer = await shared.post("token", grant_type="client_credentials", **wrong)
    assert answer.status_code == 401


async def test_a_refresh_may_be_for_one_of_the_audiences(shared: Edge) -> None:
    """The access token is for that one alone, and the session keeps all."""
    pair = await shared.login("web")
    form = {"grant_type": "refresh_token", "client_id": "web"}
    form["refresh_token"] = pair.refresh_token
    answer = await shared.post("token", **form, resource="internal")
    assert claims_of(answer.json()["access_token"])["aud"] == ["internal"]
    form["refresh_token"] = answer.json()["refresh_token"]
    refused = await shared.post("token", **form, resource="nowhere")
    assert_error(refused, 400, "invalid_target", "INVALID_TARGET")
    answer = await shared.post("token", **form)
    assert claims_of(answer.json()["access_token"])["aud"] == list(jwt_audience(pair))


async def test_basic_credentials_are_form_encoded(shared: Edge) -> None:
    """RFC 6749 section 2.3.1: each part is encoded, even where it need not be."""
    encoded = "".join(f"%{byte:02x}" for byte in BILLING.encode())
    pair = f"{encoded}:{quote_plus(shared.secrets[BILLING])}"
    answer = await basic(shared, pair.encode())
    assert answer.status_code == 200
    assert claims_of(answer.json()["access_token"])["sub"] == BILLING


async def basic(shared: Edge, pair: bytes, scheme: str = "basic", **form: str) -> httpx.Response:
    """Ask for a token with these bytes in HTTP Basic."""
    header = f"{scheme} {base64.b64encode(pair).decode()}"
    body = {"grant_type": "client_credentials"} | form
    return await shared.http.post("/oauth2/token", data=body, headers={"authorization": header})


@pytest.mark.parametrize("pair", [b"billing:wrong", b"billing:", b"billing", b"nobody:wrong"])
async def test_every_wrong_credential_looks_the_same(shared: Edge, pair: bytes) -> None:
    """Whether the client or its secret is wrong, or nothing is there at all."""
    assert_invalid_client(await basic(shared, pair))


async def test_a_disabled_client_looks_like_any_wrong_one(shared: Edge) -> None:
    """At each endpoint, by its genuine secret or without."""
    for endpoint in ENDPOINTS:
        answer = await shared.post(
            endpoint, CLOSED, grant_type="client_credentials", token="garbage"
        )
        assert_invalid_client(answer)
    assert_invalid_client(
        await shared.post(
            "token", grant_type="refresh_token", client_id=CLOSED, refresh_token="garbage"
        )
    )


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"Basic",
        b"Basic !",
        b"Basic a",
        b"Basic \xe9\xe9\xe9\xe9",
        b"Basic " + base64.b64encode(b"\xff:\xff"),
        b"Basic " + base64.b64encode(b"%ff:%ff"),
        b"Bearer abc",
        b"Digest username=billing",
    ],
)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_an_authorization_that_is_no_basic_one_is_refused(
    shared: Edge, endpoint: str, header: bytes
) -> None:
    """Whatever its bytes are."""
    form = {"grant_type": "client_credentials", "client_id": BILLING, "token": "garbage"}
    answer = await shared.http.post(
        f"/oauth2/{endpoint}", data=form, headers={b"authorization": header}
    )
    assert_invalid_client(answer)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_two_ways_at_once_are_refused(shared: Edge, endpoint: str) -> None:
    """RFC 6749 section 2.3: one method of authentication in a request."""
    form = {"grant_type": "client_credentials", "token": "garbage"}
    secret = {"client_secret": shared.secrets[BILLING]}
    answer = await shared.post(endpoint, BILLING, **form, **secret, client_id=BILLING)
    assert_error(answer, 400, "invalid_request", "INVALID_ARGUMENT")
    answer = await shared.post(endpoint, BILLING, **form, client_id=ORDERS)
    assert_error(answer, 400, "invalid_request", "INVALID_ARGUMENT")
    pair = f"{BILLING}:{shared.secrets[BILLING]}"
    header = f"Basic {base64.b64encode(pair.encode()).decode()}"
    answer = await shared.http.post(
        f"/oauth2/{endpoint}", data=form, headers=[("authorization", header)] * 2
    )
    assert_error(answer, 400, "invalid_request", "INVALID_ARGUMENT")


async def test_the_same_id_in_body_and_header_is_fine(shared: Edge) -> None:
    """Some libraries send it in both."""
    answer = await shared.post("token", BILLING, grant_type="client_credentials", client_id=BILLING)
    assert answer.status_code == 200


@pytest.mark.parametrize("scope", ["write", "read write", 'a"b', "é"])
async def test_a_scope_beyond_the_grant_is_refused(shared: Edge, scope: str) -> None:
    """RFC 6749 section 5.2; text that is no scope at all is a malformed request."""
    answer = await shared.post("token", BILLING, grant_type="client_credentials", scope=scope)
    if scope.isascii() and '"' not in scope:
        assert_error(answer, 400, "invalid_scope", "INVALID_SCOPE")
    else:
        assert_error(answer, 400, "invalid_request", "INVALID_ARGUMENT")


# The form of requests


@pytest.mark.parametrize("grant", ["password", "authorization_code", "Refresh_Token", "é"])
async def test_other_grants_are_unsupported(shared: Edge, grant: str) -> None:
    """RFC 9700 section 2.4: the password grant above all."""
    credentials = {"username": "ada@example.com", "password": "correct horse battery staple"}
    answer = await shared.post("token", BILLING, grant_type=grant, **credentials)
    assert_error(answer, 400, "unsupported_grant_type", "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("endpoint", "form", "missing"),
    [
        ("token", {"x": "y"}, "grant_type"),
        ("token", {"grant_type": ""}, "grant_type"),
        ("token", {"grant_type": "refresh_token"}, "refresh_token"),
        ("token", {"grant_type": "refresh_token", "refresh_token": ""}, "refresh_token"),
        ("introspect", {"x": "y"}, "token"),
        ("introspect", {"token": ""}, "token"),
        ("revoke", {"token_type_hint": "access_token"}, "token"),
    ],
)
async def test_what_is_missing_is_named(
    shared: Edge, endpoint: str, form: dict[str, str], missing: str
) -> None:
    """A parameter without a value counts as left out (RFC 6749 section 3.2)."""
    answer = await shared.post(endpoint, BILLING, **form)
    text = assert_error(answer, 400, "invalid_request", "INVALID_ARGUMENT")
    assert text == f"{missing}: is required"


@pytest.mark.parametrize("name", ["grant_type", "scope", "token", "client_id", "unknown"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_a_repeated_parameter_is_refused(shared: Edge, endpoint: str, name: str) -> None:
    """RFC 6749 section 3.2; two readers could take different ones."""
    body = "grant_type=client_credentials&token=garbage&scope=read&client_id=billing&unknown=1"
    answer = await shared.http.post(
        f"/oauth2/{endpoint}",
        content=f"{body}&{name}=read",
        headers={"content-type": FORM},
        auth=(BILLING, shared.secrets[BILLING]),
    )
    assert name in assert_error(answer, 400, "invalid_request", "INVALID_ARGUMENT")


@pytest.mark.parametrize("body", [b"\xff=\xff", b"a=%ff", b"a", b"a&b", b"=&=&=", b"a=b&" * 200])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_a_body_that_is_no_form_is_refused(shared: Edge, endpoint: str, body: bytes) -> None:
    """Not UTF-8, no pairs, or a flood of them."""
    answer = await shared.http.post(
        f"/oauth2/{endpoint}",
        content=body,
        headers={"content-type": FORM},
        auth=(BILLING, shared.secrets[BILLING]),
    )
    assert_error(answer, 400, "invalid_request", "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    "kind", [None, "", "application/json", "multipart/form-data", "é", FORM + "x"]
)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_another_content_type_is_refused(
    shared: Edge, endpoint: str, kind: str | None
) -> None:
    """The answer names the right one."""
    headers = {} if kind is None else {b"content-type": kind.encode("latin-1")}
    answer = await shared.http.post(f"/oauth2/{endpoint}", content=b"token=x", headers=headers)
    assert FORM in assert_error(answer, 415, "invalid_request", "INVALID_ARGUMENT")


async def test_the_content_type_may_have_parameters(shared: Edge) -> None:
    """Many libraries add a charset, and any case will do."""
    answer = await shared.http.post(
        "/oauth2/token",
        content=b"grant_type=client_credentials",
        headers={"content-type": "Application/X-WWW-Form-Urlencoded ; charset=UTF-8"},
        auth=(BILLING, shared.secrets[BILLING]),
    )
    assert answer.status_code == 200


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_parameters_are_read_from_the_body_alone(shared: Edge, endpoint: str) -> None:
    """RFC 6749 section 2.3.1: in a URL they would end in logs."""
    answer = await shared.http.post(
        f"/oauth2/{endpoint}?token=garbage&grant_type=client_credentials",
        data={"x": "y"},
        auth=(BILLING, shared.secrets[BILLING]),
    )
    assert "is required" in assert_error(answer, 400, "invalid_request", "INVALID_ARGUMENT")


# The grant refresh_token


async def test_a_public_client_refreshes_by_its_id(shared: Edge) -> None:
    """RFC 6749 section 6; the old and the new token are of one session."""
    first = await shared.login("web")
    answer = await shared.post(
        "token", grant_type="refresh_token", client_id="web", refresh_token=first.refresh_token
    )
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    content = answer.json()
    assert content["session_id"] == first.session_id
    assert content["refresh_token"] != first.refresh_token
    assert content["scope"] == "read write"
    assert await shared.active(content["access_token"])


async def test_a_retried_refresh_gets_the_same_successor(shared: Edge) -> None:
    """A lost response is answered again, byte for byte, over gRPC too."""
    first = await shared.login("web")
    form = {"grant_type": "refresh_token", "refresh_token": first.refresh_token}
    answers = [await shared.post("token", client_id="web", **form) for _ in range(3)]
    tokens = {(a.json()["refresh_token"], a.json()["access_token"]) for a in answers}
    assert len(tokens) == 1
    assert tokens == {
        (again.refresh_token, again.access_token)
        for again in [await shared.rpc.refresh(first.refresh_token)]
    }


async def test_a_confidential_client_refreshes_by_its_secret(shared: Edge) -> None:
    """In the header or in the body."""
    first = await shared.login(BILLING)
    form = {"grant_type": "refresh_token", "scope": "read"}
    answer = await shared.post("token", BILLING, refresh_token=first.refresh_token, **form)
    assert answer.json()["scope"] == "read"
    answer = await shared.post(
        "token",
        client_id=BILLING,
        client_secret=shared.secrets[BILLING],
        refresh_token=answer.json()["refresh_token"],
        **form,
    )
    assert answer.status_code == 200


@pytest.mark.parametrize("client_id", [BILLING, "BILLING", " billing ", "ｂilling"])
async def test_a_confidential_client_must_show_its_secret(shared: Edge, client_id: str) -> None:
    """However its id is spelled, and with an empty secret too."""
    first = await shared.login(BILLING)
    form = {"grant_type": "refresh_token", "refresh_token": first.refresh_token}
    assert_invalid_client(await shared.post("token", client_id=client_id, **form))
    assert_invalid_client(await shared.post("token", client_id=client_id, client_secret="", **form))
    assert_invalid_client(
        await shared.post("token", client_id=client_id, client_secret="wrong", **form)
    )
    assert_invalid_client(await basic(shared, quote_plus(client_id).encode() + b":", **form))
    assert_invalid_client(await shared.post("token", **form))
    await assert_nothing_rotated(shared, first.session_id)


@pytest.mark.parametrize("owner", ["web", BILLING])
@pytest.mark.parametrize("other", ["app", "WEB", "browser", ORDERS])
async def test_a_token_of_another_client_is_refused(shared: Edge, owner: str, other: str) -> None:
    """RFC 6749 section 10.4: it is bound to its client; nothing is rotated or ended."""
    first = await shared.login(owner)
    form = {"grant_type": "refresh_token", "refresh_token": first.refresh_token}
    confidential = other if other in shared.secrets else ""
    identity = {} if confidential else {"client_id": other}
    answer = await shared.post("token", confidential, **form, **identity)
    assert_error(answer, 400, "invalid_grant", "INVALID_GRANT")
    await assert_nothing_rotated(shared, first.session_id)


async def test_a_used_token_of_another_client_ends_nothing(shared: Edge) -> None:
    """Only a replay by its own client counts as reuse; another cannot end the session by it."""
    first = await shared.login("web")
    second = await shared.rpc.refresh(first.refresh_token)
    third = await shared.rpc.refresh(second.refresh_token)
    form = {"grant_type": "refresh_token", "refresh_token": first.refresh_token}
    answer = await shared.post("token", client_id="app", **form)
    assert_error(answer, 400, "invalid_grant", "INVALID_GRANT")
    assert await shared.active(third.access_token)
    answer = await shared.post("token", client_id="web", **form)
    assert_error(answer, 400, "invalid_grant", "INVALID_GRANT")
    assert not await shared.active(third.access_token)


async def assert_nothing_rotated(shared: Edge, session_id: str) -> None:
    """The session is as it was at login."""
    assert await query(
        shared.database_url,
        f"SELECT generation = 0 AND revoked_at IS NULL FROM sessions WHERE id = '{session_id}'",  # noqa: S608
    )


async def test_a_public_client_may_use_basic_without_a_secret(shared: Edge) -> None:
    """RFC 6749 section 2.3.1: an empty secret is none."""
    first = await shared.login("web")
    form = {"grant_type": "refresh_token", "refresh_token": first.refresh_token}
    assert (await basic(shared, b"web:", **form)).status_code == 200


@pytest.mark.parametrize("token", GARBAGE)
async def test_a_malformed_refresh_token_is_refused(shared: Edge, token: str) -> None:
    """RFC 6749 section 5.2: invalid_grant."""
    answer = await shared.post(
        "token", grant_type="refresh_token", client_id="web", refresh_token=token
    )
    assert_error(answer, 400, "invalid_grant", "INVALID_GRANT")


async def test_an_access_token_refreshes_nothing(shared: Edge) -> None:
    """The two kinds are never mistaken for one another."""
    first = await shared.login("web")
    answer = await shared.post(
        "token", grant_type="refresh_token", client_id="web", refresh_token=first.access_token
    )
    assert_error(answer, 400, "invalid_grant", "INVALID_GRANT")


async def test_a_scope_beyond_the_session_changes_nothing(shared: Edge) -> None:
    """RFC 6749 section 6: it may only narrow."""
    first = await shared.login("web", ("read",))
    form = {"grant_type": "refresh_token", "refresh_token": first.refresh_token}
    answer = await shared.post("token", client_id="web", scope="read write", **form)
    assert_error(answer, 400, "invalid_scope", "INVALID_SCOPE")
    await assert_nothing_rotated(shared, first.session_id)


# Introspection


async def test_a_good_token_is_active_with_all_its_claims(shared: Edge) -> None:
    """RFC 7662 section 2.2: `scope` is one string."""
    tokens = await shared.login("web")
    for hint in ({}, {"token_type_hint": "refresh_token"}, {"token_type_hint": "nonsense"}):
        answer = await shared.post("introspect", BILLING, token=tokens.access_token, **hint)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        content = answer.json()
        assert content.pop("active") is True
        assert content.pop("token_type") == "Bearer"
        assert content == claims_of(tokens.access_token)
        assert content["scope"] == "read write"
        assert content["sid"] == tokens.session_id
        assert (content["acr"], content["auth_time"]) == ("1fa", content["iat"])


async def test_anything_but_a_valid_access_token_is_inactive(shared: Edge) -> None:
    """Revoked, garbage or a refresh token: one member, and nothing told of why."""
    tokens, ended = await shared.login("web"), await shared.login("web")
    await shared.rpc.auth.Revoke(pb.RevokeRequest(refresh_token=ended.refresh_token))
    forged = tokens.access_token[:-2] + ("AA" if tokens.access_token[-2:] != "AA" else "BB")
    for token in (ended.access_token, tokens.refresh_token, forged, *GARBAGE):
        answer = await shared.post("introspect", BILLING, token=token)
        assert (answer.status_code, answer.json()) == (200, {"active": False})
        assert answer.headers["cache-control"] == "no-store"


async def test_an_expired_token_is_inactive(database_url: str) -> None:
    """It was valid a moment ago."""
    async with edge(database_url, access_token_ttl="1s") as made:
        token = await made.service_token()

        async def expired() -> bool:
            answer = await made.post("introspect", BILLING, token=token)
            return bool(answer.json() == {"active": False})

        await eventually(expired, what="the token expires")


@pytest.mark.parametrize("endpoint", ["introspect", "revoke"])
async def test_only_clients_with_a_secret_may_ask(shared: Edge, endpoint: str) -> None:
    """RFC 7662 section 2.1: nobody may find a token by trying, or use one as its own proof."""
    tokens = await shared.login("web")
    assert_invalid_client(await shared.post(endpoint, token=tokens.access_token))
    assert_invalid_client(await shared.post(endpoint, token=tokens.access_token, client_id="web"))
    assert_invalid_client(
        await shared.post(endpoint, token=tokens.access_token, client_id="web", client_secret="x")
    )
    assert_invalid_client(
        await shared.http.post(
            f"/oauth2/{endpoint}",
            data={"token": tokens.access_token},
            headers={"authorization": f"Bearer {tokens.access_token}"},
        )
    )
    assert await shared.active(tokens.access_token)


# Revocation


async def test_a_clients_own_refresh_token_ends_its_session(shared: Edge) -> None:
    """RFC 7009 section 2.1: the access tokens go too; once more is fine."""
    tokens = await shared.login(BILLING)
    for hint in ({"token_type_hint": "access_token"}, {}):
        answer = await shared.post("revoke", BILLING, token=tokens.refresh_token, **hint)
        assert (answer.status_code, answer.content) == (200, b"")
        assert not await shared.active(tokens.access_token)
    answer = await shared.post(
        "token", BILLING, grant_type="refresh_token", refresh_token=tokens.refresh_token
    )
    assert_error(answer, 400, "invalid_grant", "INVALID_GRANT")


async def test_a_clients_own_access_token_ends_alone(shared: Edge) -> None:
    """The session goes on, and so do other tokens of the account."""
    tokens, other = await shared.login(BILLING), await shared.service_token()
    for token in (tokens.access_token, await shared.service_token()):
        assert (await shared.post("revoke", BILLING, token=token)).status_code == 200
        assert not await shared.active(token)
    assert await shared.active(other)
    assert (await shared.rpc.refresh(tokens.refresh_token)).access_token


@pytest.mark.parametrize("token", GARBAGE)
async def test_revoking_a_malformed_token_succeeds(shared: Edge, token: str) -> None:
    """RFC 7009 section 2.2: there is nothing that the client could do about it."""
    answer = await shared.post("revoke", BILLING, token=token)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("owner", ["web", ORDERS])
async def test_a_token_of_another_client_stays(shared: Edge, owner: str) -> None:
    """RFC 7009 section 2.1: the client is told, and both tokens remain valid."""
    tokens = await shared.login(owner)
    for token in (tokens.access_token, tokens.refresh_token):
        answer = await shared.post("revoke", BILLING, token=token)
        assert_error(answer, 400, "unauthorized_client", "PERMISSION_DENIED")
    assert await shared.active(tokens.access_token)
    assert (await shared.rpc.refresh(tokens.refresh_token)).access_token


# Without a database


async def test_introspection_on_old_knowledge_is_refused(database_url: str) -> None:
    """A caller that is authenticated still gets no verdict that may have been overtaken."""
    pool = await connect(database_url, min_size=1, max_size=2)
    clock = FakeClock()
    core = make_core(Store(pool), clock)
    secret = await core.accounts.services.create(BILLING)
    token = (await core.sessions.login_client(BILLING, secret)).access_token
    as_of, limit = clock.now, timedelta(seconds=5)
    validation = Validation(core.verifier, lambda: as_of, limit, clock)
    exchange = TokenExchange(
        validation,
        core.signer,
        RevocationList(clock),
        core.audiences.find,
        core.audiences.own,
        limit,
        clock,
    )
    parts: Any = SimpleNamespace(
        credentials=core.credentials,
        sessions=core.sessions,
        revoker=core.revoker,
        validation=validation,
        exchange=exchange,
        audiences=core.audiences,
        shielded=Shielded(),
        auditor=Auditor(core.store, clock),
        clock=clock,
    )
    app = create_app(oauth_routes(parts, certificate_of(TrustedProxies())))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        sent: Any = {"url": "/oauth2/introspect", "data": {"token": token}}
        sent["auth"] = (BILLING, secret)
        clock.advance(limit)
        assert (await http.post(**sent)).json()["active"]
        clock.advance(timedelta(microseconds=1))
        answer = await http.post(**sent)
        assert_error(answer, 503, "temporarily_unavailable", "REVOCATIONS_STALE")
        assert int(answer.headers["retry-after"]) > 0
    core.hasher.close()
    pool.terminate()


async def test_without_the_database_no_verdict_is_guessed(database_url: str) -> None:
    """Each endpoint says to come back later, and does its work again afterwards."""
    async with edge(database_url) as made:
        secrets = made.secrets
    proxy = Proxy(database_target(database_url))
    await proxy.open()
    limits: dict[str, Any] = {"freshness_limit": "3s", "feed_poll_interval": "50ms"}
    async with serving(through(database_url, proxy), secrets, **limits) as made:
        token = await made.service_token()
        form = {"token": token, "grant_type": "client_credentials"}
        await proxy.cut()
        for endpoint in ENDPOINTS:
            answer = await made.post(endpoint, BILLING, **form)
            assert_error(answer, 503, "temporarily_unavailable", "UNAVAILABLE")
            assert int(answer.headers["retry-after"]) > 0
        await proxy.open()

        async def back() -> bool:
            answer = await made.post("introspect", BILLING, token=token)
            return answer.status_code == 200 and answer.json()["active"]

        await eventually(back, what="introspection answers again")
    await proxy.cut()
