"""A server of proto/snakepit.proto that sends whatever a request's command names, true or not."""

from __future__ import annotations

import os
from typing import Any

import grpc
from own_server import serve

from snakepit_bridge._proto import snakepit_pb2 as pb

# The tail starts at 64.
TAIL = b'{"$snakepit":["bytes",%d,%d]}'


def result(kind: int | None, value: bytes, name: str = "x") -> bytes:
    kinds = None if kind is None else bytes((kind,))
    return pb.ExecuteResponse(
        success=True, result={name: value}, result_kinds=kinds
    ).SerializeToString()


def marked(mark: bytes, tail: bytes = b"") -> bytes:
    return result(4, mark.ljust(64, b"\0") + tail)


def width(count: int) -> bytes:
    return result(3, b"{" + b",".join(b'"k%d":1' % n for n in range(count)) + b"}")


def bomb() -> bytes:
    # Like a billion laughs, as far as JSON allows: nested lists of ten lists each.
    level = b"0"
    for _ in range(6):
        level = b"[" + b",".join([level] * 10) + b"]"
    return result(3, level)


def deep_message() -> bytes:
    detail = pb.ErrorDetail(reason="python_error", type="E")
    for _ in range(2000):
        outer = b"\x92\x01" + _varint(len(detail)) + detail if isinstance(detail, bytes) else None
        detail = outer or detail.SerializeToString()
    return b"\x82\x01" + _varint(len(detail)) + detail


def _varint(number: int) -> bytes:
    data = b""
    while number > 0x7F:
        data += bytes((number & 0x7F | 0x80,))
        number >>= 7
    return data + bytes((number,))


ANSWERS: dict[str, Any] = {
    "garbage": lambda: os.urandom(1000),
    "truncated": lambda: result(1, b"x" * 100)[:50],
    "length_beyond": lambda: b"\x12\xff\xff\xff\xff\x0f",
    "text_no_utf8": lambda: result(1, b"\xff\xfe"),
    "json_no_utf8": lambda: result(3, b'"\xff"'),
    "json_broken": lambda: result(3, b'{"a":'),
    "json_constant": lambda: result(3, b"NaN"),
    "json_twice": lambda: result(3, b'{"a":1,"a":2}'),
    "json_surrogate": lambda: result(3, rb'"\ud800"'),
    "json_huge_float": lambda: result(3, b"1e999"),
    "json_deep": lambda: result(3, b"[" * 1_000_000),
    "json_deep_closed": lambda: result(3, b"[" * 129 + b"]" * 129),
    "plain_deep": lambda: result(None, b"[" * 1_000_000 + b"]" * 1_000_000),
    "digits": lambda: result(3, b"9" * 10_000_000),
    "kind_unknown": lambda: result(77, b"1"),
    "kinds_missing": lambda: pb.ExecuteResponse(
        success=True, result={"x": b"1"}, result_kinds=b""
    ).SerializeToString(),
    "kinds_many": lambda: pb.ExecuteResponse(
        success=True, result={"x": b"1"}, result_kinds=b"\x03" * 1000
    ).SerializeToString(),
    "field_twice": lambda: (
        pb.ExecuteResponse(success=True, result_kinds=b"\x03\x03").SerializeToString()
        + b"\x12\x06\n\x01x\x12\x011\x12\x06\n\x01x\x12\x012"
    ),
    "name_no_utf8": lambda: b"\x08\x01\x12\x06\n\x01\xff\x12\x011",
    "mark_alone": lambda: marked(b'{"$snakepit":1}'),
    "mark_unknown": lambda: marked(b'{"$snakepit":["code","rm"]}'),
    "tail_beyond": lambda: marked(TAIL % (0, 5), b"abcd"),
    "tail_overflow": lambda: marked(TAIL % (2**64 - 1, 2), b"abcd"),
    "tail_over": lambda: marked(b"[" + TAIL % (0, 3) + b"," + TAIL % (2, 1) + b"]", b"abcd"),
    "tensor_shape": lambda: marked(b'{"$snakepit":["tensor","int8",[99],0,4]}', b"abcd"),
    "tensor_overflow": lambda: marked(
        b'{"$snakepit":["tensor","int8",[4294967296,4294967296],0,0]}'
    ),
    "tensor_dtype": lambda: marked(b'{"$snakepit":["tensor","object",[4],0,4]}', b"abcd"),
    "deep_message": deep_message,
    "wide": lambda: width(1_000_000),
    "wide_message": lambda: pb.ExecuteResponse(
        success=True, result={f"k{n}": b"1" for n in range(200_000)}
    ).SerializeToString(),
    "bomb": bomb,
    "many_marks": lambda: result(4, b"[" + b",".join([TAIL % (0, 0)] * 100_000) + b"]" + b"\0"),
    "json_bytes_plain": lambda: result(None, b"\xff\x00"),
    "error_text_only": lambda: pb.ExecuteResponse(error="no detail").SerializeToString(),
    "error_of_no_reason": lambda: pb.ExecuteResponse(
        error_detail=pb.ErrorDetail(reason="x" * 1000, type="T" * 1000, data=b"\xff{", code="c")
    ).SerializeToString(),
    "empty": lambda: b"",
}


