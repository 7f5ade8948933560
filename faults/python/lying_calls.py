"""A server of proto/snakepit.proto that lies as a command says: `Calls`, streams, GetInfo."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import grpc

sys.path.insert(0, str(Path(__file__).parents[2] / "test/support/python"))

from own_server import serve

from snakepit_bridge._proto import snakepit_pb2 as pb

FOLDER = os.environ.get("FAULTS_FOLDER", "/tmp")
BIG = b"x" * 3_000_000


def reply(call_id: int, **fields: Any) -> bytes:
    kinds = fields.pop("result_kinds", b"\3")
    frame = pb.ReplyFrame(
        call_id=call_id, success=True, result={"x": b"1"}, result_kinds=kinds, **fields
    )
    return frame.SerializeToString()


def journal(path: str) -> bytes:
    """Names a file as the journal in which this server notes the calls that it has started."""
    return pb.ReplyFrame(ledger=path).SerializeToString()


def fifo() -> str:
    path = os.path.join(FOLDER, "fifo")
    if not os.path.exists(path):
        os.mkfifo(path)
    return path


LIES: dict[str, Callable[[int], list[bytes]]] = {
    "unknown_calls": lambda n: [reply(10**9 + i) for i in range(20_000)] + [reply(n)],
    "twice": lambda n: [reply(n)] * 5,
    "wrong_number": lambda n: [reply(n + 1)],
    "never": lambda _: [],
    "not_started_for_ever": lambda n: [reply(n, not_started=True)],
    "garbage": lambda _: [os.urandom(1000)],
    "garbage_frame": lambda _: [b"\x12\xff\xff\xff\xff\x0f"],
    "no_frame": lambda _: [b""] * 1000,
    "huge": lambda n: [
        pb.ReplyFrame(call_id=n, success=True, result={"x": BIG}).SerializeToString()
    ],
    "start_journal_file": lambda n: [journal("/etc/passwd"), reply(n)],
    "start_journal_zero": lambda _: [journal("/dev/zero")],
    "start_journal_fifo": lambda n: [journal(fifo()), reply(n)],
    "start_journal_many": lambda n: [journal("/etc/passwd")] * 20_000 + [reply(n)],
    "start_journal_gone": lambda _: [journal("/nowhere\n" * 1000)],
    "handler_time": lambda n: [reply(n, handler_ns=2**64 - 1)],
    "wrong_kinds": lambda n: [reply(n, result_kinds=b"\3" * 1000)],
}
# These end the RPC and every call on it.
ENDS = {
    "early_end": 0,
    "status_13": 13,
    "status_999": 999,
    "start_journal_zero": 14,
    "start_journal_gone": 14,
}


def calls(frames: Iterator[pb.CallFrame], rpc: grpc.ServicerContext) -> Iterator[bytes]:
    rpc.send_initial_metadata(())
    for frame in frames:
        if frame.act == pb.CallFrame.CALL:
            yield from LIES.get(frame.command, lambda _: [])(frame.call_id)
            if frame.command in ENDS:
                _end(rpc, ENDS[frame.command])
                return


def chunk(index: int, **fields: Any) -> bytes:
    return pb.StreamResponse(
        chunk={"x": b"1"}, chunk_kinds=b"\3", chunk_index=index, **fields
    ).SerializeToString()


STREAMS: dict[str, list[bytes]] = {
    "index_backwards": [chunk(n) for n in (2, 1, 0)],
    "index_repeated": [chunk(0)] * 3,
    "index_huge": [chunk(2**31 - 1), chunk(-(2**31))],
    "after_final": [chunk(0), chunk(1, is_final=True), chunk(2)],
    "final_twice": [chunk(0, is_final=True), chunk(1, is_final=True)],
    "no_chunk": [b""] * 1000,
    "error_then_chunks": [pb.StreamResponse(error="no").SerializeToString(), chunk(0)],
    "huge": [pb.StreamResponse(chunk={"x": BIG}).SerializeToString()],
}


def stream(request: pb.ExecuteRequest, rpc: grpc.ServicerContext) -> Iterator[bytes]:
    yield from STREAMS.get(request.command, [chunk(0)])
    if request.command in ENDS:
        _end(rpc, ENDS[request.command])


class _Status:
    """Ends with a status code, known to gRPC or not."""

    def __init__(self, number: int) -> None:
        self.value = (number, "made up")


def _end(rpc: grpc.ServicerContext, status: int) -> None:
    if status:
        known = {code.value[0]: code for code in grpc.StatusCode}
        rpc.set_code(known.get(status, _Status(status)))
        rpc.set_details("said")


def health(request: pb.HealthRequest, _rpc: grpc.ServicerContext) -> bytes:
    return pb.HealthResponse(healthy=True, worker_id=request.worker_id).SerializeToString()


def info(_request: pb.InfoRequest, _rpc: grpc.ServicerContext) -> bytes:
    return pb.InfoResponse(
        worker_type="liar",
        supported_commands=[f"command{n}" for n in range(1000)],
        capabilities={f"capability{n}": "x" for n in range(1000)},
        system_info={f"name{n}": "x" * 100 for n in range(1000)},
    ).SerializeToString()


def main() -> None:
    unary, streaming = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    handlers = {
        "Calls": grpc.stream_stream_rpc_method_handler(calls, pb.CallFrame.FromString, None),
        "ExecuteStream": streaming(stream, pb.ExecuteRequest.FromString, None),
        "Health": unary(health, pb.HealthRequest.FromString, None),
        "GetInfo": unary(info, pb.InfoRequest.FromString, None),
    }
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    serve(handlers, 16, options)


main()
