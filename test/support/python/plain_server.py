"""A server of proto/snakepit.proto without Snakepit: fields 1 to 15, with grpcio alone.

While the file `SERVER_SICK_FILE` exists, it cannot say how healthy it is.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import grpc
from own_server import serve

from snakepit_bridge._proto import snakepit_pb2 as pb

STREAMS = {"count", "endless", "fail_after"}


def execute(request, rpc):
    if request.command == "peer":
        return pb.ExecuteResponse(success=True, result={"peer": rpc.peer().encode()})
    if request.command == "abort":
        rpc.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
    if request.command == "fail":
        return pb.ExecuteResponse(success=False, error="it failed", request_id=request.request_id)
    return pb.ExecuteResponse(success=True, result=request.args, request_id=request.request_id)


def stream(request, rpc):
    if request.command not in STREAMS:
        rpc.abort(grpc.StatusCode.UNIMPLEMENTED, "no stream")
    index = 0
    last = json.loads(request.args.get("count", b"1000000000"))
    try:
        while index < last:
            yield pb.StreamResponse(chunk={"index": str(index).encode()}, chunk_index=index)
            index += 1
    finally:
        if "closed" in request.args:
            Path(request.args["closed"].decode()).touch()
    if request.command == "fail_after":
        yield pb.StreamResponse(error="no more", is_final=True)


def health(request, rpc):
    if Path(os.environ.get("SERVER_SICK_FILE", "")).is_file():
        rpc.abort(grpc.StatusCode.INTERNAL, "it is sick")
    return pb.HealthResponse(healthy=True, worker_id=request.worker_id)


def rpc(make, behaviour, request):
    return make(behaviour, request.FromString, lambda message: message.SerializeToString())


def main() -> None:
    unary, streaming = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    handlers = {
        "Execute": rpc(unary, execute, pb.ExecuteRequest),
        "ExecuteInSession": rpc(unary, execute, pb.SessionRequest),
        "ExecuteStream": rpc(streaming, stream, pb.ExecuteRequest),
        "ExecuteInSessionStream": rpc(streaming, stream, pb.SessionRequest),
        "Health": rpc(unary, health, pb.HealthRequest),
    }
    serve(handlers, 16)


main()
