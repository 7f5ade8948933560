"""Forbids sockets; Python imports this module automatically."""

import socket
from typing import Any


class Refused(socket.socket):
    def __init__(self, *_args: Any, **_rest: Any) -> None:
        raise PermissionError(1, "Operation not permitted")


socket.socket = Refused  # type: ignore[misc]
