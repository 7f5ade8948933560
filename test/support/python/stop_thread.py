"""Stops one thread of another process, by its name, until the end of stdin."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_PTRACE_DETACH, _PTRACE_SEIZE, _PTRACE_INTERRUPT = 17, 0x4206, 0x4207
_WALL = 0x40000000


def main(pid: str, name: str) -> None:
    """Reports when the thread has stopped."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    ptrace.restype = ctypes.c_long
    threads = Path(f"/proc/{pid}/task").iterdir()
    (thread,) = (int(one.name) for one in threads if (one / "comm").read_text().strip() == name)
    for request in (_PTRACE_SEIZE, _PTRACE_INTERRUPT):
        if ptrace(request, thread, None, None) != 0:
            print(os.strerror(ctypes.get_errno()), flush=True)
            return
    os.waitpid(thread, _WALL)
    print("stopped", flush=True)
    sys.stdin.read()
    ptrace(_PTRACE_DETACH, thread, None, None)


main(*sys.argv[1:])
