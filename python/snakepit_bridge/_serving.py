"""What the servers share: the signals that end them, and the end of a worker that does not."""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

_log = logging.getLogger("snakepit_bridge")


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


def leave_running(kill_grace: float) -> NoReturn:
    """Ends the process: a command that never returns would hold up the interpreter's own end."""
    _log.warning("stopping: a command is still running %s s after its cancellation", kill_grace)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
