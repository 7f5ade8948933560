"""Describes the interpreter and the machine of a worker."""

from __future__ import annotations

import os
import sys


def system_info() -> dict[str, str]:
    import platform

    return {
        "implementation": platform.python_implementation(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": sys.platform,
        "machine": platform.machine(),
        "cpus": str(os.cpu_count() or 1),
        "pid": str(os.getpid()),
    }