def execute(request: pb.ExecuteRequest, rpc: grpc.ServicerContext) -> bytes:
    kind, _, rest = request.command.partition(" ")
    if kind == "status":
        rpc.set_code(_status(int(rest)))
        rpc.set_details("said")
        return b""
    if kind == "raw":
        return request.args["answer"]
    return ANSWERS[request.command]()


class _Status:
    """A status code that gRPC does not have."""

    def __init__(self, number: int) -> None:
        self.value = (number, "made up")


def _status(number: int) -> Any:
    known = {code.value[0]: code for code in grpc.StatusCode}
    return known.get(number) or _Status(number)


# The index of each chunk.
INDICES = {
    "chunk_missing": [0, 5],
    "chunk_twice": [0, 1, 1],
    "from_one": [1, 2, 3],
    "unnumbered": [0, 0, 0],
}


def stream(request: pb.ExecuteRequest, _rpc: grpc.ServicerContext) -> Any:
    if request.command in INDICES:
        for index in INDICES[request.command]:
            yield pb.StreamResponse(chunk={"x": b"1"}, chunk_index=index).SerializeToString()
        return
    yield pb.StreamResponse(chunk={"x": b"1"}, chunk_kinds=b"\x03").SerializeToString()
    if request.command == "chunk_kinds":
        yield pb.StreamResponse(chunk={"x": b"1"}, chunk_kinds=b"\x03\x03").SerializeToString()
    elif request.command == "garbage":
        yield b"\x12\xff\xff\xff\xff\x0f"
    elif request.command == "after_final":
        yield pb.StreamResponse(is_final=True).SerializeToString()
        yield pb.StreamResponse(chunk={"x": b"2"}).SerializeToString()


def health(request: pb.HealthRequest, _rpc: grpc.ServicerContext) -> bytes:
    return pb.HealthResponse(healthy=True, worker_id=request.worker_id).SerializeToString()


def info(_request: pb.InfoRequest, _rpc: grpc.ServicerContext) -> bytes:
    names = {f"name{number}": "x" for number in range(1000)}
    return pb.InfoResponse(
        capabilities=names, system_info=names, stats=pb.WorkerStats(uptime_ms=1)
    ).SerializeToString()


def rpc(make: Any, behaviour: Any, request: Any) -> Any:
    return make(behaviour, request.FromString, None)


def main() -> None:
    unary, streaming = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    handlers = {
        "Execute": rpc(unary, execute, pb.ExecuteRequest),
        "ExecuteStream": rpc(streaming, stream, pb.ExecuteRequest),
        "Health": rpc(unary, health, pb.HealthRequest),
        "GetInfo": rpc(unary, info, pb.InfoRequest),
    }
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    serve(handlers, 4, options)


main()
