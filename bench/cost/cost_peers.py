"""The Python ends of the yardsticks of bench/cost.exs.

As a program it echoes messages, each with its length in 4 bytes in front of it, from stdin to
stdout: with the argument `raw` as bytes; with `json` as {"id", "command", "args"}, answered by
{"id", "ok"}. As a module it is what erlport calls.
"""

from __future__ import annotations

import sys
from typing import Any, Callable

try:
    import orjson
except ImportError:
    import json

    library = "json"
    loads: Callable[[bytes], Any] = json.loads

    def dumps(value: Any) -> bytes:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()

else:
    library = "orjson"
    loads = orjson.loads

    def dumps(value: Any) -> bytes:
        return orjson.dumps(value)


def echo(value: Any) -> Any:
    return value


COMMANDS: dict[str, Callable[[Any], Any]] = {"echo": echo, "library": lambda _: library}


def call(message: bytes) -> bytes:
    request = loads(message)
    result = COMMANDS[request["command"]](request["args"])
    return dumps({"id": request["id"], "ok": result})


def serve(answer: Callable[[bytes], bytes]) -> None:
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while header := source.read(4):
        reply = answer(source.read(int.from_bytes(header, "big")))
        # What fits into the buffer leaves in one write; what does not is not copied.
        sink.write(len(reply).to_bytes(4, "big"))
        sink.write(reply)
        sink.flush()


if __name__ == "__main__":
    serve({"raw": echo, "json": call}[sys.argv[1]])
