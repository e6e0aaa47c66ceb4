"""How the checks call: plain HTTP/1.1 with headers as given, and gRPC."""

import http.client
import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from authn.v1 import auth_service_pb2 as pb
from authn.v1 import auth_service_pb2_grpc as rpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from check import MismatchError
from processes import SERVICE

SECONDS = 10.0
IDENTITY = ("x-auth-subject", "x-auth-session", "x-auth-scope", "x-auth-roles", "x-auth-actor")
SPOOFED = tuple((name, "spoofed") for name in IDENTITY)
Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back over HTTP."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON. Raises MismatchError where it is something else."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise MismatchError(f"an answer in JSON\n  seen: {self}") from None

    def received(self, name: str) -> list[str]:
        """The values of a header as they reached the upstream."""
        values: list[str] = self.json["headers"].get(name, [])
        return values


def bearer(token: str) -> tuple[str, str]:
    """Return the header that carries a token."""
    return ("authorization", f"Bearer {token}")


def request(
    address: str, path: str, *headers: tuple[str, str], body: Any = None, tls: bool = False
) -> Answer:
    """GET, or POST a body: an object as JSON, a text as a form. Sends each header as given."""
    insecure = ssl.create_default_context()
    insecure.check_hostname, insecure.verify_mode = False, ssl.CERT_NONE  # made a moment ago
    connection: http.client.HTTPConnection = (
        http.client.HTTPSConnection(address, timeout=SECONDS, context=insecure)
        if tls
        else http.client.HTTPConnection(address, timeout=SECONDS)
    )
    form = isinstance(body, str)
    sent = b"" if body is None else (body if form else json.dumps(body)).encode()
    try:
        connection.putrequest("GET" if body is None else "POST", path)
        for name, value in headers:
            connection.putheader(name, value)
        if body is not None:
            kind = "application/x-www-form-urlencoded" if form else "application/json"
            connection.putheader("content-type", kind)
            connection.putheader("content-length", str(len(sent)))
        connection.endheaders(sent)
        response = connection.getresponse()
        seen = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, seen, response.read())
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class GrpcAnswer:
    """What came back over gRPC: a body, or a status."""

    code: str
    text: str
    headers: dict[str, str]
    reason: str


def grpc_call(address: str, method: str, *metadata: tuple[str, str]) -> GrpcAnswer:
    """Call a method of the gRPC upstream; `headers` are those that it received."""
    with grpc.insecure_channel(address) as channel:
        try:
            body = channel.unary_unary(method)(b"", timeout=SECONDS, metadata=metadata)
        except grpc.RpcError as error:
            return GrpcAnswer(error.code().name, error.details(), {}, reason_of(error))
    return GrpcAnswer("OK", "", json.loads(body)["headers"], "")


def reason_of(error: grpc.RpcError) -> str:
    """Return the reason in the status' ErrorInfo, or an empty text."""
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    return str(info.reason)
    return ""


def login(identifier: str, password: str, **fields: Any) -> Any:
    """Log in with the service itself, and return the tokens."""
    credentials = pb.PasswordCredentials(identifier=identifier, password=password)
    return auth("Login", pb.LoginRequest(password=credentials, **fields)).tokens


def auth(method: str, message: Message) -> Any:
    """Call a method of the service itself."""
    with grpc.insecure_channel(SERVICE) as channel:
        stub = rpc.AuthServiceStub(channel)
        return getattr(stub, method)(message, timeout=SECONDS, wait_for_ready=True)
