"""The messages of `grpc.health.v1` and `grpc.reflection.v1`, from `proto/grpc`.

They are in a pool of their own: an adapter may import packages that define them, too, and the files
of one pool have different names.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pool, message_factory

#: The files, as `python -m grpc_tools.protoc --descriptor_set_out` writes them, without `json_name`.
FILES: tuple[bytes, ...] = (
    (
        b'\n\x1bgrpc/health/v1/health.proto\x12\x0egrpc.health.v1"%\n'
        b'\x12HealthCheckRequest\x12\x0f\n\x07service\x18\x01 \x01(\t"\xa9\x01\n\x13HealthC'
        b'heckResponse\x12A\n\x06status\x18\x01 \x01(\x0e21.grpc.health.v1.He'
        b'althCheckResponse.ServingStatus"O\n\rServingStatus'
        b'\x12\x0b\n\x07UNKNOWN\x10\x00\x12\x0b\n\x07SERVING\x10\x01\x12\x0f\n\x0bNOT_SERVING\x10\x02\x12\x13\n\x0fS'
        b'ERVICE_UNKNOWN\x10\x032\xae\x01\n\x06Health\x12P\n\x05Check\x12".grpc.heal'
        b'th.v1.HealthCheckRequest\x1a#.grpc.health.v1.Health'
        b'CheckResponse\x12R\n\x05Watch\x12".grpc.health.v1.HealthCh'
        b'eckRequest\x1a#.grpc.health.v1.HealthCheckResponse0'
        b'\x01Ba\n\x11io.grpc.health.v1B\x0bHealthProtoP\x01Z,google.go'
        b'lang.org/grpc/health/grpc_health_v1\xaa\x02\x0eGrpc.Healt'
        b'h.V1b\x06proto3'
    ),
    (
        b'\n#grpc/reflection/v1/reflection.proto\x12\x12grpc.refl'
        b'ection.v1"\x85\x02\n\x17ServerReflectionRequest\x12\x0c\n\x04host\x18\x01 '
        b'\x01(\t\x12\x1a\n\x10file_by_filename\x18\x03 \x01(\tH\x00\x12 \n\x16file_containi'
        b'ng_symbol\x18\x04 \x01(\tH\x00\x12I\n\x19file_containing_extension\x18\x05'
        b" \x01(\x0b2$.grpc.reflection.v1.ExtensionRequestH\x00\x12'\n\x1d"
        b'all_extension_numbers_of_type\x18\x06 \x01(\tH\x00\x12\x17\n\rlist_se'
        b'rvices\x18\x07 \x01(\tH\x00B\x11\n\x0fmessage_request"E\n\x10ExtensionRe'
        b'quest\x12\x17\n\x0fcontaining_type\x18\x01 \x01(\t\x12\x18\n\x10extension_numb'
        b'er\x18\x02 \x01(\x05"\xb8\x03\n\x18ServerReflectionResponse\x12\x12\n\nvalid_h'
        b'ost\x18\x01 \x01(\t\x12E\n\x10original_request\x18\x02 \x01(\x0b2+.grpc.refle'
        b'ction.v1.ServerReflectionRequest\x12N\n\x18file_descrip'
        b'tor_response\x18\x04 \x01(\x0b2*.grpc.reflection.v1.FileDesc'
        b'riptorResponseH\x00\x12U\n\x1eall_extension_numbers_respon'
        b'se\x18\x05 \x01(\x0b2+.grpc.reflection.v1.ExtensionNumberRes'
        b"ponseH\x00\x12I\n\x16list_services_response\x18\x06 \x01(\x0b2'.grpc.r"
        b'eflection.v1.ListServiceResponseH\x00\x12;\n\x0eerror_resp'
        b'onse\x18\x07 \x01(\x0b2!.grpc.reflection.v1.ErrorResponseH\x00B'
        b'\x12\n\x10message_response"7\n\x16FileDescriptorResponse\x12\x1d\n'
        b'\x15file_descriptor_proto\x18\x01 \x03(\x0c"K\n\x17ExtensionNumberR'
        b'esponse\x12\x16\n\x0ebase_type_name\x18\x01 \x01(\t\x12\x18\n\x10extension_num'
        b'ber\x18\x02 \x03(\x05"K\n\x13ListServiceResponse\x124\n\x07service\x18\x01 \x03('
        b'\x0b2#.grpc.reflection.v1.ServiceResponse"\x1f\n\x0fServic'
        b'eResponse\x12\x0c\n\x04name\x18\x01 \x01(\t":\n\rErrorResponse\x12\x12\n\nerro'
        b'r_code\x18\x01 \x01(\x05\x12\x15\n\rerror_message\x18\x02 \x01(\t2\x89\x01\n\x10ServerRe'
        b'flection\x12u\n\x14ServerReflectionInfo\x12+.grpc.reflecti'
        b'on.v1.ServerReflectionRequest\x1a,.grpc.reflection.'
        b'v1.ServerReflectionResponse(\x010\x01Bf\n\x15io.grpc.refle'
        b'ction.v1B\x15ServerReflectionProtoP\x01Z4google.golang'
        b'.org/grpc/reflection/grpc_reflection_v1b\x06proto3'
    ),
)

_pool = descriptor_pool.DescriptorPool()
for _file in FILES:
    _pool.AddSerializedFile(_file)


def _message(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(name))


HealthCheckRequest = _message("grpc.health.v1.HealthCheckRequest")
HealthCheckResponse = _message("grpc.health.v1.HealthCheckResponse")
ServerReflectionRequest = _message("grpc.reflection.v1.ServerReflectionRequest")
ServerReflectionResponse = _message("grpc.reflection.v1.ServerReflectionResponse")
