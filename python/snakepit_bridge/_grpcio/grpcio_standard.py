"""The services `grpc.health.v1` and `grpc.reflection.v1` of the server on grpcio."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, NoReturn, Optional

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool

from snakepit_bridge._proto import snakepit_pb2
from snakepit_bridge._proto import standard as pb

#: The number of `Watch` RPCs that may be open: each takes a thread.
MAX_WATCHES = 64

_HEALTH = "/grpc.health.v1.Health/"
# The messages of the older version are the same.
_REFLECTION = ("/grpc.reflection.v1.", "/grpc.reflection.v1alpha.")
# What clients may ask for: the server as a whole, or its service.
_SERVICES = ("", "snakepit.SnakepitBridge")
_SERVING, _NOT_SERVING, _SERVICE_UNKNOWN = 1, 2, 3


class Health(grpc.GenericRpcHandler):
    """Answers health checks, without a secret."""

    def __init__(self) -> None:
        self.serving = True
        self._changed = threading.Condition()
        self._watches = 0
        self._handlers: dict[str, Any] = {
            f"{_HEALTH}Check": grpc.unary_unary_rpc_method_handler(
                self._check,
                pb.HealthCheckRequest.FromString,
                pb.HealthCheckResponse.SerializeToString,
            ),
            f"{_HEALTH}Watch": grpc.unary_stream_rpc_method_handler(
                self._watch,
                pb.HealthCheckRequest.FromString,
                pb.HealthCheckResponse.SerializeToString,
            ),
        }

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(details.method)

    def stop_serving(self) -> None:
        with self._changed:
            self.serving = False
            self._changed.notify_all()

    def _check(self, request: Any, rpc: grpc.ServicerContext) -> Any:
        if request.service not in _SERVICES:
            rpc.abort(grpc.StatusCode.NOT_FOUND, f"there is no service {request.service!r}")
        return pb.HealthCheckResponse(status=self._status(request.service))

    def _watch(self, request: Any, rpc: grpc.ServicerContext) -> Iterator[Any]:
        if not rpc.add_callback(self._wake):
            return
        with self._changed:
            self._watches += 1
            too_many = self._watches > MAX_WATCHES
        try:
            if too_many:
                rpc.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many health checks are open")
            told = self._status(request.service)
            yield pb.HealthCheckResponse(status=told)
            with self._changed:
                self._changed.wait_for(lambda: not (self.serving and rpc.is_active()))
            status = self._status(request.service)
            if status != told and rpc.is_active():
                yield pb.HealthCheckResponse(status=status)
            _leave(rpc)
        finally:
            with self._changed:
                self._watches -= 1

    def _status(self, service: str) -> int:
        if service not in _SERVICES:
            return _SERVICE_UNKNOWN
        return _SERVING if self.serving else _NOT_SERVING

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Reflection(grpc.GenericRpcHandler):
    """Tells clients such as grpcurl the server's services and messages."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.DescriptorPool()
        self._services: list[str] = []
        for file in (snakepit_pb2.DESCRIPTOR.serialized_pb, *pb.FILES):
            self._pool.AddSerializedFile(file)
            parsed = descriptor_pb2.FileDescriptorProto.FromString(file)
            self._services += [f"{parsed.package}.{service.name}" for service in parsed.service]
        self._handler: Any = grpc.stream_stream_rpc_method_handler(
            self._answer_all,
            pb.ServerReflectionRequest.FromString,
            pb.ServerReflectionResponse.SerializeToString,
        )

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self._handler if details.method.startswith(_REFLECTION) else None

    def _answer_all(self, requests: Iterator[Any], _rpc: grpc.ServicerContext) -> Iterator[Any]:
        return map(self._answer, requests)

    def _answer(self, request: Any) -> Any:
        response = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
        if request.HasField("list_services"):
            for name in self._services:
                response.list_services_response.service.add(name=name)
            return response
        try:
            file = self._file(request)
        except KeyError:
            response.error_response.error_code = grpc.StatusCode.NOT_FOUND.value[0]
            response.error_response.error_message = (
                "the server knows no such file, symbol or extension"
            )
            return response
        if request.HasField("all_extension_numbers_of_type"):
            name = request.all_extension_numbers_of_type
            response.all_extension_numbers_response.base_type_name = name
        else:
            response.file_descriptor_response.file_descriptor_proto.append(file)
        return response

    def _file(self, request: Any) -> bytes:
        """Raises a `KeyError` if there is none."""
        which: Optional[str] = request.WhichOneof("message_request")
        if which == "file_by_filename":
            found = self._pool.FindFileByName(request.file_by_filename)
        elif which in ("file_containing_symbol", "all_extension_numbers_of_type"):
            found = self._file_with(getattr(request, which))
        else:
            raise KeyError(which)
        return found.serialized_pb

    def _file_with(self, symbol: str) -> Any:
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            # It knows no methods.
            return self._pool.FindMethodByName(symbol).containing_service.file


def _leave(rpc: grpc.ServicerContext) -> NoReturn:
    rpc.abort(grpc.StatusCode.UNAVAILABLE, "the client must leave this connection")
