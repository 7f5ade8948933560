"""A worker over stdin and stdout that lies about a size, or does what else none may do."""

from __future__ import annotations

import json
import os
import signal
import sys


def read() -> dict[str, object]:
    length = int.from_bytes(sys.stdin.buffer.read(4), "big")
    if not length:
        sys.exit()
    message: dict[str, object] = json.loads(sys.stdin.buffer.read(length))
    return message


def frame(message: dict[str, object]) -> bytes:
    data = json.dumps(message).encode()
    return len(data).to_bytes(4, "big") + data


def write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


while True:
    request = read()
    answer = frame({"id": request["id"], "success": True, "result": {}})
    if request["command"] == "large":
        write(b"\xff\xff\xff\xff" + b"x" * 1_000_000)
    elif request["command"] == "many":
        # The first one answers the call, the others answer nothing.
        write(answer)
        while True:
            write(answer * 1000)
    elif request["command"] in ("close_input", "close_output"):
        write(answer)
        os.close(0 if request["command"] == "close_input" else 1)
        print("closed now", file=sys.stderr, flush=True)
        signal.pause()
    else:
        write(answer)
