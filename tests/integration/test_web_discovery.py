"""The public keys and the metadata, as caches, gateways and OAuth libraries fetch them."""

import functools
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import jwt
import pytest
import pytest_asyncio
from authn.v1 import admin_service_pb2 as admin_pb
from authn.v1.admin_service_pb2_grpc import AdminServiceStub

from auth_service.tokens.keys import ALGORITHMS, KeyRing, SigningKey, generate_key
from auth_service.web.app import create_app
from auth_service.web.discovery import discovery_routes
from tests.acceptance.servers import eventually
from tests.integration.http_edge import Edge, assert_error, edge, serving
from tests.integration.serving import query

JWKS = "/.well-known/jwks.json"
METADATA = "/.well-known/oauth-authorization-server"
PRIVATE = {"d", "p", "q", "dp", "dq", "qi", "k", "oth"}  # RFC 7518 section 6

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(module_database_url: str) -> AsyncIterator[Edge]:
    """A server with an HS256 key, which no test changes."""
    async with edge(module_database_url) as made:
        yield made


@functools.cache
def each_key() -> list[SigningKey]:
    """Return a key of each algorithm; RSA takes its time."""
    return [generate_key(name) for name in ALGORITHMS]


def client_of(**options: Any) -> httpx.AsyncClient:
    """Return a client of the discovery routes alone, with a key of each algorithm."""
    keys = each_key()
    defaults = {"issuer": "https://auth.test", "public_url": None, "jwks_age": timedelta(minutes=1)}
    app = create_app(discovery_routes(KeyRing(keys, keys[1].kid), **(defaults | options)))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def test_a_shared_secret_is_never_among_the_keys(shared: Edge) -> None:
    """A server that signs by HS256 has no public key at all."""
    answer = await shared.http.get(JWKS)
    assert answer.json() == {"keys": []}
    assert answer.headers["content-type"] == "application/jwk-set+json"


async def test_keys_are_public_and_complete() -> None:
    """Each asymmetric key is there with what a verifier needs, and nothing of its private part."""
    async with client_of() as http:
        keys = (await http.get(JWKS)).json()["keys"]
    assert [key["alg"] for key in keys] == ["EdDSA", "ES256", "RS256"]
    for key in keys:
        assert key["use"] == "sig"
        assert key["kid"]
        assert not PRIVATE & key.keys()
        jwt.PyJWK(key)


@pytest.mark.parametrize("path", [JWKS, METADATA])
@pytest.mark.parametrize("form", ["{}", "W/{}", '"other", {}', '"other",W/{} , "more"', "*"])
async def test_a_client_with_the_current_version_gets_304(
    shared: Edge, path: str, form: str
) -> None:
    """RFC 9110 section 13.1.2: 304 without a body, with the headers that a cache renews."""
    first = await shared.http.get(path)
    given = form.format(first.headers["etag"])
    again = await shared.http.get(path, headers={"if-none-match": given})
    assert (again.status_code, again.content) == (304, b"")
    for name in ("etag", "cache-control"):
        assert again.headers[name] == first.headers[name]


@pytest.mark.parametrize("path", [JWKS, METADATA])
@pytest.mark.parametrize("given", ['"other"', "", '"', 'W/"other", "more"'])
async def test_a_client_with_another_version_gets_the_content(
    shared: Edge, path: str, given: str
) -> None:
    """Any other tag, or garbage, gets the whole answer."""
    answer = await shared.http.get(path, headers={"if-none-match": given})
    assert answer.status_code == 200
    assert answer.json()


async def test_tags_may_be_in_several_headers(shared: Edge) -> None:
    """A list in several lines is one list (RFC 9110 section 5.3)."""
    tag = (await shared.http.get(JWKS)).headers["etag"]
    headers = [("if-none-match", '"other"'), ("if-none-match", tag)]
    assert (await shared.http.get(JWKS, headers=headers)).status_code == 304


@pytest.mark.parametrize("path", [JWKS, METADATA])
async def test_head_has_the_headers_alone(shared: Edge, path: str) -> None:
    """HEAD is GET without the body."""
    got, head = await shared.http.get(path), await shared.http.head(path)
    assert head.status_code == 200
    assert head.content == b""
    for name in ("etag", "cache-control", "content-type", "content-length"):
        assert head.headers[name] == got.headers[name]


def max_age(answer: httpx.Response) -> int:
    """Return for how long caches may keep an answer, in seconds."""
    public, _, age = answer.headers["cache-control"].partition(", max-age=")
    assert public == "public"
    return int(age)


async def test_caches_keep_the_keys_for_five_minutes_at_most(shared: Edge) -> None:
    """However long a key is known before it signs."""
    assert max_age(await shared.http.get(JWKS)) == 300


