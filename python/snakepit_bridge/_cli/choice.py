"""Chooses the gRPC server of a worker: the native one, or grpcio if that does not load."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Optional

from snakepit_bridge._errors.exits import NoServerError

# As `sysconfig` has it, which reads all settings of the build.
_FREE_THREADED = "t" in sys.abiflags
# Mix and pools use the package elsewhere.
_FROM_PIP = Path(__file__).parents[2].name in ("site-packages", "dist-packages")


def grpc_server(name: Optional[str]) -> Callable[..., int]:
    """Returns the function that serves: the extension's, or grpcio's if that is missing."""
    missing: Optional[ImportError] = None
    try:
        if name != "grpcio":
            _check_native()
            from snakepit_bridge._servers import native

            return native.run
    except ImportError as error:
        missing = error
        if name == "native":
            other = "`--server grpcio`" if _FROM_PIP else "the server grpcio"
            raise NoServerError(f"{_native_missing(error)}; or use {other}") from None
    try:
        from snakepit_bridge._grpcio import grpcio
    except ImportError as error:
        ways = f"{_native_missing(missing)}; or " if missing else ""
        raise NoServerError(
            f"{ways}{error}: the grpcio server needs it: python -m pip install 'grpcio>=1.60' "
            "'protobuf>=4.25'"
        ) from None
    if missing is not None:
        logging.getLogger("snakepit_bridge").warning(
            "%s; serving with grpcio, which is slower", _native_missing(missing)
        )
    return grpcio.run


def _check_native() -> None:
    """Refuses the extension for other Pythons: a free-threaded one finds it but cannot load it."""
    found = importlib.util.find_spec("snakepit_bridge._native") if _FREE_THREADED else None
    if found and (found.origin or "").endswith(".abi3.so"):
        raise ImportError("it is not built for a free-threaded Python")


def _native_missing(error: ImportError) -> str:
    if _FROM_PIP:
        way = "install a wheel of snakepit-bridge that has it for this Python and platform"
    elif _FREE_THREADED:
        way = f"run `mix snakepit.setup --python {sys.executable}` to build it"
    else:
        task = "`mix deps.compile snakepit --force` (in Snakepit itself, `mix compile`)"
        way = f"run {task} to install it"
    return f"the native server does not load ({error}): {way}"
