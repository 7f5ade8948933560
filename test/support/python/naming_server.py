"""A server of `Calls` whose every frame names a file, in the field once used for it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import grpc
from own_server import serve

from snakepit_bridge._proto import snakepit_pb2 as pb


def named() -> bytes:
    path = os.environ["NAMED_FILE"].encode()
    # Field 10, `string ledger`; the length takes two bytes.
    old = b"\x52" + bytes((len(path) & 0x7F | 0x80, len(path) >> 7)) + path
    return old + pb.ReplyFrame(has_start_journal=True).SerializeToString()


def calls(frames: Iterator[pb.CallFrame], _rpc: grpc.ServicerContext) -> Iterator[bytes]:
    acts = []
    yield named()
    for frame in frames:
        yield named()
        acts.append(frame.act)
        if frame.command == "die":
            os._exit(1)
        result = {"acts": repr(acts).encode()}
        reply = pb.ReplyFrame(call_id=frame.call_id, success=True, result=result)
        if frame.command and frame.act == pb.CallFrame.CALL:
            yield reply.SerializeToString()


def health(request: pb.HealthRequest, _rpc: grpc.ServicerContext) -> bytes:
    return pb.HealthResponse(healthy=True, worker_id=request.worker_id).SerializeToString()


serve(
    {
        "Calls": grpc.stream_stream_rpc_method_handler(calls, pb.CallFrame.FromString, None),
        "Health": grpc.unary_unary_rpc_method_handler(health, pb.HealthRequest.FromString, None),
    },
    8,
)
