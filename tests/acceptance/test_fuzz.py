"""Arbitrary messages, bytes and metadata at every RPC of a real server."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import grpc
import pytest
from authn.v1 import (
    account_service_pb2,
    admin_service_pb2,
    auth_service_pb2,
    verifier_service_pb2,
)
from authn.v1 import auth_service_pb2 as pb
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import EncodeError, Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auth_service.rpc.ext_authz import add_descriptor
from tests.acceptance.conftest import StartServer
from tests.acceptance.servers import PASSWORD, USER, ServerProcess, make_user
from tests.channels import READY_TIMEOUT

SERVICES = [
    *(
        next(iter(module.DESCRIPTOR.services_by_name.values()))
        for module in (
            auth_service_pb2,
            account_service_pb2,
            admin_service_pb2,
            verifier_service_pb2,
        )
    ),
    add_descriptor(),
]
METHODS: list[MethodDescriptor] = [method for service in SERVICES for method in service.methods]
NEVER = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS}
DEPTH = 4

odd_text = st.sampled_from(
    ["", "\0", "a\0b", " ", "\u202e", "\ufeff", "\u0130", "\ufdfa" * 20, "😀", "\U0010ffff",
     "'; --", "a.b.c", "..", "x" * 300, "A" * 5000, "e\u0301" * 200, "%s%n", str(UUID(int=0)),
     "00000000-0000-0000-0000-00000000000g", USER, PASSWORD, "read", "admin"]
)  # fmt: skip
text = odd_text | st.text(max_size=40)
map_keys = text | st.sampled_from(
    [
        "authorization",
        "content-type",
        "audience",
        "scope",
        "roles",
        "public",
        "max_age",
        "acr_values",
    ]
)
INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def integers(low: int, high: int) -> st.SearchStrategy[int]:
    edges = [low, high, 0, 1, min(high, 999_999_999), min(high, 315_576_000_001)]
    return st.sampled_from(edges) | st.integers(low, high)


def values(field: FieldDescriptor, depth: int, tokens: st.SearchStrategy[str]) -> Any:
    """Return a strategy for the values of a field."""
    kind = field.cpp_type
    if kind == FieldDescriptor.CPPTYPE_MESSAGE:
        assert field.message_type is not None
        return messages(field.message_type, depth + 1, tokens)
    if kind == FieldDescriptor.CPPTYPE_STRING:
        if field.type == FieldDescriptor.TYPE_BYTES:
            return st.binary(max_size=100)
        return tokens | text if "token" in field.name else text
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        return integers(*INTEGERS[FieldDescriptor.CPPTYPE_INT32])
    if kind in INTEGERS:
        return integers(*INTEGERS[kind])
    return st.floats(width=32)


@st.composite
def messages(
    draw: st.DrawFn, descriptor: Descriptor, depth: int, tokens: st.SearchStrategy[str]
) -> Message:
    """Return a strategy for messages of a type, with any of the fields set."""
    message: Message = message_factory.GetMessageClass(descriptor)()
    for field in descriptor.fields:
        is_message = field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE
        if (is_message and depth >= DEPTH) or not draw(st.booleans()):
            continue
        strategy = values(field, depth, tokens)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            bearer = tokens.map("Bearer {}".format)
            getattr(message, field.name).update(draw(st.dictionaries(map_keys, bearer | text)))
        elif field.is_repeated:
            getattr(message, field.name).extend(draw(st.lists(strategy, max_size=4)))
        elif is_message:
            getattr(message, field.name).CopyFrom(draw(strategy))
            getattr(message, field.name).SetInParent()
        else:
            setattr(message, field.name, draw(strategy))
    return message


keys = st.from_regex(r"[a-z0-9_.-]{1,20}", fullmatch=True).filter(
    lambda key: not key.startswith(("grpc-", ":")) and not key.endswith("-bin")
)
known_keys = st.sampled_from(
    ["authorization", "x-request-id", "traceparent", "user-agent", "te", "content-type", "cookie"]
)
printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60)


def metadata(tokens: st.SearchStrategy[str]) -> st.SearchStrategy[list[tuple[str, Any]]]:
    """Return a strategy for metadata that gRPC accepts, including an `authorization`."""
    bearer = st.tuples(
        st.sampled_from(["Bearer ", "bearer ", "Basic ", "", "Bearer  ", "Bearer"]),
        tokens | printable,
    ).map("".join)
    pairs = (
        st.tuples(st.just("authorization"), bearer)
        | st.tuples(keys | known_keys, printable)
        | st.tuples(keys.map("{}-bin".format), st.binary(max_size=60))
        | st.tuples(st.just("grpc-trace-bin"), st.binary(max_size=60))
    )
    return st.lists(pairs, max_size=5)


class Target:
    """A server and valid tokens, so that calls pass the first check."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.channel = grpc.insecure_channel(server.address)
        grpc.channel_ready_future(self.channel).result(READY_TIMEOUT)
        login = pb.LoginRequest(password=pb.PasswordCredentials(identifier=USER, password=PASSWORD))
        reply = self.call(METHODS[0], login.SerializeToString(), [])
        assert isinstance(reply, bytes)
        pair = pb.LoginResponse.FromString(reply).tokens
        self.tokens = st.sampled_from([pair.access_token, pair.refresh_token])

    def call(
        self, method: MethodDescriptor, body: bytes, extra: list[tuple[str, Any]]
    ) -> bytes | grpc.StatusCode:
        """Send bytes; return the response's bytes or the status."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        try:
            if method.server_streaming:
                streaming: Any = self.channel.unary_stream(path)
                stream = streaming(body, metadata=extra, timeout=0.3)
                reply = next(iter(stream), b"")
                stream.cancel()
            else:
                unary: Any = self.channel.unary_unary(path)
                reply = unary(body, metadata=extra, timeout=30)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            refused_by_client = (error.details() or "").startswith("metadata was invalid")
            return grpc.StatusCode.OK if refused_by_client else code
        except ValueError:  # the client library would not send this metadata
            return grpc.StatusCode.OK
        assert isinstance(reply, bytes)
        return reply

    def check(self, method: MethodDescriptor, body: bytes, extra: list[tuple[str, Any]]) -> None:
        """Send bytes and assert that the status is not that of an unexpected error."""
        answer = self.call(method, body, extra)
        assert answer not in NEVER, f"{method.full_name}: {answer}"


@pytest.fixture
def target(start_server: StartServer, database_url: str) -> Iterator[Target]:
    asyncio.run(make_user(database_url, roles=("admin", "verifier")))
    # These tests send many failed logins, which the throttle would refuse.
    target = Target(start_server(AUTH_LOGIN_BURST="100000"))
    yield target
    process = target.server.process
    assert process.poll() is None, target.server.output()[-4000:]
    answer = target.call(METHODS[0], pb.LoginRequest().SerializeToString(), [])
    assert answer is grpc.StatusCode.INVALID_ARGUMENT  # the server still responds
    target.channel.close()


def fuzz(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))


def test_arbitrary_messages(target: Target) -> None:
    """No content of a message causes an unexpected error."""

    @fuzz(600)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        method = data.draw(st.sampled_from(METHODS))
        message = data.draw(messages(method.input_type, 0, target.tokens))
        extra = data.draw(metadata(target.tokens))
        try:
            body = message.SerializeToString()
        except EncodeError:  # a client cannot send it
            return
        target.check(method, body, extra)

    run()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_with_a_good_token(target: Target, method: MethodDescriptor) -> None:
    """The role admin lets the calls reach the database."""

    @fuzz(40)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        message = data.draw(messages(method.input_type, 0, target.tokens))
        token = data.draw(target.tokens)
        target.check(method, message.SerializeToString(), [("authorization", f"Bearer {token}")])

    run()


def test_garbage_instead_of_a_message(target: Target) -> None:
    """Bytes that are not a message, and text that is not UTF-8, are errors of the client."""

    @fuzz(300)
    @given(
        st.sampled_from(METHODS),
        st.binary(max_size=300)
        | st.binary(min_size=1, max_size=60).map(lambda b: b"\x0a" + bytes([len(b)]) + b)
        | st.sampled_from([b"\x0a\xff\xff\xff\xff\x0f", b"\x0b" * 200, b"\x0a\x02\xc3\x28"]),
        metadata(target.tokens),
    )
    def run(method: MethodDescriptor, body: bytes, extra: list[tuple[str, Any]]) -> None:
        target.check(method, body, extra)

    run()


def test_unknown_methods(target: Target) -> None:
    """The status is UNIMPLEMENTED for every name."""
    names = ["authn.v1.AuthService/Nope", "authn.v1.Nope/Login", "x/y", "grpc.health.v1.Health/X"]
    for name in names:
        call: Any = target.channel.unary_unary(f"/{name}")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"", timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_sizes(target: Target) -> None:
    """Too large a message is RESOURCE_EXHAUSTED, and the connection stays open."""
    login = METHODS[0]
    huge = pb.LoginRequest(device_label="x" * (5 * 1024 * 1024)).SerializeToString()
    assert target.call(login, huge, []) is grpc.StatusCode.RESOURCE_EXHAUSTED
    answer = target.call(login, b"", [("x-large", "x" * 64 * 1024)])
    assert answer is grpc.StatusCode.RESOURCE_EXHAUSTED
    combining = pb.PasswordCredentials(identifier="a" + "\u0315\u0300" * 900_000, password="x")
    slow = pb.LoginRequest(password=combining).SerializeToString()
    assert target.call(login, slow, []) is grpc.StatusCode.INVALID_ARGUMENT
    many = pb.BatchValidateRequest(requests=[pb.ValidateRequest(access_token="x")] * 1001)
    batch = next(method for method in METHODS if method.name == "BatchValidate")
    assert target.call(batch, many.SerializeToString(), []) is grpc.StatusCode.INVALID_ARGUMENT
