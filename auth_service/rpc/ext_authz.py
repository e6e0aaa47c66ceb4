"""Envoy's external authorization: a proxy asks for each request whether it may pass.

Owns the form of the answer. `authz.rules` defines what a route may require, and `authz.admission`
decides. The messages are our own copies with the same wire format (protos/authn/envoy), so Envoy's
protos need not be installed. The service has Envoy's name; its descriptor exists in this process
only.

A route's `context_extensions` hold its rule, and optionally:

    remove_authorization  "true": the upstream does not see the token
    exchange_audience     the upstream sees a token for this audience instead (core.exchange)

A token that is bound to a client certificate (RFC 8705) needs that certificate: as `source`, which
the proxy sends with `include_peer_certificate`, or in x-forwarded-client-cert from a proxy of
AUTH_TRUSTED_PROXIES, which says who the client behind another proxy is.

A mistake in them refuses every request of the route. An admitted request carries the headers of
`authz.identity_headers`; headers of these names that the caller sent are removed.
"""

import binascii
import json
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import NamedTuple
from urllib.parse import unquote

import grpc
import structlog
from authn.envoy.v1 import check_pb2 as pb
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor

from auth_service.authz.admission import Refused, Rule, Verifier, admit
from auth_service.authz.certificates import (
    FORWARDED,
    TrustedProxies,
    presented_to_proxy,
    thumbprint_of_pem,
)
from auth_service.authz.gateway import Exchange, exchanged
from auth_service.authz.identity_headers import NAMES, identity_headers
from auth_service.authz.rules import EXCHANGE, parse_audience, parse_flag, parse_rule
from auth_service.authz.status import status_of
from auth_service.errors import AuthError
from auth_service.rpc.dispatcher import Context, Dispatcher
from auth_service.tokens.access import AccessClaims

__all__ = ["SERVICE", "add_descriptor", "add_ext_authz"]

log = structlog.get_logger(__name__)

SERVICE = "envoy.service.auth.v3.Authorization"

_PACKAGE, _, _NAME = SERVICE.rpartition(".")
_FILE = "authn/envoy/v1/authorization.proto"
_SET = pb.HeaderValueOption.HEADER_APPEND_ACTION_OVERWRITE_IF_EXISTS_OR_ADD
_OK = pb.Status()
_REMOVE = "remove_authorization"
_MAX_ROUTES = 1024  # cached
_MAX_ANSWERS = 4096  # cached
# CGI and WSGI map "-" and "_" to the same variable, so these names would pass for the real ones.
_LOOK_ALIKES = tuple(
    f"x{first}auth{second}{name.rpartition('-')[2]}"
    for name in NAMES
    for first, second in ("--", "-_", "_-", "__")
    if (first, second) != ("-", "-")
)


def add_ext_authz(
    server: Dispatcher, verifier: Verifier, gateway: Exchange, proxies: TrustedProxies
) -> None:
    """Serve Check, and add its descriptor for reflection."""
    add_descriptor()
    method = grpc.unary_unary_rpc_method_handler(
        _Authorization(verifier, gateway, proxies).Check,
        request_deserializer=pb.CheckRequest.FromString,
        response_serializer=pb.CheckResponse.SerializeToString,
    )
    server.add_registered_method_handlers(SERVICE, {"Check": method})


class _Authorization:
    """The service. Its RPC status is always OK; the response tells the proxy what to do."""

    def __init__(self, verifier: Verifier, gateway: Exchange, proxies: TrustedProxies) -> None:
        self._verifier = verifier
        self._gateway = gateway
        self._proxies = proxies

    async def Check(self, request: pb.CheckRequest, context: Context) -> pb.CheckResponse:
        """Decide whether a request may pass."""
        attributes = request.attributes
        http = attributes.request.http
        try:
            route = _route_of(attributes.context_extensions)
            certificate = partial(self._certificate, attributes, context)
            given = _values(http, "authorization")
            claims = admit(self._verifier, route.rule, given, certificate).claims
            token = ""
            if route.exchange_audience and claims is not None:
                trusted = self._proxies.knows_peer(context.peer())
                token = exchanged(self._gateway, claims, route.exchange_audience, trusted=trusted)
        except Refused as refused:
            return _denied(refused, _is_grpc(http))
        return _admitted(claims, route, token)

    def _certificate(self, attributes: pb.AttributeContext, context: Context) -> str:
        """Return the thumbprint of the certificate of the proxy's client; empty if it has none."""
        if self._proxies.knows_peer(context.peer()) and (
            forwarded := _values(attributes.request.http, FORWARDED)
        ):
            return presented_to_proxy(forwarded)
        escaped = attributes.source.certificate
        return thumbprint_of_pem(unquote(escaped)) if escaped else ""


