"""Server reflection under both of its names, v1 and v1alpha.

The Python package has v1alpha only, but grpcurl and buf ask for v1 first. Both have the same wire
format, so one servicer answers both. The descriptor of v1 is added for `grpcurl describe`.
"""

from collections.abc import Iterable

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2

from auth_service.rpc.dispatcher import Dispatcher

__all__ = ["SERVICES", "enable_reflection"]

_V1 = "grpc.reflection.v1"
_V1ALPHA = "grpc.reflection.v1alpha"
_V1_FILE = "grpc/reflection/v1/reflection.proto"
SERVICES = (f"{_V1}.ServerReflection", f"{_V1ALPHA}.ServerReflection")


def enable_reflection(server: Dispatcher, services: Iterable[str]) -> None:
    """Serve reflection about these services and itself."""
    _add_v1_descriptor()
    servicer = reflection.aio.ReflectionServicer([*services, *SERVICES])
    for service in SERVICES:
        method = grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        server.add_registered_method_handlers(service, {"ServerReflectionInfo": method})


def _add_v1_descriptor() -> None:
    pool = descriptor_pool.Default()
    try:
        pool.FindFileByName(_V1_FILE)
    except KeyError:
        file = descriptor_pb2.FileDescriptorProto()
        reflection_pb2.DESCRIPTOR.CopyToProto(file)
        file.name, file.package = _V1_FILE, _V1
        for message in file.message_type:
            for field in filter(lambda field: field.type_name, message.field):
                field.type_name = field.type_name.replace(f".{_V1ALPHA}.", f".{_V1}.")
        for method in file.service[0].method:
            method.input_type = method.input_type.replace(f".{_V1ALPHA}.", f".{_V1}.")
            method.output_type = method.output_type.replace(f".{_V1ALPHA}.", f".{_V1}.")
        pool.Add(file)
