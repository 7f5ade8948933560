"""How the tests start their own servers of proto/snakepit.proto, with grpcio alone."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc


def serve(
    handlers: Mapping[str, Any], threads: int, options: Sequence[tuple[str, int]] = ()
) -> None:
    """Serves until the end of stdin, with the grpcio options from the environment."""
    listen = os.environ["SNAKEPIT_LISTEN"]
    options = [*options, *map(tuple, json.loads(os.environ.get("SERVER_OPTIONS", "[]")))]
    server = grpc.server(futures.ThreadPoolExecutor(threads), options=options)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("snakepit.SnakepitBridge", handlers),)
    )
    port = server.add_insecure_port(listen.removeprefix("tcp:"))
    if listen.startswith("tcp:"):
        listen = f"tcp:127.0.0.1:{port}"
    server.start()
    if "SERVER_PORT_FILE" in os.environ:
        Path(os.environ["SERVER_PORT_FILE"]).write_text(str(port))
    announced = os.environ.get("SERVER_ANNOUNCES", listen)
    print(os.environ["SNAKEPIT_READY_TOKEN"], announced, flush=True)
    sys.stdin.read()
    os._exit(0)