class _Route(NamedTuple):
    rule: Rule
    removed: tuple[str, ...]
    """Names of headers that the proxy removes from every request."""
    exchange_audience: str
    """The audience of the token that the upstream sees; empty = it sees the caller's own."""


def _route_of(extensions: Mapping[str, str]) -> _Route:
    try:
        return _route(frozenset(extensions.items()))
    except ValueError as error:
        # The cache keeps no exceptions, so each refused request is logged.
        log.error("ext_authz_route_refused", problem=f"context_extensions: {error}")  # noqa: TRY400
        raise Refused(
            500, AuthError.reason, "server_error", "internal error; the log has the cause"
        ) from error


@lru_cache(maxsize=_MAX_ROUTES)
def _route(extensions: frozenset[tuple[str, str]]) -> _Route:
    """Return the route that these define; raises ValueError, which names the key."""
    rule = parse_rule(extensions, beside=(_REMOVE, EXCHANGE))
    texts = dict(extensions)
    removed = ("authorization",) if parse_flag(texts, _REMOVE) else ()
    if removed and EXCHANGE in texts:
        raise ValueError(f"{_REMOVE}: cannot be combined with {EXCHANGE}; remove one of them")
    return _Route(rule, _LOOK_ALIKES + removed, parse_audience(texts, EXCHANGE))


def _values(http: pb.AttributeContext.HttpRequest, name: str) -> list[str]:
    """Return all values of a header, in both forms in which a proxy may send them."""
    value = http.headers.get(name)
    values = [] if value is None else [value]
    if http.HasField("header_map"):
        values += [
            header.value or header.raw_value.decode("latin-1")
            for header in http.header_map.headers
            if header.key.lower() == name
        ]
    return values


def _is_grpc(http: pb.AttributeContext.HttpRequest) -> bool:
    """Tell whether a request is gRPC, by Envoy's rule; "application/grpc-web" is not."""
    kind = "".join(_values(http, "content-type"))
    return kind == "application/grpc" or kind.startswith("application/grpc+")


@lru_cache(maxsize=_MAX_ANSWERS)
def _admitted(claims: AccessClaims | None, route: _Route, token: str) -> pb.CheckResponse:
    """Return the answer for these claims. It is cached: building it costs more than verifying.

    `token` replaces the caller's. An upstream of a route that exchanges never sees another one.
    """
    headers = identity_headers(claims)
    if route.exchange_audience:
        headers["authorization"] = f"Bearer {token}" if token else ""
    return pb.CheckResponse(
        status=_OK,
        ok_response=pb.OkHttpResponse(
            headers=[_option(name, value) for name, value in headers.items() if value],
            headers_to_remove=[
                *(name for name, value in headers.items() if not value),
                *route.removed,
            ],
        ),
    )


def _denied(refused: Refused, is_grpc: bool) -> pb.CheckResponse:
    code, text, trailers = status_of(refused)
    if is_grpc:
        # Envoy sends the body as grpc-message. For 500 it would derive a grpc-status that
        # contradicts the details, which clients reject, so the status is set here.
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
    """Return a metadata value as header text: binary values are in unpadded base64."""
    if isinstance(value, str):
        return value
    return binascii.b2a_base64(value, newline=False).decode().rstrip("=")


def _option(name: str, value: str) -> pb.HeaderValueOption:
    return pb.HeaderValueOption(header=pb.HeaderValue(key=name, value=value), append_action=_SET)


def add_descriptor() -> ServiceDescriptor:
    """Add the service's descriptor to this process's default pool if needed, and return it."""
    pool = descriptor_pool.Default()
    try:
        return pool.FindServiceByName(SERVICE)
    except KeyError:
        file = descriptor_pb2.FileDescriptorProto(
            name=_FILE, package=_PACKAGE, syntax="proto3", dependency=[pb.DESCRIPTOR.name]
        )
        file.service.add(name=_NAME).method.add(
            name="Check",
            input_type=f".{pb.CheckRequest.DESCRIPTOR.full_name}",
            output_type=f".{pb.CheckResponse.DESCRIPTOR.full_name}",
        )
        pool.Add(file)
        return pool.FindServiceByName(SERVICE)
