"""What the servers share: the signals that end them, and the end of a worker that does not."""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, Optional

if TYPE_CHECKING:
    import asyncio

_log = logging.getLogger("snakepit_bridge")
_forks: list[None] = []
os.register_at_fork(after_in_child=functools.partial(_forks.append, None))


def signals() -> Callable[[], object]:
    """Takes SIGTERM and SIGINT; what it returns waits for one of them."""
    # The interpreter's C handler writes to the pipe itself, on whichever thread the signal comes. A
    # Python handler would run only once the waiting thread wakes up, which nothing promises.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return functools.partial(os.read, reader, 1)


def leave_fork(error: Optional[BaseException] = None) -> None:
    """Ends a process that a command has forked, once the command is over in it.

    The connections are its parent's: it must answer nothing.
    """
    if not _forks:
        return
    code: object = error.code or 0 if isinstance(error, SystemExit) else error is not None
    if error is not None and not isinstance(error, SystemExit):
        traceback.print_exception(type(error), error, error.__traceback__)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def run_on(loop: asyncio.AbstractEventLoop) -> None:
    """Runs an event loop until it is stopped, or by what a callback or a task of its own raises.

    asyncio lets SystemExit and KeyboardInterrupt through; they would end every other call, too.
    """
    try:
        loop.run_forever()
    except (SystemExit, KeyboardInterrupt) as error:
        leave_fork(error)
        _log.exception("%r was raised in the event loop, outside of any call", error)


def leave_running(kill_grace: float) -> NoReturn:
    """Ends the process: a command that never returns would hold up the interpreter's own end."""
    _log.warning("stopping: a command is still running %s s after its cancellation", kill_grace)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
