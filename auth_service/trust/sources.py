"""Where the keys of an issuer are read: a file, an HTTPS URL, or SPIFFE's Workload API.

Owns the limits of time and size, and that nothing but the configured place is asked.
"""

import asyncio
import ssl
from pathlib import Path
from typing import Protocol

import grpc
import httpx
from authn.spiffe.v1 import workload_pb2 as pb

__all__ = ["MAX_BYTES", "FetchFailed", "FileSource", "Source", "UrlSource", "WorkloadApiSource"]

MAX_BYTES = 1024 * 1024
"""The longest JWK Set; those of large issuers have some 10 KiB."""
TIMEOUT = 10.0  # seconds, for all of it

_FETCH_BUNDLES = "/SpiffeWorkloadAPI/FetchJWTBundles"
_WORKLOAD_METADATA = (("workload.spiffe.io", "true"),)  # SPIFFE Workload Endpoint section 6.1


class FetchFailed(Exception):
    """The keys could not be read; the text says why, for the log."""


class Source(Protocol):
    """A place that has a JWK Set."""

    async def fetch(self) -> str:
        """Return the JWK Set in JSON. Raises FetchFailed."""
        ...


class FileSource:
    """A file, which is read anew each time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def fetch(self) -> str:
        """Return the contents."""
        return await asyncio.to_thread(_read, self._path)


class UrlSource:
    """An https URL, or an http one of this machine.

    A redirect is an error: the configuration names the place. The variables of proxies and
    .netrc are not read.
    """

    def __init__(
        self, url: str, ca_file: Path | None = None, bearer_token_file: Path | None = None
    ) -> None:
        self._url = url
        self._ca_file = ca_file
        self._bearer_token_file = bearer_token_file

    async def fetch(self) -> str:
        """Return the body of a GET; the authorities and the bearer token are read anew."""
        headers = {"accept": "application/jwk-set+json, application/json"}
        headers["accept-encoding"] = "identity"  # the limit is one of what is received
        if self._bearer_token_file is not None:
            token = await asyncio.to_thread(_read, self._bearer_token_file)
            headers["authorization"] = f"Bearer {token.strip()}"
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._get(headers)
        except TimeoutError:
            raise FetchFailed(f"{self._url} did not answer within {TIMEOUT:.0f} s") from None
        except (httpx.ConnectError, OSError) as error:
            raise FetchFailed(f"{self._url} cannot be reached: {error}") from None
        except (httpx.HTTPError, ValueError) as error:  # whose text may quote a header
            raise FetchFailed(f"{self._url} cannot be read: {type(error).__name__}") from None

    async def _get(self, headers: dict[str, str]) -> str:
        trusted = await asyncio.to_thread(ssl.create_default_context, cafile=self._ca_file)
        async with (
            httpx.AsyncClient(verify=trusted, trust_env=False, timeout=TIMEOUT) as client,
            client.stream("GET", self._url, headers=headers) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise FetchFailed(f"{self._url} answered {response.status_code} instead of 200")
            body = bytearray()
            async for part in response.aiter_raw():
                body += part
                if len(body) > MAX_BYTES:
                    raise FetchFailed(f"{self._url} sent more than {MAX_BYTES} bytes")
            return body.decode()


class WorkloadApiSource:
    """The Workload API of a SPIFFE agent on this machine, by its Unix socket."""

    def __init__(self, socket: Path, trust_domain: str) -> None:
        """`trust_domain` is a URI, as `spiffe://example.org`."""
        self._socket = socket
        self._trust_domain = trust_domain

    async def fetch(self) -> str:
        """Return the JWT bundle of the trust domain: the first answer of a stream."""
        options = [("grpc.default_authority", "localhost"), ("grpc.enable_http_proxy", 0)]
        async with grpc.aio.insecure_channel(f"unix:{self._socket}", options=options) as channel:
            call = channel.unary_stream(
                _FETCH_BUNDLES,
                request_serializer=pb.JWTBundlesRequest.SerializeToString,
                response_deserializer=pb.JWTBundlesResponse.FromString,
            )(pb.JWTBundlesRequest(), metadata=_WORKLOAD_METADATA, timeout=TIMEOUT)
            try:
                answer = await call.read()
            except grpc.aio.AioRpcError as error:
                text = f"the Workload API at {self._socket} answered {error.code().name}"
                raise FetchFailed(f"{text}: {error.details()}") from None
            finally:
                call.cancel()
        bundles = answer.bundles if isinstance(answer, pb.JWTBundlesResponse) else {}
        if self._trust_domain not in bundles:
            raise FetchFailed(f"the Workload API has no JWT bundle of {self._trust_domain}")
        bundle = bundles[self._trust_domain]
        try:
            return bundle[: MAX_BYTES + 1].decode()
        except ValueError:
            raise FetchFailed("the Workload API sent a bundle that is not UTF-8") from None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise FetchFailed(f"{path} has more than {MAX_BYTES} bytes")
        return content.decode()
    except OSError as error:
        raise FetchFailed(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise FetchFailed(f"{path} is not UTF-8") from None
