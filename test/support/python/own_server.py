"""How the tests' own servers of proto/snakepit.proto are started: by grpcio alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any

import grpc


def serve(
    handlers: Mapping[str, Any], threads: int, options: Sequence[tuple[str, int]] = ()
) -> None:
    """Serves until the end of stdin."""
    listen = os.environ["SNAKEPIT_LISTEN"]
    server = grpc.server(futures.ThreadPoolExecutor(threads), options=options)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("snakepit.SnakepitBridge", handlers),)
    )
    server.add_insecure_port(listen)
    server.start()
    print(os.environ["SNAKEPIT_READY_TOKEN"], listen, flush=True)
    sys.stdin.read()
    os._exit(0)
