"""Envoy's external authorization: a proxy asks, for each request, whether it may pass.

Owns the form of the answer; `rule_texts` has what a route may ask for and `admission` decides. The
messages are our own, alike on the wire (protos/authn/envoy), so that Envoy's need not be installed;
the service bears Envoy's name, which is added to the descriptors of this process only.

A route's `context_extensions` are the texts of its rule, and:

    remove_authorization  "true": the upstream does not see the token

A slip in them refuses every request. An admitted request has the headers of `identity_headers` and
none of those that the caller sent under their names.
"""

import binascii
import json
from functools import lru_cache
from typing import Any, NamedTuple

import grpc
import structlog
from authn.envoy.v1 import check_pb2 as pb
from google.protobuf import descriptor_pb2, descriptor_pool

from auth_service.authz.admission import Refused, Rule, Verifier, admit
from auth_service.authz.identity_headers import NAMES, identity_headers
from auth_service.authz.rules import parse_flag, parse_rule
from auth_service.authz.status import status_of
from auth_service.errors import AuthError
from auth_service.rpc.dispatcher import Dispatcher
from auth_service.tokens.access import AccessClaims

__all__ = ["SERVICE", "add_descriptor", "add_ext_authz"]

log = structlog.get_logger(__name__)

SERVICE = "envoy.service.auth.v3.Authorization"

_PACKAGE, _, _NAME = SERVICE.rpartition(".")
_FILE = "authn/envoy/v1/authorization.proto"
_SET = pb.HeaderValueOption.HEADER_APPEND_ACTION_OVERWRITE_IF_EXISTS_OR_ADD
_OK = pb.Status()
_REMOVE = "remove_authorization"
_MAX_ROUTES = 1024  # remembered
_MAX_ANSWERS = 4096  # remembered
# CGI and WSGI make the same variable of "-" and "_", so that these would be read as the real ones.
_LOOK_ALIKES = tuple(
    f"x{first}auth{second}{name.rpartition('-')[2]}"
    for name in NAMES
    for first, second in ("--", "-_", "_-", "__")
    if (first, second) != ("-", "-")
)


def add_ext_authz(server: Dispatcher, verifier: Verifier) -> None:
    """Serve Check, and let reflection describe it."""
    add_descriptor()
    method = grpc.unary_unary_rpc_method_handler(
        _Authorization(verifier).Check,
        request_deserializer=pb.CheckRequest.FromString,
        response_serializer=pb.CheckResponse.SerializeToString,
    )
    server.add_registered_method_handlers(SERVICE, {"Check": method})


class _Authorization:
    """The service; its answer is always OK, and what the proxy shall do is in it."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier

    async def Check(self, request: Any, context: Any) -> Any:
        """Tell whether a request may pass."""
        attributes = request.attributes
        http = attributes.request.http
        try:
            route = _route_of(attributes.context_extensions)
            admission = admit(self._verifier, route.rule, _values(http, "authorization"))
        except Refused as refused:
            return _denied(refused, _is_grpc(http))
        return _admitted(admission.claims, route)


class _Route(NamedTuple):
    rule: Rule
    removed: tuple[str, ...]
    """Headers that no request brings to the upstream."""


def _route_of(extensions: Any) -> _Route:
    try:
        return _route(frozenset(extensions.items()))
    except ValueError as error:
        # The cache keeps no exceptions: each request that this costs is told of.
        log.error("ext_authz_route_refused", problem=f"context_extensions: {error}")  # noqa: TRY400
        raise Refused(
            500, AuthError.reason, "server_error", "internal error; the log has the cause"
        ) from error


@lru_cache(maxsize=_MAX_ROUTES)
def _route(extensions: frozenset[tuple[str, str]]) -> _Route:
    """Return what these ask for; raises ValueError, with the key."""
    rule = parse_rule(extensions, beside=(_REMOVE,))
    removed = ("authorization",) if parse_flag(dict(extensions), _REMOVE) else ()
    return _Route(rule, _LOOK_ALIKES + removed)


def _values(http: Any, name: str) -> list[str]:
    """Return all values of a header, whichever way the proxy is set to send them."""
    value = http.headers.get(name)
    values = [] if value is None else [value]
    if http.HasField("header_map"):
        values += [
            header.value or header.raw_value.decode("latin-1")
            for header in http.header_map.headers
            if header.key.lower() == name
        ]
    return values


def _is_grpc(http: Any) -> bool:
    """Tell it as Envoy does: "application/grpc-web" is none."""
    kind = "".join(_values(http, "content-type"))
    return kind == "application/grpc" or kind.startswith("application/grpc+")


@lru_cache(maxsize=_MAX_ANSWERS)
def _admitted(claims: AccessClaims | None, route: _Route) -> Any:
    """Return the answer, the same for the same token: to make it costs more than to verify."""
    identity = identity_headers(claims)
    return pb.CheckResponse(
        status=_OK,
        ok_response=pb.OkHttpResponse(
            headers=[_option(name, value) for name, value in identity.items() if value],
            headers_to_remove=[
                *(name for name, value in identity.items() if not value),
                *route.removed,
            ],
        ),
    )


def _denied(refused: Refused, is_grpc: bool) -> Any:
    code, text, trailers = status_of(refused)
    if is_grpc:
        # Envoy makes grpc-message of the body. The status it would guess from that of HTTP is
        # another one for 500, and clients refuse details that contradict it.
        headers = {"grpc-status": str(code.value[0])}
        headers |= {name: _text(value) for name, value in trailers}
    else:
        text = json.dumps(refused.body())
        headers = {"content-type": "application/json", **refused.headers()}
    return pb.CheckResponse(
        status=pb.Status(code=code.value[0], message=refused.text),
        denied_response=pb.DeniedHttpResponse(
            status=pb.HttpStatus(code=refused.status),
            headers=[_option(name, value) for name, value in headers.items()],
            body=text,
        ),
    )


def _text(value: str | bytes) -> str:
    """Return the value of metadata as a header has it: a binary one in unpadded base64."""
    if isinstance(value, str):
        return value
    return binascii.b2a_base64(value, newline=False).decode().rstrip("=")


def _option(name: str, value: str) -> Any:
    return pb.HeaderValueOption(header=pb.HeaderValue(key=name, value=value), append_action=_SET)


def add_descriptor() -> Any:
    """Return the service's descriptor, which from now on is in this process's default pool."""
    pool = descriptor_pool.Default()
    try:
        return pool.FindServiceByName(SERVICE)
    except KeyError:
        file: Any = descriptor_pb2.FileDescriptorProto(
            name=_FILE, package=_PACKAGE, syntax="proto3", dependency=[pb.DESCRIPTOR.name]
        )
        file.service.add(name=_NAME).method.add(
            name="Check",
            input_type=f".{pb.CheckRequest.DESCRIPTOR.full_name}",
            output_type=f".{pb.CheckResponse.DESCRIPTOR.full_name}",
        )
        pool.Add(file)
        return pool.FindServiceByName(SERVICE)
