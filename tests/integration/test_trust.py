"""The keys of issuers: read from files, by HTTPS and from a Workload API, on a schedule only."""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from authn.spiffe.v1 import workload_pb2 as pb
from structlog.testing import capture_logs

from auth_service.core.workloads import IssuerKind
from auth_service.tokens.foreign_keys import TrustedKeys, foreign_keys
from auth_service.trust import sources
from auth_service.trust.refresh import JITTER, LONGEST_RETRY, KeyRefresh, KeyRefreshes
from auth_service.trust.sources import FetchFailed, FileSource, UrlSource, WorkloadApiSource
from tests.clock import FakeClock
from tests.workloads import TRUST_DOMAIN, Platform, jwks

HOUR = timedelta(hours=1)
PLATFORM = Platform.new(IssuerKind.KUBERNETES)
DOMAIN = Platform.new(IssuerKind.SPIFFE)


class Web:
    """An HTTP server that answers each request with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.answer)
            await writer.drain()
        await closed(writer)

    @asynccontextmanager
    async def running(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
        """Serve; yield the URL."""
        async with listening(self.serve, tls) as port:
            yield f"{'https' if tls else 'http'}://127.0.0.1:{port}/jwks"


async def closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection."""
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()


@asynccontextmanager
async def listening(serve: Any, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve on a port, which is yielded; at the end no connection is left."""
    tasks: list[asyncio.Task[None]] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]
    await asyncio.gather(*tasks)


def http(body: str, status: str = "200 OK", *headers: str) -> bytes:
    """Return a response."""
    content = body.encode()
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(content)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + content


async def failure(source: Any) -> str:
    """Return why the keys cannot be read."""
    with pytest.raises(FetchFailed) as caught:
        await source.fetch()
    return str(caught.value)


class TestFiles:
    async def test_a_file_is_read_anew_each_time(self, tmp_path: Path) -> None:
        """As a projected volume is replaced."""
        path = tmp_path / "jwks.json"
        path.write_text("a")
        source = FileSource(path)
        assert await source.fetch() == "a"
        path.write_text("b")
        assert await source.fetch() == "b"

    async def test_what_cannot_be_read_is_told(self, tmp_path: Path) -> None:
        """With the name of the file."""
        path = tmp_path / "jwks.json"
        assert str(path) in await failure(FileSource(path))
        path.write_bytes(b"\xff")
        assert "UTF-8" in await failure(FileSource(path))
        path.write_bytes(b"x" * (sources.MAX_BYTES + 1))
        assert "more than" in await failure(FileSource(path))


class TestUrls:
    async def test_https_needs_a_trusted_certificate_and_sends_the_token(
        self, tmp_path: Path
    ) -> None:
        """Both files are read at each reading."""
        authority, web = trustme.CA(), Web(http(PLATFORM.jwks()))
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        ca, token = tmp_path / "ca.crt", tmp_path / "token"
        ca.write_bytes(authority.cert_pem.bytes())
        token.write_text("first\n")
        async with web.running(tls) as url:
            source = UrlSource(url, ca, token)
            assert await source.fetch() == PLATFORM.jwks()
            token.write_text("second\n")
            await source.fetch()
            assert "CERTIFICATE_VERIFY_FAILED" in await failure(UrlSource(url))
            ca.write_bytes(trustme.CA().cert_pem.bytes())
            assert "CERTIFICATE_VERIFY_FAILED" in await failure(source)
        assert [b"Bearer first\r\n" in each for each in web.requests] == [True, False]
        assert b"Bearer second\r\n" in web.requests[1]

    @pytest.mark.parametrize(
        ("answer", "told"),
        [
            (http("", "302 Found", "location: https://127.0.0.1/x"), "answered 302"),
            (http("", "404 Not Found"), "answered 404"),
            (http("", "500 Internal Server Error"), "answered 500"),
            (b"SSH-2.0-x\r\n\r\n", "RemoteProtocolError"),
            (b"", "RemoteProtocolError"),
            (http("x" * (sources.MAX_BYTES + 1)), "more than"),
            (http("x", "200 OK", "content-length: 9"), "cannot be read"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n\xff", "UnicodeDecodeError"),
        ],
        ids=range(8),
    )
    async def test_any_other_answer_is_a_failure(self, answer: bytes, told: str) -> None:
        """A redirect too: the configuration names the place."""
        web = Web(answer)
        async with web.running() as url:
            assert told in await failure(UrlSource(url))
        assert len(web.requests) == 1

    async def test_a_server_that_does_not_answer_is_given_up(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a time for all of it; one that refuses is told apart."""

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            await closed(writer)

        async with listening(hang) as port:
            with monkeypatch.context() as hurried:
                hurried.setattr(sources, "TIMEOUT", 0.05)
                assert "did not answer" in await failure(UrlSource(f"http://127.0.0.1:{port}/"))
        assert "cannot be reached" in await failure(UrlSource(f"http://127.0.0.1:{port}/"))

    async def test_no_failure_shows_the_bearer_token(self, tmp_path: Path) -> None:
        """Also where it cannot be sent, because it is no header."""
        token = tmp_path / "token"
        token.write_text("top\nsecret")
        async with Web(http("")).running() as url:
            text = await failure(UrlSource(url, None, token))
        assert "secret" not in text


@asynccontextmanager
async def workload_api(path: Path, bundles: dict[str, str]) -> AsyncIterator[list[Any]]:
    """Serve SPIFFE's Workload API at a Unix socket; yields the metadata of its calls."""
    calls: list[Any] = []
    closed = asyncio.Event()

    async def fetch(request: pb.JWTBundlesRequest, context: Any) -> AsyncIterator[Any]:
        metadata = dict(context.invocation_metadata())
        calls.append(metadata)
        if metadata.get("workload.spiffe.io") != "true":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing")
        if not bundles:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
        yield pb.JWTBundlesResponse(bundles={k: v.encode() for k, v in bundles.items()})
        await closed.wait()  # a stream of updates that does not end

    handler = grpc.unary_stream_rpc_method_handler(
        fetch,
        request_deserializer=pb.JWTBundlesRequest.FromString,
        response_serializer=pb.JWTBundlesResponse.SerializeToString,
    )
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("SpiffeWorkloadAPI", {"FetchJWTBundles": handler})]
    )
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    try:
        yield calls
    finally:
        closed.set()
        await server.stop(None)


