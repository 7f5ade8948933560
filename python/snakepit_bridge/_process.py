"""A worker's life hangs on its parent's."""

from __future__ import annotations

import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1


def bind_to_parent() -> None:
    """Leads a process group of its own, and has all of it killed when the parent is gone.

    The parent holds the other end of this process's stdin and never writes to it.
    """
    parent = os.getppid()
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    if sys.platform == "linux":
        _ask_for_death_signal()
    if os.getppid() != parent:
        _kill_group()
    lifeline = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    threading.Thread(target=_watch, args=(lifeline,), name="snakepit-lifeline", daemon=True).start()


def announce(token: str, address: str) -> None:
    """Tells the parent, on the real stdout and in one write, that calls are welcome."""
    os.write(1, f"\n{token} {address}\n".encode())


def _watch(lifeline: int) -> None:
    try:
        while os.read(lifeline, 4096):
            pass
    finally:
        _kill_group()


def _kill_group() -> None:
    os.killpg(0, signal.SIGKILL)


def _ask_for_death_signal() -> None:
    import ctypes

    # Only the direct child is told: what it started falls with its group, by the lifeline.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
