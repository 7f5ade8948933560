"""The address of a server: `unix:/path`, `tcp:host:port` or `tcp:host:first-last`."""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Callable

from snakepit_bridge._errors.exits import NoServerError, StartError

# sun_path has 108 bytes on Linux and 104 elsewhere, including the final zero.
_MAX_PATH = 103

_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


_LOOPBACK = re.compile(r"localhost|127\.\d+\.\d+\.\d+|\[?::1\]?")


def check(address: str, option: str = "--listen") -> None:
    """Raises a `StartError` if the address is not valid; removes the socket of an ended server."""
    kind, _, rest = address.partition(":")
    if kind == "tcp" and ":" in rest and _PORTS.fullmatch(rest.rpartition(":")[2]):
        _check_sockets(socket.AF_INET6 if "[" in rest else socket.AF_INET)
        return
    if kind != "unix" or not rest:
        raise StartError(f"{option} {address!r} must be unix:/path or tcp:127.0.0.1:port")
    _check_sockets(socket.AF_UNIX)
    if len(os.fsencode(rest)) > _MAX_PATH:
        raise StartError(
            f"{option} {address}: a socket's path has at most {_MAX_PATH} bytes; use a shorter one"
        )
    if not os.path.isdir(os.path.dirname(rest) or "."):
        raise StartError(f"{option} {address}: there is no directory {os.path.dirname(rest)}")
    if os.path.lexists(rest):
        _clear(option, address, rest)


def is_private(address: str) -> bool:
    """Whether only processes of the same user can connect."""
    return address.startswith("unix:")


def is_local(address: str) -> bool:
    """Whether only processes of this machine can connect."""
    host = address.partition(":")[2].rpartition(":")[0]
    return is_private(address) or _LOOPBACK.fullmatch(host) is not None


def bind_first(address: str, bind: Callable[[str], str]) -> str:
    """Returns the result of `bind` for the address, or for its first free port.

    `bind` raises an `OSError` or a `RuntimeError` if the address is in use.
    """
    failed: Exception
    for candidate in _candidates(address):
        try:
            return bind(candidate)
        except (OSError, RuntimeError) as error:
            failed = error
    raise in_use(address, failed) from None


def in_use(address: str, why: object = "") -> StartError:
    detail = f" ({why})" if why else ""
    return StartError(
        f"cannot listen on {address}{detail}: is another server there? Choose another address, "
        "or tcp:127.0.0.1:0 for any free port"
    )


def _candidates(address: str) -> list[str]:
    base, _, ports = address.rpartition(":")
    first, _, last = ports.partition("-")
    if not address.startswith("tcp:") or not last:
        return [address]
    return [f"{base}:{port}" for port in range(int(first), int(last) + 1)] or [f"{base}:{first}"]


def _check_sockets(family: socket.AddressFamily) -> None:
    try:
        socket.socket(family).close()
    except OSError as error:
        raise NoServerError(f"cannot create a socket: {error}") from None


def _clear(option: str, address: str, path: str) -> None:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise StartError(f"{option} {address}: a file exists there that is not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise in_use(address)