class TestWorkloadApi:
    async def test_the_bundle_of_the_trust_domain_is_taken(self, tmp_path: Path) -> None:
        """Of the first answer, which has those of federated domains too."""
        path = tmp_path / "agent.sock"
        bundles = {TRUST_DOMAIN: DOMAIN.jwks(), "spiffe://other.test": "{}"}
        async with workload_api(path, bundles) as calls:
            assert await WorkloadApiSource(path, TRUST_DOMAIN).fetch() == DOMAIN.jwks()
            text = await failure(WorkloadApiSource(path, "spiffe://third.test"))
        assert "no JWT bundle of spiffe://third.test" in text
        assert [each["workload.spiffe.io"] for each in calls] == ["true", "true"]

    async def test_an_agent_that_knows_no_such_workload_is_told(self, tmp_path: Path) -> None:
        """The log has the status and the text of the agent."""
        path = tmp_path / "agent.sock"
        async with workload_api(path, {}):
            text = await failure(WorkloadApiSource(path, TRUST_DOMAIN))
        assert "PERMISSION_DENIED: no identity issued" in text


class Given:
    """A source whose answers a test sets; it counts the readings."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers = list(answers)
        self.read = asyncio.Event()

    async def fetch(self) -> str:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        self.read.set()
        if isinstance(answer, Exception):
            raise answer
        return answer


def refresh(clock: FakeClock, *answers: str | Exception, **options: Any) -> KeyRefresh:
    """Return the refresh of a source with these answers."""
    defaults: dict[str, Any] = {"uses": ("sig",), "interval": HOUR, "stale_after": 2 * HOUR}
    options = defaults | options
    return KeyRefresh("https://ci.test", Given(*answers), TrustedKeys(), clock=clock, **options)


class TestRefresh:
    async def test_the_last_good_keys_stay_when_a_reading_fails(self) -> None:
        """Whatever is wrong with it; the log says it, and that keys have changed."""
        clock, keys = FakeClock(), TrustedKeys()
        shared = jwks({"kty": "oct", "k": "AAAA"})
        bad: list[Any] = [FetchFailed("away"), "x", "{}", jwks(), shared]
        source = Given(PLATFORM.jwks(), *bad, jwks(PLATFORM.keys[1].jwk()))
        made = KeyRefresh(
            "ci", source, keys, uses=("sig",), interval=HOUR, stale_after=HOUR, clock=clock
        )
        with capture_logs() as logs:
            assert await made.refresh()
            known = keys.kids
            assert set(known) == {key.kid for key in PLATFORM.keys}
            for _ in bad:
                assert not await made.refresh()
                assert keys.kids == known
            assert await made.refresh()
        assert keys.kids == (PLATFORM.keys[1].kid,)
        events = [each["event"] for each in logs]
        changed, failed = "workload_keys_changed", "workload_keys_not_read"
        assert events == [changed, *[failed] * len(bad), changed]
        assert "AAAA" not in str(logs)

    async def test_keys_that_were_not_read_for_long_are_stale_once(self) -> None:
        """A warning and the metric say so, and the keys are used still."""
        clock = FakeClock()
        made = refresh(clock, PLATFORM.jwks(), FetchFailed("away"))
        await made.refresh()
        all_ = KeyRefreshes([made])
        clock.advance(2 * HOUR)
        assert all_.warnings() == []
        clock.advance(timedelta(seconds=1))
        await made.refresh()
        with capture_logs() as logs:
            await all_.observe()
            await all_.observe()
        assert [each["event"] for each in logs] == ["workload_keys_stale"]
        assert all_.warnings() == ["the keys of https://ci.test are stale"]

    def test_readings_are_spread_and_come_sooner_after_a_failure(self) -> None:
        """Replicas that started together do not ask together."""
        made = refresh(FakeClock(), "")
        assert made.delay(True, lambda: 0.0) == HOUR.total_seconds()
        assert made.delay(True, lambda: 1.0) == HOUR.total_seconds() * (1 - JITTER)
        assert made.delay(False, lambda: 0.0) == LONGEST_RETRY

    async def test_the_start_waits_for_the_first_reading_only(self) -> None:
        """Of each issuer, whether it succeeds or not."""
        clock = FakeClock()
        good, bad = TrustedKeys(), TrustedKeys()
        options: Any = {"uses": ("sig",), "interval": HOUR, "stale_after": HOUR, "clock": clock}
        all_ = KeyRefreshes(
            [
                KeyRefresh("good", Given(PLATFORM.jwks()), good, **options),
                KeyRefresh("bad", Given(RuntimeError("a fault")), bad, **options),
            ]
        )
        await all_.start()
        await all_.stop()
        assert good.known
        assert not bad.known


def usable(*members: dict[str, Any], uses: Iterable[str] = ("sig",)) -> set[str]:
    """Return the ids of the keys of a set that may verify."""
    return set(foreign_keys(jwks(*members), tuple(uses))[0])


class TestSets:
    def test_a_set_is_trusted_key_by_key(self) -> None:
        """What is unknown, private, for another use or has no id is left out."""
        rsa, ec, *_ = PLATFORM.keys
        odd: list[dict[str, Any]] = [
            ec.jwk(kid="unknown-kty", kty="AKP"),
            ec.jwk(kid="unknown-curve", crv="secp256k1"),
            ec.jwk(kid="private", d="AAAA"),
            ec.jwk(kid="encrypts", use="enc"),
            ec.jwk(kid="signs", key_ops=["sign"]),
            ec.jwk(kid="hs", alg="HS256"),
            ec.jwk(kid="of-another-type", alg="RS256"),
            ec.jwk(kid=1),
            ec.jwk(kid=""),
            {"kty": "oct", "kid": "shared", "k": "AAAA"},
            rsa.jwk(kid="weak", n="AQAB"),
        ]
        keys, left_out = foreign_keys(jwks(rsa.jwk(), *odd))
        assert set(keys) == {rsa.kid}
        assert len(left_out) == len(odd)

    def test_a_kid_that_stands_there_twice_names_no_key(self) -> None:
        """Nobody could tell which is meant."""
        rsa, ec, *_ = PLATFORM.keys
        assert usable(rsa.jwk(), ec.jwk(kid="a"), rsa.jwk(kid="a")) == {rsa.kid}

    def test_a_key_has_the_algorithms_of_its_type_and_jwk(self) -> None:
        """RSA without `alg` may be used by six, any other key by one."""
        rsa, ec, *_ = PLATFORM.keys
        keys, _ = foreign_keys(jwks(rsa.jwk(kid="a"), rsa.jwk(kid="b", alg="PS512"), ec.jwk()))
        assert len(keys["a"].algorithms) == 6
        assert keys["b"].algorithms == ("PS512",)
        assert keys[ec.kid].algorithms == ("ES256",)

    def test_the_keys_of_certificates_are_not_those_of_tokens(self) -> None:
        """A bundle of SPIFFE has both (SPIFFE Bundle section 4.2.2)."""
        rsa, ec, *_ = DOMAIN.keys
        members = rsa.jwk(use="x509-svid"), ec.jwk(use="jwt-svid")
        assert usable(*members, uses=["jwt-svid"]) == {ec.kid}

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": {}}', '{"keys": []}', "nul"])
    def test_what_is_no_set_is_refused(self, text: str) -> None:
        """An empty one too: no issuer has no key."""
        with pytest.raises(ValueError, match=r"JWK Set|JSON|no usable key"):
            foreign_keys(text)

    def test_a_set_without_end_is_refused(self) -> None:
        """Before its keys are read."""
        with pytest.raises(ValueError, match="up to 100"):
            foreign_keys(json.dumps({"keys": [{}] * 101}))
