"""Where a server listens: `unix:/path` or `tcp:127.0.0.1:port`."""

from __future__ import annotations

import os
import socket
import stat

from snakepit_bridge._loading import StartError

# sun_path is 108 bytes on Linux and 104 elsewhere, with a zero at its end.
_MAX_PATH = 103


def check(address: str) -> None:
    """Refuses what cannot be listened on; clears away the socket file of a server that is gone."""
    kind, _, rest = address.partition(":")
    if kind == "tcp" and ":" in rest and rest.rpartition(":")[2].isdigit():
        return
    if kind != "unix" or not rest:
        raise StartError(f"--listen {address!r} must be unix:/path or tcp:127.0.0.1:port")
    if len(os.fsencode(rest)) > _MAX_PATH:
        raise StartError(
            f"--listen {address}: a socket's path has at most {_MAX_PATH} bytes; use a shorter one"
        )
    if not os.path.isdir(os.path.dirname(rest) or "."):
        raise StartError(f"--listen {address}: there is no directory {os.path.dirname(rest)}")
    if os.path.lexists(rest):
        _clear(address, rest)


def in_use(address: str, why: object = "") -> StartError:
    detail = f" ({why})" if why else ""
    return StartError(
        f"cannot listen on {address}{detail}: is another server there? Choose another address, "
        "or tcp:127.0.0.1:0 for any free port"
    )


def _clear(address: str, path: str) -> None:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise StartError(f"--listen {address}: there is a file that is not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise in_use(address)
