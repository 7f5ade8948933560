"""What the servers share: the signals that end them, and the end of a worker that does not."""

from __future__ import annotations

import functools
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn, Optional

from snakepit_bridge._traceback import Raised, attempt

if TYPE_CHECKING:
    import asyncio

_log = logging.getLogger("snakepit_bridge")
_forks: list[None] = []
os.register_at_fork(after_in_child=functools.partial(_forks.append, None))


_ENDS = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """SIGTERM and SIGINT, from the making of this on."""

    def __init__(self) -> None:
        # The interpreter's C handler writes to the pipe itself, on whichever thread the signal
        # comes. A Python handler would run only once the waiting thread wakes up, which nothing
        # promises.
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in _ENDS:
            signal.signal(number, lambda *_: None)

    def wait(self, timeout: Optional[float] = None) -> None:
        """Waits for one of them, for at most so many seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._reader], [], [], left)[0]:
                return
            # A command may have handlers for other signals, which come here as well.
            if os.read(self._reader, 1)[0] in _ENDS:
                return

    def await_end(self, announce: Optional[Callable[[], None]], shutdown_timeout: float) -> float:
        """Returns when it is time to end, and for how many seconds calls may go on from then on.

        A parent that is told by `announce` after the first signal makes no more calls. It sends the
        second one when none is left, or when it waits for them no longer.
        """
        self.wait()
        if announce is None:
            return shutdown_timeout
        announce()
        self.wait(shutdown_timeout)
        return 0.0


def leave_fork(error: Optional[BaseException] = None) -> None:
    """Ends a process that a command has forked, once the command is over in it.

    The connections are its parent's: it must answer nothing.
    """
    if not _forks:
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


def run_on(loop: asyncio.AbstractEventLoop) -> None:
    """Runs an event loop until it is stopped, or by what a callback or a task of its own raises.

    asyncio lets SystemExit and KeyboardInterrupt through; they would end every other call, too.
    """
    try:
        loop.run_forever()
    except (SystemExit, KeyboardInterrupt) as error:
        leave_fork(error)
        named = attempt(functools.partial(repr, error), type(error).__name__)
        _log.exception("%s was raised in the event loop, outside of any call", named)


def leave_running(kill_grace: float) -> NoReturn:
    """Ends the process: a command that never returns would hold up the interpreter's own end."""
    _log.warning("stopping: a command is still running %s s after its cancellation", kill_grace)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
