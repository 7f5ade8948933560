"""A server with `Calls`, made with grpcio: headers come with the first reply, or on demand."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
from own_server import serve

from snakepit_bridge._proto import snakepit_pb2 as pb

open_rpcs: list[grpc.ServicerContext] = []
opened = threading.Event()


def execute(request: pb.ExecuteRequest, _rpc: grpc.ServicerContext) -> bytes:
    if request.command == "open" and opened.wait(60):
        open_rpcs[-1].send_initial_metadata(())
    return pb.ExecuteResponse(success=True, result={"rpc": b"Execute"}).SerializeToString()


def calls(frames: Iterator[pb.CallFrame], rpc: grpc.ServicerContext) -> Iterator[bytes]:
    open_rpcs.append(rpc)
    opened.set()
    for frame in frames:
        if frame.act == pb.CallFrame.CALL:
            if frame.command == "end":
                rpc.abort(grpc.StatusCode.INTERNAL, "it ends here")
            reply = pb.ReplyFrame(call_id=frame.call_id, success=True, result={"rpc": b"Calls"})
            yield reply.SerializeToString()


def health(request: pb.HealthRequest, _rpc: grpc.ServicerContext) -> bytes:
    return pb.HealthResponse(healthy=True, worker_id=request.worker_id).SerializeToString()


serve(
    {
        "Calls": grpc.stream_stream_rpc_method_handler(calls, pb.CallFrame.FromString, None),
        "Execute": grpc.unary_unary_rpc_method_handler(execute, pb.ExecuteRequest.FromString, None),
        "Health": grpc.unary_unary_rpc_method_handler(health, pb.HealthRequest.FromString, None),
    },
    16,
)
