"""Exits of a worker's process: before it serves, in a forked child, and at once."""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
from typing import NoReturn, Optional

from snakepit_bridge._errors.raised import Raised

_log = logging.getLogger("snakepit_bridge")
_forks: list[None] = []
os.register_at_fork(after_in_child=functools.partial(_forks.append, None))


class StartError(Exception):
    """Says why the worker cannot start and what to do: the whole message for the user."""

    exit_code = 1


class NoServerError(StartError):
    """gRPC is not available here; the parent may fall back to another transport."""

    exit_code = 69  # EX_UNAVAILABLE of sysexits.h


def forget_forks() -> None:
    """Treats this process as one that was not forked."""
    _forks.clear()


def is_fork() -> bool:
    """Whether a command has forked this process: the connections belong to its parent."""
    return bool(_forks)


def check_process(what: str) -> None:
    """Raises a `RuntimeError` in a process that a command has forked."""
    if is_fork():
        raise RuntimeError(
            f"{what} was used in a process that the command has forked: only the worker itself "
            "can reach the caller; pass it what the process has to say, by a queue or a pipe"
        )


def exit_fork(error: Optional[BaseException] = None) -> None:
    """Exits if a command has forked this process: called when the command has ended.

    The connections belong to its parent: it must not answer.
    """
    if not is_fork():
        return
    code: object = 1
    try:
        code = error is not None
        if error is not None and issubclass(type(error), SystemExit):
            code = error.code or 0  # type: ignore[attr-defined]
        elif error is not None:
            sys.stderr.write(Raised(error).text())
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code if isinstance(code, int) else 1)


def exit_while_running(kill_grace: float) -> NoReturn:
    """Exits the process: a command that never returns would block the interpreter's own exit."""
    exit_now(f"a command is still running {kill_grace} s after its cancellation")


def exit_now(why: str) -> NoReturn:
    """Exits the process at once."""
    _log.warning("stopping: %s", why)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def kill_group() -> None:
    """Kills this process and its children."""
    os.killpg(0, signal.SIGKILL)