@pytest.mark.parametrize(("lead", "age"), [("7m", 210), ("3s", 1), ("0s", 0)])
async def test_caches_keep_the_keys_for_half_of_the_lead_at_most(
    database_url: str, lead: str, age: int
) -> None:
    """A cache that was filled just before a new key came is renewed before that key signs."""
    async with serving(database_url, key_publish_lead=lead) as made:
        assert max_age(await made.http.get(JWKS)) == age


async def test_a_new_key_is_there_at_once_and_on_other_replicas(database_url: str) -> None:
    """Rotation is seen in the next answer, under another tag, and without a restart elsewhere."""
    async with edge(database_url) as one, serving(database_url) as two:
        before = [await each.http.get(JWKS) for each in (one, two)]
        assert before[0].headers["etag"] == before[1].headers["etag"]
        tokens = await one.login()
        await query(database_url, "UPDATE users SET roles = '{admin}'")
        tokens = await one.rpc.refresh(tokens.refresh_token)
        rotated = await AdminServiceStub(one.rpc.channel).RotateKeys(
            admin_pb.RotateKeysRequest(algorithm="EdDSA"),
            metadata=(("authorization", f"Bearer {tokens.access_token}"),),
        )
        known = {"if-none-match": before[0].headers["etag"]}
        (key,) = (await one.http.get(JWKS, headers=known)).json()["keys"]
        assert (key["kid"], key["alg"]) == (rotated.key.kid, "EdDSA")

        async def followed() -> bool:
            return bool((await two.http.get(JWKS, headers=known)).content)

        await eventually(followed, what="the new key on the other replica")
        assert (await two.http.get(JWKS)).json()["keys"] == [key]


async def test_metadata_has_what_the_rfc_requires(shared: Edge) -> None:
    """RFC 8414 section 2, with the issuer as the base of every endpoint."""
    content = (await shared.http.get(METADATA)).json()
    base = "https://auth.internal"
    assert content["issuer"] == base
    assert content["token_endpoint"] == f"{base}/oauth2/token"
    assert content["jwks_uri"] == f"{base}{JWKS}"
    assert content["introspection_endpoint"] == f"{base}/oauth2/introspect"
    assert content["revocation_endpoint"] == f"{base}/oauth2/revoke"
    assert content["acr_values_supported"] == ["1fa", "2fa", "phr"]
    assert content["response_types_supported"] == []
    assert content["grant_types_supported"] == ["refresh_token", "client_credentials"]
    methods = ["client_secret_basic", "client_secret_post", "private_key_jwt"]
    assert content["token_endpoint_auth_methods_supported"] == [*methods, "none"]


async def test_every_endpoint_of_the_metadata_is_there(shared: Edge) -> None:
    """Each URL of the metadata leads to an endpoint."""
    content = (await shared.http.get(METADATA)).json()
    for name, url in content.items():
        if name.endswith(("_endpoint", "_uri")):
            answer = await shared.http.get(httpx.URL(url).path)
            assert answer.status_code in (200, 405), name


async def test_the_public_url_is_the_base_of_the_endpoints() -> None:
    """The issuer stays what tokens say."""
    async with client_of(public_url="https://edge.test/auth") as http:
        content = (await http.get(METADATA)).json()
    assert content["issuer"] == "https://auth.test"
    assert content["token_endpoint"] == "https://edge.test/auth/oauth2/token"


@pytest.mark.parametrize("issuer", ["https://auth.test/eu/one", "https://auth.test/eu/one/"])
async def test_an_issuer_with_a_path_has_its_metadata_below_the_well_known_name(
    issuer: str,
) -> None:
    """RFC 8414 section 3.1: the path comes last; a path of another issuer is not found."""
    async with client_of(issuer=issuer) as http:
        content = (await http.get(f"{METADATA}/eu/one")).json()
        assert content["issuer"] == issuer
        assert content["token_endpoint"] == "https://auth.test/eu/one/oauth2/token"
        assert (await http.get(METADATA)).json() == content
        answer = await http.get(f"{METADATA}/eu/two")
        assert_error(answer, 404, "not_found", "NOT_FOUND")


@pytest.mark.parametrize(
    "issuer", ["auth", "urn:auth", "https://[", "https://", "https://a.test?b", "https://a.test#b"]
)
@pytest.mark.parametrize("public_url", [None, "https://edge.test"])
async def test_an_issuer_that_is_no_url_has_no_metadata(
    issuer: str, public_url: str | None
) -> None:
    """RFC 8414 section 2 has no place for it; the answer names the way out."""
    async with client_of(issuer=issuer, public_url=public_url) as http:
        answer = await http.get(METADATA)
        assert "AUTH_ISSUER" in assert_error(answer, 404, "not_found", "NOT_FOUND")
        assert (await http.get(JWKS)).status_code == 200
