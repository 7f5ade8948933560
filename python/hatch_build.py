"""Builds the wheel: with the native server if it is there, and for this platform then.

`mix compile` and the release put the extension into the package. A wheel without it, as a source
distribution makes, is for every platform, and serves with grpcio or over stdin and stdout.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_EXTENSION = "snakepit_bridge/_native.abi3.so"


class ExtensionHook(BuildHookInterface):  # type: ignore[type-arg]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        extension = Path(self.root, _EXTENSION)
        if version == "editable" or not (extension.exists() and _loads_abi3()):
            return
        # The release builds wheels for platforms other than its own.
        platform = os.environ.get("SNAKEPIT_WHEEL_PLATFORM") or sysconfig.get_platform()
        build_data["pure_python"] = False
        build_data["tag"] = "cp39-abi3-" + platform.replace("-", "_").replace(".", "_")
        build_data["force_include"][str(extension)] = _EXTENSION


def _loads_abi3() -> bool:
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    return sys.implementation.name == "cpython" and not free_threaded
