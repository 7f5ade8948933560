"""A server that refuses calls before they start, as often as their command says.

To a call of the command `silent` it says nothing, and refuses three times to say whether it runs.

grpcio's server cannot be told to do so, hence the frames of HTTP/2 (RST_STREAM) are written here.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from snakepit_bridge._proto import snakepit_pb2 as pb

DATA, HEADERS, RST_STREAM, SETTINGS, PING = 0, 1, 3, 4, 6
END_STREAM, END_HEADERS, ACK = 1, 4, 1
REFUSED = struct.pack(">I", 7)
UNIMPLEMENTED = b"12"

attempts: Counter[str] = Counter()


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value


HEAD = b"\x88" + header(b"content-type", b"application/grpc")
OK = header(b"grpc-status", b"0")


def answer(stream: int, messages: list[bytes]) -> bytes:
    body = b"".join(b"\0" + struct.pack(">I", len(message)) + message for message in messages)
    return (
        frame(HEADERS, END_HEADERS, stream, HEAD)
        + frame(DATA, 0, stream, body)
        + frame(HEADERS, END_HEADERS | END_STREAM, stream, OK)
    )


def failed(stream: int, status: bytes) -> bytes:
    head = HEAD + header(b"grpc-status", status)
    return frame(HEADERS, END_HEADERS | END_STREAM, stream, head)


def reply(stream: int, message: bytes) -> bytes:
    # The first field of both requests is a string. That of an endpoint's health check is empty.
    if message and message[:1] != b"\x0a":
        return failed(stream, UNIMPLEMENTED)
    if attempts["silent"] and pb.HealthRequest.FromString(message).await_call_id:
        attempts["silent"] -= 1
        return frame(RST_STREAM, 0, stream, REFUSED)
    request = pb.ExecuteRequest.FromString(message)
    command, _, times = request.command.partition(" ")
    if command == "silent":
        attempts["silent"] = 3
        return b""
    if not command.startswith("refused"):
        health = pb.HealthResponse(healthy=True, worker_id=request.command)
        return answer(stream, [health.SerializeToString()])
    attempts[request.request_id] += 1
    if attempts[request.request_id] <= int(times):
        return frame(RST_STREAM, 0, stream, REFUSED)
    count = {"attempts": b"%d" % attempts[request.request_id]}
    response: Any = pb.ExecuteResponse(success=True, result=count)
    if command == "refused_stream":
        response = pb.StreamResponse(is_final=True, chunk=count)
    return answer(stream, [response.SerializeToString()])


def frames(connection: socket.socket) -> Iterator[tuple[int, int, int, bytes]]:
    read = connection.makefile("rb").read
    read(len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
    while head := read(9):
        length, kind, flags, stream = struct.unpack(">IBBI", b"\0" + head)
        yield kind, flags, stream, read(length)


def serve(connection: socket.socket, calls: bool) -> None:  # noqa: FBT001
    bodies: defaultdict[int, bytes] = defaultdict(bytes)
    connection.sendall(frame(SETTINGS, 0, 0))
    for kind, flags, stream, payload in frames(connection):
        if kind in (SETTINGS, PING) and not flags & ACK:
            connection.sendall(frame(kind, ACK, 0, payload if kind == PING else b""))
        elif kind == HEADERS and calls:
            connection.sendall(failed(stream, UNIMPLEMENTED))
        elif kind == DATA:
            bodies[stream] += payload
            if flags & END_STREAM:
                connection.sendall(reply(stream, bodies.pop(stream)[5:]))


def accept(listener: socket.socket) -> None:
    # A client opens a connection for RPCs, and then one for its `Calls`.
    calls = False
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, calls), daemon=True).start()
        calls = not calls


listen = os.environ["SNAKEPIT_LISTEN"]
listener = socket.socket(socket.AF_UNIX)
listener.bind(listen.removeprefix("unix:"))
listener.listen()
threading.Thread(target=accept, args=(listener,), daemon=True).start()
print(os.environ["SNAKEPIT_READY_TOKEN"], listen, flush=True)
sys.stdin.read()
os._exit(0)
