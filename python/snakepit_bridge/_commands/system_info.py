"""Describes the interpreter and the machine of a worker."""

from __future__ import annotations

import os
import sys


def system_info() -> dict[str, str]:
    # As `platform` says it, without the time that importing it takes.
    return {
        "implementation": "PyPy" if "PyPy" in sys.version else "CPython",
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "platform": sys.platform,
        "machine": os.uname().machine,
        "cpus": str(os.cpu_count() or 1),
        "pid": str(os.getpid()),
    }
