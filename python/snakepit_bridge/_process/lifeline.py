"""Ends the worker when its parent ends."""

from __future__ import annotations

import os
import signal
import sys
import threading

from snakepit_bridge._errors.exits import kill_group

_PR_SET_PDEATHSIG = 1


def bind_to_parent() -> bool:
    """Makes the process the leader of a group, which is killed when the parent has ended.

    Returns whether the extension watches the parent: commands cannot delay that.
    """
    parent = os.getppid()
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    try:
        from snakepit_bridge import _native
    except ImportError:
        # The kernel kills this process alone, possibly before the group can be killed.
        if sys.platform == "linux":
            _ask_for_death_signal()
        if os.getppid() != parent:
            kill_group()
        return False
    _native.watch_parent()
    return True


def read_message() -> bytes:
    """Reads the first message from stdin: its length in 4 bytes, big-endian, then its bytes."""
    return _read(int.from_bytes(_read(4), "big"))


def _read(size: int) -> bytes:
    # Not a byte more: the lifeline or the server reads the rest.
    data = bytearray()
    while len(data) < size:
        part = os.read(0, size - len(data))
        if not part:
            raise EOFError("stdin ended before the message that --init-from-stdin announces")
        data += part
    return bytes(data)


def take_lifeline(*, watched: bool) -> None:
    """Gives commands an empty stdin; the end of the real one means that the parent has ended."""
    lifeline = _take_stdin()
    if watched:
        os.close(lifeline)
    else:
        name = "snakepit-lifeline"
        threading.Thread(target=_watch, args=(lifeline,), name=name, daemon=True).start()


def take_stdio() -> tuple[int, int]:
    """Reserves stdin and stdout for the protocol; commands print to stderr."""
    output = os.dup(1)
    os.dup2(2, 1)
    return _take_stdin(), output


def _take_stdin() -> int:
    taken = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return taken


def _watch(lifeline: int) -> None:
    try:
        while os.read(lifeline, 4096):
            pass
    finally:
        kill_group()


def _ask_for_death_signal() -> None:
    import ctypes

    # The signal is sent to this process only; the lifeline kills the rest of its group.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
